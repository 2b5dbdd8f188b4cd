"""Element-wise aten operations: functions of one tensor, arithmetic with torch's promotion, comparisons, logic, where."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from hqc.backends.onnx.aten import bits
from hqc.backends.onnx.aten.calls import Call, Tensor, promoted
from hqc.backends.onnx.aten.writer import AtenEmitter, CallWriter, NoFormError, aten
from hqc.ir import DType, Value

F32 = DType.FLOAT32


# --- functions of one tensor -------------------------------------------------------------------------------------------------


def _unary(op: str, **fixed: Any) -> AtenEmitter:
    """An IR operation; integers are computed in the result's type."""
    return lambda c, w: w.op(op, w.value(c["self"], c.dtype), **fixed)


_IR_UNARY = {
    "abs": "abs", "atan": "atan", "ceil": "ceil", "cos": "cos", "erf": "erf", "exp": "exp", "floor": "floor", "hardsigmoid":
    "hardsigmoid", "hardswish": "hardswish", "log": "log", "mish": "mish", "neg": "neg", "reciprocal": "reciprocal", "relu": "relu",
    "round": "round", "rsqrt": "rsqrt", "sigmoid": "sigmoid", "silu": "silu", "sin": "sin", "sqrt": "sqrt", "tan": "tan", "tanh":
    "tanh", "sign": "sign", "sgn": "sign",
}  # fmt: skip
for _name, _op in _IR_UNARY.items():
    aten(f"{_name}.default")(_unary(_op))


@aten("clone.default", "detach.default", "alias.default", "lift_fresh_copy.default", "contiguous.default",
      "resolve_conj.default", "resolve_neg.default")  # fmt: skip
def same(c: Call, w: CallWriter) -> Value:
    return w.value(c["self"])


@aten("dropout.default", "feature_dropout.default", "alpha_dropout.default", "feature_alpha_dropout.default")
def dropout(c: Call, w: CallWriter) -> Value:
    if c["train"] and c["p"]:
        raise NoFormError(f"aten.{c.target} draws random numbers when it is asked to train")
    return w.value(c["input"])


@aten("_to_copy.default", "to.dtype", "to.dtype_layout", "to.device", "to.other", "type_as.default")
def to_type(c: Call, w: CallWriter) -> Value:
    return w.op("cast", w.value(c["self"]), dtype=c.dtype)


def _direct(op_type: str) -> AtenEmitter:
    """An ONNX operation that takes and gives floats (float32 only in onnxruntime)."""

    def emit(c: Call, w: CallWriter) -> Value:
        x = w.value(c["self"], F32)
        return w.cast(w.onnx(op_type, x, type=c.type.with_dtype(F32)), c.dtype)

    return emit


for _name, _op in {"asin": "Asin", "acos": "Acos", "sinh": "Sinh", "cosh": "Cosh", "asinh": "Asinh", "acosh": "Acosh",
                   "atanh": "Atanh"}.items():  # fmt: skip
    aten(f"{_name}.default")(_direct(_op))


def _scaled_log(base: float) -> AtenEmitter:
    def emit(c: Call, w: CallWriter) -> Value:
        return w.op("mul", w.op("log", w.value(c["self"], c.dtype)), w.const(1.0 / math.log(base), c.dtype))

    return emit


aten("log2.default")(_scaled_log(2.0))
aten("log10.default")(_scaled_log(10.0))


@aten("log1p.default")
def log1p(c: Call, w: CallWriter) -> Value:
    """In float64 where float32 would lose what makes log1p worth calling; Log has a float64 kernel."""
    x = w.value(c["self"], DType.FLOAT64)
    return w.cast(w.op("log", w.op("add", x, w.const(1.0, DType.FLOAT64))), c.dtype)


@aten("expm1.default")
def expm1(c: Call, w: CallWriter) -> Value:
    x = w.value(c["self"], DType.FLOAT64)
    return w.cast(w.op("sub", w.op("exp", x), w.const(1.0, DType.FLOAT64)), c.dtype)


@aten("exp2.default")
def exp2(c: Call, w: CallWriter) -> Value:
    return w.op("exp", w.op("mul", w.value(c["self"], c.dtype), w.const(math.log(2.0), c.dtype)))


def truncated(w: CallWriter, x: Value) -> Value:
    """Towards zero."""
    return w.op("mul", w.op("sign", x), w.op("floor", w.op("abs", x)))


@aten("trunc.default")
def trunc(c: Call, w: CallWriter) -> Value:
    x = w.value(c["self"])
    return truncated(w, x) if c.dtype.is_float else x


@aten("frac.default")
def frac(c: Call, w: CallWriter) -> Value:
    x = w.value(c["self"])
    return w.op("sub", x, truncated(w, x))


@aten("gelu.default")
def gelu(c: Call, w: CallWriter) -> Value:
    return w.op("gelu", w.value(c["self"]), approximate=c["approximate"])


@aten("elu.default")
def elu(c: Call, w: CallWriter) -> Value:
    """`scale * (x, or alpha * (exp(x * input_scale) - 1) below 0)`: elu, selu and celu in one."""
    x = w.value(c["self"])
    alpha, scale, inner = float(c["alpha"]), float(c["scale"]), float(c["input_scale"])
    negative = w.op("exp", w.op("mul", w.op("clamp", x, max=0.0), w.const(inner, c.dtype)))
    negative = w.op("mul", w.op("sub", negative, w.const(1.0, c.dtype)), w.const(alpha, c.dtype))
    return w.op("mul", w.op("add", w.op("relu", x), negative), w.const(scale, c.dtype))


@aten("celu.default")
def celu(c: Call, w: CallWriter) -> Value:
    """ONNX's Celu is opset 12."""
    x, alpha = w.value(c["self"]), float(c["alpha"])
    negative = w.op("exp", w.op("mul", w.op("clamp", x, max=0.0), w.const(1.0 / alpha, c.dtype)))
    negative = w.op("mul", w.op("sub", negative, w.const(1.0, c.dtype)), w.const(alpha, c.dtype))
    return w.op("add", w.op("relu", x), negative)


@aten("leaky_relu.default")
def leaky_relu(c: Call, w: CallWriter) -> Value:
    return w.op("leaky_relu", w.value(c["self"]), slope=float(c["negative_slope"]))


@aten("rrelu.default")
def rrelu(c: Call, w: CallWriter) -> Value:
    if c["training"]:
        raise NoFormError("aten.rrelu draws random slopes when it is asked to train")
    return w.op("leaky_relu", w.value(c["self"]), slope=(float(c["lower"]) + float(c["upper"])) / 2)


@aten("softplus.default")
def softplus(c: Call, w: CallWriter) -> Value:
    x, limit = w.value(c["self"]), w.const(float(c["threshold"]) / float(c["beta"]), c.dtype)
    return w.op("where", w.op("greater", x, limit), x, w.op("softplus", x, beta=float(c["beta"])))


@aten("log_sigmoid.default", "log_sigmoid_forward.default")
def log_sigmoid(c: Call, w: CallWriter) -> list[Value]:
    return [w.op("neg", w.op("softplus", w.op("neg", w.value(c["self"]))))]


@aten("glu.default")
def glu(c: Call, w: CallWriter) -> Value:
    x = w.value(c["self"])
    axis = c["dim"] % len(c.shape)
    size = c.shape[axis]
    first, second = w.slice(x, axis, 0, size), w.slice(x, axis, size, 2 * size)
    return w.op("mul", first, w.op("sigmoid", second))


def _limit(w: CallWriter, x: Value, bound: Any, op: str) -> Value:
    return x if bound is None else w.op(op, x, w.value(bound, x.type.dtype))


@aten("clamp.default", "clamp.Tensor", "clip.default", "clamp_min.default", "clamp_max.default", "clamp_min.Tensor",
      "clamp_max.Tensor", "hardtanh.default")  # fmt: skip
def clamp(c: Call, w: CallWriter) -> Value:
    x = w.value(c["self"], c.dtype)
    low, high = c.get("min", c.get("min_val")), c.get("max", c.get("max_val"))
    return _limit(w, _limit(w, x, low, "maximum"), high, "minimum")


@aten("isnan.default")
def isnan(c: Call, w: CallWriter) -> Value:
    x = w.value(c["self"])
    return w.op("logical_not", w.op("equal", x, x))


@aten("isinf.default")
def isinf(c: Call, w: CallWriter) -> Value:
    x = w.value(c["self"])
    return w.op("equal", w.op("abs", x), w.const(math.inf, x.type.dtype)) if x.type.dtype.is_float else _never(c, w)


def _never(c: Call, w: CallWriter) -> Value:
    return w.expand(w.const(False, DType.BOOL), c.shape)


@aten("nan_to_num.default")
def nan_to_num(c: Call, w: CallWriter) -> Value:
    x = w.value(c["self"])
    if not c.dtype.is_float:
        return x
    reach = 3.4028234663852886e38 if c.dtype is F32 else 1.7976931348623157e308
    for test, given, otherwise in (("less", "neginf", -reach), ("greater", "posinf", reach)):
        limit = w.const(-math.inf if given == "neginf" else math.inf, c.dtype)
        fill = w.const(otherwise if c[given] is None else float(c[given]), c.dtype)
        x = w.op("where", w.op("equal", x, limit), fill, x)
        del test
    return w.op("where", w.op("equal", x, x), x, w.const(float(c["nan"] or 0.0), c.dtype))


# --- arithmetic ---------------------------------------------------------------------------------------------------------------


def _other(c: Call, w: CallWriter, dtype: DType) -> tuple[Value, Value]:
    return w.value(c["self"], dtype), w.value(c["other"], dtype)


def _sum(op: str, *, reverse: bool = False) -> AtenEmitter:
    """`self +- alpha * other`."""

    def emit(c: Call, w: CallWriter) -> Value:
        a, b = _other(c, w, c.dtype)
        a, b = (b, a) if reverse else (a, b)
        alpha = c.get("alpha", 1)
        if alpha != 1:
            b = w.op("mul", b, w.const(alpha, c.dtype))
        return w.op(op, a, b) if c.dtype is not DType.BOOL else w.op("logical_or", a, b)

    return emit


aten("add.Tensor", "add.Scalar")(_sum("add"))
aten("sub.Tensor", "sub.Scalar")(_sum("sub"))
aten("rsub.Tensor", "rsub.Scalar")(_sum("sub", reverse=True))


@aten("mul.Tensor", "mul.Scalar", "multiply.Tensor")
def mul(c: Call, w: CallWriter) -> Value:
    a, b = _other(c, w, c.dtype)
    return w.op("logical_and" if c.dtype is DType.BOOL else "mul", a, b)


@aten("div.Tensor", "div.Scalar", "true_divide.Tensor", "div.Tensor_mode", "div.Scalar_mode", "floor_divide.default")
def div(c: Call, w: CallWriter) -> Value:
    mode = "floor" if c.target.startswith("floor_divide") else c.get("rounding_mode")
    if c.dtype.is_float:
        quotient = w.op("div", *_other(c, w, c.dtype))
        return quotient if mode is None else w.op("floor", quotient) if mode == "floor" else truncated(w, quotient)
    wide = w.op("div", *_other(c, w, DType.FLOAT64))  # ONNX's integer division truncates, and so would a cast
    return w.cast(w.op("floor", wide) if mode == "floor" else truncated(w, wide), c.dtype)


@aten("remainder.Tensor", "remainder.Scalar", "fmod.Tensor", "fmod.Scalar")
def remainder(c: Call, w: CallWriter) -> Value:
    """`remainder` has the sign of the divisor, `fmod` that of the dividend."""
    towards_zero = c.target.startswith("fmod")
    dtype = DType.INT64 if not c.dtype.is_float else c.dtype
    a, b = _other(c, w, dtype)
    rest = w.onnx("Mod", *_broadcast(w, a, b, c), type=c.type.with_dtype(dtype), fmod=1)
    if not towards_zero:
        zero = w.const(0, dtype)
        differs = w.op("less", w.op("mul", w.op("sign", rest) if dtype.is_float else rest, b), zero)
        rest = w.op("where", differs, w.op("add", rest, b), rest)
    return w.cast(rest, c.dtype)


def _broadcast(w: CallWriter, a: Value, b: Value, c: Call) -> tuple[Value, Value]:
    return w.expand(a, c.shape), w.expand(b, c.shape)


@aten("pow.Tensor_Scalar", "pow.Tensor_Tensor", "pow.Scalar")
def power(c: Call, w: CallWriter) -> Value:
    if c.target == "pow.Tensor_Scalar" and c["exponent"] == 2:
        x = w.value(c["self"], c.dtype)
        return w.op("mul", x, x)
    return w.op("pow", w.value(c["self"], c.dtype), w.value(c["exponent"], c.dtype))


@aten("atan2.default")
def atan2(c: Call, w: CallWriter) -> Value:
    """By quadrants: `atan(y / x)` and half a turn where x is negative."""
    y, x = _other(c, w, c.dtype)
    zero, pi = w.const(0.0, c.dtype), w.const(math.pi, c.dtype)
    below = w.op("less", y, zero)
    turn = w.op("where", below, w.op("neg", pi), pi)
    plain = w.op("atan", w.op("div", y, w.op("where", w.op("equal", x, zero), w.const(1.0, c.dtype), x)))
    result = w.op("where", w.op("less", x, zero), w.op("add", plain, turn), plain)
    half = w.op("mul", w.op("sign", y), w.const(math.pi / 2, c.dtype))
    return w.op("where", w.op("equal", x, zero), half, result)


@aten("maximum.default", "max.other", "fmax.default")
def maximum(c: Call, w: CallWriter) -> Value:
    return w.op("maximum", *_other(c, w, c.dtype))


@aten("minimum.default", "min.other", "fmin.default")
def minimum(c: Call, w: CallWriter) -> Value:
    return w.op("minimum", *_other(c, w, c.dtype))


@aten("hypot.default")
def hypot(c: Call, w: CallWriter) -> Value:
    a, b = _other(c, w, c.dtype)
    return w.op("sqrt", w.op("add", w.op("mul", a, a), w.op("mul", b, b)))


@aten("addcmul.default", "addcdiv.default")
def addc(c: Call, w: CallWriter) -> Value:
    a, b = w.value(c["tensor1"], c.dtype), w.value(c["tensor2"], c.dtype)
    step = w.op("mul" if c.target.startswith("addcmul") else "div", a, b)
    if c["value"] != 1:
        step = w.op("mul", step, w.const(c["value"], c.dtype))
    return w.op("add", w.value(c["self"], c.dtype), step)


@aten("lerp.Scalar", "lerp.Tensor")
def lerp(c: Call, w: CallWriter) -> Value:
    start, end = w.value(c["self"]), w.value(c["end"])
    return w.op("add", start, w.op("mul", w.op("sub", end, start), w.value(c["weight"], c.dtype)))


# --- comparisons and logic --------------------------------------------------------------------------------------------------


def common_type(a: Any, b: Any) -> DType:
    """In which type torch compares a tensor with a tensor or a number."""
    types = [item.type.dtype for item in (a, b) if isinstance(item, Tensor)]
    if any(isinstance(item, float) for item in (a, b)) and not any(dtype.is_float for dtype in types):
        return F32
    return promoted(*types)


def _comparison(op: str, *, negated: bool = False) -> AtenEmitter:
    def emit(c: Call, w: CallWriter) -> Value:
        dtype = common_type(c["self"], c["other"])
        dtype = DType.INT32 if dtype is DType.BOOL else dtype
        result = w.op(op, *_other(c, w, dtype))
        return w.op("logical_not", result) if negated else result

    return emit


for _name, (_op, _negated) in {"eq": ("equal", False), "ne": ("equal", True), "lt": ("less", False), "gt": ("greater", False),
                               "le": ("less_equal", False), "ge": ("greater_equal", False)}.items():  # fmt: skip
    aten(f"{_name}.Tensor", f"{_name}.Scalar")(_comparison(_op, negated=_negated))


def _truth(w: CallWriter, item: Any) -> Value:
    """Non-zero."""
    value = w.value(item)
    return w.cast(value, DType.BOOL)


def _logic(op_type: str) -> Callable[[Call, CallWriter], Value]:
    def emit(c: Call, w: CallWriter) -> Value:
        if c.dtype is not DType.BOOL:
            return bits.emit(c, w, op_type)
        operands = [_truth(w, c[name]) for name in ("self", "other") if name in c.arguments]
        return w.onnx(op_type, *operands, type=c.type)

    return emit


for _name, _op in {"and": "And", "or": "Or", "xor": "Xor"}.items():
    aten(f"logical_{_name}.default", f"bitwise_{_name}.Tensor", f"bitwise_{_name}.Scalar",
         f"bitwise_{_name}.Scalar_Tensor", f"__{_name}__.Tensor")(_logic(_op))  # fmt: skip
aten("logical_not.default", "bitwise_not.default")(_logic("Not"))


@aten("where.self", "where.ScalarOther", "where.ScalarSelf", "where.Scalar")
def where(c: Call, w: CallWriter) -> Value:
    return w.op("where", _truth(w, c["condition"]), w.value(c["self"], c.dtype), w.value(c["other"], c.dtype))


@aten("masked_fill.Scalar", "masked_fill.Tensor")
def masked_fill(c: Call, w: CallWriter) -> Value:
    result = w.op("where", _truth(w, c["mask"]), w.value(c["value"], c.dtype), w.value(c["self"]))
    return w.expand(result, c.shape)
