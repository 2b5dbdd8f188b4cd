"""Special functions, which opset 11 does not have: the gamma function's family and the tails of the error function.

All are computed in float64, for which Log, Exp, Sin and the arithmetic have kernels: results are float32's to the last bits.
Formulas: NIST Digital Library of Mathematical Functions, 5.5 (recurrence, reflection), 5.11 (expansions), 7.2 and 7.12 (error functions).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.polynomial import chebyshev

from hqc.backends.onnx.aten.calls import Call
from hqc.backends.onnx.aten.writer import CallWriter, aten, shape
from hqc.ir import DType, Value

F64 = DType.FLOAT64
_SHIFT = 8
"""By how much the recurrence moves arguments below it, where the expansions are exact to float32."""
_FAR = 1e300
_BERNOULLI = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6)
"""B2, B4, ... of the expansions."""


class _Sums:
    """Arithmetic on float64 values and numbers, written as formulas are."""

    def __init__(self, writer: CallWriter) -> None:
        self.w = writer

    def of(self, item: Value | float) -> Value:
        return item if isinstance(item, Value) else self.w.const(item, F64)

    def op(self, name: str, *operands: Value | float) -> Value:
        return self.w.op(name, *map(self.of, operands))

    def total(self, terms: Sequence[Value]) -> Value:
        result = terms[0]
        for term in terms[1:]:
            result = self.op("add", result, term)
        return result

    def polynomial(self, x: Value, coefficients: Sequence[float]) -> Value:
        """By Horner's rule; the constant comes first."""
        result = self.of(coefficients[-1])
        for coefficient in reversed(coefficients[:-1]):
            result = self.op("add", self.op("mul", result, x), coefficient)
        return result

    def where(self, condition: Value, yes: Value | float, no: Value | float) -> Value:
        return self.op("where", condition, yes, no)

    def near(self, x: Value, reach: float) -> Value:
        return self.op("maximum", self.op("minimum", x, reach), -reach)

    def moved(self, x: Value) -> tuple[Value, Value, Value]:
        """For x of at least 1/2: whether it is small, itself or 1 where it is not, and x moved by `_SHIFT` where it is."""
        small = self.op("less", x, float(_SHIFT))
        return small, self.where(small, x, 1.0), self.where(small, self.op("add", x, float(_SHIFT)), x)


def _reflected(s: _Sums, x: Value) -> tuple[Value, Value, Value]:
    """Whether x lies below 1/2, x or `1 - x` where it does, and `pi` times what x lies above a whole number."""
    left = s.op("less", x, 0.5)
    return left, s.where(left, s.op("sub", 1.0, x), x), s.op("mul", s.op("sub", x, s.op("floor", x)), math.pi)


@aten("lgamma.default", "prims.lgamma.default", "special_gammaln.default")
def lgamma(c: Call, w: CallWriter) -> Value:
    """Stirling's series of a moved argument, less the logarithm of the product that moves it; reflected below 1/2."""
    s = _Sums(w)
    left, right, angle = _reflected(s, s.near(w.value(c["self"], F64), _FAR))
    small, low, high = s.moved(right)
    over = s.op("div", 1.0, high)
    series = [b / (2 * k * (2 * k - 1)) for k, b in enumerate(_BERNOULLI, 1)]
    stirling = s.op("sub", s.op("mul", s.op("sub", high, 0.5), s.op("log", high)), high)
    stirling = s.op("add", stirling, s.op("mul", over, s.polynomial(s.op("mul", over, over), series)))
    product = low
    for step in range(1, _SHIFT):
        product = s.op("mul", product, s.op("add", low, float(step)))
    result = s.op("sub", s.op("add", stirling, math.log(2 * math.pi) / 2), s.where(small, s.op("log", product), 0.0))
    mirrored = s.op("sub", s.op("log", s.op("div", math.pi, s.op("abs", s.op("sin", angle)))), result)
    return w.cast(s.where(left, mirrored, result), c.dtype)


@aten("digamma.default", "prims.digamma.default", "special_digamma.default", "special_psi.default")
def digamma(c: Call, w: CallWriter) -> Value:
    return _digamma(c, w)


def _digamma(c: Call, w: CallWriter) -> Value:
    s = _Sums(w)
    x = w.value(c["self"], F64)
    left, right, angle = _reflected(s, x)
    result = _polygamma(s, 0, right)
    mirrored = s.op(
        "sub", result, s.op("div", s.op("mul", s.op("sin", s.op("add", angle, math.pi / 2)), math.pi), s.op("sin", angle))
    )
    pole = w.op("logical_and", s.op("less", x, 0.0), s.op("equal", angle, 0.0))
    return w.cast(s.where(pole, math.nan, s.where(left, mirrored, result)), c.dtype)


@aten("polygamma.default", "special_polygamma.default")
def polygamma(c: Call, w: CallWriter) -> Value:
    """The first one reflects below 1/2; higher ones have no short form there and are written for positive arguments, which
    torch has alone."""
    s, order = _Sums(w), int(c["n"])
    if order == 0:
        return _digamma(c, w)
    x = s.near(w.value(c["self"], F64), _FAR)
    if order > 1:
        return w.cast(_polygamma(s, order, x), c.dtype)
    left, right, angle = _reflected(s, x)
    result = _polygamma(s, order, right)
    ratio = s.op("div", math.pi, s.op("sin", angle))
    return w.cast(s.where(left, s.op("sub", s.op("mul", ratio, ratio), result), result), c.dtype)


def _polygamma(s: _Sums, order: int, x: Value) -> Value:
    """The derivative of that order of digamma, of positive numbers, by its expansion behind `_SHIFT`."""
    small, low, high = s.moved(x)
    over = s.op("div", 1.0, high)
    if order == 0:
        head = s.op("sub", s.op("log", high), s.op("mul", over, 0.5))
    else:
        lead = [math.factorial(order - 1), math.factorial(order) / 2]
        head = s.op("mul", _power(s, over, order), s.polynomial(over, lead))
    series = [b * _rising(2 * k, order) / (2 * k) for k, b in enumerate(_BERNOULLI, 1)]
    tail = s.op("mul", _power(s, over, order + 2), s.polynomial(s.op("mul", over, over), series))
    steps = [_power(s, s.op("div", 1.0, s.op("add", low, float(step))), order + 1) for step in range(_SHIFT)]
    moved = s.op("mul", s.where(small, s.total(steps), 0.0), float(math.factorial(order)))
    result = s.op("sub", s.op("sub", head, tail) if order == 0 else s.op("sub", s.op("neg", head), tail), moved)
    return result if order == 0 or order % 2 == 0 else s.op("neg", result)


def _rising(start: int, count: int) -> int:
    return math.prod(range(start, start + count))


def _power(s: _Sums, x: Value, exponent: int) -> Value:
    result = x
    for _ in range(exponent - 1):
        result = s.op("mul", result, x)
    return result


# --- the error function's tails -----------------------------------------------------------------------------------------------

_REACH = 26.0
"""Behind it erfc is next to nothing, and three terms of its expansion give erfcx to the last bits of float32."""


@cache
def _tail() -> tuple[float, ...]:
    """Coefficients of `log(erfc(z) exp(z^2) / t)` over `t = 2 / (2 + z)`, which is smooth from z = 0 to `_REACH`: a polynomial in the t
    that is stretched to [-1, 1], fitted at Chebyshev's points to 1e-13."""
    points = np.cos(np.pi * (np.arange(400) + 0.5) / 400)
    t = (points + 1) / 2 * (1 - _lowest()) + _lowest()
    z = 2 / t - 2
    values = [math.log(math.erfc(each)) + each * each for each in z] - np.log(t)
    return tuple(map(float, chebyshev.cheb2poly(chebyshev.chebfit(points, values, 20))))


def _lowest() -> float:
    return 2 / (2 + _REACH)


def _log_tail(s: _Sums, z: Value) -> Value:
    """`log(erfcx(z))` of numbers from 0 to `_REACH`."""
    t = s.op("div", 2.0, s.op("add", z, 2.0))
    stretched = s.op("sub", s.op("mul", t, 2 / (1 - _lowest())), (1 + _lowest()) / (1 - _lowest()))
    return s.op("add", s.op("log", t), s.polynomial(stretched, _tail()))


def _complement(s: _Sums, z: Value) -> Value:
    """`erfc` of numbers from 0."""
    near = s.op("minimum", z, _REACH)
    return s.op("exp", s.op("sub", _log_tail(s, near), s.op("mul", near, near)))


@aten("erfc.default", "prims.erfc.default", "special_erfc.default")
def erfc(c: Call, w: CallWriter) -> Value:
    """Of negative numbers `2 - erfc(-x)`; `1 - erf(x)` would lose the tail."""
    s = _Sums(w)
    x = w.value(c["self"], F64)
    tail = _complement(s, s.op("abs", x))
    return w.cast(s.where(s.op("less", x, 0.0), s.op("sub", 2.0, tail), tail), c.dtype)


@aten("prims.erfcx.default", "special_erfcx.default")
def erfcx(c: Call, w: CallWriter) -> Value:
    """`exp(x^2) erfc(x)`; of negative numbers `2 exp(x^2) - erfcx(-x)`."""
    s = _Sums(w)
    x = w.value(c["self"], F64)
    size = s.op("abs", x)
    tail = s.op("exp", _log_tail(s, s.op("minimum", size, _REACH)))
    over = s.op("div", 1.0, s.op("maximum", size, 1.0))
    far = s.op("mul", s.op("mul", over, 1 / math.sqrt(math.pi)), s.polynomial(s.op("mul", over, over), [1.0, -0.5, 0.75]))
    tail = s.where(s.op("less", size, _REACH), tail, far)
    mirrored = s.op("sub", s.op("mul", s.op("exp", s.op("mul", x, x)), 2.0), tail)
    return w.cast(s.where(s.op("less", x, 0.0), mirrored, tail), c.dtype)


@aten("erfinv.default", "prims.erf_inv.default", "special_erfinv.default")
def erfinv(c: Call, w: CallWriter) -> Value:
    s = _Sums(w)
    x = w.value(c["self"], F64)
    return w.cast(s.op("mul", _inverse_tail(s, s.op("sub", 1.0, s.op("abs", x))), s.op("sign", x)), c.dtype)


@aten("prims.ndtri.default", "special_ndtri.default")
def ndtri(c: Call, w: CallWriter) -> Value:
    """`sqrt(2) erfinv(2 p - 1)`, from the nearer end."""
    s = _Sums(w)
    p = w.value(c["self"], F64)
    end = s.op("mul", s.op("minimum", p, s.op("sub", 1.0, p)), 2.0)
    side = s.op("mul", s.op("sign", s.op("sub", p, 0.5)), math.sqrt(2.0))
    return w.cast(s.op("mul", _inverse_tail(s, end), side), c.dtype)


def _inverse_tail(s: _Sums, q: Value) -> Value:
    """The z of at least 0 whose erfc is q, for q up to 1: Newton's steps on `log(erfc(z)) = log(q)`, from a z that is right to a
    hundredth. Infinite at 0, NaN below."""
    inner = s.op("maximum", q, 1e-300)
    log_q = s.op("log", inner)
    both = s.op("add", log_q, s.op("log", s.op("sub", 2.0, inner)))  # log(1 - erf(z)^2)
    a = 8 * (math.pi - 3) / (3 * math.pi * (4 - math.pi))  # erf(z)^2 is near 1 - exp(-z^2 (4/pi + a z^2) / (1 + a z^2))
    half = s.op("add", s.op("mul", both, 0.5), 2 / (math.pi * a))
    root = s.op("sqrt", s.op("sub", s.op("mul", half, half), s.op("mul", both, 1 / a)))
    z = s.op("sqrt", s.op("maximum", s.op("sub", root, half), 0.0))
    for _ in range(3):
        log_tail = _log_tail(s, z)
        error = s.op("sub", s.op("sub", log_tail, s.op("mul", z, z)), log_q)
        z = s.op("add", z, s.op("mul", s.op("mul", error, math.sqrt(math.pi) / 2), s.op("exp", log_tail)))
        z = s.op("maximum", z, 0.0)
    z = s.where(s.op("equal", q, 0.0), math.inf, z)
    return s.where(s.op("less", q, 0.0), math.nan, z)


@aten("signbit.default", "prims.signbit.default")
def signbit(c: Call, w: CallWriter) -> Value:
    """Of zeros too: what divides by -0 is -inf. (Of a NaN false: its sign is no number's.)"""
    return _signbit(w, w.value(c["self"]))


@aten("copysign.Tensor", "copysign.Scalar")
def copysign(c: Call, w: CallWriter) -> Value:
    size = w.op("abs", w.value(c["self"], c.dtype))
    return w.op("where", _signbit(w, w.value(c["other"], c.dtype)), w.op("neg", size), size)


def _signbit(w: CallWriter, x: Value) -> Value:
    if x.type.dtype is DType.BOOL:
        return w.expand(w.const(False, DType.BOOL), shape(x))
    if not x.type.dtype.is_float:
        return w.op("less", x, w.const(0, x.type.dtype))
    zero, one = w.const(0.0, x.type.dtype), w.const(1.0, x.type.dtype)
    below = w.op("less", w.op("div", one, x), zero)
    return w.op("logical_or", w.op("less", x, zero), w.op("logical_and", w.op("equal", x, zero), below))
