"""Compiled models as files, pickles and copies: equal bits after each, at any depth, in any process."""

from __future__ import annotations

import contextlib
import copy
import json
import multiprocessing
import pickle
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, safe_open, save_file
from torch import nn

import hqc
from hqc.backends import bpu
from hqc.errors import ExportError, HqcError, InputError, ShapeError
from hqc.ir import Graph, Location, QuantParams, TensorType, get_op, parse
from hqc.ir.types import DType


@dataclass
class Scores:
    logits: torch.Tensor
    shape: tuple[torch.Tensor, str]


class TwoHeads(nn.Module):
    """CPU and BPU parts, two inputs, a structured output."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, image: torch.Tensor, context: dict[str, torch.Tensor]) -> dict[str, object]:
        features = torch.relu(self.conv(image)) + context["bias"]
        pooled = features.mean((2, 3))
        return {"scores": Scores(torch.softmax(self.head(pooled), 1), (pooled, "pooled")), "features": [features, None]}


class Counted(nn.Module):
    """`torch.cumsum` has no lowering: an opaque operation with an ONNX form."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cumsum(self.conv(x), 1)


class Inverse(nn.Module):
    """`torch.linalg.inv` has no lowering, and no ONNX form for matrices of more than four rows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.inv(self.conv(x))


class Deep(nn.Module):
    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*[nn.ReLU() for _ in range(layers)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def _compiled(model: nn.Module, *inputs: object) -> hqc.Compiled:
    torch.manual_seed(0)
    return hqc.compile(model, inputs, march="bayes", calibration_data=[inputs])


@pytest.fixture(scope="module")
def two_heads() -> tuple[hqc.Compiled, tuple[object, ...]]:
    torch.manual_seed(0)
    inputs = (torch.randn(2, 3, 6, 6), {"bias": torch.randn(2, 8, 1, 1)})
    return _compiled(TwoHeads().eval(), *inputs), inputs


def _flat(outputs: dict[str, object]) -> list[object]:
    scores, features = outputs["scores"], outputs["features"]
    return [scores.logits, scores.shape[0], scores.shape[1], features[0], features[1]]  # type: ignore[attr-defined, index]


def _same(left: list[object], right: list[object]) -> None:
    for a, b in zip(left, right, strict=True):
        if isinstance(a, np.ndarray):
            assert isinstance(b, np.ndarray) and a.dtype == b.dtype and a.tobytes() == b.tobytes()
        else:
            assert a == b


def test_saved_model_has_the_bits_the_structure_and_the_reasons(
    two_heads: tuple[hqc.Compiled, tuple[object, ...]], tmp_path: Path
) -> None:
    compiled, inputs = two_heads
    file = compiled.save(tmp_path / "net.safetensors")
    loaded = hqc.load(file)
    assert loaded.graph == compiled.graph and loaded.integer_graph == compiled.integer_graph
    assert loaded.explain() == compiled.explain() and loaded.remarks == compiled.remarks and loaded.march == "bayes"
    expected = _flat(compiled.simulate(*inputs))
    _same(_flat(loaded.simulate(*inputs)), expected)
    _same(_flat(loaded.simulate({"image": inputs[0], "context": inputs[1]})), expected)
    more = (torch.randn(3, 3, 6, 6), {"bias": torch.randn(3, 8, 1, 1)})
    _same(_flat(loaded.simulate(*more)), _flat(compiled.simulate(*more)))
    assert [sorted(sample) for sample in loaded.samples] == [sorted(sample) for sample in compiled.samples]
    # The file is the same whoever writes it, and holds what export needs.
    assert loaded.save(tmp_path / "again.safetensors").read_bytes() == file.read_bytes()
    for folder in "ab":
        (tmp_path / folder).mkdir()
    compiled.export(tmp_path / "a" / "net.onnx", verify=False)
    loaded.export(tmp_path / "b" / "net.onnx")
    for name in ("net.onnx", "net.yaml"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_both_halves_refuse_the_same_shapes_in_the_same_words(
    two_heads: tuple[hqc.Compiled, tuple[object, ...]], tmp_path: Path
) -> None:
    compiled, (image, context) = two_heads
    loaded = hqc.load(compiled.save(tmp_path / "net.safetensors"))
    image, bias = np.asarray(image), np.asarray(context["bias"])  # type: ignore[index]
    wrong = [
        (image[:, :, :3], {"bias": bias}),
        (image[0], {"bias": bias}),
        (np.repeat(image, 3, 0), {"bias": np.repeat(bias, 2, 0)}),
    ]
    for given in wrong:
        said = []
        for model in (compiled, loaded):
            with pytest.raises(ShapeError) as caught:
                model.simulate(*given)
            said.append(str(caught.value))
        assert said[0] == said[1]


def test_loading_needs_no_torch(two_heads: tuple[hqc.Compiled, tuple[object, ...]], tmp_path: Path) -> None:
    compiled, inputs = two_heads
    compiled.save(tmp_path / "net.safetensors")
    image, bias = inputs[0].numpy(), inputs[1]["bias"].numpy()  # type: ignore[attr-defined, index]
    np.savez(tmp_path / "in.npz", image=image, bias=bias)
    script = (
        "import sys, numpy as np, hqc; sys.modules['torch'] = None; model = hqc.load('net.safetensors'); x = np.load('in.npz')\n"
        "np.save('out.npy', model.simulate(x['image'], {'bias': x['bias']})['features'][0])"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, timeout=100)
    assert np.load(tmp_path / "out.npy").tobytes() == _flat(compiled.simulate(*inputs))[3].tobytes()  # type: ignore[attr-defined]


def test_opaque_operations_are_stored_as_onnx_or_refused_by_name(tmp_path: Path) -> None:
    x = torch.randn(1, 3, 6, 6)
    compiled = _compiled(Counted().eval(), x)
    assert any(node.op.name == "opaque" for node in compiled.graph.nodes)
    loaded = hqc.load(compiled.save(tmp_path / "net.safetensors"))
    assert loaded.simulate(x).tobytes() == compiled.simulate(x).tobytes()
    with pytest.raises(ShapeError, match=r"cumsum.*give batches of 1, or compile for 3"):
        loaded.simulate(torch.randn(3, 3, 6, 6))
    again = pickle.loads(pickle.dumps(loaded)), pickle.loads(pickle.dumps(compiled)), copy.deepcopy(compiled)
    assert all(each.simulate(x).tobytes() == compiled.simulate(x).tobytes() for each in again)
    refused = _compiled(Inverse().eval(), torch.eye(6).expand(1, 3, 6, 6) + 0.1 * torch.randn(1, 3, 6, 6))
    with pytest.raises(ExportError, match=r"linalg_inv.*cannot be written"):
        refused.save(tmp_path / "refused.safetensors")
    assert not (tmp_path / "refused.safetensors").exists()


def _square_in_worker(model: object, x: np.ndarray, queue: object) -> None:
    queue.put(model.simulate(x))  # type: ignore[attr-defined]


class Plain(nn.Module):
    """At module level, so that other processes find it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool = nn.Conv2d(3, 4, 3), nn.MaxPool2d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.pool(torch.relu(self.conv(x))))


@pytest.fixture(scope="module")
def plain() -> tuple[hqc.Compiled, np.ndarray]:
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8), np.float32)
    return _compiled(Plain().eval(), torch.from_numpy(x)), x


def test_a_spawned_process_computes_the_same_bits(plain: tuple[hqc.Compiled, np.ndarray], tmp_path: Path) -> None:
    compiled, x = plain
    loaded = hqc.load(compiled.save(tmp_path / "net.safetensors"))
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_square_in_worker, args=(loaded, x, queue))
    process.start()
    found = queue.get(timeout=100)
    process.join(100)
    assert found.tobytes() == compiled.simulate(x).tobytes()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda item: pickle.loads(pickle.dumps(item))], ids=["deepcopy", "pickle"])
def test_copies_compute_the_same_bits(plain: tuple[hqc.Compiled, np.ndarray], copied: object, tmp_path: Path) -> None:
    compiled, x = plain
    expected = compiled.simulate(x).tobytes()
    twin = copied(compiled)  # type: ignore[operator]
    assert twin.simulate(x).tobytes() == expected
    assert twin.graph == compiled.graph and twin.graph is not compiled.graph
    assert twin.fake_quant(x).tobytes() == compiled.fake_quant(x).tobytes()
    assert twin.export(tmp_path / "twin.onnx").executed
    program = copied(bpu.compile(compiled.integer_graph, engine="blas"))  # type: ignore[operator]
    assert program.engine.startswith("blas")
    assert next(iter(program.run([x]).values())).tobytes() == expected
    prepared = copied(compiled.prepared)  # type: ignore[operator]
    assert torch.equal(prepared(torch.from_numpy(x)), compiled.prepared(torch.from_numpy(x)))


def test_deep_networks_copy_and_pickle() -> None:
    """5,000 operations; 1,500 layers of a torch model, which is beyond Python's recursion limit too and takes a tenth of the time."""
    graph = Graph("deep", "bayes")
    value = graph.add_input("x", TensorType(DType.FLOAT32, (1, 4)))
    for index in range(5000):
        value = graph.add_node("relu", [value], name=f"r{index}").result
    graph.set_outputs([value])
    for twin in (copy.deepcopy(graph), pickle.loads(pickle.dumps(graph))):
        assert twin == graph and twin.value("r4999").producer.graph is twin
    x = torch.randn(1, 4)
    on_cpu = {"cpu": {"op": ["relu"]}}
    compiled = hqc.compile(Deep(1500), x, march="bayes", calibration_data=[x], hybrid_dict=on_cpu)
    for copied in (copy.deepcopy(compiled), pickle.loads(pickle.dumps(compiled))):
        assert len(copied.graph) == len(compiled.graph) >= 1500
        assert torch.equal(copied.prepared(x), compiled.prepared(x))


def test_copies_of_values_and_nodes_stay_in_their_graph() -> None:
    graph = parse("input %x: f32[1,2]\nparam @w = [[1.0, 2.0]]\n%y = add(%x, @w)\n%z = relu(%y)\noutput %z")
    graph.locations["y"] = Location("net:add#0", "net.py:3")
    graph.value("y").quant = QuantParams(0.5)
    bundle = {"graph": graph, "values": list(graph.values.values()), "nodes": list(graph.nodes)}
    for twin in (copy.deepcopy(bundle), pickle.loads(pickle.dumps(bundle))):
        assert twin["graph"] == graph and twin["graph"].locations == graph.locations
        assert all(value is twin["graph"].value(value.name) for value in twin["values"])
        assert [node.graph is twin["graph"] for node in twin["nodes"]] == [True, True]
    assert copy.deepcopy(get_op("relu")) is get_op("relu") is pickle.loads(pickle.dumps(get_op("relu")))


# --- damaged and foreign files ------------------------------------------------------------------------------------------------


def _rewritten(file: Path, target: Path, change: object) -> Path:
    with safe_open(file, "numpy") as opened:
        contents = json.loads(opened.metadata()["hqc"])
    tensors = load_file(file)
    change(contents, tensors)  # type: ignore[operator]
    save_file(tensors, target, {"hqc": json.dumps(contents)})
    return target


def test_damaged_files_are_one_sentence(plain: tuple[hqc.Compiled, np.ndarray], tmp_path: Path) -> None:
    compiled, _ = plain
    file = compiled.save(tmp_path / "net.safetensors")
    data = file.read_bytes()
    generator = np.random.default_rng(3)
    for number in range(60):
        damaged = bytearray(data)
        for _ in range(int(generator.integers(1, 4))):
            damaged[int(generator.integers(0, len(damaged) if number % 3 else 4000))] = int(generator.integers(0, 256))
        path = tmp_path / "damaged.safetensors"
        path.write_bytes(bytes(damaged[: int(generator.integers(0, len(data)))] if number % 7 == 0 else damaged))
        with contextlib.suppress(InputError):  # a byte may change nothing that is checked, such as a remark
            hqc.load(path)

    changes = {
        "no structure": lambda meta, _: meta.update(outputs={"class": ["os", "system"]}),
        "no tensor": lambda meta, _: meta.update(outputs={"tensor": 7}),
        "nested too deeply": lambda meta, _: meta.update(outputs=json.loads("[" * 500 + "]" * 500)),
        "stage": lambda meta, _: meta.update(integer=meta["scaled"]),
        "KeyError": lambda meta, _: meta.pop("inputs"),
        "not the one": lambda _, tensors: tensors.update({key: array[::-1].copy() for key, array in tensors.items() if "sha" in key}),
        "sample": lambda _, tensors: tensors.update({"sample/0/x": np.zeros((1, 1), np.float32)}),
        "does not know": lambda meta, _: meta.update(format="hqc-compiled-99"),
        "no model of": lambda meta, _: meta.clear(),
    }  # fmt: skip
    for expected, change in changes.items():
        with pytest.raises(InputError, match=expected):
            hqc.load(_rewritten(file, tmp_path / "changed.safetensors", change))
    for path in (tmp_path / "missing.safetensors", tmp_path, Path(__file__)):
        with pytest.raises(HqcError, match="cannot read"):
            hqc.load(path)


def test_forms_that_reach_outside_the_file_are_refused(tmp_path: Path) -> None:
    import onnx

    file = _compiled(Counted().eval(), torch.randn(1, 3, 6, 6)).save(tmp_path / "net.safetensors")

    def external(_: object, tensors: dict[str, np.ndarray]) -> None:
        (key,) = (key for key in tensors if key.startswith("form/"))
        model = onnx.load_model_from_string(tensors[key].tobytes())
        tensor = model.graph.initializer.add(name="w", dims=[4], data_type=1, data_location=onnx.TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value="/etc/hostname")
        tensors[key] = np.frombuffer(model.SerializeToString(), np.uint8)

    with pytest.raises(InputError, match="refers to another file"):
        hqc.load(_rewritten(file, tmp_path / "external.safetensors", external))
    with pytest.raises(InputError, match="is missing"):
        hqc.load(
            _rewritten(file, tmp_path / "none.safetensors", lambda _, t: t.pop(next(k for k in t if k.startswith("form/"))))
        )
