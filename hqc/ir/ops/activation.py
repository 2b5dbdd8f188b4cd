"""Functions of one tensor: those that keep the operand's grid (relu, clamp) and those that a table holds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hqc.ir.op import Array, Attr, Attributes, OpDef, OperandTypes, Range, ScalarFunction, Trait, op
from hqc.ir.ops._shapes import first, same_as_first
from hqc.ir.types import TensorType

F64 = npt.NDArray[np.float64]
_erf = np.vectorize(math.erf, otypes=[np.float64])


def sigmoid(x: F64) -> F64:
    """Logistic function without overflow at either end."""
    e = np.exp(-np.abs(x))
    result: F64 = np.where(x >= 0, 1.0 / (1.0 + e), e / (1.0 + e))
    return result


def softplus(x: F64) -> F64:
    result: F64 = np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x)))
    return result


def _elu(x: F64, alpha: float) -> F64:
    result: F64 = np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0.0)))
    return result


def _gelu(x: F64, approximate: str) -> F64:
    if approximate == "tanh":
        inner: F64 = np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3))
    else:
        inner = _erf(x / math.sqrt(2.0))
    return 0.5 * x * (1.0 + inner)


SELU_ALPHA = 1.6732632423543772848170429916717  # Klambauer et al., Self-Normalizing Neural Networks (2017)
SELU_SCALE = 1.0507009873554804934193349852946


def clipped(bounds: Range | None, low: float | None, high: float | None) -> Range | None:
    """The range of values between `low` and `high` of something in `bounds`; whole numbers around bounds that are none."""
    if bounds is None:
        return None
    ends = [end if low is None else max(end, low) for end in bounds]
    ends = [end if high is None else min(end, high) for end in ends]
    return (math.floor(ends[0]), math.ceil(ends[1])) if all(map(math.isfinite, ends)) else None


_BOUNDED = {Trait.PASS_THROUGH, Trait.ELEMENTWISE, Trait.ACTIVATION, Trait.SELECTS, Trait.NONLINEARITY}


def _clamp(arrays: Sequence[Any], attributes: Attributes) -> Array:
    """Bounds are numbers of the operand's dtype; those beyond an integer type never bind."""
    x: Array = arrays[0]
    low, high = attributes["min"], attributes["max"]
    if x.dtype.kind != "f":
        least, most = np.iinfo(x.dtype).min, np.iinfo(x.dtype).max
        low, high = (None if bound is None else int(min(max(bound, least), most)) for bound in (low, high))
    if low is not None:
        x = np.maximum(x, x.dtype.type(low))
    if high is not None:
        x = np.minimum(x, x.dtype.type(high))
    return x


@op(
    "relu",
    operands="x",
    traits=_BOUNDED,
    compute=lambda arrays, a: np.maximum(arrays[0], arrays[0].dtype.type(0)),
    bounds=lambda ranges, a: clipped(ranges[0], 0, None),
)
def relu(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """`max(x, 0)`."""
    return [first(types)]


@op(
    "clamp",
    operands="x",
    attributes=(Attr("min", "optional_float"), Attr("max", "optional_float")),
    traits=_BOUNDED,
    compute=_clamp,
    bounds=lambda ranges, a: clipped(ranges[0], a["min"], a["max"]),
)
def clamp(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """`min(max(x, min), max)`; relu6 is `clamp {min=0.0, max=6.0}`."""
    return [first(types)]


def _table_op(
    name: str,
    doc: str,
    function: ScalarFunction,
    *attributes: Attr,
    activation: bool = False,
    singular: bool = False,
    whole: bool = False,
) -> OpDef:
    traits = {Trait.ELEMENTWISE, Trait.LUT} | ({Trait.WHOLE} if whole else set())
    traits |= ({Trait.NONLINEARITY} if activation else set()) | ({Trait.SINGULAR} if singular else set())
    return op(name, operands="x", attributes=attributes, traits=traits, function=function, doc=doc)(same_as_first)


_table_op("sigmoid", "`1 / (1 + exp(-x))`.", lambda x, a: sigmoid(x), activation=True)
_table_op("tanh", "Hyperbolic tangent.", lambda x, a: np.tanh(x), activation=True)
_table_op("silu", "`x * sigmoid(x)`.", lambda x, a: x * sigmoid(x), activation=True)
_table_op("hardswish", "`x * clip(x + 3, 0, 6) / 6`.", lambda x, a: x * np.clip(x + 3.0, 0.0, 6.0) / 6.0, activation=True)
_table_op("hardsigmoid", "`clip(x + 3, 0, 6) / 6`.", lambda x, a: np.clip(x + 3.0, 0.0, 6.0) / 6.0, activation=True)
_table_op(
    "leaky_relu",
    "`x` for x >= 0, else `slope * x`.",
    lambda x, a: np.where(x >= 0, x, a["slope"] * x),
    Attr("slope", "float", 0.01),
    activation=True,
)
_table_op(
    "elu",
    "`x` for x > 0, else `alpha * (exp(x) - 1)`.",
    lambda x, a: _elu(x, a["alpha"]),
    Attr("alpha", "float", 1.0),
    activation=True,
)
_table_op("selu", "Scaled elu with the constants of its paper.", lambda x, a: SELU_SCALE * _elu(x, SELU_ALPHA), activation=True)
_table_op(
    "gelu",
    "`x * Phi(x)`, exact or by tanh.",
    lambda x, a: _gelu(x, a["approximate"]),
    Attr("approximate", "str", "none", choices=("none", "tanh")),
    activation=True,
)
_table_op("mish", "`x * tanh(softplus(x))`.", lambda x, a: x * np.tanh(softplus(x)), activation=True)
_table_op(
    "softplus",
    "`log(1 + exp(beta * x)) / beta`.",
    lambda x, a: softplus(x * a["beta"]) / a["beta"],
    Attr("beta", "float", 1.0),
    activation=True,
)
_table_op("softsign", "`x / (1 + |x|)`.", lambda x, a: x / (1.0 + np.abs(x)), activation=True)
_table_op("exp", "`e^x`.", lambda x, a: np.exp(x))
log = _table_op("log", "Natural logarithm.", lambda x, a: np.log(x), singular=True)
_table_op("sqrt", "Square root.", lambda x, a: np.sqrt(x), singular=True)
_table_op("rsqrt", "`1 / sqrt(x)`.", lambda x, a: 1.0 / np.sqrt(x), singular=True)
_table_op("reciprocal", "`1 / x`.", lambda x, a: 1.0 / x, singular=True)
_table_op(
    "pow_scalar",
    "`x^exponent`.",
    lambda x, a: np.power(x, a["exponent"]),
    Attr("exponent", "float", required=True),
    singular=True,
)
_table_op("sin", "Sine.", lambda x, a: np.sin(x))
_table_op("cos", "Cosine.", lambda x, a: np.cos(x))
_table_op("tan", "Tangent.", lambda x, a: np.tan(x))
_table_op("atan", "Arc tangent.", lambda x, a: np.arctan(x))
_table_op("erf", "Error function.", lambda x, a: _erf(x))
_table_op("abs", "`|x|`.", lambda x, a: np.abs(x))
_table_op("neg", "`-x`.", lambda x, a: -x)
_table_op("floor", "Largest whole number that is not above x.", lambda x, a: np.floor(x), whole=True)
_table_op("ceil", "Smallest whole number that is not below x.", lambda x, a: np.ceil(x), whole=True)
_table_op("round", "Nearest whole number, halves to even.", lambda x, a: np.rint(x), whole=True)
_table_op("sign", "-1, 0 or 1.", lambda x, a: np.sign(x), whole=True)
_table_op("trunc", "The whole part of x: rounded towards 0.", lambda x, a: np.trunc(x), whole=True)
_table_op("exp2", "`2^x`.", lambda x, a: np.exp2(x))
_table_op("expm1", "`e^x - 1`.", lambda x, a: np.expm1(x))
_table_op("log2", "Logarithm to the base 2.", lambda x, a: np.log2(x), singular=True)
_table_op("log10", "Logarithm to the base 10.", lambda x, a: np.log10(x), singular=True)
_table_op("log1p", "`log(1 + x)`.", lambda x, a: np.log1p(x), singular=True)
_table_op("sinh", "Hyperbolic sine.", lambda x, a: np.sinh(x))
_table_op("cosh", "Hyperbolic cosine.", lambda x, a: np.cosh(x))
_table_op("asin", "Arc sine.", lambda x, a: np.arcsin(x), singular=True)
_table_op("acos", "Arc cosine.", lambda x, a: np.arccos(x), singular=True)
_table_op("asinh", "Inverse hyperbolic sine.", lambda x, a: np.arcsinh(x))
_table_op("acosh", "Inverse hyperbolic cosine.", lambda x, a: np.arccosh(x), singular=True)
_table_op("atanh", "Inverse hyperbolic tangent.", lambda x, a: np.arctanh(x), singular=True)
_table_op("log_sigmoid", "`log(sigmoid(x))`.", lambda x, a: -softplus(-x), activation=True)
_table_op(
    "celu",
    "`x` for x > 0, else `alpha * (exp(x / alpha) - 1)`.",
    lambda x, a: np.where(x > 0, x, a["alpha"] * np.expm1(np.minimum(x, 0.0) / a["alpha"])),
    Attr("alpha", "float", 1.0),
    activation=True,
)
_table_op(
    "hardshrink",
    "`x` where |x| > bound, else 0.",
    lambda x, a: np.where(np.abs(x) <= a["bound"], 0.0, x),
    Attr("bound", "float", 0.5),
    activation=True,
)
_table_op(
    "softshrink",
    "`x` moved towards 0 by bound, 0 where |x| <= bound.",
    lambda x, a: np.sign(x) * np.maximum(np.abs(x) - a["bound"], 0.0),
    Attr("bound", "float", 0.5),
    activation=True,
)
_table_op("tanhshrink", "`x - tanh(x)`.", lambda x, a: x - np.tanh(x), activation=True)
_table_op(
    "threshold",
    "`x` where x > bound, else `value`.",
    lambda x, a: np.where(x <= a["bound"], a["value"], x),
    Attr("bound", "float", required=True),
    Attr("value", "float", required=True),
    activation=True,
)


def along_channels(parameter: Array, rank: int) -> Array:
    """`[C]` or `[1]` so that it broadcasts along axis 1 of an array of `rank` axes."""
    return parameter.reshape([-1 if axis == min(1, rank - 1) else 1 for axis in range(rank)])


def _prelu(arrays: Sequence[Any], attributes: Attributes) -> Array:
    x = arrays[0].astype(np.float64)
    weight = along_channels(arrays[1].astype(np.float64), x.ndim)
    return np.asarray(np.maximum(x, 0.0) + weight * np.minimum(x, 0.0))


@op("prelu", operands="x, weight", traits={Trait.ELEMENTWISE, Trait.NONLINEARITY}, compute=_prelu)
def prelu(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """`max(x, 0) + weight * min(x, 0)`; `weight` of shape `[1]` or `[C]` (C = size of axis 1)."""
    return [first(types)]
