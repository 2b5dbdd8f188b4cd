"""Multiply-accumulate ops: convolution, transposed convolution, linear, matmul.

The conv-like ops carry what fusion gives them: `residual` is added before the activation; `activation` is applied last.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hqc.errors import ShapeError
from hqc.ir.op import Array, Attr, Attributes, Compute, OperandTypes, Trait, op
from hqc.ir.ops._shapes import agree, broadcast, differ, first, present, shown, sizes_of_rank, window_size
from hqc.ir.ops._windows import windows
from hqc.ir.types import Sizes, TensorType

ACTIVATIONS = ("none", "relu", "relu6")
ACTIVATION = Attr("activation", "str", "none", choices=ACTIVATIONS)
HALF_STEP = Attr("half_step", "bool", False)
"""The bias gets half a step of the result added when its scale is known: a march whose requantization floors rounds to nearest then."""


def _window_attributes(axes: int) -> tuple[Attr, ...]:
    return (
        Attr("stride", "ints", (1,) * axes, length=axes, minimum=1),
        Attr("padding", "ints", (0,) * (2 * axes), length=2 * axes, minimum=0),  # top, left, bottom, right (ONNX order)
        Attr("dilation", "ints", (1,) * axes, length=axes, minimum=1),
        Attr("groups", "int", 1, minimum=1),
    )


def _output_padding(axes: int) -> Attr:
    return Attr("output_padding", "ints", (0,) * axes, length=axes, minimum=0)


CONV_ATTRIBUTES = _window_attributes(2)
TRANSPOSE_ATTRIBUTES = (*CONV_ATTRIBUTES, _output_padding(2))


# --- types -----------------------------------------------------------------------------------------------------------------


def check_channels(given: int | None, expected: int | None, what: str) -> None:
    if differ(given, expected):
        raise ShapeError(f"{what} has {given} channels, the weight expects {expected}")


def check_extras(types: OperandTypes, result: Sizes | None, channels: int) -> None:
    """Bias `[O]` and residual (like the result) of a conv-like op; `channels`: the axis of O in the result."""
    if result is None:
        return
    bias = types[2] if len(types) > 2 else None
    if bias is not None and bias.sizes is not None and not agree(bias.sizes, (result[channels],)):
        raise ShapeError(f"the bias must have shape {shown((result[channels],))}, got {bias}")
    residual = types[3] if len(types) > 3 else None
    if residual is not None and residual.sizes is not None and not agree(residual.sizes, result):
        raise ShapeError(f"the residual must have the result's shape {shown(result)}, got {residual}")


def of_rows(infer: Callable[[Sizes, Sizes, Attributes], Sizes]) -> Callable[[OperandTypes, Attributes], Sizes]:
    """Rows `[N,C,L]` with a weight of rank 3 are images of height 1, and their result has rows again."""

    @functools.wraps(infer)
    def wrapped(types: OperandTypes, attributes: Attributes) -> Sizes:
        x, weight = first(types), present(types, 1)
        if 3 not in (x.rank, weight.rank):
            return infer(sizes_of_rank(x, 4), sizes_of_rank(weight, 4, "the weight"), attributes)
        rows, kernel = sizes_of_rank(x, 3), sizes_of_rank(weight, 3, "the weight")
        result = infer(as_image(rows), as_image(kernel), attributes)
        if differ(result[2], 1):
            raise ShapeError(f"a convolution of rows must leave their height of 1, got {result[2]}")
        return (*result[:2], result[3])

    return wrapped


def as_image(sizes: Sizes) -> Sizes:
    """`[a,b,L]` with a height: `[a,b,1,L]`."""
    return (*sizes[:2], 1, sizes[2])


def _conv_sizes(x: Sizes, weight: Sizes, attributes: Attributes) -> Sizes:
    """`[N,C,H,W]` x `[O,C/groups,kh,kw]` -> `[N,O,H',W']`, and the same of volumes."""
    groups, stride, dilation, padding = (attributes[name] for name in ("groups", "stride", "dilation", "padding"))
    check_channels(x[1], None if weight[1] is None else weight[1] * groups, "the input")
    if (weight[0] or 0) % groups:
        raise ShapeError(f"{weight[0]} output channels do not divide into {groups} groups")
    axes = len(stride)
    counts = (
        window_size(x[2 + i], weight[2 + i], stride[i], (padding[i], padding[axes + i]), dilation[i]) for i in range(axes)
    )
    return (x[0], weight[0], *counts)


def _conv_transpose_sizes(x: Sizes, weight: Sizes, attributes: Attributes) -> Sizes:
    """`[N,C,H,W]` x `[C,O/groups,kh,kw]` -> `[N,O,H',W']`, and the same of volumes."""
    check_channels(x[1], weight[0], "the input")
    if (weight[0] or 0) % attributes["groups"]:
        raise ShapeError(f"{weight[0]} input channels do not divide into {attributes['groups']} groups")
    padding, axes = attributes["padding"], len(attributes["stride"])
    sizes: list[int | None] = []
    for i in range(axes):
        size, kernel, pads = x[2 + i], weight[2 + i], padding[i] + padding[axes + i]
        if size is None or kernel is None:
            sizes.append(None)
            continue
        reach = attributes["dilation"][i] * (kernel - 1) + 1
        result = (size - 1) * attributes["stride"][i] - pads + reach + attributes["output_padding"][i]
        if result < 1:
            raise ShapeError(f"padding {pads} leaves nothing of the result")
        sizes.append(result)
    return (x[0], None if weight[1] is None else weight[1] * attributes["groups"], *sizes)


conv_sizes, conv_transpose_sizes = of_rows(_conv_sizes), of_rows(_conv_transpose_sizes)


def linear_sizes(types: OperandTypes) -> Sizes | None:
    """`[..., K]` x `[O,K]` -> `[..., O]`."""
    x, weight = first(types).sizes, sizes_of_rank(present(types, 1), 2, "the weight")
    if x is None:
        return None
    if not x:
        raise ShapeError("the input must have at least one axis")
    check_channels(x[-1], weight[1], "the input's last axis")
    return (*x[:-1], weight[0])


def matmul_sizes(types: OperandTypes) -> Sizes | None:
    a, b = first(types).sizes, present(types, 1).sizes
    if a is None or b is None:
        return None
    if len(a) < 1 or len(b) < 1 or differ(a[-1], b[-2] if len(b) > 1 else b[0]):
        raise ShapeError(f"cannot multiply {shown(a)} by {shown(b)}")
    batch = broadcast(a[:-2], b[:-2])
    assert batch is not None
    return (*batch, *(a[-2:-1]), *(b[-1:] if len(b) > 1 else ()))


# --- cost ------------------------------------------------------------------------------------------------------------------


def conv_macs(types: OperandTypes, results: Sequence[TensorType], attributes: Attributes) -> int | None:
    """One product per result element and weight of its channel."""
    weight, size = present(types, 1).shape, results[0].size
    return None if weight is None or size is None else size * math.prod(weight[1:])


def conv_transpose_macs(types: OperandTypes, results: Sequence[TensorType], attributes: Attributes) -> int | None:
    """One product per input element and weight of its channel."""
    weight, size = present(types, 1).shape, first(types).size
    return None if weight is None or size is None else size * math.prod(weight[1:])


def matrix_macs(types: OperandTypes, results: Sequence[TensorType], attributes: Attributes) -> int | None:
    """One product per result element and entry of the left operand's last axis."""
    left, size = first(types).shape, results[0].size
    return None if left is None or size is None else size * left[-1]


# --- values ----------------------------------------------------------------------------------------------------------------


def _finish(y: Array, arrays: Sequence[Any], attributes: Attributes, channels: int) -> Array:
    """Bias, residual and activation; `channels`: the axis of the bias."""
    _, _, bias, residual = [*arrays, None, None][:4]
    if bias is not None:
        y = y + bias.reshape([-1 if axis == channels % y.ndim else 1 for axis in range(y.ndim)])
    if residual is not None:
        y = y + residual
    activation = attributes.get("activation", "none")
    return y if activation == "none" else np.asarray(np.clip(y, 0.0, 6.0 if activation == "relu6" else None))


_WHOLE = (slice(None), slice(None))
"""All of the batch and of the channels."""


def _on_images(compute: Compute) -> Compute:
    """Rows are computed as images of height 1."""

    def wrapped(arrays: Sequence[Any], attributes: Attributes) -> Any:
        if arrays[0].ndim == 4:
            return compute(arrays, attributes)
        images = [array[:, :, None] if array is not None and array.ndim == 3 else array for array in arrays]
        return np.asarray(compute(images, attributes))[:, :, 0]

    return wrapped


def _conv(arrays: Sequence[Any], attributes: Attributes) -> Array:
    """A convolution of images or volumes."""
    x, weight = arrays[0].astype(np.float64), arrays[1].astype(np.float64)
    groups, rank = attributes["groups"], arrays[0].ndim
    taps = range(rank, 2 * rank - 2)
    view = windows(x, weight.shape[2:], attributes["stride"], attributes["padding"], attributes["dilation"])
    parts = [
        np.tensordot(part, filters, axes=((1, *taps), range(1, rank)))  # [N, H', W', O / groups]
        for part, filters in zip(np.split(view, groups, axis=1), np.split(weight, groups), strict=True)
    ]
    return _finish(np.moveaxis(np.concatenate(parts, axis=-1), -1, 1), arrays, attributes, 1)


def _conv_transpose(arrays: Sequence[Any], attributes: Attributes) -> Array:
    """A transposed convolution of images or volumes."""
    x, weight = arrays[0].astype(np.float64), arrays[1].astype(np.float64)
    groups, stride, dilation, padding = (attributes[name] for name in ("groups", "stride", "dilation", "padding"))
    sizes, kernel = x.shape[2:], weight.shape[2:]
    reach = [(size - 1) * step + 1 for size, step in zip(sizes, stride, strict=True)]
    extents = [
        far + apart * (taps - 1) + extra
        for far, apart, taps, extra in zip(reach, dilation, kernel, attributes["output_padding"], strict=True)
    ]
    parts = []
    for part, filters in zip(np.split(x, groups, axis=1), np.split(weight, groups), strict=True):
        y = np.zeros((x.shape[0], weight.shape[1], *extents))
        for taps in np.ndindex(kernel):
            starts = [tap * apart for tap, apart in zip(taps, dilation, strict=True)]
            at = [slice(start, start + far, step) for start, far, step in zip(starts, reach, stride, strict=True)]
            y[(*_WHOLE, *at)] += np.einsum("nc...,co->no...", part, filters[(*_WHOLE, *taps)])
        parts.append(y)
    ends = padding[len(extents) :]
    kept = [slice(begin, size - end) for begin, size, end in zip(padding, extents, ends, strict=False)]
    return _finish(np.concatenate(parts, axis=1)[(*_WHOLE, *kept)], arrays, attributes, 1)


def _linear(arrays: Sequence[Any], attributes: Attributes) -> Array:
    return _finish(arrays[0].astype(np.float64) @ arrays[1].astype(np.float64).T, arrays, attributes, -1)


def _matmul(arrays: Sequence[Any], attributes: Attributes) -> Array:
    wide = np.float64 if arrays[0].dtype.kind == "f" else np.int64
    return np.asarray(np.matmul(arrays[0].astype(wide), arrays[1].astype(wide)))


# --- cards -----------------------------------------------------------------------------------------------------------------


@op(
    "conv2d",
    operands="x, weight, bias?, residual?",
    attributes=(*CONV_ATTRIBUTES, ACTIVATION, HALF_STEP),
    traits={Trait.CONV_LIKE, Trait.WEIGHTED},
    compute=_on_images(_conv),
    macs=conv_macs,
)
def conv2d(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """2-D convolution of `x[N,C,H,W]` with `weight[O,C/groups,kh,kw]`; a weight that is not a parameter is a runtime weight.

    Rows `x[N,C,L]` with `weight[O,C/groups,k]` are images of height 1.
    """
    sizes = conv_sizes(types, attributes)
    check_extras(types, sizes, 1)
    return [first(types).with_shape(sizes)]


@op(
    "conv_transpose2d",
    operands="x, weight, bias?, residual?",
    attributes=(*TRANSPOSE_ATTRIBUTES, ACTIVATION, HALF_STEP),
    traits={Trait.CONV_LIKE, Trait.WEIGHTED},
    compute=_on_images(_conv_transpose),
    macs=conv_transpose_macs,
)
def conv_transpose2d(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """Transposed 2-D convolution of `x[N,C,H,W]` with `weight[C,O/groups,kh,kw]`; rows `[N,C,L]` as in conv2d."""
    sizes = conv_transpose_sizes(types, attributes)
    check_extras(types, sizes, 1)
    return [first(types).with_shape(sizes)]


@op(
    "conv3d",
    operands="x, weight, bias?",
    attributes=_window_attributes(3),
    traits={Trait.WEIGHTED},
    compute=_conv,
    macs=conv_macs,
)
def conv3d(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """3-D convolution of volumes `x[N,C,D,H,W]` with `weight[O,C/groups,kd,kh,kw]`."""
    sizes = _conv_sizes(sizes_of_rank(first(types), 5), sizes_of_rank(present(types, 1), 5, "the weight"), attributes)
    check_extras(types, sizes, 1)
    return [first(types).with_shape(sizes)]


@op(
    "conv_transpose3d",
    operands="x, weight, bias?",
    attributes=(*_window_attributes(3), _output_padding(3)),
    traits={Trait.WEIGHTED},
    compute=_conv_transpose,
    macs=conv_transpose_macs,
)
def conv_transpose3d(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """Transposed 3-D convolution of volumes `x[N,C,D,H,W]` with `weight[C,O/groups,kd,kh,kw]`."""
    sizes = _conv_transpose_sizes(sizes_of_rank(first(types), 5), sizes_of_rank(present(types, 1), 5, "the weight"), attributes)
    check_extras(types, sizes, 1)
    return [first(types).with_shape(sizes)]


@op(
    "linear",
    operands="x, weight, bias?, residual?",
    attributes=(ACTIVATION, HALF_STEP),
    traits={Trait.CONV_LIKE, Trait.WEIGHTED},
    compute=_linear,
    macs=matrix_macs,
)
def linear(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """`x[...,K] @ weight[O,K].T + bias[O]`."""
    sizes = linear_sizes(types)
    check_extras(types, sizes, -1)
    return [first(types).with_shape(sizes)]


@op("matmul", operands="a, b", compute=_matmul, macs=matrix_macs)
def matmul(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """Matrix product with NumPy's batch broadcasting; either operand may be a parameter."""
    return [first(types).with_shape(matmul_sizes(types))]
