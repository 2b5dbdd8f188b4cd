"""Inferred types equal what torch computes, for every op that has a torch counterpart, on random shapes and attributes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from hqc.errors import ShapeError
from hqc.ir import DType, Graph, TensorType, all_ops, get_op

Shape = tuple[int, ...]
TORCH_DTYPES = {
    DType.FLOAT32: torch.float32,
    DType.FLOAT64: torch.float64,
    DType.INT64: torch.int64,
    DType.INT32: torch.int32,
    DType.INT8: torch.int8,
    DType.BOOL: torch.bool,
}
QUICK = settings(max_examples=40, deadline=None)


def types_of(tensors: Any) -> list[TensorType]:
    tensors = tensors if isinstance(tensors, (list, tuple)) else [tensors]
    names = {value: key for key, value in TORCH_DTYPES.items()}
    return [TensorType(names[tensor.dtype], tuple(tensor.shape)) for tensor in tensors]


def infer(op: str, operands: list[torch.Tensor | None], **attributes: Any) -> list[TensorType]:
    definition = get_op(op)
    types = [None if tensor is None else types_of(tensor)[0] for tensor in operands]
    return definition.infer(types, definition.complete_attributes(attributes))


def agree(op: str, operands: list[torch.Tensor | None], reference: Callable[[], Any], **attributes: Any) -> None:
    """Both give the same types, or both refuse; what is empty in torch is refused here."""
    expected: list[TensorType] | None
    try:
        expected = types_of(reference())
        if any(type.is_empty for type in expected):
            expected = None
    except (RuntimeError, ValueError, IndexError):
        expected = None
    inferred: list[TensorType] | None
    try:
        inferred = infer(op, operands, **attributes)
    except ShapeError:
        inferred = None
    assert inferred == expected


def zeros(shape: Shape, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.zeros(shape, dtype=dtype)


small = st.integers(1, 3)
size = st.integers(1, 9)
shapes = st.lists(st.integers(1, 4), min_size=0, max_size=4).map(tuple)
pair = st.tuples(small, small)


# --- convolution and matrix product ------------------------------------------------------------------------------------


@QUICK
@given(
    n=small, groups=small, c=small, o=small, image=st.tuples(size, size), kernel=pair, stride=pair,
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)), dilation=pair, bias=st.booleans(), wrong=st.integers(0, 5),
)  # fmt: skip
def test_conv2d(
    n: int, groups: int, c: int, o: int, image: Shape, kernel: Shape, stride: Shape, padding: Shape, dilation: Shape, bias: bool,
    wrong: int,
) -> None:  # fmt: skip
    x = zeros((n, c * groups + (wrong == 0), *image))
    weight = zeros((o * groups, c, *kernel))
    b = zeros((o * groups + (wrong == 1),)) if bias else None
    agree(
        "conv2d", [x, weight, b], lambda: F.conv2d(x, weight, b, stride, padding, dilation, groups),
        stride=stride, padding=padding * 2, dilation=dilation, groups=groups,
    )  # fmt: skip


@QUICK
@given(
    n=small, groups=small, c=small, o=small, image=st.tuples(size, size), kernel=pair, stride=pair,
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)), dilation=pair, output_padding=st.booleans(), wrong=st.booleans(),
)  # fmt: skip
def test_conv_transpose2d(
    n: int, groups: int, c: int, o: int, image: Shape, kernel: Shape, stride: Shape, padding: Shape, dilation: Shape,
    output_padding: bool, wrong: bool,
) -> None:  # fmt: skip
    x = zeros((n, c * groups + wrong, *image))
    weight = zeros((c * groups, o, *kernel))
    extra = tuple(int(output_padding and s > 1) for s in stride)

    def reference() -> torch.Tensor:
        result = F.conv_transpose2d(x, weight, None, stride, padding, extra, groups, dilation)
        if result.numel() == 0:  # some of torch's kernels return an empty result where others refuse
            raise ValueError
        return result

    agree(
        "conv_transpose2d", [x, weight], reference,
        stride=stride, padding=padding * 2, dilation=dilation, groups=groups, output_padding=extra,
    )  # fmt: skip


@QUICK
@given(
    volume=st.tuples(size, size, size), kernel=st.tuples(small, small, small), stride=st.tuples(small, small, small),
    padding=st.tuples(small, small, small), transposed=st.booleans(), wrong=st.booleans(),
)  # fmt: skip
def test_convolutions_of_volumes(
    volume: Shape, kernel: Shape, stride: Shape, padding: Shape, transposed: bool, wrong: bool
) -> None:
    x, weight = zeros((1, 2 + wrong, *volume)), zeros((2, 2, *kernel))

    def reference() -> torch.Tensor:
        result = (F.conv_transpose3d if transposed else F.conv3d)(x, weight, None, stride, padding)
        if result.numel() == 0:
            raise ValueError
        return result

    op = "conv_transpose3d" if transposed else "conv3d"
    agree(op, [x, weight], reference, stride=stride, padding=padding * 2)


@QUICK
@given(shape=shapes, k=small, o=small)
def test_linear(shape: Shape, k: int, o: int) -> None:
    assume(shape)
    x, weight, bias = zeros(shape), zeros((o, k)), zeros((o,))
    agree("linear", [x, weight, bias], lambda: F.linear(x, weight, bias))


@QUICK
@given(a=shapes, b=shapes, shared=small)
def test_matmul(a: Shape, b: Shape, shared: int) -> None:
    a = (*a[:-1], shared) if a else a
    b = (*b[:-2], shared, b[-1]) if len(b) > 1 else (shared,) * len(b)
    left, right = zeros(a), zeros(b)
    agree("matmul", [left, right], lambda: left @ right)


def test_asymmetric_padding_counts_each_side() -> None:
    x, weight = zeros((1, 1, 5, 5)), zeros((1, 1, 3, 3))
    expected = F.conv2d(F.pad(x, (2, 1, 1, 0)), weight)  # left 2, right 1, top 1, bottom 0
    assert infer("conv2d", [x, weight], padding=(1, 2, 0, 1)) == types_of(expected)


def test_residual_must_have_the_results_shape() -> None:
    x, weight = zeros((1, 1, 5, 5)), zeros((2, 1, 3, 3))
    assert infer("conv2d", [x, weight, None, zeros((1, 2, 3, 3))]) == types_of(zeros((1, 2, 3, 3)))
    with pytest.raises(ShapeError, match=r"the residual must have the result's shape \[1, 2, 3, 3\], got f32\[1,1,3,3\]"):
        infer("conv2d", [x, weight, None, zeros((1, 1, 3, 3))])


# --- pooling and resize ------------------------------------------------------------------------------------------------


@QUICK
@given(
    image=st.tuples(size, size),
    kernel=pair,
    stride=pair,
    pads=st.tuples(st.integers(0, 1), st.integers(0, 1)),
    dilation=pair,
    ceil=st.booleans(),
)
def test_max_pool2d(image: Shape, kernel: Shape, stride: Shape, pads: Shape, dilation: Shape, ceil: bool) -> None:
    assume(all(2 * p <= k for p, k in zip(pads, kernel, strict=True)))
    x = zeros((2, 3, *image))
    agree(
        "max_pool2d", [x], lambda: F.max_pool2d(x, kernel, stride, pads, dilation, ceil),
        kernel=kernel, stride=stride, padding=pads * 2, dilation=dilation, ceil_mode=ceil,
    )  # fmt: skip


@QUICK
@given(
    image=st.tuples(size, size),
    kernel=pair,
    stride=pair,
    pads=st.tuples(st.integers(0, 1), st.integers(0, 1)),
    ceil=st.booleans(),
)
def test_avg_pool2d(image: Shape, kernel: Shape, stride: Shape, pads: Shape, ceil: bool) -> None:
    assume(all(2 * p <= k for p, k in zip(pads, kernel, strict=True)))
    x = zeros((2, 3, *image))
    agree(
        "avg_pool2d", [x], lambda: F.avg_pool2d(x, kernel, stride, pads, ceil),
        kernel=kernel, stride=stride, padding=pads * 2, ceil_mode=ceil,
    )  # fmt: skip


def test_gain_pool2d() -> None:
    x = zeros((2, 3, 7, 6))
    agree("gain_pool2d", [x], lambda: F.avg_pool2d(x, (3, 2), (2, 2)), kernel=(3, 2), stride=(2, 2), gain=85)


@QUICK
@given(image=st.tuples(size, size), output=pair)
def test_adaptive_pools(image: Shape, output: Shape) -> None:
    x = zeros((2, 3, *image))
    agree("adaptive_avg_pool2d", [x], lambda: F.adaptive_avg_pool2d(x, output), output_size=output)
    agree("adaptive_max_pool2d", [x], lambda: F.adaptive_max_pool2d(x, output), output_size=output)


@QUICK
@given(
    image=st.tuples(size, size), output=st.tuples(size, size), factor=st.sampled_from([0.5, 1.5, 2.0, 1.7, 3.0]),
    mode=st.sampled_from(["nearest", "bilinear", "bicubic"]),
)  # fmt: skip
def test_resize2d(image: Shape, output: Shape, factor: float, mode: str) -> None:
    x = zeros((2, 3, *image))
    agree("resize2d", [x], lambda: F.interpolate(x, output, mode=mode), size=output, mode=mode)
    assume(min(image) * factor >= 1)
    agree("resize2d", [x], lambda: F.interpolate(x, scale_factor=factor, mode=mode), scale_factor=(factor, factor), mode=mode)


@QUICK
@given(image=st.tuples(size, size), output=st.tuples(size, size))
def test_grid_sample(image: Shape, output: Shape) -> None:
    x, grid = zeros((2, 3, *image)), zeros((2, *output, 2))
    agree("grid_sample", [x, grid], lambda: F.grid_sample(x, grid, align_corners=False))


def test_a_grid_that_does_not_fit_its_images_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"a grid of \[2, 5, 5, 2\] does not fit the images \[1, 3, 4, 4\]"):
        infer("grid_sample", [zeros((1, 3, 4, 4)), zeros((2, 5, 5, 2))])


def test_resize_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(ShapeError, match="resize"):
        infer("resize2d", [zeros((1, 1, 1, 1))], scale_factor=(0.5, 0.5))


# --- layout ----------------------------------------------------------------------------------------------------------------


@QUICK
@given(shape=shapes, target=st.lists(st.sampled_from([-1, 1, 2, 3, 4, 6]), max_size=4))
def test_reshape(shape: Shape, target: list[int]) -> None:
    x = zeros(shape)
    agree("reshape", [x], lambda: x.reshape(target), shape=tuple(target))


@QUICK
@given(shape=shapes, data=st.data())
def test_transpose(shape: Shape, data: st.DataObject) -> None:
    perm = data.draw(st.permutations(range(len(shape))))
    x = zeros(shape)
    agree("transpose", [x], lambda: x.permute(perm), perm=tuple(perm))


@QUICK
@given(shape=shapes, axis=st.integers(-3, 3), start=st.integers(-6, 6), end=st.integers(-6, 6), step=small)
def test_slice(shape: Shape, axis: int, start: int, end: int, step: int) -> None:
    x = zeros(shape)

    def reference() -> torch.Tensor:
        index: list[slice] = [slice(None)] * len(shape)
        index[axis] = slice(start, end, step)
        return x[tuple(index)]

    agree("slice", [x], reference, axes=(axis,), starts=(start,), ends=(end,), steps=(step,))


@QUICK
@given(shape=shapes, axis=st.integers(-3, 3), sizes=st.lists(st.integers(0, 3), min_size=1, max_size=3))
def test_split(shape: Shape, axis: int, sizes: list[int]) -> None:
    x = zeros(shape)
    agree("split", [x], lambda: x.split(sizes, axis), axis=axis, sizes=tuple(sizes))


@QUICK
@given(shape=shapes, axis=st.integers(-3, 3), sizes=st.lists(small, min_size=1, max_size=3), spoil=st.booleans())
def test_cat(shape: Shape, axis: int, sizes: list[int], spoil: bool) -> None:
    assume(shape and -len(shape) <= axis < len(shape))
    parts = []
    for part in sizes:
        full = list(shape)
        full[axis] = part
        parts.append(zeros(tuple(full)))
    if spoil:
        parts.append(zeros((*shape, 2)))
    agree("cat", list(parts), lambda: torch.cat(parts, axis), axis=axis)


@QUICK
@given(shape=shapes, data=st.data(), mode=st.sampled_from(["constant"]))
def test_pad(shape: Shape, data: st.DataObject, mode: str) -> None:
    count = len(shape)
    amounts = st.lists(st.integers(0, 2), min_size=count, max_size=count)
    before, after = data.draw(amounts), data.draw(amounts)
    flat = [amount for pair in zip(reversed(before), reversed(after), strict=True) for amount in pair]
    x = zeros(shape)
    agree("pad", [x], lambda: F.pad(x, flat, mode), pads=tuple(before + after), mode=mode)


@QUICK
@given(c=st.integers(1, 12), h=st.integers(1, 6), w=st.integers(1, 6), factor=small)
def test_pixel_shuffles(c: int, h: int, w: int, factor: int) -> None:
    x = zeros((1, c, h, w))
    agree("pixel_shuffle", [x], lambda: F.pixel_shuffle(x, factor), factor=factor)
    agree("pixel_unshuffle", [x], lambda: F.pixel_unshuffle(x, factor), factor=factor)


@QUICK
@given(shape=shapes, target=st.lists(st.sampled_from([-1, 1, 2, 3, 4]), max_size=5))
def test_expand(shape: Shape, target: list[int]) -> None:
    x = zeros(shape)
    agree("expand", [x], lambda: x.expand(target), shape=tuple(target))


@QUICK
@given(shape=shapes, data=st.data())
def test_tile(shape: Shape, data: st.DataObject) -> None:
    repeats = data.draw(st.lists(small, min_size=len(shape), max_size=len(shape)))
    x = zeros(shape)
    agree("tile", [x], lambda: x.repeat(repeats), repeats=tuple(repeats))


@QUICK
@given(shape=shapes, count=size, axis=st.integers(-3, 3))
def test_gather(shape: Shape, count: int, axis: int) -> None:
    assume(shape)
    x, indices = zeros(shape), zeros((count,), torch.int64)
    agree("gather", [x, indices], lambda: x.index_select(axis, indices), axis=axis)


# --- element-wise, reductions, normalizations ------------------------------------------------------------------------------


BINARY: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div, "maximum": torch.maximum, "minimum": torch.minimum,
    "pow": torch.pow, "equal": torch.eq, "greater": torch.gt, "less": torch.lt, "greater_equal": torch.ge, "less_equal": torch.le,
    "logical_and": torch.logical_and, "logical_or": torch.logical_or,
}  # fmt: skip


@pytest.mark.parametrize("op", BINARY)
@settings(max_examples=15, deadline=None)
@given(a=shapes, b=shapes)
def test_binary_ops_broadcast(op: str, a: Shape, b: Shape) -> None:
    dtype = torch.bool if op.startswith("logical") else torch.float32
    left, right = zeros(a, dtype), zeros(b, dtype)
    agree(op, [left, right], lambda: BINARY[op](left, right))


@QUICK
@given(condition=shapes, a=shapes, b=shapes)
def test_where(condition: Shape, a: Shape, b: Shape) -> None:
    c, x, y = zeros(condition, torch.bool), zeros(a), zeros(b)
    agree("where", [c, x, y], lambda: torch.where(c, x, y))


@pytest.mark.parametrize("dtype", TORCH_DTYPES, ids=lambda dtype: dtype.value)
def test_cast(dtype: DType) -> None:
    x = zeros((2, 3))
    agree("cast", [x], lambda: x.to(TORCH_DTYPES[dtype]), dtype=dtype)


REDUCTIONS: dict[str, Callable[..., torch.Tensor]] = {
    "mean": torch.mean, "sum": torch.sum, "reduce_max": torch.amax, "reduce_min": torch.amin,
    "reduce_l1": lambda x, dims, keepdim: torch.linalg.vector_norm(x, 1, dims, keepdim),
    "reduce_l2": lambda x, dims, keepdim: torch.linalg.vector_norm(x, 2, dims, keepdim),
    "reduce_sum_square": lambda x, dims, keepdim: (x * x).sum(dims, keepdim),
    "reduce_log_sum": lambda x, dims, keepdim: x.sum(dims, keepdim).log(), "reduce_log_sum_exp": torch.logsumexp,
}  # fmt: skip


@pytest.mark.parametrize("op", REDUCTIONS)
@settings(max_examples=25, deadline=None)
@given(shape=shapes, axes=st.lists(st.integers(-3, 3), max_size=2), keepdims=st.booleans())
def test_reductions(op: str, shape: Shape, axes: list[int], keepdims: bool) -> None:
    assume(shape)
    assume(len({axis % len(shape) for axis in axes}) == len(axes))
    x = zeros(shape)
    dims = axes or list(range(len(shape)))
    agree(op, [x], lambda: REDUCTIONS[op](x, dims, keepdim=keepdims), axes=tuple(axes), keepdims=keepdims)


@pytest.mark.parametrize("op", ["argmax", "argmin"])
@settings(max_examples=25, deadline=None)
@given(shape=shapes, axis=st.integers(-3, 3), keepdims=st.booleans())
def test_arg_reductions(op: str, shape: Shape, axis: int, keepdims: bool) -> None:
    assume(shape)
    x = zeros(shape)
    agree(op, [x], lambda: getattr(torch, op)(x, axis, keepdim=keepdims), axis=axis, keepdims=keepdims)


@pytest.mark.parametrize("op", ["softmax", "log_softmax"])
@settings(max_examples=15, deadline=None)
@given(shape=shapes, axis=st.integers(-3, 3))
def test_softmax(op: str, shape: Shape, axis: int) -> None:
    assume(shape)
    x = zeros(shape)
    agree(op, [x], lambda: getattr(torch, op)(x, axis), axis=axis)


def test_normalizations_keep_the_type() -> None:
    x, c = zeros((2, 6, 5, 5)), zeros((6,))
    agree("batch_norm", [x, c, c, c, c], lambda: F.batch_norm(x, c, c, c, c))
    agree("group_norm", [x, c, c], lambda: F.group_norm(x, 3, c, c), groups=3)
    agree("instance_norm", [x, c, c], lambda: F.instance_norm(x, weight=c, bias=c))
    last = zeros((5,))
    agree("layer_norm", [x, last, last], lambda: F.layer_norm(x, (5,), last, last))
    agree("prelu", [x, c], lambda: F.prelu(x, c))
    agree("lp_normalize", [x], lambda: F.normalize(x, dim=(1, 3)), axes=(1, 3))
    with pytest.raises(ShapeError, match="order 3"):
        infer("lp_normalize", [x], axes=(1,), p=3)


def test_every_one_input_function_keeps_the_type() -> None:
    x = zeros((2, 3, 4, 4))
    for definition in all_ops():
        if definition.family == "activation" and definition.name != "prelu":
            attributes = {attr.name: 2.0 for attr in definition.attributes if attr.required}
            assert infer(definition.name, [x], **attributes) == types_of(x)
    for name in ("identity", "dropout", "logical_not"):
        assert infer(name, [x]) == types_of(x)


# --- ops of the compiler itself --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("definition", [op for op in all_ops() if op.family == "integer"], ids=lambda op: op.name)
def test_integer_ops_infer_like_their_float_twin(definition: Any) -> None:
    """`int_conv2d` has the result shape of `conv2d`, and the dtype that its attribute says."""
    image = TensorType(DType.INT8, (1, 4, 6, 6))
    window = {"kernel": (2, 2), "stride": (2, 2)}
    cases: dict[str, tuple[list[TensorType | None], dict[str, Any], Shape]] = {
        "int_conv2d": ([image, TensorType(DType.INT8, (8, 4, 3, 3))], {}, (1, 8, 4, 4)),
        "int_conv_transpose2d": ([image, TensorType(DType.INT8, (4, 8, 3, 3))], {}, (1, 8, 8, 8)),
        "int_linear": ([image, TensorType(DType.INT8, (8, 6))], {}, (1, 4, 6, 8)),
        "int_matmul": ([image, image, None], {}, (1, 4, 6, 6)),
        "int_add": ([image, TensorType(DType.INT32, (4, 1, 1)), None], {}, (1, 4, 6, 6)),
        "int_mul": ([image, image, None], {}, (1, 4, 6, 6)),
        "int_div": ([image, image], {"ratio": 0.5}, (1, 4, 6, 6)),
        "int_requantize": ([image], {}, (1, 4, 6, 6)),
        "int_lut": ([image, TensorType(DType.INT16, (256,))], {}, (1, 4, 6, 6)),
        "int_prelu": ([image, TensorType(DType.INT16, (4,)), None, None], {}, (1, 4, 6, 6)),
        "int_avg_pool2d": ([image], window, (1, 4, 3, 3)),
        "int_adaptive_avg_pool2d": ([image, None], {"output_size": (2, 3)}, (1, 4, 2, 3)),
        "int_sum": ([image, None], {"axes": (2, 3)}, (1, 4)),
        "int_resize2d": ([image], {"size": (12, 3)}, (1, 4, 12, 3)),
        "int_grid_sample": ([image, TensorType(DType.INT16, (1, 5, 2, 2)), None], {}, (1, 4, 5, 2)),
        "int_softmax": ([image, None, None], {"axis": 1}, (1, 4, 6, 6)),
    }
    operands, attributes, shape = cases[definition.name]
    has_dtype = any(attr.name == "dtype" for attr in definition.attributes)
    for dtype in (DType.INT8, DType.INT16) if has_dtype else (None,):
        given_attributes = {**attributes, "dtype": dtype} if dtype else attributes
        (result,) = definition.infer(operands, definition.complete_attributes(given_attributes))
        assert result.shape == shape
        assert result.dtype is (dtype or (DType.INT16 if definition.name == "int_lut" else DType.INT8))


def test_boundary_ops_infer_float_and_opaque_refuses() -> None:
    x = zeros((2, 3))
    for name in ("quantize", "dequantize", "requantize"):
        assert infer(name, [x]) == types_of(x)
    assert get_op("dequantize").infer([TensorType(DType.INT8, (2, 3))], {}) == types_of(x)
    with pytest.raises(ShapeError, match="the result of f is known only to the model's framework"):
        infer("opaque", [x], id="f")


def test_errors_name_node_and_source_line() -> None:
    from hqc.ir import Location

    graph = Graph()
    x = graph.add_input("x", TensorType(DType.FLOAT32, (1, 3)))
    loc = Location("head.fc:reshape#0", "net.py:41")
    with pytest.raises(ShapeError, match=r"^flat \[head.fc:reshape#0 \(net.py:41\)\]: cannot reshape \[1, 3\] to \[2, 2\]$"):
        graph.add_node("reshape", [x], {"shape": (2, 2)}, name="flat", loc=loc)


def test_every_op_is_checked_in_this_file() -> None:
    named = set(re.findall(r'"(\w+)"', Path(__file__).read_text()))
    missing = {definition.name for definition in all_ops() if definition.family != "activation"} - named
    assert not missing
