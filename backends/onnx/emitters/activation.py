"""Functions of one tensor. What opset 11 lacks (SiLU, GELU, Mish, HardSwish, ...) is spelled out with torch's formula."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from hqc.backends.onnx.builder import Builder
from hqc.backends.onnx.emitters._operands import cast_to, compute_type, operand_shape, type_of
from hqc.backends.onnx.registry import emitter
from hqc.ir import DType, Node
from hqc.ir.ops.activation import SELU_ALPHA, SELU_SCALE


def _scalar(b: Builder, node: Node, value: float) -> str:
    return b.scalar(value, type_of(node))


def clip(b: Builder, x: str, dtype: DType, low: float | None, high: float | None) -> str:
    """`min(max(x, low), high)` for every element type: opset 11's Clip is float32 only."""
    if low is None and high is None:
        return b("Identity", x)
    if dtype is DType.FLOAT32:
        return b("Clip", x, None if low is None else b.scalar(low), None if high is None else b.scalar(high))
    wide = dtype if dtype is DType.FLOAT64 else compute_type(dtype)
    result = cast_to(b, x, dtype, wide)
    for bound, float_op, comparison in ((low, "Max", "Greater"), (high, "Min", "Less")):
        if bound is None:
            continue
        limit = b.scalar(bound, wide)
        if wide.is_float:
            result = b(float_op, result, limit)
        else:
            result = b("Where", b(comparison, result, limit), result, limit)
    return cast_to(b, result, wide, dtype)


@emitter("relu")
def relu(node: Node, b: Builder) -> str:
    dtype = type_of(node)
    x = b.operand(node, 0)
    return b("Relu", x) if dtype.is_float else clip(b, x, dtype, 0, None)


@emitter("clamp")
def clamp(node: Node, b: Builder) -> str:
    return clip(b, b.operand(node, 0), type_of(node), node.attributes["min"], node.attributes["max"])


@emitter("prelu")
def prelu(node: Node, b: Builder) -> str:
    """PRelu broadcasts its slope like NumPy, so `[C]` becomes `[C, 1, ...]`."""
    x, slope = b.operand(node, 0), b.operand(node, 1)
    rank, slopes = len(operand_shape(node)), math.prod(operand_shape(node, 1))
    if slopes != 1 and rank > 2:
        shape = [slopes] + [1] * (rank - 2)
        slope = b.transformed(slope, lambda array: array.reshape(shape), "slope") or b("Reshape", slope, b.ints(shape))
    return b("PRelu", x, slope)


# --- one ONNX op ---------------------------------------------------------------------------------------------------------

_DIRECT: dict[str, str] = {
    "sigmoid": "Sigmoid", "tanh": "Tanh", "softsign": "Softsign", "exp": "Exp", "log": "Log", "sqrt": "Sqrt",
    "reciprocal": "Reciprocal", "sin": "Sin", "cos": "Cos", "tan": "Tan", "atan": "Atan", "erf": "Erf", "abs": "Abs",
    "neg": "Neg", "floor": "Floor", "ceil": "Ceil", "round": "Round", "sign": "Sign", "sinh": "Sinh", "cosh": "Cosh",
    "asin": "Asin", "acos": "Acos", "asinh": "Asinh", "acosh": "Acosh", "atanh": "Atanh",
}  # fmt: skip


def _direct(onnx_op: str) -> Callable[[Node, Builder], str]:
    return lambda node, b: b(onnx_op, b.operand(node, 0))


for _name, _onnx_op in _DIRECT.items():
    emitter(_name)(_direct(_onnx_op))


@emitter("leaky_relu")
def leaky_relu(node: Node, b: Builder) -> str:
    return b("LeakyRelu", b.operand(node, 0), alpha=node.attributes["slope"])


@emitter("elu")
def elu(node: Node, b: Builder) -> str:
    return b("Elu", b.operand(node, 0), alpha=node.attributes["alpha"])


@emitter("selu")
def selu(node: Node, b: Builder) -> str:
    return b("Selu", b.operand(node, 0), alpha=SELU_ALPHA, gamma=SELU_SCALE)


# --- spelled out ---------------------------------------------------------------------------------------------------------


def _relu6_of_shifted(node: Node, b: Builder) -> str:
    """`min(max(x + 3, 0), 6)`."""
    shifted = b("Add", b.operand(node, 0), _scalar(b, node, 3.0))
    return clip(b, shifted, type_of(node), 0.0, 6.0)


@emitter("hardsigmoid")
def hardsigmoid(node: Node, b: Builder) -> str:
    return b("Div", _relu6_of_shifted(node, b), _scalar(b, node, 6.0))


@emitter("hardswish")
def hardswish(node: Node, b: Builder) -> str:
    return b("Div", b("Mul", b.operand(node, 0), _relu6_of_shifted(node, b)), _scalar(b, node, 6.0))


@emitter("silu")
def silu(node: Node, b: Builder) -> str:
    x = b.operand(node, 0)
    return b("Mul", x, b("Sigmoid", x))


@emitter("mish")
def mish(node: Node, b: Builder) -> str:
    x = b.operand(node, 0)
    return b("Mul", x, b("Tanh", b("Softplus", x)))


@emitter("softplus")
def softplus(node: Node, b: Builder) -> str:
    x, beta = b.operand(node, 0), node.attributes["beta"]
    if beta == 1.0:
        return b("Softplus", x)
    return b("Div", b("Softplus", b("Mul", x, _scalar(b, node, beta))), _scalar(b, node, beta))


@emitter("gelu")
def gelu(node: Node, b: Builder) -> str:
    x = b.operand(node, 0)
    if node.attributes["approximate"] == "tanh":
        cube = b("Mul", b("Mul", x, x), x)
        inner = b("Add", x, b("Mul", cube, _scalar(b, node, 0.044715)))
        inner = b("Tanh", b("Mul", inner, _scalar(b, node, math.sqrt(2.0 / math.pi))))
    else:
        inner = b("Erf", b("Mul", x, _scalar(b, node, math.sqrt(0.5))))
    half = b("Mul", x, _scalar(b, node, 0.5))
    return b("Mul", half, b("Add", inner, _scalar(b, node, 1.0)))


@emitter("trunc")
def trunc(node: Node, b: Builder) -> str:
    x = b.operand(node, 0)
    return b("Mul", b("Sign", x), b("Floor", b("Abs", x)))


@emitter("exp2")
def exp2(node: Node, b: Builder) -> str:
    return b("Pow", _scalar(b, node, 2.0), b.operand(node, 0))


def _logarithm(base: float) -> Callable[[Node, Builder], str]:
    return lambda node, b: b("Mul", b("Log", b.operand(node, 0)), _scalar(b, node, 1.0 / math.log(base)))


emitter("log2")(_logarithm(2.0))
emitter("log10")(_logarithm(10.0))


@emitter("log1p")
def log1p(node: Node, b: Builder) -> str:
    return b("Log", b("Add", b.operand(node, 0), _scalar(b, node, 1.0)))


@emitter("expm1")
def expm1(node: Node, b: Builder) -> str:
    return b("Sub", b("Exp", b.operand(node, 0)), _scalar(b, node, 1.0))


@emitter("log_sigmoid")
def log_sigmoid(node: Node, b: Builder) -> str:
    return b("Neg", b("Softplus", b("Neg", b.operand(node, 0))))


@emitter("celu")
def celu(node: Node, b: Builder) -> str:
    """Opset 12 has Celu, opset 11 Elu: `elu(x / alpha)` in units of alpha."""
    alpha = _scalar(b, node, node.attributes["alpha"])
    return b("Mul", b("Elu", b("Div", b.operand(node, 0), alpha)), alpha)


@emitter("hardshrink")
def hardshrink(node: Node, b: Builder) -> str:
    x, bound = b.operand(node, 0), _scalar(b, node, node.attributes["bound"])
    return b("Where", b("Greater", b("Abs", x), bound), x, _scalar(b, node, 0.0))


@emitter("softshrink")
def softshrink(node: Node, b: Builder) -> str:
    x, bound = b.operand(node, 0), _scalar(b, node, node.attributes["bound"])
    return b("Mul", b("Sign", x), b("Relu", b("Sub", b("Abs", x), bound)))


@emitter("tanhshrink")
def tanhshrink(node: Node, b: Builder) -> str:
    x = b.operand(node, 0)
    return b("Sub", x, b("Tanh", x))


@emitter("threshold")
def threshold(node: Node, b: Builder) -> str:
    x, bound = b.operand(node, 0), _scalar(b, node, node.attributes["bound"])
    return b("Where", b("Greater", x, bound), x, _scalar(b, node, node.attributes["value"]))


@emitter("rsqrt")
def rsqrt(node: Node, b: Builder) -> str:
    return b("Reciprocal", b("Sqrt", b.operand(node, 0)))


@emitter("pow_scalar")
def pow_scalar(node: Node, b: Builder) -> str:
    """Pow with a constant exponent; integers go through float64, which holds what torch computes."""
    dtype = type_of(node)
    wide = dtype if dtype.is_float else DType.FLOAT64
    power = b(
        "Pow", cast_to(b, b.operand(node, 0), dtype, wide), b.scalar(float(np.float64(node.attributes["exponent"])), wide)
    )
    return cast_to(b, power, wide, node.result.type.dtype)
