"""Large constants beside the message: the file's bytes, the checks and the runs are those of the whole model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import hqc
from hqc.backends.bpu import compile
from hqc.backends.onnx import skeleton
from hqc.backends.onnx.emit import emit, emit_with_owners
from hqc.backends.onnx.verify import run_model
from hqc.ir import Device, DType, Graph, TensorType


@pytest.fixture(scope="module")
def compiled() -> hqc.Compiled:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 64), nn.ReLU(), nn.Linear(64, 10)).eval()
    x = torch.randn(1, 3, 8, 8)
    return hqc.compile(model, (x,), march="bayes", calibration_data=[x])


@pytest.mark.parametrize("large", [1, 200, 4096, 1 << 20])
@pytest.mark.parametrize("flavour", ["horizon", "runnable", "qdq", "integer"])
def test_a_file_is_the_same_wherever_its_constants_were(
    compiled: hqc.Compiled, flavour: str, large: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = compiled.integer_graph if flavour == "integer" else compiled.graph
    inside = emit(graph, flavour=flavour)
    monkeypatch.setattr(skeleton, "LARGE", large)
    emission = emit_with_owners(graph, flavour=flavour)
    assert bool(emission.skeleton.constants) == (large < 1 << 20)
    data = b"".join(emission.skeleton.chunks())
    assert data == inside.SerializeToString(deterministic=True) == emission.model.SerializeToString(deterministic=True)
    onnx.checker.check_model(data)
    report = compiled.export(tmp_path / "net.onnx", flavour=flavour)
    assert report.executed and (tmp_path / "net.onnx").read_bytes() == data
    if flavour != "horizon":
        feeds = {graph.inputs[0].name: compiled.samples[0][graph.inputs[0].name]}
        expected, found = run_model(inside, feeds), run_model(emission.skeleton, feeds)
        assert all(np.array_equal(found[name], array) for name, array in expected.items())


@pytest.mark.parametrize("large", [1, 1 << 20])
@pytest.mark.parametrize("size", [4, 40_000])
def test_a_segment_on_the_cpu_reads_constants_where_they_are(large: int, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small arrays go through buffers of the session, large ones do not: neither may show in later results."""
    monkeypatch.setattr(skeleton, "LARGE", large)
    graph = Graph("segment", "bayes")
    x = graph.add_input("x", TensorType(DType.FLOAT32, (2, size)))
    constant = graph.add_parameter("c", np.arange(2 * size, dtype=np.float32).reshape(2, size))
    total = graph.add_node("add", [x, constant], name="total")
    again = graph.add_node("mul", [total.result, x], name="again")
    for node in (total, again):
        node.device = Device.CPU
    graph.set_outputs([total.result, again.result])
    graph.stage = "integer"
    program = compile(graph, engine="blas")
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal((2, size), np.float32) for _ in range(3)]
    results = [program.run([each]) for each in inputs]
    for each, result in zip(inputs, results, strict=True):
        np.testing.assert_array_equal(result["total"], each + constant.array)
        np.testing.assert_array_equal(result["again"], (each + constant.array) * each)
