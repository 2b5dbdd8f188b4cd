"""onnxruntime on the `integer` flavour gives the simulator's bits: every integer op, then whole graphs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from hqc import arithmetic, resampling
from hqc.backends import bpu
from hqc.backends.onnx import emit, export
from hqc.backends.onnx.verify import run_model
from hqc.ir import Device, DType, Graph, TensorType
from hqc.ir.parser import parse
from hqc.march import get_spec
from hqc.passes.base import PassContext
from hqc.passes.lower_to_integer import LowerToInteger
from hqc.passes.settle_rounding import SettleRounding

Array = np.ndarray[Any, Any]


def integers(shape: Sequence[int], dtype: type = np.int8, seed: int = 0) -> Array:
    """Random integers over the whole range of the type, both ends included."""
    info = np.iinfo(dtype)
    array = np.random.default_rng(seed).integers(info.min, info.max + 1, tuple(shape)).astype(dtype)
    array.flat[0], array.flat[-1] = info.min, info.max
    return array


def requant(ratios: Any, bits: int = 8) -> Array:
    return arithmetic.requant_params(ratios, bits).array


def shifts(n: Any) -> Array:
    return arithmetic.shift_params(np.ldexp(1.0, -np.asarray(n))).array


def check(op: str, operands: Sequence[tuple[str, Array] | None], attributes: dict[str, Any]) -> None:
    """One BPU node over these operands (`x...` are graph inputs, others parameters): simulator and file agree in every bit."""
    graph = Graph("g")
    values, feeds = [], {}
    for item in operands:
        if item is None:
            values.append(None)
            continue
        name, array = item
        if name.startswith("x"):
            feeds[name] = array
            values.append(graph.add_input(name, TensorType(DType.from_numpy(array.dtype), array.shape)))
        else:
            values.append(graph.add_parameter(name, array))
    node = graph.add_node(op, values, attributes, name="y")
    node.device, node.subgraph = Device.BPU, 0
    graph.set_outputs(node.results)
    graph.stage = "integer"
    expected = bpu.compile(graph, engine="blas").run(feeds)["y"]
    result = run_model(emit(graph, flavour="integer"), feeds)["y"]
    assert result.dtype == expected.dtype
    np.testing.assert_array_equal(result, expected)
    assert result.size < 4 or len(np.unique(result)) > 1, "a constant result proves nothing"


CLIPS = [{}, {"clip_min": 0}, {"clip_min": 0, "clip_max": 90}]


# --- multiply-accumulate -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_conv(groups: int, clip: dict[str, int]) -> None:
    x, w = integers((2, 4, 7, 6)), integers((8, 4 // groups, 3, 2), seed=1)
    bias = integers((8,), np.int32, seed=2) // 2**12
    ratios = np.random.default_rng(3).uniform(0.0005, 0.01, 8)
    attributes = {"stride": (2, 1), "padding": (1, 0, 2, 1), "dilation": (1, 2), "groups": groups, **clip}
    check("int_conv2d", [("x", x), ("w", w), ("b", bias), ("r", requant(ratios))], attributes)


def test_conv_per_tensor_requantization_and_no_bias() -> None:
    check("int_conv2d", [("x", integers((1, 3, 5, 5))), ("w", integers((4, 3, 1, 1), seed=1)), None, ("r", requant(0.01))], {})


@pytest.mark.parametrize("residual_dtype", [np.int8, np.int16])
def test_conv_with_residual(residual_dtype: type) -> None:
    x, w = integers((1, 3, 5, 5)), integers((4, 3, 3, 3), seed=1)
    res = integers((1, 4, 5, 5), residual_dtype, seed=2)
    params = arithmetic.residual_params(np.array([0.3, 40.0, 900.0, 1e-4]), 8 if residual_dtype is np.int8 else 16)
    operands = [
        ("x", x),
        ("w", w),
        None,
        ("r", requant(np.array([0.01, 0.002, 0.0004, 0.01]))),
        ("x2", res),
        ("rr", params.array),
    ]
    check("int_conv2d", operands, {"padding": (1, 1, 1, 1)})


def test_conv_whose_sums_exceed_24_bits_is_split_exactly() -> None:
    """Odd products and large sums of one sign: a float32 sum would round."""
    x = np.random.default_rng(0).integers(-64, -56, (1, 6000, 2, 2)).astype(np.int8) * 2 + 1
    w = np.random.default_rng(1).integers(-64, -56, (2, 6000, 1, 1)).astype(np.int8) * 2 + 1
    w[1, ::2] = 127
    check("int_conv2d", [("x", x), ("w", w), ("b", np.array([1, -2], np.int32))], {"mode": "none", "dtype": DType.INT32})
    exact = (x.astype(np.int64).reshape(6000, 4).T @ w.astype(np.int64).reshape(2, 6000).T).max()
    assert exact > 3 * 2**24


def test_grouped_conv_whose_sums_exceed_24_bits_is_split_exactly() -> None:
    x = np.random.default_rng(0).integers(-64, -56, (1, 4000, 2, 2)).astype(np.int8) * 2 + 1
    w = np.random.default_rng(1).integers(-64, -56, (2, 2000, 1, 1)).astype(np.int8) * 2 + 1
    check("int_conv2d", [("x", x), ("w", w)], {"mode": "none", "dtype": DType.INT32, "groups": 2})


@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_conv_whose_sums_exceed_24_bits_is_split_exactly(groups: int) -> None:
    x = np.random.default_rng(0).integers(-64, -56, (1, 3000, 2, 2)).astype(np.int8) * 2 + 1
    w = np.random.default_rng(1).integers(-64, -56, (3000, 2, 2, 1)).astype(np.int8) * 2 + 1
    check("int_conv_transpose2d", [("x", x), ("w", w)], {"mode": "none", "dtype": DType.INT32, "groups": groups})


def test_conv_of_int16_uses_64_bit_accumulators() -> None:
    """The low bytes alone sum up beyond 24 bits."""
    x = (np.random.default_rng(0).integers(-120, 120, (1, 2000, 2, 2)) * 256 + 255).astype(np.int16)
    w = np.random.default_rng(1).integers(60, 64, (3, 2000, 1, 1)).astype(np.int8) * 2 + 1
    bias = np.array([2**34, -(2**33), 3], np.int64)
    ratios = np.array([1e-6, 1e-5, 0.0003])
    attributes = {"mode": "multiply64", "dtype": DType.INT16}
    check("int_conv2d", [("x", x), ("w", w), ("b", bias), ("r", requant(ratios, 16))], attributes)
    attributes = {"mode": "multiply", "dtype": DType.INT8}
    check("int_conv2d", [("x", x), ("w", w), None, ("r", requant(np.array([1e-6, 2e-6, 3e-6])))], attributes)


def test_accumulators_of_int16_are_exact() -> None:
    """Seen through a ratio that keeps the accumulator's last bits in the int16 result."""
    x = np.full((1, 2000, 1, 2), 255, np.int16)
    w = np.full((1, 2000, 1, 1), 127, np.int8)
    w[0, :10] = 126
    total = int(x[0, :, 0, 0].astype(np.int64) @ w[0, :, 0, 0].astype(np.int64))
    x[0, 0, 0, 1] = 254
    bias = np.array([-total], np.int64)
    attributes = {"mode": "multiply64", "dtype": DType.INT16}
    operands = [("x", x), ("w", w), ("b", bias), ("r", requant(np.array([1.0]), 16))]
    check("int_conv2d", operands, attributes)


def test_conv_on_bernoulli_shifts() -> None:
    x, w = integers((1, 3, 5, 5)), integers((4, 3, 3, 3), seed=1)
    attributes = {"mode": "shift", "clip_min": 0}
    check("int_conv2d", [("x", x), ("w", w), None, ("r", shifts(np.array([9, 10, 11, 3])))], attributes)


@pytest.mark.parametrize("groups", [1, 2])
def test_conv_transpose(groups: int) -> None:
    x, w = integers((1, 4, 5, 4)), integers((4, 3, 3, 2), seed=1)
    channels = 3 * groups
    bias = integers((channels,), np.int32, seed=2) // 2**14
    attributes = {"stride": (2, 2), "padding": (1, 0, 1, 0), "output_padding": (1, 0), "groups": groups}
    ratios = np.random.default_rng(3).uniform(0.001, 0.01, channels)
    check("int_conv_transpose2d", [("x", x), ("w", w), ("b", bias), ("r", requant(ratios))], attributes)


@pytest.mark.parametrize("shape", [(5, 30), (2, 3, 30)])
def test_linear(shape: tuple[int, ...]) -> None:
    x, w, bias = integers(shape), integers((6, 30), seed=1), integers((6,), np.int32, seed=2) // 2**12
    ratios = np.random.default_rng(3).uniform(0.001, 0.01, 6)
    check("int_linear", [("x", x), ("w", w), ("b", bias), ("r", requant(ratios))], {"clip_min": 0})


def test_matmul() -> None:
    check("int_matmul", [("x", integers((2, 3, 4, 20))), ("x2", integers((2, 1, 20, 5), seed=1)), ("r", requant(0.001))], {})


# --- element-wise --------------------------------------------------------------------------------------------------------


def test_add_and_mul() -> None:
    a, b = integers((2, 3, 4, 5)), integers((1, 3, 1, 5), seed=1)
    check("int_add", [("x", a), ("x2", b), ("r", requant(1 / 2**14 / 0.7))], {"k_a": 9000, "k_b": -(2**14)})
    check("int_add", [("x", a), ("c", np.array(123456, np.int32)), ("r", requant(1 / 2**14))], {"k_a": 2**14, "k_b": 1})
    check("int_mul", [("x", a), ("x2", b), ("r", requant(0.01))], {"clip_min": -100})
    check("int_mul", [("x", a), ("x2", b), ("r", shifts(7))], {"mode": "shift"})


def test_add_of_int16() -> None:
    a, b = integers((200,), np.int16), integers((200,), np.int16, seed=1)
    operands = [("x", a), ("x2", b), ("r", requant(1 / 2**24 / 0.6, 16))]
    check("int_add", operands, {"k_a": 2**24, "k_b": 7654321, "mode": "multiply64", "dtype": DType.INT16})


@pytest.mark.parametrize("ratio", [0.9, 300.0])
def test_div_with_zeros(ratio: float) -> None:
    a, b = integers((500,)), integers((500,), seed=1)
    a[:10], b[5:20] = 0, 0
    check("int_div", [("x", a), ("x2", b)], {"ratio": ratio})


@pytest.mark.parametrize("ratio", [2.0**-31, 1e-7, 0.004, 0.37, 0.9999, 1.0, 3.7, 100.0, 20000.0])
def test_requantize_over_the_range_of_ratios(ratio: float) -> None:
    x = integers((4000,), np.int32)
    x[:2000] //= 2**16
    x[2000:2200] = np.arange(-100, 100)
    if 1 / ratio < 2**31:
        x[2200:2400] = np.clip(np.arange(-100, 100) / ratio, -(2**31), 2**31 - 1).astype(np.int32)
    for bits, dtype, mode in ((8, DType.INT8, "multiply"), (16, DType.INT16, "multiply64")):
        graph = Graph("g")
        value = graph.add_input("x", TensorType(DType.INT32, x.shape))
        params = arithmetic.requant_params(ratio, bits)
        node = graph.add_node(
            "int_requantize", [value, graph.add_parameter("r", params.array)], {"mode": mode, "dtype": dtype}, name="y"
        )
        node.device, node.subgraph, graph.stage = Device.BPU, 0, "integer"
        graph.set_outputs(node.results)
        result = run_model(emit(graph, flavour="integer"), {"x": x})["y"]
        np.testing.assert_array_equal(result, arithmetic.requantize(x, params, bits))


def test_requantize_by_clipping() -> None:
    check("int_requantize", [("x", integers((300,), np.int16))], {"mode": "clip"})


@pytest.mark.parametrize("dtypes", [(np.int8, np.int8), (np.int8, np.int16), (np.int16, np.int8)])
def test_table(dtypes: tuple[type, type]) -> None:
    x = integers((2, 3, 5, 4), dtypes[0])
    table = integers((1 << (8 * x.itemsize),), dtypes[1], seed=1)
    check("int_lut", [("x", x), ("t", table)], {})


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3)])
@pytest.mark.parametrize("slopes", [1, 3])
def test_prelu(shape: tuple[int, ...], slopes: int) -> None:
    x, w = integers(shape), integers((slopes,), np.int16, seed=1)
    w[0] = 12345
    check("int_prelu", [("x", x), ("w", w), ("p", requant(0.8)), ("n", requant(0.00003))], {})


# --- pooling, reductions, resize -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.int8, np.int16])
@pytest.mark.parametrize("ceil_mode", [True, False])
def test_average_pool(dtype: type, ceil_mode: bool) -> None:
    x = integers((2, 3, 8, 7), dtype)
    wide = {"mode": "multiply64", "dtype": DType.INT16} if dtype is np.int16 else {}
    attributes = {"kernel": (3, 2), "stride": (2, 2), "padding": (1, 0, 1, 1), "ceil_mode": ceil_mode, **wide}
    check("int_avg_pool2d", [("x", x), ("r", requant(0.2, 16 if wide else 8))], attributes)


def test_average_pool_with_divisors_per_position() -> None:
    counts = resampling.window_counts((8, 7), (3, 3), (2, 2), (1, 1, 1, 1), (4, 4), count_include_pad=False)
    attributes = {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1, 1, 1), "count_include_pad": False}
    check("int_avg_pool2d", [("x", integers((2, 3, 8, 7))), ("r", requant(0.9 / counts))], attributes)


def test_average_pool_on_bernoulli() -> None:
    attributes = {"kernel": (3, 3), "stride": (1, 1), "gain": 56, "mode": "clip"}
    check("int_avg_pool2d", [("x", integers((2, 3, 8, 7)))], attributes)


@pytest.mark.parametrize("out", [(1, 1), (3, 5), (7, 2)])
def test_adaptive_average_pool(out: tuple[int, int]) -> None:
    params = requant(0.8 / resampling.adaptive_counts((8, 10), out))
    check("int_adaptive_avg_pool2d", [("x", integers((2, 3, 8, 10))), ("r", params)], {"output_size": out})


@pytest.mark.parametrize("axes", [(), (1,), (2, 3)])
def test_sum(axes: tuple[int, ...]) -> None:
    check("int_sum", [("x", integers((2, 3, 4, 5))), ("r", requant(0.04))], {"axes": axes, "keepdims": True})


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("dtype", [np.int8, np.int16])
def test_softmax(axis: int, dtype: type) -> None:
    x = integers((2, 6, 4, 5), dtype)
    table = arithmetic.softmax_table(0.03 if dtype is np.int8 else 0.0002, 8 * x.itemsize).astype(np.int32)
    check("int_softmax", [("x", x), ("t", table), ("r", requant(2.0**-31 * 200))], {"axis": axis})


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
@pytest.mark.parametrize("size", [(12, 5), (3, 17), (1, 1)])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("align", [True, False])
def test_resize(mode: str, size: tuple[int, int], bits: int, align: bool) -> None:
    attributes = {"size": size, "mode": mode, "fraction_bits": bits, "align_corners": align}
    for factors in ((), (1.3, 0.7)):
        check("int_resize2d", [("x", integers((1, 2, 6, 7)))], {**attributes, "scale_factor": factors})
    check("int_resize2d", [("x", integers((1, 2, 6, 7), np.int16))], attributes)


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize("kind", [np.int8, np.int16])
def test_grid_sample(mode: str, padding: str, kind: type) -> None:
    x, grid = integers((2, 3, 6, 7)), integers((2, 9, 5, 2), kind, seed=1)
    attributes = {"mode": mode, "padding_mode": padding, "fraction_bits": 8}
    positions = np.arange(256 if kind is np.int8 else 65536) / (100 if kind is np.int8 else 25000) - 1.3
    table = np.stack([resampling.grid_coordinates(positions, size, fraction_bits=8, align_corners=True) for size in (7, 6)])
    check("int_grid_sample", [("x", x), ("grid", grid), ("table", table)], attributes)
    fixed = np.stack([integers((2, 9, 5), np.int16, seed=seed) >> 4 for seed in (2, 3)], axis=-1)
    check("int_grid_sample", [("x", x.astype(np.int16) * 255), ("grid", fixed)], attributes)


@pytest.mark.parametrize("dtype", [np.int8, np.int16])
def test_float_declared_ops_on_integers(dtype: type) -> None:
    x, x2 = ("x", integers((2, 4, 6, 6), dtype)), ("x2", integers((2, 4, 6, 6), dtype, seed=1))
    check("max_pool2d", [x], {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1, 1, 1), "ceil_mode": True})
    check("adaptive_max_pool2d", [x], {"output_size": (4, 5)})
    check("clamp", [x], {"min": -5.0, "max": 100.0})
    check("relu", [x], {})
    check("pad", [x], {"pads": (0, 0, 1, 0, 0, 0, 2, 3), "value": -7.0})
    check("pixel_shuffle", [x], {"factor": 2})
    check("pixel_unshuffle", [x], {"factor": 3})
    check("cat", [x, x2], {"axis": 1})
    check("maximum", [x, x2], {})
    check("minimum", [x, x2], {})
    check("greater_equal", [x, x2], {})
    check("where", [("x3", integers((2, 1, 6, 1)) > 0), x, x2], {})
    check("argmax", [x], {"axis": 1})
    check("reduce_max", [x], {"axes": (2, 3), "keepdims": True})
    check("slice", [x], {"axes": (1,), "starts": (1,), "ends": (4,), "steps": (2,)})
    check("transpose", [x], {"perm": (0, 2, 3, 1)})
    check("reshape", [x], {"shape": (2, -1)})
    check("tile", [x], {"repeats": (1, 2, 1, 1)})
    check("expand", [("x", integers((2, 4, 1, 6), dtype))], {"shape": (2, 4, 3, 6)})
    check("gather", [x, ("i", np.array([2, 0, 2], np.int64))], {"axis": 1})


# --- whole graphs --------------------------------------------------------------------------------------------------------

NETWORK = """
graph @net march=MARCH stage=scaled {
  input %x: f32[2,3,16,16]
  param @w1: f32[8,3,3,3] q(i8, axis=0, [S,S,S,S,S,S,S,S]) = #random(1, [8,3,3,3])
  param @b1 = #random(2, [8])
  param @w2: f32[8,8,3,3] q(i8, axis=0, [S,S,S,S,S,S,S,S]) = #random(3, [8,8,3,3])
  param @dw: f32[8,1,3,3] q(i8, axis=0, [S,S,S,S,S,S,S,S]) = #random(4, [8,1,3,3])
  param @fc: f32[5,16] q(i8, axis=0, [S,S,S,S,S]) = #random(5, [5,16])
  param @cpu_w = #random(6, [8,8,1,1])
  %quant: f32[2,3,16,16] q(i8, 0.03125) = quantize(%x) {stub=true} cpu
  %conv1: f32[2,8,16,16] q(i8, 0.125) = conv2d(%quant, @w1, @b1) {padding=[1,1,1,1], activation=relu} bpu.0
  %conv2: f32[2,8,16,16] q(i8, 0.25) = conv2d(%conv1, @w2, none, %conv1) {padding=[1,1,1,1], activation=relu6} bpu.0
  %pool: f32[2,8,8,8] q(i8, 0.25) = max_pool2d(%conv2) {kernel=[2,2], stride=[2,2]} bpu.0
  %deq: f32[2,8,8,8] = dequantize(%pool) cpu
  %selu: f32[2,8,8,8] = selu(%deq) cpu
  %forced: f32[2,8,8,8] = conv2d(%selu, @cpu_w) cpu
  %post: f32[2,8,8,8] q(i8, 0.25) = quantize(%forced) cpu
  %dwconv: f32[2,8,8,8] q(i8, 0.25) = conv2d(%post, @dw) {padding=[1,1,1,1], groups=8} bpu.1
  %act: f32[2,8,8,8] q(i8, 0.0625) = sigmoid(%dwconv) bpu.1
  %up: f32[2,8,16,16] q(i8, 0.25) = resize2d(%post) {size=[16,16], mode=bilinear} bpu.1
  %down: f32[2,8,8,8] q(i8, 0.25) = resize2d(%up) {size=[8,8]} bpu.1
  %cat: f32[2,16,8,8] q(i8, 0.25) = cat(%down, %dwconv) {axis=1} bpu.1
  %gap: f32[2,16,1,1] q(i8, 0.25) = adaptive_avg_pool2d(%cat) {output_size=[1,1]} bpu.1
  %flat: f32[2,16] q(i8, 0.25) = reshape(%gap) {shape=[2,16]} bpu.1
  %fc_out: f32[2,5] q(i32, axis=1, [A,A,A,A,A]) = linear(%flat, @fc) bpu.1
  %logits: f32[2,5] = dequantize(%fc_out) cpu
  %prob: f32[2,5] = softmax(%logits) {axis=1} cpu
  %act_out: f32[2,8,8,8] = dequantize(%act) cpu
  output %prob as "probabilities"
  output %logits as "logits"
  output %act_out as "gate"
}
"""


def scaled_network(march: str) -> Graph:
    weight, accumulator = "0.03125", "0.0078125"
    text = re.sub(r"\bS\b", weight, re.sub(r"\bA\b", accumulator, NETWORK))
    graph = parse(text.replace("MARCH", march))
    SettleRounding().run(graph, PassContext(march=get_spec(march)))
    return graph


def lowered(march: str) -> Graph:
    graph = scaled_network(march)
    LowerToInteger().run(graph, PassContext(march=get_spec(march)))
    return graph


@pytest.mark.parametrize("march", ["bernoulli", "bernoulli2", "bayes", "bayes-e"])
def test_whole_network_has_the_simulators_bits(march: str) -> None:
    graph = lowered(march)
    feeds = {"x": np.random.default_rng(7).normal(0, 2, (2, 3, 16, 16)).astype(np.float32)}
    expected = bpu.compile(graph, engine="blas").run(feeds)
    result = run_model(emit(graph, flavour="integer"), feeds)
    np.testing.assert_array_equal(result["logits"], expected["logits"])
    np.testing.assert_array_equal(result["gate"], expected["gate"])
    np.testing.assert_allclose(result["probabilities"], expected["probabilities"], rtol=1e-6)
    assert len(np.unique(expected["logits"])) > 5
    assert len(np.unique(expected["gate"])) > 10


def test_integer_file_is_exported_and_compared_with_the_simulator(tmp_path: Any) -> None:
    graph = lowered("bayes")
    program = bpu.compile(graph, engine="blas")
    report = export(graph, tmp_path / "net.onnx", flavour="integer", reference=program.run)
    assert [(c.name, c.differing) for c in report.comparisons] == [("probabilities", 0), ("logits", 0), ("gate", 0)]
    assert [(c.name, c.unequal) for c in report.comparisons[1:]] == [("logits", 0), ("gate", 0)]
