"""The edge of the command line: one line for whatever goes wrong, exit statuses, JSON from every command, data for `run`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from hqc.cli import main
from hqc.cli.edge import users_line

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
    def forward(self, image):
        return torch.softmax(self.conv(image), dim=1)

class Fails(Net):
    def forward(self, image):
        return {}["scores"]

class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
    def forward(self, image):
        return self.conv(self.conv(image))

class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(11, 8), nn.Linear(8, 3)
    def forward(self, ids):
        return self.head(self.embed(ids))

example_inputs = torch.zeros(1, 3, 8, 8)
"""
PLAN = ("net.py:Net", "--march", "bayes")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "net.py").write_text(NET)
    np.save(tmp_path / "data.npy", np.random.default_rng(0).random((5, 3, 8, 8), np.float32))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    monkeypatch.delitem(__import__("sys").modules, "net", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def hqc(*arguments: str, status: int = 0, text: str | None = None) -> Result:
    result = CliRunner().invoke(main, list(arguments), input=text)
    assert result.exit_code == status, result.output + repr(result.exception)
    assert "Traceback" not in result.output
    return result


def printed(*arguments: str, text: str | None = None, status: int = 0) -> Any:
    return json.loads(hqc(*arguments, text=text, status=status).stdout)


# --- what goes wrong ---------------------------------------------------------------------------------------------------------


def test_the_file_of_a_bug_holds_traceback_and_versions(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hqc.cli.edge.users_line", lambda error: None)
    monkeypatch.setattr("hqc.analysis.op_support.documented_ops", lambda: [1 / 0])
    error = hqc("ops", status=3).stderr
    assert error.count("\n") == 1 and error.startswith("bug: ZeroDivisionError: division by zero. This is a fault of hqc")
    (file,) = folder.glob("hqc-bug-*.txt")
    assert str(file) in error
    text = file.read_text()
    assert (
        text.startswith("command: ") and "\ntorch " in text and "ZeroDivisionError: division by zero" in text.splitlines()[-1]
    )


def test_the_models_own_fault_is_told_with_its_line() -> None:
    line = NET.splitlines().index('        return {}["scores"]') + 1
    message = hqc("explain", "net.py:Fails", "--march", "bayes", status=1).stderr
    assert message.startswith("error: ") and f"net.py:{line}" in message and "scores" in message


def test_whose_fault_it_is_shows_in_the_innermost_frame() -> None:
    def caught(work: Any) -> BaseException:
        try:
            work()
        except Exception as error:
            return error
        raise AssertionError

    assert (users_line(caught(lambda: json.loads("{"))) or "").startswith("test_edge.py:")
    from hqc.march import get_spec

    assert users_line(caught(lambda: get_spec("mars"))) is None


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError(), 1, "error: there is not enough memory for this model"),
        (OSError(28, "No space left on device", "model.onnx"), 1, "error: model.onnx: No space left on device"),
    ],
)
def test_what_the_system_raises(error: BaseException, status: int, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise error

    monkeypatch.setattr("hqc.cli.edge.users_line", lambda error: None)
    monkeypatch.setattr("hqc.analysis.doctor.doctor_text", fails)
    assert hqc("doctor", status=status).stderr.startswith(line)


# --- bounds for CI, JSON -------------------------------------------------------------------------------------------------------


def test_bounds_that_are_not_met_are_status_4() -> None:
    assert (
        "operations on the CPU: 1, --max-cpu-nodes allows 0" in hqc("explain", *PLAN, "--max-cpu-nodes", "0", status=4).stderr
    )
    hqc("explain", *PLAN, "--max-cpu-nodes", "1")
    message = hqc("run", *PLAN, "--calibration", "data.npy", "--min-sqnr", "300", status=4).stderr
    assert re.search(r"not met: output \w+ has [\d.]+ dB, --min-sqnr asks for 300", message)
    hqc("run", *PLAN, "--calibration", "data.npy", "--min-sqnr", "5")
    message = hqc("tune", *PLAN, "--target", "300 dB", "--max-changes", "1", "--allow", "cpu", status=4).stderr
    assert re.search(r"not met: the score is [\d.]+, --target asks for 300", message)
    hqc("check", *PLAN, "--strict")
    assert "not met: findings: 1, --strict allows none" in hqc("check", "net.py:Twice", *PLAN[1:], "--strict", status=4).stderr
    assert "--max-cpu-nodes are about one chip" in hqc("explain", "net.py:Net", "--max-cpu-nodes", "1", status=2).stderr


def test_shared_modules_can_be_split() -> None:
    found = hqc("check", "net.py:Twice", *PLAN[1:], "--strict", "--split-shared")
    assert "conv has copies: conv_1" in found.stderr and "Nothing found" in found.stdout
    hqc("compile", "net.py:Twice", *PLAN[1:], "--split-shared", "-o", "split.onnx")
    message = hqc("check", "split.onnx", *PLAN[1:], "--split-shared", status=1).stderr
    assert "split.onnx is an ONNX file, which has no modules; --split-shared is for models in Python" in message


def test_saved_models_run_without_torch_and_write_what_they_answer(folder: Path) -> None:
    import hqc as library
    from hqc.analysis.user_files import model_and_inputs

    data = np.load("data.npy")
    compiled = library.compile(*model_and_inputs("net.py:Net", ()), march="bayes", calibration_data=[data[:1]])
    compiled.save("net.safetensors")
    found = hqc("run", "net.safetensors", "--data", "data.npy", "-o", "new/answers.npz")
    assert "Outputs of the simulator, samples: 5 (given)" in found.stdout and "wrote new/answers.npz" in found.stderr
    answers = np.load("new/answers.npz")
    (name,) = answers.files
    wanted = np.concatenate([compiled.simulate(data[i : i + 1]) for i in range(5)])
    np.testing.assert_array_equal(answers[name], wanted)
    hqc("run", *PLAN, "--calibration", "data.npy", "--data", "data.npy", "-o", "own.npz")
    assert np.load("own.npz")[name].shape == wanted.shape
    printed = json.loads(hqc("run", "net.safetensors", "--json").stdout)
    assert printed["samples"] == 1 and printed["outputs"][0]["shape"] == [1, 4, 8, 8] and not printed["random"]
    assert (
        "no float model that --min-sqnr could compare with" in hqc("run", "net.safetensors", "--min-sqnr", "9", status=1).stderr
    )
    assert "Missing option '--march'" in hqc("run", "net.py:Net", status=2).stderr
    script = (
        "import sys; from hqc.cli import main; main(['run', 'net.safetensors'], standalone_mode=False); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, timeout=120)


def test_every_command_prints_json() -> None:
    for name in main.list_commands(None):
        command = main.get_command(None, name)
        assert command is not None and any("--json" in param.opts for param in command.params), name


def test_json_has_the_numbers_of_the_tables() -> None:
    explained = printed("explain", *PLAN, "--json")
    assert explained["totals"]["cpu_nodes"] == 1 and [row["op"] for row in explained["operations"]][:1] == ["conv2d"]
    assert explained["operations"][1]["reasons"][0]["rule"].startswith("Softmax")
    assert len(printed("explain", "net.py:Net", "--json")["marches"]) == 4
    compiled = printed("compile", *PLAN, "--calibration", "data.npy", "--json")
    assert compiled["path"] == "model.onnx" and compiled["run_on_cpu"][-1] == "softmax" and compiled["executed"] is True
    assert compiled["calibration"] == "5 samples from data.npy"
    ran = printed("run", *PLAN, "--calibration", "data.npy", "--batch", "2", "--json")
    assert ran["samples"] == 5 and ran["random"] is False and ran["outputs"][0]["integer_sqnr"] > 10
    assert printed("run", *PLAN, "--samples", "1", "--json")["random"] is True
    timed = printed("bench", *PLAN, "--samples", "1", "--top", "1", "--json")
    assert timed["ratio"] > 0 and set(timed["operations"][0]) == {"operation", "op", "device", "ms", "macs"}
    assert printed("ops", "softmax", "--json")["ops"][0]["op"] == "softmax"
    assert "python" in printed("doctor", "--json")
    text = "graph @net march=bayes stage=lowered {\n  input %x: f32[1,8]\n  %a = relu(%x)\n  output %a\n}\n"
    assert "relu" in printed("opt", "-p", "canonicalize", "--json", text=text)["graph"]


def test_run_uses_the_data_it_is_given(folder: Path) -> None:
    np.save(folder / "other.npy", np.zeros((2, 3, 8, 8), np.float32))
    both = printed("run", *PLAN, "--calibration", "data.npy", "--data", "other.npy", "--json")
    assert both["samples"] == 2
    assert "samples: 5 (given)" in hqc("run", *PLAN, "--calibration", "data.npy", "--batch", "2").stdout
    ids = printed("run", "net.py:Words", "--march", "bayes", "--input", "1,5:int64", "--json")
    assert (ids["random"] is True and ids["outputs"][0]["integer_sqnr"] is None) or ids["outputs"][0]["integer_sqnr"] > 10


def test_observers_dtypes_and_policies_change_the_result() -> None:
    sqnr: dict[str, float] = {}
    for name, options in {"": (), "int16": ("--activations", "int16"), "percentile": ("--observer", "percentile")}.items():
        found = printed("run", *PLAN, "--calibration", "data.npy", *options, "--json")
        sqnr[name] = found["outputs"][0]["integer_sqnr"]
    assert sqnr["int16"] > sqnr[""] + 1
    assert (
        printed("run", *PLAN, "--calibration", "data.npy", "--effort", "good", "--without", "weights", "--json")["samples"] == 5
    )
    hqc("compile", *PLAN, "--samples", "1", "--cat-policy", "largest", "--conflict-policy", "error", "--observer", "mse")
