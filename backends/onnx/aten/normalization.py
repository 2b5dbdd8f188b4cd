"""Normalizations that stay single calls in a trace."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hqc.backends.onnx.aten.calls import Call
from hqc.backends.onnx.aten.reduce import moments
from hqc.backends.onnx.aten.writer import CallWriter, aten, shape
from hqc.ir import Value


def _affine(w: CallWriter, x: Value, weight: Value | None, bias: Value | None, placed: Sequence[int]) -> Value:
    if weight is not None:
        x = w.op("mul", x, w.reshape(weight, placed))
    return x if bias is None else w.op("add", x, w.reshape(bias, placed))


def _optional(c: Call, w: CallWriter, name: str) -> Value | None:
    return None if c.get(name) is None else w.value(c[name])


def _normalized(w: CallWriter, x: Value, axes: Sequence[int], eps: float) -> Value:
    """`(x - mean) / sqrt(var + eps)` with the variance divided by n."""
    mean, variance = moments(w, x, axes, 0.0, keepdims=True)
    return w.op("div", w.op("sub", x, mean), w.op("sqrt", w.op("add", variance, w.const(eps, x.type.dtype))))


@aten("batch_norm.default", "_native_batch_norm_legit_no_training.default", "native_batch_norm.default",
      "_native_batch_norm_legit.no_stats", "instance_norm.default")  # fmt: skip
def batch_norm(c: Call, w: CallWriter) -> list[Value | None]:
    """With running statistics, or with those of the batch (of each sample for instance norm)."""
    x = w.value(c["input"])
    rank = len(shape(x))
    placed = [shape(x)[1]] + [1] * (rank - 2) if rank > 1 else [1]
    eps = float(c["eps"])
    own = bool(c.get("training", c.get("use_input_stats", False))) or c.get("running_mean") is None
    if own:
        start = 2 if c.target.startswith("instance") else 0
        x = _normalized(w, x, [axis for axis in range(start, rank) if axis != 1], eps)
    else:
        mean, variance = (w.reshape(w.value(c[name]), placed) for name in ("running_mean", "running_var"))
        x = w.op("div", w.op("sub", x, mean), w.op("sqrt", w.op("add", variance, w.const(eps, c.dtype))))
    return [_affine(w, x, _optional(c, w, "weight"), _optional(c, w, "bias"), placed)]


@aten("layer_norm.default", "native_layer_norm.default")
def layer_norm(c: Call, w: CallWriter) -> list[Value | None]:
    x = w.value(c["input"])
    count = len(c["normalized_shape"])
    axes = range(len(shape(x)) - count, len(shape(x)))
    result = _normalized(w, x, axes, float(c["eps"]))
    return [_affine(w, result, _optional(c, w, "weight"), _optional(c, w, "bias"), list(c["normalized_shape"]))]


@aten("group_norm.default", "native_group_norm.default")
def group_norm(c: Call, w: CallWriter) -> list[Value | None]:
    x = w.value(c["input"])
    groups = c.get("num_groups", c.get("group"))
    grouped = w.reshape(x, [shape(x)[0], groups, math.prod(shape(x)[1:]) // groups])
    result = w.reshape(_normalized(w, grouped, [2], float(c["eps"])), shape(x))
    placed = [shape(x)[1]] + [1] * (len(shape(x)) - 2)
    return [_affine(w, result, _optional(c, w, "weight"), _optional(c, w, "bias"), placed)]


@aten("rms_norm.default", "_fused_rms_norm.default")
def rms_norm(c: Call, w: CallWriter) -> list[Value | None]:
    x = w.value(c["input"])
    axes = tuple(range(len(shape(x)) - len(c["normalized_shape"]), len(shape(x))))
    eps = c["eps"] if c["eps"] is not None else 1.1920928955078125e-07
    square = w.op("mean", w.op("mul", x, x), axes=axes, keepdims=True)
    result = w.op("mul", x, w.op("rsqrt", w.op("add", square, w.const(float(eps), c.dtype))))
    return [_affine(w, result, _optional(c, w, "weight"), None, list(c["normalized_shape"]))]


@aten("renorm.default")
def renorm(c: Call, w: CallWriter) -> Value:
    """Rows along `dim` whose p-norm exceeds the limit are scaled down to it."""
    x, rank, p = w.value(c["self"]), len(c.shape), float(c["p"])
    axes = tuple(axis for axis in range(rank) if axis != c["dim"] % rank)
    total = w.op("sum", w.op("pow_scalar", w.op("abs", x), exponent=p), axes=axes, keepdims=True)
    norm = w.op("pow_scalar", total, exponent=1.0 / p)
    limit = w.const(float(c["maxnorm"]), c.dtype)
    factor = w.op("div", limit, w.op("add", norm, w.const(1e-7, c.dtype)))
    return w.op("where", w.op("greater", norm, limit), w.op("mul", x, factor), x)
