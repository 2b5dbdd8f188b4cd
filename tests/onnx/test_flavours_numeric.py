"""The `runnable` and `qdq` files compute the fake-quant model; on the BPU's arithmetic they are within a step of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from fake_quant_reference import evaluate
from hypothesis import given, settings
from hypothesis import strategies as st

from hqc import arithmetic
from hqc.backends import bpu
from hqc.backends.onnx import emit
from hqc.backends.onnx.builder import Builder
from hqc.backends.onnx.functions import grid_index
from hqc.backends.onnx.verify import compare_output, run_model
from hqc.ir import Device, DType, Graph, QuantParams, TensorType, Value
from hqc.march import get_spec
from hqc.passes.base import PassContext
from hqc.passes.lower_to_integer import LowerToInteger
from hqc.passes.settle_rounding import SettleRounding

MARCHES = ("bernoulli", "bernoulli2", "bayes", "bayes-e")
Array = np.ndarray[Any, Any]


# --- one fake quantization, over every rounding, width and axis ------------------------------------------------------------


def tricky(scale: float, bits: int) -> Array:
    """Ties, their float neighbours, both saturation ends and infinities, in units of the scale."""
    low, high = arithmetic.bounds(bits)
    ties = np.array([-2.5, -1.5, -0.5, 0.0, 0.5, 1.5, 2.5, low - 0.5, low + 0.5, high - 0.5, high + 0.5], np.float32)
    around = np.concatenate([ties, np.nextafter(ties, np.float32(-np.inf)), np.nextafter(ties, np.float32(np.inf))])
    more = np.array([low - 7.3, high + 9.1, 1e30, -1e30, np.inf, -np.inf, 1e-42], np.float32)
    return (np.concatenate([around, more, np.linspace(low, high, 997, dtype=np.float32)]) * np.float32(scale)).astype(
        np.float32
    )


@pytest.mark.parametrize("rounding", arithmetic.ROUNDINGS)
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("scale", [0.5, 0.1, 5 / 255])
def test_grid_index_is_arithmetic_quantize(rounding: str, bits: int, scale: float) -> None:
    x = tricky(scale, bits)
    b = Builder("g")
    graph = Graph("g")
    name = b.add_input(graph.add_input("x", TensorType(DType.FLOAT32, x.shape)))
    index = grid_index(b, name, b.scalar(float(np.float32(scale))), bits, rounding)
    b.add_output(index, "y", TensorType(DType.FLOAT32, x.shape))
    expected = arithmetic.quantize(x, np.float32(scale), bits, rounding)
    np.testing.assert_array_equal(run_model(b.model(), {"x": x})["y"], expected)


@pytest.mark.parametrize("flavour", ["runnable", "qdq"])
@pytest.mark.parametrize("march", ["bernoulli", "bayes"])
@pytest.mark.parametrize("dtype", [DType.INT8, DType.INT16])
def test_boundary_quantize_rounds_as_the_march(flavour: str, march: str, dtype: DType) -> None:
    graph = Graph("g", march)
    x = tricky(0.125, dtype.bits)
    node = graph.add_node("quantize", [graph.add_input("x", TensorType(DType.FLOAT32, x.shape))], {"dtype": dtype}, name="q")
    node.device, node.result.quant = Device.CPU, QuantParams(0.125, dtype, rounding=get_spec(march).rounding)
    out = graph.add_node("dequantize", [node.result], name="y")
    out.device, graph.stage = Device.CPU, "scaled"
    graph.set_outputs([out.result])
    q = arithmetic.quantize(x, np.float32(0.125), dtype.bits, get_spec(march).rounding)
    expected = arithmetic.dequantize(q, np.float32(0.125))
    np.testing.assert_array_equal(run_model(emit(graph, flavour=flavour), {"x": x})["y"], expected)


# --- random scaled graphs --------------------------------------------------------------------------------------------------


class Net:
    """A random BPU network, grown op by op. `exact`: scales are powers of two, so that float32 sums are exact in any order."""

    def __init__(self, march: str, seed: int, exact: bool) -> None:
        self.graph = Graph("net", march)
        self.random = np.random.default_rng(seed)
        self.exact = exact or march == "bernoulli"
        self.march = get_spec(march)
        x = self.graph.add_input("x", TensorType(DType.FLOAT32, (1, 4, 8, 8)))
        self.tip = self.add("quantize", [x], {}, scale=1 / 32)

    def scale(self, around: float) -> float:
        return float(2.0 ** np.round(np.log2(around))) if self.exact else around * float(self.random.uniform(0.8, 1.25))

    def add(self, op: str, operands: list[Value | None], attributes: dict[str, Any], scale: float | None = None) -> Value:
        node = self.graph.add_node(op, operands, attributes, name=f"{op}_{len(self.graph)}")
        boundary = op in ("quantize", "dequantize")
        node.device, node.subgraph = (Device.CPU, None) if boundary else (Device.BPU, 0)
        if scale is not None:
            node.result.quant = QuantParams(self.scale(scale))
        elif not boundary and node.result.quant is None:
            node.result.quant = next(value for value in operands if value is not None).quant
        return node.result

    def parameter(self, shape: tuple[int, ...], step: float | None = None) -> Value:
        array = self.random.normal(0, 0.5, shape).astype(np.float32)
        if step is not None:
            array = np.round(array / step).astype(np.float32) * np.float32(step)
        return self.graph.add_parameter(f"p{len(self.graph)}_{len(self.graph.parameters)}", array)

    def grow(self, what: str) -> None:
        x = self.tip
        channels = (x.shape or ())[1]
        if what in ("conv", "conv_add", "depthwise"):
            groups = channels if what == "depthwise" else 1
            w = self.parameter((channels, channels // groups, 3, 3))
            scales = [self.scale(1 / 64) for _ in range(channels)]
            w.quant = QuantParams(np.array(scales, np.float32), axis=0)
            bias = self.parameter((channels,), step=1 / 32 if self.exact else None)
            operands = [x, w, bias] + ([x] if what == "conv_add" else [])
            attributes = {"padding": (1, 1, 1, 1), "groups": groups, "activation": "none" if what == "depthwise" else "relu"}
            self.tip = self.add("conv2d", operands, attributes, scale=1 / 16 if what == "depthwise" else 1 / 8)
        elif what == "add":
            self.tip = self.add("add", [x, self.add("relu", [x], {})], {}, scale=1 / 8)
        elif what == "mul":
            self.tip = self.add("mul", [x, x], {}, scale=1 / 4)
        elif what == "cat":
            other = self.add("clamp", [x], {"min": -1.0, "max": 0.5})
            self.tip = self.add("cat", [x, other], {"axis": 1}, scale=None if self.march.name == "bernoulli" else 1 / 16)
        elif what == "sigmoid":
            self.tip = self.add("sigmoid", [x], {}, scale=1 / 128)
        elif what in ("max_pool2d", "avg_pool2d"):
            if min((x.shape or ())[2:]) >= 2:
                keeps = what == "max_pool2d" or self.march.name == "bernoulli"
                self.tip = self.add(what, [x], {"kernel": (2, 2), "stride": (2, 2)}, scale=None if keeps else 1 / 16)
        elif what in ("nearest", "bilinear"):
            size = tuple(2 * n for n in (x.shape or ())[2:])
            self.tip = self.add("resize2d", [x], {"size": size, "mode": what})

    def finish(self) -> Graph:
        out = self.add("dequantize", [self.tip], {})
        self.graph.set_outputs([out], ["y"])
        self.graph.stage = "scaled"
        SettleRounding().run(self.graph, PassContext(self.march))
        return self.graph


EXACT = ("conv", "conv_add", "depthwise", "add", "mul", "cat", "max_pool2d", "avg_pool2d", "nearest", "bilinear")


def random_input(seed: int) -> Mapping[str, Array]:
    return {"x": np.random.default_rng(seed).normal(0, 1.5, (1, 4, 8, 8)).astype(np.float32)}


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(MARCHES), st.lists(st.sampled_from(EXACT), min_size=1, max_size=5), st.integers(0, 2**20))
def test_files_equal_the_fake_quant_model_where_float_sums_are_exact(march: str, ops: list[str], seed: int) -> None:
    net = Net(march, seed, exact=True)
    for op in ops:
        net.grow(op)
    graph, feeds = net.finish(), random_input(seed)
    expected = evaluate(graph, feeds)["y"]
    for flavour in ("runnable", "qdq"):
        np.testing.assert_array_equal(run_model(emit(graph, flavour=flavour), feeds)["y"], expected)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(MARCHES), st.lists(st.sampled_from((*EXACT, "sigmoid")), min_size=1, max_size=3), st.integers(0, 2**20))
def test_files_are_the_fake_quant_model_up_to_float_noise(march: str, ops: list[str], seed: int) -> None:
    net = Net(march, seed, exact=False)
    for op in ops:
        net.grow(op)
    graph, feeds = net.finish(), random_input(seed)
    assert net.tip.quant is not None
    expected, step = evaluate(graph, feeds)["y"], float(net.tip.quant.scale)
    runnable, qdq = (run_model(emit(graph, flavour=flavour), feeds)["y"] for flavour in ("runnable", "qdq"))
    np.testing.assert_array_equal(runnable, qdq)
    comparison = compare_output("y", runnable, expected, step)
    assert comparison.differing <= max(1, 0.005 * comparison.elements), str(comparison)


# --- against the simulator: any single layer on the same integers is within one step ---------------------------------------

SINGLE = ("conv", "conv_add", "depthwise", "add", "mul", "cat", "max_pool2d", "avg_pool2d", "nearest", "bilinear", "sigmoid")


@pytest.mark.parametrize("march", MARCHES)
@pytest.mark.parametrize("op", SINGLE)
def test_one_layer_is_within_a_step_of_the_simulator(march: str, op: str) -> None:
    net = Net(march, 5, exact=False)
    net.grow(op)
    graph = net.finish()
    assert net.tip.quant is not None
    step = float(net.tip.quant.scale)
    feeds = {"x": arithmetic.dequantize(np.random.default_rng(1).integers(-128, 128, (1, 4, 8, 8)), np.float32(1 / 32))}
    result = run_model(emit(graph, flavour="runnable"), feeds)["y"]
    LowerToInteger().run(graph, PassContext(march=get_spec(march)))
    expected = bpu.compile(graph, engine="blas").run(feeds)["y"]
    comparison = compare_output("y", result, expected, step)
    assert comparison.over_one == 0, str(comparison)
    if op not in ("mul", "sigmoid"):
        assert comparison.differing <= 0.01 * comparison.elements, str(comparison)
    assert len(np.unique(expected)) > 10
