"""Every float op of a CPU segment computes what torch computes, in onnxruntime at opset 11."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F

from hqc.backends.onnx import emit, emit_segment
from hqc.errors import ExportError
from hqc.ir import Device, DType, Graph, Node, TensorType

# Kernels that onnxruntime 1.18, the declared minimum, lacks though newer ones have them: a file that uses one runs here and not there.
NOT_IN_THE_OLDEST = {"ArgMin": {"INT8", "UINT8"}, "DepthToSpace": {"INT8", "UINT8"}}


def assert_runs_in_the_oldest_onnxruntime(model: onnx.ModelProto) -> None:
    typed = onnx.shape_inference.infer_shapes(model).graph
    types = {info.name: info.type.tensor_type.elem_type for info in (*typed.input, *typed.value_info, *typed.output)}
    for node in typed.node:
        missing = NOT_IN_THE_OLDEST.get(node.op_type, set())
        assert not missing & {onnx.TensorProto.DataType.Name(types[name]) for name in node.input if name in types}, node


def run_op(
    op: str, inputs: Sequence[Any], attributes: dict[str, Any] | None = None, parameters: Sequence[int] = ()
) -> list[Any]:
    """Build one node over `inputs` (positions in `parameters` become initializers), emit it, run it."""
    graph = Graph("g")
    operands = []
    for index, array in enumerate(inputs):
        if array is None:
            operands.append(None)
        elif index in parameters:
            operands.append(graph.add_parameter(f"p{index}", array))
        else:
            operands.append(graph.add_input(f"x{index}", TensorType(DType.from_numpy(array.dtype), array.shape)))
    node = graph.add_node(op, operands, attributes, name="y")
    model = emit_segment([node], graph.inputs, node.results)
    assert model.opset_import[0].version == 11
    assert model.ir_version <= 7
    assert_runs_in_the_oldest_onnxruntime(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {f"x{i}": a for i, a in enumerate(inputs) if a is not None and i not in parameters}
    results = session.run(None, feeds)
    for value, result in zip(node.results, results, strict=True):
        assert result.shape == value.shape
        assert result.dtype == value.type.dtype.numpy
    _every_flavour_agrees(graph, node, feeds, results)
    return list(results)


def _every_flavour_agrees(graph: Graph, node: Node, feeds: dict[str, Any], results: Sequence[Any]) -> None:
    """On the CPU an op is the same nodes in every file (horizon has those of runnable)."""
    node.device = Device.CPU
    graph.set_outputs(node.results)
    for flavour in ("runnable", "qdq", "integer"):
        graph.stage = "integer" if flavour == "integer" else "scaled"
        model = emit(graph, flavour=flavour)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        for got, wanted in zip(session.run(None, feeds), results, strict=True):
            np.testing.assert_array_equal(got, wanted)


def rand(*shape: int, seed: int = 0, low: float = -3.0, high: float = 3.0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)


def close(got: Any, expected: torch.Tensor, tolerance: float = 2e-6) -> None:
    reference = expected.detach().numpy()
    assert got.dtype == reference.dtype
    scale = max(1.0, float(np.abs(reference).max())) if reference.size and reference.dtype != bool else 1.0
    np.testing.assert_allclose(got, reference, rtol=0, atol=tolerance * scale)


def t(array: Any) -> torch.Tensor:
    return torch.from_numpy(array)


UNARY: dict[str, tuple[dict[str, Any], Callable[[torch.Tensor], torch.Tensor]]] = {
    "relu": ({}, F.relu),
    "clamp": ({"min": -1.0, "max": 2.0}, lambda x: x.clamp(-1, 2)),
    "sigmoid": ({}, torch.sigmoid),
    "tanh": ({}, torch.tanh),
    "silu": ({}, F.silu),
    "hardswish": ({}, F.hardswish),
    "hardsigmoid": ({}, F.hardsigmoid),
    "leaky_relu": ({"slope": 0.2}, lambda x: F.leaky_relu(x, 0.2)),
    "elu": ({"alpha": 1.5}, lambda x: F.elu(x, 1.5)),
    "selu": ({}, F.selu),
    "gelu": ({}, F.gelu),
    "mish": ({}, F.mish),
    "softplus": ({"beta": 2.0}, lambda x: F.softplus(x, beta=2.0)),
    "softsign": ({}, F.softsign),
    "exp": ({}, torch.exp),
    "pow_scalar": ({"exponent": 3.0}, lambda x: x**3),
    "sin": ({}, torch.sin),
    "cos": ({}, torch.cos),
    "tan": ({}, torch.tan),
    "atan": ({}, torch.atan),
    "erf": ({}, torch.erf),
    "abs": ({}, torch.abs),
    "neg": ({}, torch.neg),
    "floor": ({}, torch.floor),
    "ceil": ({}, torch.ceil),
    "round": ({}, torch.round),
    "sign": ({}, torch.sign),
    "trunc": ({}, torch.trunc),
    "exp2": ({}, torch.exp2),
    "expm1": ({}, torch.expm1),
    "sinh": ({}, torch.sinh),
    "cosh": ({}, torch.cosh),
    "asinh": ({}, torch.asinh),
    "log_sigmoid": ({}, F.logsigmoid),
    "celu": ({"alpha": 0.7}, lambda x: F.celu(x, 0.7)),
    "hardshrink": ({"bound": 0.5}, lambda x: F.hardshrink(x, 0.5)),
    "softshrink": ({"bound": 0.7}, lambda x: F.softshrink(x, 0.7)),
    "tanhshrink": ({}, F.tanhshrink),
    "threshold": ({"bound": 0.5, "value": -2.0}, lambda x: F.threshold(x, 0.5, -2.0)),
    "identity": ({}, lambda x: x),
    "dropout": ({}, lambda x: x),
}


@pytest.mark.parametrize("op", UNARY)
def test_one_input_function(op: str) -> None:
    attributes, reference = UNARY[op]
    x = np.concatenate([rand(2, 3, 5).ravel(), np.array([0.0, 0.5, 1.5, 2.5, -0.5, -1.5], np.float32)])
    close(run_op(op, [x], attributes)[0], reference(t(x)), 1e-5 if op == "tan" else 2e-6)


@pytest.mark.parametrize("op", ["log", "log2", "log10", "log1p", "sqrt", "rsqrt", "reciprocal"])
def test_function_of_positive_input(op: str) -> None:
    x = rand(2, 7, low=0.1, high=4.0)
    close(run_op(op, [x])[0], getattr(torch, op)(t(x)))


@pytest.mark.parametrize("op", ["asin", "acos", "atanh", "acosh"])
def test_function_of_a_narrow_domain(op: str) -> None:
    x = rand(2, 7, low=-0.95, high=0.95) + (2 if op == "acosh" else 0)
    close(run_op(op, [x])[0], getattr(torch, op)(t(x)))


def test_gelu_tanh() -> None:
    x = rand(3, 11)
    close(run_op("gelu", [x], {"approximate": "tanh"})[0], F.gelu(t(x), approximate="tanh"))


@pytest.mark.parametrize("bounds", [(None, 1.0), (-1.0, None), (None, None)])
def test_clamp_with_one_bound(bounds: tuple[float | None, float | None]) -> None:
    x = rand(4, 5)
    low, high = bounds
    expected = np.clip(x, low if low is not None else -np.inf, high if high is not None else np.inf)
    np.testing.assert_array_equal(run_op("clamp", [x], {"min": low, "max": high})[0], expected)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64, np.float64])
@pytest.mark.parametrize("op", ["relu", "clamp"])
def test_bounds_of_other_element_types(op: str, dtype: type) -> None:
    x = np.arange(-10, 10).astype(dtype)
    attributes = {"min": -3.0, "max": 4.0} if op == "clamp" else {}
    expected = np.clip(x, -3, 4) if op == "clamp" else np.maximum(x, 0)
    np.testing.assert_array_equal(run_op(op, [x], attributes)[0], expected.astype(dtype))


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (2, 3, 4, 5)])
@pytest.mark.parametrize("slopes", [1, 3])
@pytest.mark.parametrize("constant", [True, False])
def test_prelu_slopes_go_along_axis_1(shape: tuple[int, ...], slopes: int, constant: bool) -> None:
    x, w = rand(*shape), rand(slopes, seed=1)
    close(run_op("prelu", [x, w], parameters=(1,) if constant else ())[0], F.prelu(t(x), t(w)))


BINARY = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div, "maximum": torch.maximum,
    "minimum": torch.minimum, "equal": torch.eq, "greater": torch.gt, "less": torch.lt, "greater_equal": torch.ge,
    "less_equal": torch.le,
}  # fmt: skip


@pytest.mark.parametrize("op", BINARY)
def test_two_input_function_broadcasts(op: str) -> None:
    a, b = np.round(rand(2, 1, 4)), np.round(rand(3, 1, seed=1)) + (0.25 if op == "div" else 0)
    b = b.astype(np.float32)
    close(run_op(op, [a, b])[0], BINARY[op](t(a), t(b)))


@pytest.mark.parametrize("op", ["equal", "greater", "less", "greater_equal", "less_equal"])
def test_comparison_with_nan_is_false(op: str) -> None:
    a, b = np.array([np.nan, 1.0], np.float32), np.array([0.0, np.nan], np.float32)
    assert not run_op(op, [a, b])[0].any()


@pytest.mark.parametrize("op", ["add", "sub", "mul", "maximum", "minimum", "greater_equal"])
@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64])
def test_two_input_function_of_integers(op: str, dtype: type) -> None:
    a, b = np.arange(-5, 5).astype(dtype), np.arange(5, -5, -1).astype(dtype)
    np.testing.assert_array_equal(run_op(op, [a, b])[0], BINARY[op](t(a), t(b)).numpy())


def test_pow_of_two_tensors() -> None:
    a, b = rand(3, 4, low=0.1), rand(4, seed=1)
    close(run_op("pow", [a, b])[0], torch.pow(t(a), t(b)))


def test_logic() -> None:
    a, b = np.array([True, True, False, False]), np.array([True, False, True, False])
    np.testing.assert_array_equal(run_op("logical_and", [a, b])[0], a & b)
    np.testing.assert_array_equal(run_op("logical_or", [a, b])[0], a | b)
    np.testing.assert_array_equal(run_op("logical_not", [a])[0], ~a)


@pytest.mark.parametrize("dtype", [np.float32, np.int8, np.int64])
def test_where_broadcasts(dtype: type) -> None:
    condition = np.array([[True], [False]])
    a, b = np.arange(6).reshape(2, 3).astype(dtype), np.arange(3).astype(dtype)
    np.testing.assert_array_equal(run_op("where", [condition, a, b])[0], np.where(condition, a, b))


@pytest.mark.parametrize("target", [DType.FLOAT64, DType.INT8, DType.INT32, DType.INT64, DType.BOOL, DType.UINT8])
def test_cast_truncates(target: DType) -> None:
    x = np.array([0.0, 0.9, 1.5, 100.7] + ([] if target is DType.UINT8 else [-1.5]), np.float32)
    np.testing.assert_array_equal(run_op("cast", [x], {"dtype": target})[0], x.astype(target.numpy))


# --- convolution-like ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["none", "relu", "relu6"])
@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("runtime_weight", [True, False])
def test_conv2d(activation: str, residual: bool, runtime_weight: bool) -> None:
    x, w, bias = rand(2, 4, 9, 8), rand(6, 2, 3, 2, seed=1), rand(6, seed=2)
    expected = F.conv2d(F.pad(t(x), (0, 1, 1, 2)), t(w), t(bias), stride=(2, 1), dilation=(1, 2), groups=2)
    r = rand(*expected.shape, seed=3)
    expected = expected + t(r) if residual else expected
    expected = {"none": lambda v: v, "relu": F.relu, "relu6": F.relu6}[activation](expected)
    attributes = {"stride": (2, 1), "padding": (1, 0, 2, 1), "dilation": (1, 2), "groups": 2, "activation": activation}
    inputs = [x, w, bias, r] if residual else [x, w, bias]
    close(run_op("conv2d", inputs, attributes, (2,) if runtime_weight else (1, 2))[0], expected)


@pytest.mark.parametrize("parameters", [(1, 2), ()])
def test_convolutions_of_rows(parameters: tuple[int, ...]) -> None:
    x, w, bias = rand(2, 4, 9), rand(6, 2, 3, seed=1), rand(6, seed=2)
    expected = F.relu(F.conv1d(F.pad(t(x), (0, 2)), t(w), t(bias), stride=2, dilation=2, groups=2))
    attributes = {"stride": (1, 2), "padding": (0, 0, 0, 2), "dilation": (1, 2), "groups": 2, "activation": "relu"}
    close(run_op("conv2d", [x, w, bias], attributes, parameters)[0], expected)
    expected = F.conv_transpose1d(t(x), t(rand(4, 3, 3, seed=1)), t(bias), stride=2, padding=1, output_padding=1, groups=2)
    attributes = {"stride": (1, 2), "padding": (0, 1, 0, 1), "output_padding": (0, 1), "groups": 2}
    close(run_op("conv_transpose2d", [x, rand(4, 3, 3, seed=1), bias], attributes, parameters)[0], expected)


@pytest.mark.parametrize("bias", [True, False])
def test_conv_transpose2d(bias: bool) -> None:
    x, w, b = rand(1, 4, 5, 6), rand(4, 3, 3, 2, seed=1), rand(6, seed=2)
    expected = F.conv_transpose2d(
        t(x), t(w), t(b) if bias else None, stride=2, padding=(1, 0), output_padding=1, groups=2, dilation=(2, 1)
    )
    attributes = {"stride": (2, 2), "padding": (1, 0, 1, 0), "output_padding": (1, 1), "groups": 2, "dilation": (2, 1)}
    close(run_op("conv_transpose2d", [x, w, b] if bias else [x, w], attributes, (1, 2))[0], expected)


def test_convolutions_of_volumes() -> None:
    x, w, b = rand(1, 4, 4, 5, 6), rand(6, 2, 2, 3, 2, seed=1), rand(6, seed=2)
    expected = F.conv3d(F.pad(t(x), (0, 1, 1, 2, 0, 1)), t(w), t(b), stride=(1, 2, 1), dilation=(2, 1, 1), groups=2)
    attributes = {"stride": (1, 2, 1), "padding": (0, 1, 0, 1, 2, 1), "dilation": (2, 1, 1), "groups": 2}
    close(run_op("conv3d", [x, w, b], attributes, (1, 2))[0], expected)
    expected = F.conv_transpose3d(t(x), t(rand(4, 3, 2, 3, 2, seed=1)), t(b), (1, 2, 2), (1, 0, 1), (0, 1, 1), 2)
    attributes = {"stride": (1, 2, 2), "padding": (1, 0, 1) * 2, "output_padding": (0, 1, 1), "groups": 2}
    close(run_op("conv_transpose3d", [x, rand(4, 3, 2, 3, 2, seed=1), b], attributes, (1, 2))[0], expected)


def test_output_padding_as_large_as_the_stride() -> None:
    x, w, b = rand(1, 4, 5, 6), rand(4, 3, 3, 3, seed=1), rand(3, seed=2)
    expected = F.conv_transpose2d(t(x), t(w), t(b), padding=2, output_padding=(1, 0), dilation=2)
    attributes = {"padding": (2, 2, 2, 2), "output_padding": (1, 0), "dilation": (2, 2)}
    close(run_op("conv_transpose2d", [x, w, b], attributes, (1, 2))[0], expected)
    with pytest.raises(ExportError, match="no output padding of"):
        run_op("conv_transpose2d", [x, w, b], {"output_padding": (1, 1), "dilation": (2, 2)}, (1, 2))


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5), (2, 2, 3, 5)])
@pytest.mark.parametrize("parameters", [(), (1, 2)])
def test_linear_of_any_rank(shape: tuple[int, ...], parameters: tuple[int, ...]) -> None:
    x, w, b = rand(*shape), rand(4, 5, seed=1), rand(4, seed=2)
    close(run_op("linear", [x, w, b], {"activation": "relu"}, parameters)[0], F.relu(F.linear(t(x), t(w), t(b))))


def test_linear_with_residual_and_no_bias() -> None:
    x, w, r = rand(3, 5), rand(4, 5, seed=1), rand(3, 4, seed=2)
    close(run_op("linear", [x, w, None, r])[0], F.linear(t(x), t(w)) + t(r))


@pytest.mark.parametrize(
    "shapes", [((3, 4), (4, 5)), ((2, 3, 4), (4, 5)), ((2, 1, 3, 4), (6, 4, 5)), ((4,), (4, 5)), ((3, 4), (4,))]
)
def test_matmul(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    a, b = rand(*shapes[0]), rand(*shapes[1], seed=1)
    close(run_op("matmul", [a, b])[0], torch.matmul(t(a), t(b)))


# --- pooling and resize --------------------------------------------------------------------------------------------------

WINDOWS = [
    (size, kernel, stride, padding, ceil)
    for size in ((7, 9), (8, 8), (5, 6))
    for kernel, stride, padding in ((2, 2, 0), (3, 2, 1), ((3, 2), (2, 3), (1, 0)), (3, 1, 1), (3, 3, 1))
    for ceil in (False, True)
]


def pair(value: Any) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)


@pytest.mark.parametrize(("size", "kernel", "stride", "padding", "ceil"), WINDOWS)
def test_pooling_windows_and_divisors(size: Any, kernel: Any, stride: Any, padding: Any, ceil: bool) -> None:
    x = rand(2, 3, *size)
    attributes = {"kernel": pair(kernel), "stride": pair(stride), "padding": pair(padding) * 2, "ceil_mode": ceil}
    expected = F.max_pool2d(t(x), kernel, stride, padding, ceil_mode=ceil)
    close(run_op("max_pool2d", [x], attributes)[0], expected, 0)
    for include in (True, False):
        expected = F.avg_pool2d(t(x), kernel, stride, padding, ceil_mode=ceil, count_include_pad=include)
        close(run_op("avg_pool2d", [x], {**attributes, "count_include_pad": include})[0], expected)


def test_a_gain_pool_is_the_mean_times_what_its_gain_makes_of_it() -> None:
    x = rand(2, 3, 9, 8)
    attributes = {"kernel": (3, 2), "stride": (2, 2), "padding": (1, 0, 1, 0), "gain": 85}
    expected = F.avg_pool2d(t(x), (3, 2), (2, 2), (1, 0)) * (6 * 85 / 512)
    close(run_op("gain_pool2d", [x], attributes)[0], expected)


@pytest.mark.parametrize("ceil", [True, False])
def test_dilated_max_pool(ceil: bool) -> None:
    x = rand(1, 2, 10, 11) - 5
    attributes = {"kernel": (3, 2), "stride": (2, 2), "padding": (1, 1, 1, 1), "dilation": (2, 3), "ceil_mode": ceil}
    expected = F.max_pool2d(t(x), (3, 2), 2, 1, dilation=(2, 3), ceil_mode=ceil)
    close(run_op("max_pool2d", [x], attributes)[0], expected, 0)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32])
def test_max_pool_of_integers(dtype: type) -> None:
    x = np.random.default_rng(0).integers(np.iinfo(dtype).min, 0, (1, 2, 5, 5)).astype(dtype)
    attributes = {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1, 1, 1)}
    expected = F.max_pool2d(t(x).double(), 3, 2, 1).numpy().astype(dtype)
    np.testing.assert_array_equal(run_op("max_pool2d", [x], attributes)[0], expected)


@pytest.mark.parametrize("out", [(1, 1), (4, 2), (3, 5), (7, 8), (2, 1), (11, 13)])
def test_adaptive_pooling(out: tuple[int, int]) -> None:
    x = rand(2, 3, 8, 10)
    close(run_op("adaptive_avg_pool2d", [x], {"output_size": out})[0], F.adaptive_avg_pool2d(t(x), out))
    close(run_op("adaptive_max_pool2d", [x], {"output_size": out})[0], F.adaptive_max_pool2d(t(x), out), 0)


SIZES = [((7, 5), (14, 10)), ((8, 6), (4, 3)), ((5, 7), (11, 3)), ((6, 6), (1, 4)), ((4, 5), (9, 1)), ((3, 4), (30, 12))]


@pytest.mark.parametrize(("size", "out"), SIZES)
@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("align", [True, False])
def test_resize_to_a_size(size: tuple[int, int], out: tuple[int, int], mode: str, align: bool) -> None:
    x = rand(1, 2, *size)
    expected = F.interpolate(t(x), size=out, mode=mode, align_corners=align if mode != "nearest" else None)
    attributes = {"size": out, "mode": mode, "align_corners": align and mode != "nearest"}
    close(run_op("resize2d", [x], attributes)[0], expected, 5e-6)


@pytest.mark.parametrize("factor", [(2.0, 2.0), (0.5, 0.5), (1.7, 2.3), (0.7, 1.3)])
@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
def test_resize_by_a_factor(factor: tuple[float, float], mode: str) -> None:
    x = rand(1, 2, 10, 7)
    expected = F.interpolate(t(x), scale_factor=factor, mode=mode)
    close(run_op("resize2d", [x], {"scale_factor": factor, "mode": mode})[0], expected, 5e-6)


def test_nearest_resize_picks_torchs_pixels_for_all_small_sizes() -> None:
    for size in range(1, 24, 2):
        x = rand(1, 1, size, size + 1)
        for out in range(1, 50, 6):
            expected = F.interpolate(t(x), size=(out, out + 3), mode="nearest")
            close(run_op("resize2d", [x], {"size": (out, out + 3), "mode": "nearest"})[0], expected, 0)


@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("align", [True, False])
@pytest.mark.parametrize("size", [(2, 7, 5), (1, 1, 8)])
def test_grid_sample(mode: str, padding: str, align: bool, size: tuple[int, int, int]) -> None:
    x, grid = rand(size[0], 3, *size[1:]), 3 * rand(size[0], 9, 4, 2)
    expected = F.grid_sample(t(x), t(grid), mode, padding, align)
    attributes = {"mode": mode, "padding_mode": padding, "align_corners": align}
    close(run_op("grid_sample", [x, grid], attributes)[0], expected, 2e-5)


# --- layout --------------------------------------------------------------------------------------------------------------


def layout_cases() -> list[tuple[str, dict[str, Any], Callable[[torch.Tensor], Any]]]:
    return [
        ("reshape", {"shape": (0, -1)}, lambda x: x.reshape(2, -1)),
        ("transpose", {"perm": (0, 2, 3, 1)}, lambda x: x.permute(0, 2, 3, 1)),
        ("slice", {"axes": (1, -1), "starts": (-3, 1), "ends": (2**31, -1), "steps": (2, 1)}, lambda x: x[:, -3::2, :, 1:-1]),
        ("split", {"axis": 1, "sizes": (1, 3)}, lambda x: torch.split(x, [1, 3], 1)),
        ("pad", {"pads": (0, 0, 1, 2, 0, 0, 3, 0), "value": 1.5}, lambda x: F.pad(x, (2, 0, 1, 3), value=1.5)),
        ("pad", {"pads": (0, 0, 1, 2, 0, 0, 3, 1), "mode": "reflect"}, lambda x: F.pad(x, (2, 1, 1, 3), mode="reflect")),
        ("pad", {"pads": (0, 0, 1, 2, 0, 0, 3, 1), "mode": "edge"}, lambda x: F.pad(x, (2, 1, 1, 3), mode="replicate")),
        ("pad", {"pads": (0, 0, -1, 2, 0, 0, 3, -2), "value": 0.0}, lambda x: F.pad(x, (2, -2, -1, 3))),
        ("pixel_shuffle", {"factor": 2}, lambda x: F.pixel_shuffle(x, 2)),
        ("pixel_unshuffle", {"factor": 2}, lambda x: F.pixel_unshuffle(x, 2)),
        ("expand", {"shape": (3, -1, 4, 4, 6)}, lambda x: x.expand(3, -1, 4, 4, 6)),
        ("tile", {"repeats": (1, 2, 1, 3)}, lambda x: x.repeat(1, 2, 1, 3)),
    ]


@pytest.mark.parametrize(("op", "attributes", "reference"), layout_cases())
@pytest.mark.parametrize("dtype", [np.float32, np.int8, np.int16])
def test_layout_op(op: str, attributes: dict[str, Any], reference: Callable[[torch.Tensor], Any], dtype: type) -> None:
    x = (np.random.default_rng(0).integers(-100, 100, (2, 4, 4, 6))).astype(dtype)
    if dtype is not np.float32:
        attributes = {key: (2.0 if key == "value" else value) for key, value in attributes.items()}
    if op == "pad" and "mode" not in attributes and dtype is not np.float32:
        value = int(attributes["value"])
        expected_pads = attributes["pads"]
        amounts = [expected_pads[3], expected_pads[7], expected_pads[2], expected_pads[6]]
        expected: Any = F.pad(t(x), amounts, value=value)
    else:
        expected = reference(t(x).float())
    results = run_op(op, [x], attributes)
    for got, want in zip(results, expected if isinstance(expected, tuple) else [expected], strict=True):
        np.testing.assert_array_equal(got, want.numpy().astype(dtype))


def test_cat_and_gather() -> None:
    a, b = rand(2, 3, 4), rand(2, 1, 4, seed=1)
    close(run_op("cat", [a, b, a], {"axis": -2})[0], torch.cat([t(a), t(b), t(a)], -2), 0)
    indices = np.array([[0, -1], [2, 1]], np.int64)
    np.testing.assert_array_equal(run_op("gather", [a, indices], {"axis": 1}, (1,))[0], np.take(a, indices, axis=1))


# --- reductions ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", [(), (1,), (-1, 1), (0, 2, 3)])
@pytest.mark.parametrize("keepdims", [True, False])
def test_reductions(axes: tuple[int, ...], keepdims: bool) -> None:
    x = rand(2, 3, 4, 5)
    attributes = {"axes": axes, "keepdims": keepdims}
    dims = axes or tuple(range(4))
    close(run_op("mean", [x], attributes)[0], t(x).mean(dims, keepdim=keepdims))
    close(run_op("sum", [x], attributes)[0], t(x).sum(dims, keepdim=keepdims), 5e-6)
    close(run_op("reduce_max", [x], attributes)[0], t(x).amax(dims, keepdim=keepdims), 0)
    close(run_op("reduce_min", [x], attributes)[0], t(x).amin(dims, keepdim=keepdims), 0)
    close(run_op("lp_normalize", [x], {"axes": dims, "eps": 0.1})[0], F.normalize(t(x), dim=dims, eps=0.1))
    close(run_op("lp_normalize", [x], {"axes": dims, "p": 1})[0], F.normalize(t(x), 1, dim=dims))
    close(run_op("reduce_l1", [x], attributes)[0], torch.linalg.vector_norm(t(x), 1, dims, keepdims), 5e-6)
    close(run_op("reduce_l2", [x], attributes)[0], torch.linalg.vector_norm(t(x), 2, dims, keepdims), 5e-6)
    close(run_op("reduce_sum_square", [x], attributes)[0], (t(x) * t(x)).sum(dims, keepdim=keepdims), 5e-6)
    close(run_op("reduce_log_sum", [np.abs(x)], attributes)[0], t(x).abs().sum(dims, keepdim=keepdims).log(), 5e-6)
    close(run_op("reduce_log_sum_exp", [x], attributes)[0], t(x).logsumexp(dims, keepdims), 5e-6)


@pytest.mark.parametrize(
    ("op", "wanted"),
    [
        ("sum", -0.5),
        ("mean", -0.5),
        ("reduce_max", -0.5),
        ("reduce_l1", 0.5),
        ("reduce_l2", 0.5),
        ("reduce_sum_square", 0.25),
        ("reduce_log_sum_exp", -0.5),
    ],
)
def test_reductions_of_a_number_without_axes(op: str, wanted: float) -> None:
    close(run_op(op, [np.array(-0.5, np.float32)], {"axes": (), "keepdims": False})[0], torch.tensor(wanted))


@pytest.mark.parametrize("dtype", [np.float32, np.int8, np.int16])
def test_arg_reductions_take_the_first_of_ties(dtype: type) -> None:
    x = np.random.default_rng(0).integers(0, 3, (2, 7, 5)).astype(dtype)
    np.testing.assert_array_equal(run_op("argmax", [x], {"axis": 1, "keepdims": True})[0], x.argmax(1)[:, None])
    np.testing.assert_array_equal(run_op("argmin", [x], {"axis": -1})[0], x.argmin(-1))


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 6, 1, 1)])
def test_softmax_along_any_axis(axis: int, shape: tuple[int, ...]) -> None:
    x = rand(*shape)
    close(run_op("softmax", [x], {"axis": axis})[0], F.softmax(t(x), axis))
    close(run_op("log_softmax", [x], {"axis": axis})[0], F.log_softmax(t(x), axis))


# --- normalizations ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", [(2, 6), (2, 6, 5), (2, 6, 4, 5)])
def test_batch_norm(shape: tuple[int, ...], affine: bool) -> None:
    x, mean, var = rand(*shape), rand(6, seed=1), rand(6, seed=2, low=0.5)
    w, b = (rand(6, seed=3), rand(6, seed=4)) if affine else (None, None)
    expected = F.batch_norm(t(x), t(mean), t(var), None if w is None else t(w), None if b is None else t(b), eps=1e-3)
    close(run_op("batch_norm", [x, mean, var, w, b], {"eps": 1e-3}, (1, 2, 3, 4))[0], expected)


@pytest.mark.parametrize("ndim", [1, 2])
def test_layer_norm(ndim: int) -> None:
    x = rand(2, 3, 4, 5)
    shape = x.shape[-ndim:]
    w, b = rand(*shape, seed=1), rand(*shape, seed=2)
    close(run_op("layer_norm", [x, w, b], {"normalized_ndim": ndim}, (1, 2))[0], F.layer_norm(t(x), shape, t(w), t(b)))
    close(run_op("layer_norm", [x], {"normalized_ndim": ndim})[0], F.layer_norm(t(x), shape))


@pytest.mark.parametrize("parameters", [(1, 2), ()])
def test_group_and_instance_norm(parameters: tuple[int, ...]) -> None:
    x, w, b = rand(2, 6, 4, 5), rand(6, seed=1), rand(6, seed=2)
    close(run_op("group_norm", [x, w, b], {"groups": 3}, parameters)[0], F.group_norm(t(x), 3, t(w), t(b)))
    close(
        run_op("instance_norm", [x, w, b], {"eps": 1e-3}, parameters)[0],
        F.instance_norm(t(x), weight=t(w), bias=t(b), eps=1e-3),
    )
