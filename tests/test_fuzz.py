"""A reduced run of `python -m benchmarks.fuzz`, and the kinds of fault that it found, each with its plainest cases."""

from __future__ import annotations

import enum
import io
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import hqc
import hqc.data
from benchmarks.fuzz import kinds  # noqa: F401  (registers)
from benchmarks.fuzz.cases import KINDS, Verdict, run_case
from hqc import array_files
from hqc.array_files import ONLY, read_numpy
from hqc.cli.console import console
from hqc.errors import HqcError, InputError, ParseError, printable
from hqc.quantization import calibrate, convert_fx, get_default_qat_qconfig, prepare_qat_fx

CASES = {
    "ir-text": 60,
    "array-file": 30,
    "parameter-file": 30,
    "onnx-file": 40,
    "command-line": 15,
    "names": 6,
    "arguments": 20,
    "commands": 20,
    "data-file": 30,
    "models": 12,
    "surface": 40,
}
"""Cases of a kind; 10 of others."""


KNOWN = {
    "ir-text": (40005, 200597),
    "arguments": (40193, 40367, 40415, 50045, 60028, 60053, 60055, 500202),
    "command-line": (40181, 401084, 700887),
    "commands": (700863,),
    "onnx-file": (60066, 200678),
    "configuration": (400280,),
    "parameter-file": (401249,),
}
"""Seeds that long runs found."""


def _run(kind: str, seed: int, folder: Path) -> Verdict:
    place = folder / str(seed)
    place.mkdir()
    return run_case(kind, seed, place)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_nothing_but_results_and_sentences(kind: str, tmp_path: Path) -> None:
    found = KNOWN.get(kind, ())
    verdicts = [_run(kind, seed, tmp_path) for seed in (*range(CASES.get(kind, 10)), *found)]
    assert [verdict for verdict in verdicts if verdict.outcome not in ("accepted", "refused")] == []


def test_messages_show_control_characters_and_never_send_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert str(HqcError("a\x1b[2Jb\u202e\nc")) == "a\\x1b[2Jb\\u202e\nc"
    assert printable("é 中文\t") == "é 中文\t" and printable("a\nb", lines=False) == "a\\nb"
    console().print("red \x1b[31m and a bell \x07", markup=False)
    assert "\x1b" not in (shown := capsys.readouterr().out) and "\\x1b[31m" in shown


class Odd(nn.Module):
    """`nn.ModuleDict({"class": head})` is ordinary; the others are not."""

    NAMES = ("class", "it's", 'a"b', "a\\b", "a\nb", "a;b", "\x1b[31m", "ＡＢ", "1x", "中文")

    def __init__(self) -> None:
        super().__init__()
        self.quant = hqc.nn.QuantStub()
        self.heads = nn.ModuleDict({name: nn.Conv2d(3, 3, 1) for name in self.NAMES})

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.quant(x)
        return {name: head(x) for name, head in self.heads.items()}


class Unnamed(nn.Module):
    """A key that is no name, beside the name that it would get."""

    def forward(self, x: torch.Tensor) -> dict[object, torch.Tensor]:
        return {"": x * 2, "mul": x + 1, None: x - 1}


def test_outputs_without_a_name_have_one_in_files(tmp_path: Path) -> None:
    import onnx

    x = torch.ones(1, 3, 4, 4)
    compiled = hqc.compile(Unnamed(), x, march="bayes", calibration_data=[x])
    for flavour in ("runnable", "qdq", "horizon"):
        compiled.export(tmp_path / "net.onnx", flavour=flavour)
        names = [output.name for output in onnx.load(tmp_path / "net.onnx").graph.output]
        assert len(set(names)) == 3 and all(names)
    assert list(compiled.simulate(x)) == ["", "mul", None]
    assert hqc.ir.parse('input %x: f32[1]\n%y = relu(%x)\noutput %y as ""').output_names == ["y"]


def test_module_names_of_any_kind_work_from_tracing_to_the_yaml(tmp_path: Path) -> None:
    import yaml

    torch.manual_seed(0)
    x = torch.randn(1, 3, 4, 4)
    on_cpu = {"module_name": ["heads.class", "heads.a;b"]}
    hqc.set_march("bayes")
    prepared = prepare_qat_fx(Odd(), {"": get_default_qat_qconfig()}, hybrid=True, hybrid_dict=on_cpu, example_inputs=x).eval()
    calibrate(prepared, [x])
    assert list(convert_fx(prepared)(x)) == list(Odd.NAMES)
    compiled = hqc.compile(Odd(), x, march="bayes", calibration_data=[x], hybrid_dict=on_cpu)
    assert not any(ord(char) < 32 and char != "\n" for char in compiled.explain())
    assert hqc.load(compiled.save(tmp_path / "net.safetensors")).simulate(x).keys() == compiled.simulate(x).keys()
    compiled.export(tmp_path / "net.onnx")
    listed = yaml.safe_load((tmp_path / "net.yaml").read_text())["calibration_parameters"]["run_on_cpu"].split(";")
    import onnx

    names = {node.name for node in onnx.load(tmp_path / "net.onnx").graph.node}
    assert len(listed) >= 2 and set(listed) <= names

    graph = nn.Sequential()
    graph.add_module("graph", nn.ReLU())
    with pytest.raises(InputError, match=r"'graph', which is a name of torch\.fx\.GraphModule"):
        hqc.explain(graph, x, march="bayes")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (torch.zeros(1, 3, 4, 4, dtype=torch.complex64), "complex64"),
        (torch.zeros(1, 3, 4, 4).to_sparse(), "sparse"),
        (torch.zeros(1, 3, 4, 4, device="meta"), "meta device"),
        (torch.quantize_per_tensor(torch.zeros(1, 3, 4, 4), 0.1, 0, torch.qint8), "quantized"),
        (np.zeros((1, 3, 4, 4), "datetime64[s]"), "datetime64"),
        (np.zeros((1, 3, 4, 4), "U2"), "must hold numbers"),
        (np.broadcast_to(np.float32(0), (1 << 20, 3, 1 << 10, 1 << 10)), "elements"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_dense_array_of_numbers_is_refused_everywhere(data: object, message: str) -> None:
    model, x = nn.Conv2d(3, 3, 1), torch.zeros(1, 3, 4, 4)
    with pytest.raises(HqcError, match=message):
        hqc.compile(model, data, march="bayes", calibration_data=[x])
    with pytest.raises(HqcError, match=message):
        hqc.compile(model, x, march="bayes", calibration_data=[data])
    with pytest.raises(HqcError, match=message):
        hqc.explain(model, data, march="bayes")


def test_numbers_of_other_kinds_are_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Integers, other byte orders, doubles, negative strides; a default dtype of float64 and NumPy that raises."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU()).eval()
    x = torch.arange(48.0).reshape(1, 3, 4, 4)
    expected = hqc.compile(model, x, march="bayes", calibration_data=[x]).simulate(x).tobytes()
    array = x.numpy()
    forms = (array.astype(">f4"), array.astype(">f8"), array.astype(np.uint8), x.double(), x.half(), np.ma.masked_array(array))
    for form in (*forms, np.ascontiguousarray(array[..., ::-1])[..., ::-1]):
        assert hqc.compile(model, x, march="bayes", calibration_data=[form]).simulate(form).tobytes() == expected
    before = np.geterr()
    try:
        np.seterr(all="raise")
        torch.set_default_dtype(torch.float64)
        compiled = hqc.compile(model, x, march="bayes", calibration_data=[x])
        assert compiled.simulate(x).tobytes() == expected
        assert {tensor.dtype for tensor in compiled.prepared.parameters()} == {torch.float32}
    finally:
        torch.set_default_dtype(torch.float32)
        np.seterr(**before)
    with pytest.raises(HqcError, match=r"is empty \(shape \[0, 3, 4, 4\]\)"):
        hqc.compile(model, x, march="bayes", calibration_data=[x[:0]])


def _npy(descr: str, shape: object, body: bytes = b"") -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body


def test_array_files_take_no_more_memory_than_they_have_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(array_files, "FREE", 1 << 20)
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", _npy("|u1", (1 << 23,), bytes(1 << 23)))
    good = np.arange(24, dtype=">f4").reshape(2, 3, 4)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, a=good, b=np.asfortranarray(good[0]))
    cases = {
        "promises 1,099,511,627,776": _npy("<f4", (1 << 38,)),
        "cannot be read": _npy("<f4", (-1, 3)),
        "Python objects": _npy("|O", (1,), b"\x80\x04N."),
        "expands from": bomb.getvalue(),
        "version 9": b"\x93NUMPY\x09\x00" + bytes(20),
        "cannot be read as": buffer.getvalue()[:-30],
    }
    tracemalloc.start()
    for message, data in cases.items():
        (tmp_path / "data").write_bytes(data)
        with pytest.raises(InputError, match=message):
            read_numpy(tmp_path / "data")
    assert tracemalloc.get_traced_memory()[1] < 1 << 25
    tracemalloc.stop()
    (tmp_path / "data").write_bytes(buffer.getvalue())
    found = read_numpy(tmp_path / "data")
    assert found["a"].dtype == np.float32 and np.array_equal(found["a"], good) and np.array_equal(found["b"], good[0])
    np.save(tmp_path / "one.npy", good)
    assert np.array_equal(read_numpy(tmp_path / "one.npy")[ONLY], good)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"input %x: f32[{'9' * 5000}]", "a number of 5000 digits"),
        ("input %x: f32[9999999999,9999999999]", "more than"),
        ("input %x: f32[1]\nparam @w: f32[100000,100000] = 0", "elements; a text may ask for"),
        ("input %x: f32[1]\nparam @w = #random(1, [-1])", "no negative sizes"),
        (f"input %x: f32[1]\nparam @w = [{'9' * 5000}]", "a number of 5000 digits"),
        ("input %x: f32[1?]", "whole number"),
    ],
)
def test_texts_may_not_ask_for_the_moon(text: str, message: str) -> None:
    with pytest.raises(ParseError, match=message):
        hqc.ir.parse(text + "\noutput %x")


@pytest.mark.parametrize(
    "options",
    [
        {"edits": 3}, {"edits": ["x"]}, {"leaf_modules": "layer"}, {"leaf_modules": [3]}, {"concrete_args": [1]}, {"concrete_args": {1: 2}},
        {"qconfig_dict": np.zeros(3)}, {"hybrid": "yes"}, {"hybrid_dict": []}, {"dump_dir": 3}, {"min_macs": "1"},
    ],
    ids=str,
)  # fmt: skip
def test_arguments_of_another_kind_are_refused_by_name(options: dict[str, object]) -> None:
    x = torch.zeros(1, 3, 4, 4)
    with pytest.raises(HqcError, match=f"^({next(iter(options))}|cannot write)"):
        hqc.compile(nn.Conv2d(3, 3, 1), x, march="bayes", calibration_data=[x], **options)  # type: ignore[arg-type]


class _Does(nn.Module):
    """Calls `work` in forward, with a scripted layer where `layer` is one."""

    def __init__(self, work: Callable[..., object], layer: nn.Module | None = None) -> None:
        super().__init__()
        self.work, self.layer = work, layer or nn.Identity()

    def forward(self, *x: torch.Tensor) -> object:
        return self.work(self.layer(x[0]))


class _Colour(enum.Enum):
    RED = 1


def _leaves(x: torch.Tensor) -> object:
    raise SystemExit(2)


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (lambda x: x[9], "getitem failed on operands"),
        (lambda x: x.to_sparse(), "returns a sparse_coo tensor"),
        (lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8), "which the IR cannot express"),
        (lambda x: {_Colour.RED: x}, "a dict with a _Colour as a key"),
        (lambda x: {x: x}, "Keys for dictionaries"),
        (_leaves, "raised SystemExit"),
        (lambda x: x if x.mean() > 0 else -x, "a branch tests the value"),
        (lambda x: torch.nn.functional.pad(x[0, 0, 0], (1, 1, 1, 1)), "pad is given 4 numbers for a tensor of rank 1"),
        (lambda x: torch.zeros(1 << 44) + x, "failed on constants|memory"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_forward_does_is_refused_in_one_sentence(work: Callable[..., object], message: str) -> None:
    x = torch.zeros(1, 3, 4, 4)
    for model in (_Does(work), nn.DataParallel(_Does(work))):
        with pytest.raises(HqcError, match=message):
            hqc.explain(model, x, march="bayes")
        with pytest.raises(HqcError, match=message):
            hqc.compile(model, x, march="bayes", calibration_data=[x])
    with pytest.raises(HqcError, match=message):
        hqc.explain(_Does(work, torch.jit.trace(nn.ReLU(), x)), x, march="bayes")


def test_what_autocast_makes_comes_back_as_float32() -> None:
    x = torch.rand(1, 3, 4, 4)
    compiled = hqc.compile(nn.Conv2d(3, 3, 1), x, march="bayes", calibration_data=[x])
    with torch.autocast("cpu", torch.bfloat16):
        assert compiled.fake_quant(x).dtype == np.float32


def test_one_picture_is_data_and_sizes_of_raw_files_are_positive(tmp_path: Path) -> None:
    from PIL import Image

    from hqc.data import InputSpec, load_samples

    Image.new("RGB", (4, 4), (9, 9, 9)).save(tmp_path / "one.png")
    (tmp_path / "raw.bin").write_bytes(bytes(96))
    torch.save({"x": torch.zeros(1, 3, 4, 4).to(torch.float8_e4m3fn)}, tmp_path / "odd.pt")
    spec = [InputSpec("x", (1, 3, 4, 4), np.dtype(np.float32))]
    ((inputs, labels),) = load_samples(tmp_path / "one.png", spec).labelled()
    assert inputs["x"].shape == (1, 3, 4, 4) and labels is None
    for shape in ((0, 4, 4), (-1, -1, 4)):
        with pytest.raises(InputError, match="sizes from 1 on"):
            load_samples(tmp_path / "raw.bin", spec, shape=shape)
    with pytest.raises(InputError, match="cannot become an array of numbers"):
        load_samples(tmp_path / "odd.pt", spec)


def test_weights_of_odd_kinds_are_named(tmp_path: Path) -> None:
    from hqc.analysis.model_files import load_checkpoint

    for odd in (torch.zeros(3, 3).to_sparse(), torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])):
        torch.save({"weight": odd, "bias": torch.zeros(3)}, tmp_path / "weights.pt")
        with pytest.raises(InputError, match=r"weight is a (sparse_coo|nested) tensor"):
            load_checkpoint(nn.Linear(3, 3), str(tmp_path / "weights.pt"))


@pytest.mark.parametrize(
    "call",
    [
        lambda: hqc.ir.verify(3), lambda: hqc.ir.check(memoryview(b"x")), lambda: hqc.ir.print_graph(set()),  # type: ignore[arg-type]
        lambda: hqc.backends.onnx.audit(object()), lambda: hqc.backends.onnx.emit(np.zeros(3)), lambda: hqc.passes.get_pass(int),
        lambda: hqc.data.input_specs(len), lambda: hqc.data.load_samples("x", [], shape="3"),
        lambda: hqc.split_shared(nn.ReLU(), leaf_modules=3),
    ],
)  # fmt: skip
def test_public_functions_refuse_other_kinds_by_name(call: Callable[[], object]) -> None:
    with pytest.raises(InputError, match=r"^\w+ must be "):
        call()
