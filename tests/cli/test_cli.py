"""The command line as a user meets it: what it prints and writes, and one sentence for everything that can go wrong."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

from hqc.cli import FLAVOURS, MARCHES, main
from tests.analysis.reported import held

DETECTOR = Path(__file__).with_name("detector.py")
FAULTY = """
import torch
from torch import nn

NUMBER = 3

class Branches(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x
        return -x

class Raises(nn.Module):
    def __init__(self):
        super().__init__()
        raise RuntimeError("no weights\\nhere")

class NeedsArgument(nn.Module):
    def __init__(self, classes):
        super().__init__()

class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv(x)

def exits():
    raise SystemExit(3)

def pair():
    return Small(), (torch.zeros(1, 3, 8, 8),)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with the user's files."""
    shutil.copy(DETECTOR, tmp_path / "net.py")
    (tmp_path / "faulty.py").write_text(FAULTY)
    (tmp_path / "syntax.py").write_text("import torch\n\nclass Net(torch.nn.Module:\n    pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("COLUMNS", "120")
    return tmp_path


def hqc(*arguments: str, text: str | None = None) -> Result:
    return CliRunner().invoke(main, list(arguments), input=text)


def succeeds(*arguments: str, text: str | None = None) -> Result:
    result = hqc(*arguments, text=text)
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result


def refuses(*arguments: str, text: str | None = None, status: int = 1) -> str:
    """The one message of a refused command: no traceback, nothing on standard output."""
    result = hqc(*arguments, text=text)
    assert result.exit_code == status, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    assert "Traceback" not in result.output and result.stdout == ""
    notes = [line for line in result.stderr.splitlines() if line and not line.startswith("No --calibration")]
    if status == 1:
        assert notes[0].startswith("error: ")
    return "\n".join(notes)


# --- help ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", main.list_commands(None))
def test_every_command_and_every_option_has_help(command: str) -> None:
    assert f"Usage: hqc {command} " in succeeds(command, "--help").output
    found = main.get_command(None, command)
    assert found is not None and all(option.help for option in found.params if option.param_type_name == "option")


def test_the_list_of_commands_is_not_cut() -> None:
    assert "..." not in succeeds("--help").output.split("Commands:")[1]


def test_the_module_is_the_command_and_help_loads_no_torch() -> None:
    script = "import sys, runpy; sys.argv = ['hqc', '--help']\ntry: runpy.run_module('hqc', run_name='__main__')\n"
    script += "finally: print([name for name in ('torch', 'onnx', 'onnxruntime') if name in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "Usage: hqc" in printed and printed.splitlines()[-1] == "[]"


# --- explain -------------------------------------------------------------------------------------------------------------


def test_explain_compares_all_marches_and_lists_what_they_decide() -> None:
    lines = succeeds("explain", "net.py:Detector").stdout
    assert all(re.search(rf"^ {march} +\d+ +\d+ +4,743,168", lines, re.MULTILINE) for march in MARCHES)
    assert re.search(r"^ reshape +cpu +cpu +bpu +bpu", lines, re.MULTILINE)


def test_explain_says_where_all_marches_agree() -> None:
    assert "Every operation runs on the same device on all of them." in succeeds("explain", "faulty.py:pair").stdout


@pytest.mark.parametrize("width", [80, 120])
def test_explain_fits_and_breaks_no_name(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    lines = succeeds("explain", "net.py:Detector", "--march", "bernoulli2", "--all").stdout.splitlines()
    table = lines[: next(number for number, line in enumerate(lines) if line.startswith("bernoulli2:"))]
    assert max(map(len, table)) <= width
    first = next(number for number, line in enumerate(table) if "body.second.conv" in line)
    assert table[first].split() == ["body.second.conv", "conv2d", "bpu.0", "within", "the", "limits"]
    assert table[first + 1].split() == ["net.py:18"]
    assert "within the limits of" not in "\n".join(table)


def test_explain_lists_only_the_cpu_unless_asked_for_all() -> None:
    some = succeeds("explain", "net.py:Detector", "--march", "bayes").stdout
    assert "stem.conv" not in some and "Softmax runs on the BPU only on request" in some
    assert "26 operations on the BPU in 2 subgraphs, 2 on the CPU" in some


def test_explain_ends_with_the_change_that_brings_most() -> None:
    lines = succeeds("explain", "net.py:Detector", "--march", "bayes", "--cpu", "body.second", "--cpu", "op:resize2d").stdout
    advice = lines.split("What would help most:\n")[1].splitlines()
    assert re.fullmatch(r"1\. body\.second\.conv .*drop the entry module_name 'body\.second'.*\(589,824 MACs .*\)", advice[0])
    assert re.fullmatch(
        r"2\. interpolate \(resize2d\): drop the entry op 'resize2d' .*; .*cat_1 \(cat\) goes? along "
        r"\(crossings 10 -> 7, 65,792 -> 39,168 bytes\)",
        advice[1],
    )


def test_explain_shows_what_thresholds_would_give() -> None:
    lines = succeeds("explain", "net.py:Detector", "--march", "bayes", "--thresholds").stdout
    assert re.search(r"^ +0 +0 +2 +26 +2 +4\.74 MMAC +5 +0 *$", lines, re.MULTILINE)
    assert re.search(r"^ +1e\+08 +0 +0 +0 +28 +0 MMAC +0 +26 *$", lines, re.MULTILINE)


def test_a_function_may_return_the_model_with_its_inputs() -> None:
    assert (
        "1 operation on the BPU in 1 subgraph, 0 on the CPU" in succeeds("explain", "faulty.py:pair", "--march", "bayes").stdout
    )


@pytest.mark.parametrize("name", ["types.py", "torch.py"])
def test_a_model_file_may_have_the_name_of_a_module(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "models").mkdir()
    shutil.copy(folder / "faulty.py", folder / "models" / name)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = sys.modules[name.removesuffix(".py")]
    assert "1 operation on the BPU" in succeeds("explain", f"models/{name}:pair", "--march", "bayes").stdout
    assert sys.modules[name.removesuffix(".py")] is before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nofile.py:Net"], "there is no file nofile.py"),
        (["net.py"], "give the model as FILE.py:NAME, package.module:NAME or FILE.onnx, got net.py"),
        (["syntax.py:Net"], r"syntax.py cannot be imported: .*syntax.py:3: "),
        (
            ["net.py:Detectr"],
            r"net.py has no Detectr; it defines ConvBlock, SplitBlock, Head, Detector; did you mean Detector\?$",
        ),
        (["faulty.py:NUMBER"], "NUMBER in faulty.py is a int"),
        (["faulty.py:Raises"], r"Raises\(\) in faulty.py failed: faulty.py:16: RuntimeError: no weights here"),
        (["faulty.py:exits"], r"exits\(\) in faulty.py failed: faulty.py:\d+: SystemExit: 3"),
        (
            ["faulty.py:NeedsArgument"],
            r"NeedsArgument in faulty.py: missing a required argument: 'classes'; it takes NeedsArgument\(classes\), "
            r"give arguments as faulty.py:NeedsArgument\(\.\.\.\)$",
        ),
        (["faulty.py:Small"], "the input's shape is not known; give --input N,C,H,W"),
        (["faulty.py:Branches", "--input", "1,3"], r"faulty.py:9: a branch tests the value of `gt`"),
        (["net.py:Detector", "--input", "abc"], "--input takes sizes like 1,3,224,224, got abc"),
        (["net.py:Detector", "--input", "1,0,4,4"], "--input takes positive sizes"),
        (["net.py:Detector", "--input", "1,4,64,64"], r"net.py:\d+\)\]: the input has 4 channels, the weight expects 3"),
        (["net.py:Detector", "--input", "1,3"], "the input must have rank 4, got"),
        (["net.py:Detector", "--input", "1,3,64,64", "--input", "1"], r"takes 1 input\(s\) .*got 2"),
        (["net.py:Detector", "--march", "bayes", "--cpu", "body.fist"], "names no module .*did you mean body.first"),
        (["net.py:Detector", "--march", "bayes", "--cpu", "op:softmix"], "softmix"),
        (
            ["net.py:Detector", "--march", "bayes", "--bpu", "op:softmax"],
            "cannot run on the BPU as .* asks: rank 4 .*: 5, limit 4",
        ),
    ],
)
def test_explain_refuses_in_one_sentence(arguments: list[str], message: str) -> None:
    assert re.search(message, refuses("explain", *arguments))


def test_usage_errors_end_with_status_2() -> None:
    assert "'mars' is not one of" in refuses("explain", "net.py:Detector", "--march", "mars", status=2)
    assert "give --march" in refuses("explain", "net.py:Detector", "--all", status=2)
    assert "Missing option '--march'" in refuses("compile", "net.py:Detector", status=2)
    assert "No such command" in refuses("frobnicate", status=2)
    for option in ("--samples", "--batch"):
        assert "0 is not in the range x>=1" in refuses("run", "net.py:Detector", "--march", "bayes", option, "0", status=2)


# --- compile, run, bench, report -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_compile_writes_the_model_into_a_new_folder(flavour: str, folder: Path) -> None:
    result = succeeds(
        "compile", "net.py:Detector", "--march", "bayes", "--samples", "1", "-o", "out/model.onnx", "--flavour", flavour
    )
    onnx.checker.check_model(onnx.load(folder / "out" / "model.onnx"))
    written = {path.name for path in (folder / "out").iterdir()}
    assert "model.onnx" in written and not [name for name in written if "tmp" in name]
    assert "model.yaml" in written or flavour != "horizon"
    assert "26 operations on the BPU" in result.stdout and "No --calibration data" in result.stderr


def test_dump_dir_holds_the_graph_after_every_pass(folder: Path) -> None:
    succeeds("compile", "net.py:Detector", "--march", "bayes", "--samples", "1", "--dump-dir", "dumps")
    names = [path.stem for path in sorted((folder / "dumps").rglob("*.hqc"))]
    for each in ("000-input", "006-analyze-support", "008-insert-boundaries", "010-unify-cat-scales", "001-lower-to-integer"):
        assert each in names


def test_calibration_data_is_read_and_then_nothing_is_warned_of(folder: Path) -> None:
    np.save(folder / "data.npy", np.random.default_rng(0).random((3, 3, 64, 64), np.float32))
    result = succeeds("run", "net.py:Detector", "--march", "bernoulli2", "--calibration", "data.npy", "--batch", "2")
    assert "[2, 4, 16, 16]" in result.stdout and "dB" in result.stdout
    assert result.stderr == "calibrated with 3 samples from data.npy\n"


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.float32(3), "is a single number; the first axis must be the samples"),
        (np.array(["a", "b"]), "not numbers"),
        (np.array([{}], dtype=object), "cannot be read as .npy or .npz: it holds Python objects"),
        (np.zeros((0, 3, 64, 64), np.float32), "holds no samples"),
        (np.zeros((2, 4, 64, 64), np.float32), "does not fit the model"),
        (np.full((1, 3, 64, 64), np.nan, np.float32), "NaN or infinite"),
    ],
)
def test_calibration_data_that_cannot_be_used(array: np.ndarray, message: str, folder: Path) -> None:
    np.save(folder / "data.npy", array)
    assert message in refuses("run", "net.py:Detector", "--march", "bayes", "--calibration", "data.npy")


def test_calibration_files_that_cannot_be_read(folder: Path) -> None:
    (folder / "junk.npy").write_text("hello")
    (folder / "empty.npy").write_bytes(b"")
    np.savez(folder / "two.npz", a=np.zeros((2, 3, 64, 64)), b=np.zeros((2, 3)))
    command = ("run", "net.py:Detector", "--march", "bayes", "--calibration")
    assert "there is no file missing.npy" in refuses(*command, "missing.npy")
    assert "junk.npy cannot be read as .npy or .npz" in refuses(*command, "junk.npy")
    assert "empty.npy cannot be read as .npy or .npz" in refuses(*command, "empty.npy")
    assert "two.npz holds 2 arrays (a, b), the model takes 1 input (x)" in refuses(*command, "two.npz")


@pytest.mark.parametrize("command", ["compile", "report"])
def test_places_that_cannot_be_written_are_refused_before_the_work(command: str, folder: Path) -> None:
    (folder / "folder").mkdir()
    start = (command, "net.py:Detector", "--march", "bayes", "-o")
    assert "net.py is not a folder" in refuses(*start, "net.py/out.file")
    assert "it is a folder, give the name of a file in it" in refuses(*start, "folder")
    assert list((folder / "folder").iterdir()) == []


def test_a_failed_compile_leaves_no_file(folder: Path) -> None:
    before = sorted(folder.rglob("*.onnx*"))
    refuses("compile", "net.py:Detector", "--march", "bayes", "--bpu", "op:softmax", "-o", "out/model.onnx")
    assert sorted(folder.rglob("*.onnx*")) == before and not (folder / "out").exists()


def test_bench_prints_the_ratio_and_the_slowest_operations() -> None:
    lines = succeeds("bench", "net.py:Detector", "--march", "bayes", "--samples", "1", "--top", "3").stdout
    assert re.search(r"simulator [\d.]+ ms, eager float32 PyTorch [\d.]+ ms: ratio [\d.]+", lines)
    assert len(re.findall(r"^ \S.* +\w+ +(?:bpu|cpu) +[\d.]+ +[\d,]+ *$", lines, re.MULTILINE)) == 3


def test_report_is_one_page_with_source_lines_and_reasons(folder: Path) -> None:
    succeeds("report", "net.py:Detector", "--march", "bernoulli2", "--samples", "1", "-o", "pages/report.html")
    page = (folder / "pages" / "report.html").read_text(encoding="utf-8")
    rows = held(page)["operations"]
    assert "net.py:49" in {row["source"] for row in rows}
    assert any("rank 4: 5, limit 4" in reason for row in rows for reason in row["why"]) and "://" not in page
    assert [path.name for path in (folder / "pages").iterdir()] == ["report.html"]


# --- opt, ops ------------------------------------------------------------------------------------------------------------

SMALL = """graph @net march=bayes stage=lowered {
  input %x: f32[1,8,4,4]
  param @w: f32[8,8,1,1] = #random(0, [8,8,1,1])
  %a = conv2d(%x, @w)
  %b = relu(%a)
  output %b
}
"""


def test_opt_reads_standard_input_and_writes_text_that_it_reads_again() -> None:
    first = succeeds("opt", "-p", "fuse-conv,analyze-support,partition", text=SMALL)
    assert "= conv2d(%x, @w) bpu.0 accepted" in first.stdout and "1 node on the BPU in 1 subgraph" in first.stderr
    assert succeeds("opt", "-p", "partition", text=first.stdout).stdout == first.stdout


def test_opt_continues_from_a_dump_in_a_file_and_in_a_pipe(folder: Path) -> None:
    succeeds("compile", "net.py:Detector", "--march", "bayes", "--samples", "1", "--dump-dir", "dumps")
    dump = folder / "dumps" / "prepare" / "003-fold-batch-norm.hqc"
    expected = succeeds("opt", str(dump), "-p", "fuse-conv").stdout
    parameters = str(dump.with_name("parameters.safetensors"))
    assert succeeds("opt", "-p", "fuse-conv", "--parameters", parameters, text=dump.read_text()).stdout == expected
    assert "--parameters" in refuses("opt", "-p", "fuse-conv", text=dump.read_text())
    succeeds("opt", str(dump), "-p", "fuse-conv", "-o", "new/graph.hqc")
    assert succeeds("opt", "new/graph.hqc", "-p", "fuse-conv").stdout == expected


@pytest.mark.parametrize(
    ("pipeline", "text", "message"),
    [
        ("nopass", SMALL, "there is no pass 'nopass'"),
        ("partition{foo=1}", SMALL, "partition has no option 'foo'"),
        ("", SMALL, "expected the name of a pass"),
        ("partition", SMALL, "partition needs a graph of stage supported"),
        ("canonicalize", SMALL.replace("relu(%a)", "relu(%z)"), "<stdin>:5:"),
        ("canonicalize", SMALL.replace(" march=bayes", ""), "the text names no march; give --march"),
    ],
)
def test_opt_refuses_in_one_sentence(pipeline: str, text: str, message: str) -> None:
    assert message in refuses("opt", "-p", pipeline, text=text)


def test_opt_names_the_file_that_it_cannot_read(folder: Path) -> None:
    (folder / "binary.hqc").write_bytes(b"\xff\xfe\x00")
    assert "nofile.hqc" in refuses("opt", "nofile.hqc", "-p", "canonicalize")
    assert "binary.hqc" in refuses("opt", "binary.hqc", "-p", "canonicalize")
    assert "none.safetensors" in refuses("opt", "-p", "canonicalize", "--parameters", "none.safetensors", text=SMALL)


def test_ops_shows_all_marches_or_the_limits_of_one() -> None:
    assert re.search(r"^ softmax +CPU +BPU on request", succeeds("ops", "softmax").stdout, re.MULTILINE)
    assert "kernel at most 7x7" in succeeds("ops", "--march", "bernoulli2", "conv2d").stdout
    assert "the IR has no op 'softmix'" in refuses("ops", "softmix")
