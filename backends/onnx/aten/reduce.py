"""Reductions, sorting, cumulative sums and softmax."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from hqc.backends.onnx.aten.calls import Call
from hqc.backends.onnx.aten.writer import AtenEmitter, CallWriter, NoFormError, aten, axes_of, axis_of, shape
from hqc.ir import DType, TensorType, Value

F32, F64, I64 = DType.FLOAT32, DType.FLOAT64, DType.INT64


def reduced_shape(given: Sequence[int], axes: Sequence[int], keepdims: bool) -> tuple[int, ...]:
    """Shape after a reduction over `axes`."""
    if keepdims:
        return tuple(1 if axis in axes else size for axis, size in enumerate(given))
    return tuple(size for axis, size in enumerate(given) if axis not in axes)


def _dims(c: Call, rank: int) -> tuple[int, ...]:
    return axes_of(c.get("dim"), rank)


def _reduction(op: str) -> AtenEmitter:
    def emit(c: Call, w: CallWriter) -> Value:
        x = w.value(c["self"], c.dtype)
        rank = len(shape(x))
        if rank == 0:
            return x
        return w.op(op, x, axes=_dims(c, rank), keepdims=bool(c.get("keepdim", False)))

    return emit


aten("sum.default", "sum.dim_IntList")(_reduction("sum"))
aten("mean.default", "mean.dim")(_reduction("mean"))
aten("amax.default", "max.default")(_reduction("reduce_max"))
aten("amin.default", "min.default")(_reduction("reduce_min"))


def _extremum(arg: str, reduce: str) -> AtenEmitter:
    """`max(dim)`: values and the index of the first of equals."""

    def emit(c: Call, w: CallWriter) -> list[Value]:
        x, keepdims = w.value(c["self"]), bool(c["keepdim"])
        if not shape(x):
            return [x, w.const(0, I64)]
        axis = axis_of(c["dim"], len(shape(x)))
        values = w.op(reduce, x, axes=(axis,), keepdims=keepdims)
        return [values, w.op(arg, x, axis=axis, keepdims=keepdims)]

    return emit


aten("max.dim")(_extremum("argmax", "reduce_max"))
aten("min.dim")(_extremum("argmin", "reduce_min"))


def _arg(op: str) -> AtenEmitter:
    def emit(c: Call, w: CallWriter) -> Value:
        x, keepdims = w.value(c["self"]), bool(c["keepdim"])
        rank = len(shape(x))
        if rank == 0:
            return w.const(0, I64)
        if c["dim"] is None:
            flat = w.reshape(x, [math.prod(shape(x))])
            return w.reshape(w.op(op, flat, axis=0), c.shape)
        return w.op(op, x, axis=axis_of(c["dim"], rank), keepdims=keepdims)

    return emit


aten("argmax.default")(_arg("argmax"))
aten("argmin.default")(_arg("argmin"))


@aten("prod.default", "prod.dim_int")
def prod(c: Call, w: CallWriter) -> Value:
    x = w.value(c["self"], c.dtype)
    rank = len(shape(x))
    axes, keep = _dims(c, rank), bool(c.get("keepdim", False))
    wide = w.cast(x, c.dtype if c.dtype in (F32, I64) else F32)
    if not axes:
        return x
    return w.cast(
        w.onnx("ReduceProd", wide, type=c.type.with_dtype(wide.type.dtype), axes=list(axes), keepdims=int(keep)), c.dtype
    )


@aten("any.default", "any.dim", "any.dims", "all.default", "all.dim", "all.dims")
def truth(c: Call, w: CallWriter) -> Value:
    x = w.cast(w.cast(w.value(c["self"]), DType.BOOL), DType.INT32)
    if shape(x):
        op = "reduce_max" if c.target.startswith("any") else "reduce_min"
        x = w.op(op, x, axes=_dims(c, len(shape(x))), keepdims=bool(c.get("keepdim", False)))
    return w.cast(x, c.dtype)


@aten("count_nonzero.default", "count_nonzero.dim_IntList")
def count_nonzero(c: Call, w: CallWriter) -> Value:
    x = w.cast(w.cast(w.value(c["self"]), DType.BOOL), I64)
    return w.op("sum", x, axes=_dims(c, len(shape(x)))) if shape(x) else x


# --- moments and norms --------------------------------------------------------------------------------------------------------


def moments(w: CallWriter, x: Value, axes: Sequence[int], correction: float, keepdims: bool) -> tuple[Value, Value]:
    """Mean and variance (divided by `n - correction`) over `axes`."""
    count = math.prod(shape(x)[axis] for axis in axes)
    mean = w.op("mean", x, axes=tuple(axes), keepdims=True)
    centred = w.op("sub", x, mean)
    total = w.op("sum", w.op("mul", centred, centred), axes=tuple(axes), keepdims=keepdims)
    variance = w.op("div", total, w.const(max(count - correction, 0.0), x.type.dtype))
    return (mean if keepdims else w.reshape(mean, shape(variance))), variance


@aten("var.correction", "var.dim", "var.default", "std.correction", "std.dim", "std.default", "var_mean.correction",
      "std_mean.correction")  # fmt: skip
def variance(c: Call, w: CallWriter) -> list[Value]:
    x = w.value(c["self"])
    correction = c.get("correction")
    if correction is None:
        correction = 0.0 if c.get("unbiased") is False else 1.0
    mean, var = moments(w, x, _dims(c, len(shape(x))), float(correction), bool(c.get("keepdim", False)))
    first = w.op("sqrt", var) if c.target.startswith("std") else var
    return [first, mean][: len(c.results)]


@aten("linalg_vector_norm.default", "norm.ScalarOpt_dim", "norm.Scalar", "norm.ScalarOpt_dim_dtype")
def vector_norm(c: Call, w: CallWriter) -> Value:
    x = w.value(c["self"], c.dtype)
    order = c.get("ord", c.get("p"))
    order = 2.0 if order is None else float(order)
    axes, keep = _dims(c, len(shape(x))), bool(c.get("keepdim", False))
    size = w.op("abs", x)
    if not shape(x):
        return size
    if math.isinf(order):
        return w.op("reduce_max" if order > 0 else "reduce_min", size, axes=axes, keepdims=keep)
    if order == 0:
        return w.op("sum", w.cast(w.cast(size, DType.BOOL), c.dtype), axes=axes, keepdims=keep)
    if order == 1:
        return w.op("sum", size, axes=axes, keepdims=keep)
    if order == 2:
        return w.op("sqrt", w.op("sum", w.op("mul", x, x), axes=axes, keepdims=keep))
    total = w.op("sum", w.op("pow_scalar", size, exponent=order), axes=axes, keepdims=keep)
    return w.op("pow_scalar", total, exponent=1.0 / order)


@aten("logsumexp.default")
def logsumexp(c: Call, w: CallWriter) -> Value:
    """Shifted by the maximum, so that nothing overflows."""
    x = w.value(c["self"], c.dtype)
    if not shape(x):
        return x
    axes = _dims(c, len(shape(x)))
    top = w.op("reduce_max", x, axes=axes, keepdims=True)
    total = w.op("sum", w.op("exp", w.op("sub", x, top)), axes=axes, keepdims=True)
    return w.reshape(w.op("add", w.op("log", total), top), c.shape)


@aten("softmax.int", "_softmax.default", "log_softmax.int", "_log_softmax.default", "_safe_softmax.default")
def softmax(c: Call, w: CallWriter) -> Value:
    x = w.value(c["self"], c.dtype)
    rank = len(shape(x))
    if rank == 0:
        return w.const(0.0 if "log" in c.target else 1.0, c.dtype)
    return w.op("log_softmax" if "log" in c.target else "softmax", x, axis=axis_of(c["dim"], rank))


# --- order -------------------------------------------------------------------------------------------------------------------


def top_k(w: CallWriter, x: Value, axis: int, count: int, largest: bool) -> tuple[Value, Value]:
    """The `count` largest or smallest elements, sorted, with their positions; the first of equals comes first."""
    result = tuple(count if i == axis else size for i, size in enumerate(shape(x)))
    wide = x if x.type.dtype in (F32, DType.FLOAT64, I64) else w.cast(x, F32 if x.type.dtype.is_float else I64)
    values, indices = w.onnx_many(
        "TopK",
        wide,
        w.ints([count]),
        types=[TensorType(wide.type.dtype, result), TensorType(I64, result)],
        axis=axis,
        largest=int(largest),
        sorted=1,
    )
    return w.cast(values, x.type.dtype), indices


@aten("topk.default")
def topk(c: Call, w: CallWriter) -> list[Value]:
    x = w.value(c["self"])
    if not shape(x):
        return [x, w.const(0, I64)]
    return list(top_k(w, x, axis_of(c["dim"], len(shape(x))), c["k"], bool(c["largest"])))


@aten("sort.default", "sort.stable", "argsort.default", "argsort.stable", "msort.default")
def sort(c: Call, w: CallWriter) -> list[Value]:
    x = w.value(c["self"])
    if not shape(x):
        result = [x, w.const(0, I64)]
    else:
        axis = axis_of(c.get("dim", 0), len(shape(x)))
        result = list(top_k(w, x, axis, shape(x)[axis], bool(c.get("descending", False))))
    return result[1:] if c.target.startswith("argsort") else result


@aten("kthvalue.default", "median.dim", "nanmedian.dim")
def kth(c: Call, w: CallWriter) -> list[Value]:
    """The k-th smallest element along an axis; the median is the lower one."""
    x = w.value(c["self"])
    if not shape(x):  # its only element
        return [x, w.const(0, I64)]
    axis = axis_of(c["dim"], len(shape(x)))
    if c.target.startswith("nanmedian") and c.dtype.is_float:
        return [w.reshape(item, c.shape) for item in _nan_median(w, x, axis)]
    k = c.get("k", (shape(x)[axis] + 1) // 2)
    ordered = top_k(w, x, axis, k, largest=False)
    value, place = (w.slice(item, axis, k - 1, k) for item in ordered)
    if c.target.startswith("median") and c.dtype.is_float:
        value, place = _nan_where_any(w, x, axis, value, place)
    return [w.reshape(item, c.shape) for item in (value, place)]


def _nan_where_any(w: CallWriter, x: Value, axis: int, value: Value, place: Value) -> tuple[Value, Value]:
    """`value` and its place, but NaN and the place of the first one where there is any: an order with NaN in it is undefined."""
    missing = w.cast(w.onnx("IsNaN", x, type=x.type.with_dtype(DType.BOOL)), F32)
    found = w.cast(w.op("reduce_max", missing, axes=(axis,), keepdims=True), DType.BOOL)
    first = w.op("argmax", missing, axis=axis, keepdims=True)
    return w.op("where", found, w.const(np.nan, x.type.dtype), value), w.op("where", found, first, place)


def _nan_median(w: CallWriter, x: Value, axis: int) -> tuple[Value, Value]:
    """The lower median of what is not NaN, with its place: how many are not says where it is when NaN come last. NaN of nothing else."""
    missing = w.onnx("IsNaN", x, type=x.type.with_dtype(DType.BOOL))
    present = w.op("where", missing, w.const(np.inf, x.type.dtype), x)
    ordered, places = top_k(w, present, axis, shape(x)[axis], largest=False)
    count = w.op("sum", w.cast(w.op("logical_not", missing), F32), axes=(axis,), keepdims=True)
    half = w.op("floor", w.op("mul", w.op("sub", count, w.const(1.0, F32)), w.const(0.5, F32)))
    middle = w.cast(w.op("relu", half), I64)
    value = w.onnx("GatherElements", ordered, middle, axis=axis, type=count.type.with_dtype(x.type.dtype))
    place = w.onnx("GatherElements", places, middle, axis=axis, type=middle.type)
    return w.op("where", w.op("equal", count, w.const(0.0, F32)), w.const(np.nan, x.type.dtype), value), place


@aten("nanmedian.default")
def nan_median(c: Call, w: CallWriter) -> Value:
    x = w.reshape(w.value(c["self"]), [math.prod(c["self"].type.shape or ())])
    return w.reshape(_nan_median(w, x, 0)[0], [])


@aten("median.default")
def median(c: Call, w: CallWriter) -> Value:
    x = w.value(c["self"])
    size = math.prod(shape(x))
    flat = w.reshape(x, [size])
    ordered = top_k(w, flat, 0, (size + 1) // 2, largest=False)
    value, place = (w.slice(item, 0, (size + 1) // 2 - 1, (size + 1) // 2) for item in ordered)
    if c.dtype.is_float:
        value, _ = _nan_where_any(w, flat, 0, value, place)
    return w.reshape(value, [])


@aten("mode.default")
def mode(c: Call, w: CallWriter) -> list[Value]:
    """The smallest of the most frequent values: of sorted ones that which equals most others first; and where it first stands."""
    x = w.value(c["self"])
    if not shape(x):
        return [x, w.const(0, I64)]
    axis, sizes = axis_of(c["dim"], len(shape(x))), shape(x)
    ordered, _ = top_k(w, x, axis, sizes[axis], largest=False)
    row, column = [*sizes[:axis], 1, *sizes[axis:]], [*sizes[: axis + 1], 1, *sizes[axis + 1 :]]
    equal = w.op("equal", w.reshape(ordered, column), w.reshape(ordered, row))
    often = w.op("sum", w.cast(equal, F32), axes=(axis + 1,), keepdims=False)
    most = w.op("argmax", often, axis=axis, keepdims=True)
    value = w.onnx("GatherElements", ordered, most, axis=axis, type=most.type.with_dtype(x.type.dtype))
    place = w.op("argmax", w.cast(w.op("equal", x, value), F32), axis=axis, keepdims=True)
    return [w.reshape(item, c.shape) for item in (value, place)]


# --- cumulative -----------------------------------------------------------------------------------------------------------------


@aten("cumsum.default")
def cumsum(c: Call, w: CallWriter) -> Value:
    x = w.value(c["self"], c.dtype)
    if not shape(x):
        return x
    wide = w.cast(x, c.dtype if c.dtype in (F32, DType.FLOAT64, DType.INT32, I64) else I64)
    axis = w.const(axis_of(c["dim"], len(shape(x))), I64)
    return w.cast(w.onnx("CumSum", wide, axis, type=wide.type), c.dtype)


def _scan(c: Call, w: CallWriter, step: Any) -> Value:
    """A cumulative operation in log2(n) doubling steps: position i takes in position i - 2^k."""
    x = w.value(c["self"], c.dtype)
    rank = len(shape(x))
    if rank == 0:
        return x
    axis = axis_of(c["dim"], rank)
    size, distance = shape(x)[axis], 1
    while distance < size:
        shifted = w.slice(x, axis, 0, size - distance)
        updated = step(w.slice(x, axis, distance, size), shifted)
        x = w.cat([w.slice(x, axis, 0, distance), updated], axis)
        distance *= 2
    return x


@aten("cumprod.default")
def cumprod(c: Call, w: CallWriter) -> Value:
    return _scan(c, w, lambda a, b: w.op("mul", a, b))


@aten("logcumsumexp.default")
def logcumsumexp(c: Call, w: CallWriter) -> Value:
    def step(a: Value, b: Value) -> Value:
        top = w.op("maximum", a, b)
        total = w.op("add", w.op("exp", w.op("sub", a, top)), w.op("exp", w.op("sub", b, top)))
        return w.op("add", top, w.op("log", total))

    return _scan(c, w, step)


@aten("cummax.default", "cummin.default")
def cumulative_extremum(c: Call, w: CallWriter) -> list[Value]:
    """Values by doubling; the index is the last position whose element equals the running extremum."""
    x = w.value(c["self"])
    if not shape(x):
        return [x, w.const(0, I64)]
    op = "maximum" if c.target.startswith("cummax") else "minimum"
    values = _scan(c, w, lambda a, b: w.op(op, a, b))
    axis, rank = axis_of(c["dim"], len(shape(x))), len(shape(x))
    if x.type.dtype is DType.BOOL:
        raise NoFormError(f"no ONNX form of aten.{c.target} on truth values is known")
    position = np.arange(shape(x)[axis], dtype=np.int64).reshape([-1 if i == axis else 1 for i in range(rank)])
    here = w.expand(w.const(position, I64), shape(x))
    marked = w.op("where", w.op("equal", x, values), here, w.const(0, I64))
    size, distance = shape(x)[axis], 1
    while distance < size:
        updated = w.op("maximum", w.slice(marked, axis, distance, size), w.slice(marked, axis, 0, size - distance))
        marked = w.cat([w.slice(marked, axis, 0, distance), updated], axis)
        distance *= 2
    return [values, marked]


@aten("histc.default")
def histc(c: Call, w: CallWriter) -> Value:
    """Counts in bins of equal width from `min` to `max`, both included; which bin is computed in float64."""
    low, high, bins = float(c["min"]), float(c["max"]), int(c["bins"])
    if low >= high:
        raise NoFormError("aten.histc takes its range from the data where min and max are equal, which has no ONNX form")
    x = w.value(c["self"], F64)
    x = w.reshape(x, [math.prod(shape(x)), 1])
    share = w.op("div", w.op("sub", x, w.const(low, F64)), w.const(high - low, F64))
    place = w.op("floor", w.op("mul", share, w.const(bins, F64)))
    place = w.op("where", w.op("equal", x, w.const(high, F64)), w.const(bins - 1, F64), place)
    counted = w.op("equal", place, w.const(np.arange(bins), F64))
    return w.op("sum", w.cast(counted, c.dtype), axes=(0,), keepdims=False)
