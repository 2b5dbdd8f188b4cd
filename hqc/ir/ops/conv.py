"""Multiply-accumulate ops: convolution, transposed convolution, linear, matmul.

The conv-like ops carry what fusion gives them: `residual` is added before the activation; `activation` is applied last.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from hqc.errors import ShapeError
from hqc.ir.op import Attr, Attributes, OperandTypes, Trait, op
from hqc.ir.ops._shapes import broadcast, first, present, require_rank, window_size
from hqc.ir.types import Shape, TensorType

ACTIVATIONS = ("none", "relu", "relu6")
ACTIVATION = Attr("activation", "str", "none", choices=ACTIVATIONS)
CONV_ATTRIBUTES = (
    Attr("stride", "ints", (1, 1), length=2, minimum=1),
    Attr("padding", "ints", (0, 0, 0, 0), length=4, minimum=0),  # top, left, bottom, right (ONNX order)
    Attr("dilation", "ints", (1, 1), length=2, minimum=1),
    Attr("groups", "int", 1, minimum=1),
)
TRANSPOSE_ATTRIBUTES = (*CONV_ATTRIBUTES, Attr("output_padding", "ints", (0, 0), length=2, minimum=0))


def check_channels(given: int, expected: int, what: str) -> None:
    if given != expected:
        raise ShapeError(f"{what} has {given} channels, the weight expects {expected}")


def require_rank_of(shape: Shape, rank: int, what: str) -> None:
    if len(shape) != rank:
        raise ShapeError(f"{what} must have rank {rank}, got {list(shape)}")


def check_extras(types: OperandTypes, result: Shape | None, channels: int) -> None:
    """Bias `[O]` and residual (like the result) of a conv-like op; `channels`: the axis of O in the result."""
    if result is None:
        return
    bias = types[2] if len(types) > 2 else None
    if bias is not None and bias.shape not in (None, (result[channels],)):
        raise ShapeError(f"the bias must have shape [{result[channels]}], got {bias}")
    residual = types[3] if len(types) > 3 else None
    if residual is not None and residual.shape not in (None, result):
        raise ShapeError(f"the residual must have the result's shape {list(result)}, got {residual}")


def of_rows(
    infer: Callable[[Shape | None, Shape | None, Attributes], Shape | None],
) -> Callable[[Shape | None, Shape | None, Attributes], Shape | None]:
    """Rows `[N,C,L]` with a weight of rank 3 are images of height 1, and their result has rows again."""

    @functools.wraps(infer)
    def wrapped(x: Shape | None, weight: Shape | None, attributes: Attributes) -> Shape | None:
        if x is None or weight is None or len(x) != 3:
            return infer(x, weight, attributes)
        require_rank_of(weight, 3, "the weight")
        result = infer(as_image(x), as_image(weight), attributes)
        assert result is not None
        if result[2] != 1:
            raise ShapeError(f"a convolution of rows must leave their height of 1, got {result[2]}")
        return (*result[:2], result[3])

    return wrapped


def as_image(shape: Shape) -> Shape:
    """`[a,b,L]` with a height: `[a,b,1,L]`."""
    return (*shape[:2], 1, shape[2])


@of_rows
def conv_shape(x: Shape | None, weight: Shape | None, attributes: Attributes) -> Shape | None:
    """`[N,C,H,W]` x `[O,C/groups,kh,kw]` -> `[N,O,H',W']`."""
    if x is None or weight is None:
        return None
    require_rank_of(weight, 4, "the weight")
    groups, stride, dilation = attributes["groups"], attributes["stride"], attributes["dilation"]
    check_channels(x[1], weight[1] * groups, "the input")
    if weight[0] % groups:
        raise ShapeError(f"{weight[0]} output channels do not divide into {groups} groups")
    top, left, bottom, right = attributes["padding"]
    height = window_size(x[2], weight[2], stride[0], (top, bottom), dilation[0])
    width = window_size(x[3], weight[3], stride[1], (left, right), dilation[1])
    return (x[0], weight[0], height, width)


@of_rows
def conv_transpose_shape(x: Shape | None, weight: Shape | None, attributes: Attributes) -> Shape | None:
    """`[N,C,H,W]` x `[C,O/groups,kh,kw]` -> `[N,O,H',W']`."""
    if x is None or weight is None:
        return None
    require_rank_of(weight, 4, "the weight")
    check_channels(x[1], weight[0], "the input")
    if weight[0] % attributes["groups"]:
        raise ShapeError(f"{weight[0]} input channels do not divide into {attributes['groups']} groups")
    top, left, bottom, right = attributes["padding"]
    sizes = []
    for i, pads in enumerate((top + bottom, left + right)):
        kernel = attributes["dilation"][i] * (weight[2 + i] - 1) + 1
        sizes.append((x[2 + i] - 1) * attributes["stride"][i] - pads + kernel + attributes["output_padding"][i])
        if sizes[-1] < 1:
            raise ShapeError(f"padding {pads} leaves nothing of the result")
    return (x[0], weight[1] * attributes["groups"], sizes[0], sizes[1])


def linear_shape(x: Shape | None, weight: Shape | None) -> Shape | None:
    """`[..., K]` x `[O,K]` -> `[..., O]`."""
    if x is None or weight is None:
        return None
    require_rank_of(weight, 2, "the weight")
    if not x:
        raise ShapeError("the input must have at least one axis")
    check_channels(x[-1], weight[1], "the input's last axis")
    return (*x[:-1], weight[0])


def matmul_shape(a: Shape | None, b: Shape | None) -> Shape | None:
    if a is None or b is None:
        return None
    if len(a) < 1 or len(b) < 1 or a[-1] != (b[-2] if len(b) > 1 else b[0]):
        raise ShapeError(f"cannot multiply {list(a)} by {list(b)}")
    batch = broadcast(a[:-2], b[:-2])
    assert batch is not None
    return (*batch, *(a[-2:-1]), *(b[-1:] if len(b) > 1 else ()))


@op("conv2d", operands="x, weight, bias?, residual?", attributes=(*CONV_ATTRIBUTES, ACTIVATION), traits={Trait.CONV_LIKE})
def conv2d(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """2-D convolution of `x[N,C,H,W]` with `weight[O,C/groups,kh,kw]`; a weight that is not a parameter is a runtime weight.

    Rows `x[N,C,L]` with `weight[O,C/groups,k]` are images of height 1.
    """
    x, weight = first(types), present(types, 1)
    require_rank(x, (3, 4))
    shape = conv_shape(x.shape, weight.shape, attributes)
    check_extras(types, shape, 1)
    return [x.with_shape(shape)]


@op(
    "conv_transpose2d",
    operands="x, weight, bias?, residual?",
    attributes=(*TRANSPOSE_ATTRIBUTES, ACTIVATION),
    traits={Trait.CONV_LIKE},
)
def conv_transpose2d(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """Transposed 2-D convolution of `x[N,C,H,W]` with `weight[C,O/groups,kh,kw]`; rows `[N,C,L]` as in conv2d."""
    x, weight = first(types), present(types, 1)
    require_rank(x, (3, 4))
    shape = conv_transpose_shape(x.shape, weight.shape, attributes)
    check_extras(types, shape, 1)
    return [x.with_shape(shape)]


@op("linear", operands="x, weight, bias?, residual?", attributes=(ACTIVATION,), traits={Trait.CONV_LIKE})
def linear(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """`x[...,K] @ weight[O,K].T + bias[O]`."""
    x, weight = first(types), present(types, 1)
    shape = linear_shape(x.shape, weight.shape)
    check_extras(types, shape, -1)
    return [x.with_shape(shape)]


@op("matmul", operands="a, b")
def matmul(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """Matrix product with NumPy's batch broadcasting; either operand may be a parameter."""
    a, b = first(types), present(types, 1)
    return [a.with_shape(matmul_shape(a.shape, b.shape))]
