"""Gathers, scatters and advanced indexing."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from hqc.backends.onnx.aten.calls import Call, shape_of
from hqc.backends.onnx.aten.writer import CallWriter, NoFormError, aten, axis_of, shape
from hqc.ir import DType, TensorType, Value

I64 = DType.INT64


def _wrapped(w: CallWriter, index: Value, size: int) -> Value:
    """Positions as int64, negative ones counted from the front (torch takes both)."""
    index = w.cast(index, I64)
    if index.array is not None:
        return w.const(np.where(index.array < 0, index.array + size, index.array), I64)
    return w.op("where", w.op("less", index, w.const(0, I64)), w.op("add", index, w.const(size, I64)), index)


@aten("index_select.default")
def index_select(c: Call, w: CallWriter) -> Value:
    x = w.value(c["self"])
    if not shape(x):
        return x
    index = w.value(c["index"], I64)
    return w.op("gather", x, w.reshape(index, [math.prod(shape(index))]), axis=axis_of(c["dim"], len(shape(x))))


@aten("embedding.default")
def embedding(c: Call, w: CallWriter) -> Value:
    return w.op("gather", w.value(c["weight"]), w.value(c["indices"], I64), axis=0)


@aten("embedding_bag.default", "embedding_bag.padding_idx", "_embedding_bag.default")
def embedding_bag(c: Call, w: CallWriter) -> list[Value | None]:
    """Sum, mean or maximum of the rows of each bag; the bags' limits must be constant."""
    offsets = w.array(c["offsets"])
    if offsets is None or c.get("padding_idx", -1) not in (None, -1):
        raise NoFormError("an embedding bag with computed limits or a padding index has no form in opset 11")
    indices = w.value(c["indices"], I64)
    limits = [int(start) for start in offsets]
    if not c["include_last_offset"]:
        limits.append(shape(indices)[0])
    rows = w.op("gather", w.value(c["weight"]), indices, axis=0)
    if c["per_sample_weights"] is not None:
        scale = w.value(c["per_sample_weights"], c.dtype)
        rows = w.op("mul", rows, w.reshape(scale, [*shape(scale), 1]))
    op = ("sum", "mean", "reduce_max")[c["mode"]]
    bags = []
    for start, end in itertools.pairwise(limits):
        if start == end:
            bags.append(w.expand(w.const(0, c.dtype), [1, c.shape[1]]))
        else:
            bags.append(w.op(op, w.slice(rows, 0, start, end), axes=(0,), keepdims=True))
    return [w.cat(bags, 0)]


@aten("take.default")
def take(c: Call, w: CallWriter) -> Value:
    x = w.value(c["self"])
    size = math.prod(shape(x))
    return w.op("gather", w.reshape(x, [size]), _wrapped(w, w.value(c["index"]), size), axis=0)


@aten("gather.default", "take_along_dim.default")
def gather(c: Call, w: CallWriter) -> Value:
    """GatherElements, which like torch reads only the part of x that the index spans."""
    x, index = w.value(c["self"]), w.value(c.get("index", c.get("indices")), I64)
    rank = len(shape(x))
    if c.target.startswith("take"):
        if c["dim"] is None:
            x, index = w.reshape(x, [math.prod(shape(x))]), w.reshape(index, [math.prod(shape(index))])
            return w.onnx("GatherElements", x, index, type=c.type, axis=0)
        axis = axis_of(c["dim"], rank)
        x = w.expand(x, [n if i == axis else m for i, (n, m) in enumerate(zip(shape(x), c.shape, strict=True))])
        index = w.expand(index, c.shape)
    if rank == 0:
        return w.expand(x, c.shape)
    axis = axis_of(c["dim"], rank)
    for i in range(rank):
        if i != axis:
            x = w.slice(x, i, 0, shape(index)[i])
    return w.onnx("GatherElements", x, index, type=c.type, axis=axis)


# --- scatter -----------------------------------------------------------------------------------------------------------------


_REDUCTIONS = {"add": "sum", "multiply": "prod"}  # what scatter calls them, and what scatter_reduce does


@aten("scatter.src", "scatter.value", "scatter.reduce", "scatter.value_reduce", "scatter_add.default", "scatter_reduce.two")
def scatter(c: Call, w: CallWriter) -> Value:
    x, index = _at_least_a_vector(w, w.value(c["self"])), _at_least_a_vector(w, w.value(c["index"], I64))
    rank = len(shape(x))
    axis = axis_of(c["dim"], rank)
    source = w.value(c.get("src", c.get("value")), c.dtype)
    source = _at_least_a_vector(w, source) if "src" in c.arguments else w.expand(source, shape(index))
    for i in range(rank):
        source = w.slice(source, i, 0, shape(index)[i])
    how = "sum" if c.target.startswith("scatter_add") else c.get("reduce")
    if how is not None:
        how, kept = _REDUCTIONS.get(how, how), bool(c.get("include_self", True))
        return w.reshape(_scatter_reduced(w, x, index, source, axis, how, kept), c.shape)
    written = w.onnx("ScatterElements", x, index, source, type=x.type, axis=axis)
    return w.reshape(written, c.shape)


def _at_least_a_vector(w: CallWriter, x: Value) -> Value:
    return x if shape(x) else w.reshape(x, [1])


def _scatter_reduced(
    w: CallWriter, x: Value, index: Value, source: Value, axis: int, how: str, include_self: bool = True
) -> Value:
    """Opset 11 only overwrites. Every place takes what falls on it by comparison: `sum_j [index_j == i] * source_j` and its like."""
    rank, size, count, dtype = len(shape(x)), shape(x)[axis], shape(index)[axis], x.type.dtype
    if size * math.prod(shape(index)) > 2**24:
        raise NoFormError("a scatter that joins what falls on the same place, of more than 2^24 pairs of positions, has no "
                          "affordable form in opset 11")  # fmt: skip
    if how == "mean" and not dtype.is_float:
        raise NoFormError("the mean of integers that fall on the same place has no form in opset 11")
    rest = [i for i in range(rank) if i != axis]
    perm = [*rest, axis]
    inner = [shape(index)[i] for i in rest]
    at = w.reshape(w.transpose(index, perm), [*inner, 1, count])
    hit = w.op("equal", at, w.const(np.arange(size).reshape(size, 1), I64))  # [..., size, count]
    values = w.reshape(w.transpose(source, perm), [*inner, 1, count])
    back = [perm.index(i) for i in range(rank)]

    def placed(total: Value, fill: float = 0) -> Value:
        """As x is laid out; what is outside of the index takes `fill`."""
        total = w.transpose(total, back)
        pads = [after for i in reversed(range(rank)) for after in (0, shape(x)[i] - shape(total)[i])]
        if not any(pads):
            return total
        from hqc.backends.onnx.aten.layout import padded

        return padded(w, total, pads, "constant", fill)

    counts = placed(w.op("sum", w.cast(hit, dtype), axes=(rank,), keepdims=False))
    if how in ("sum", "mean"):
        total = placed(w.op("sum", w.op("mul", w.cast(hit, dtype), values), axes=(rank,), keepdims=False))
        joined = w.op("add", x, total) if include_self else total
        if how == "mean":
            seen = w.op("add", counts, w.const(1, dtype)) if include_self else w.op("maximum", counts, w.const(1, dtype))
            joined = w.op("div", joined, seen)
    elif how == "prod":
        chosen = w.op("where", hit, values, w.const(1, dtype))
        type = TensorType(dtype, (*inner, size))
        joined = placed(w.onnx("ReduceProd", chosen, type=type, axes=[rank], keepdims=0), 1)
        joined = w.op("mul", x, joined) if include_self else joined
    else:
        limit = np.finfo(dtype.numpy) if dtype.is_float else np.iinfo(dtype.numpy)
        least = w.const(limit.min if how == "amax" else limit.max, dtype)
        chosen = w.op("where", hit, values, least)
        op, both = ("reduce_max", "maximum") if how == "amax" else ("reduce_min", "minimum")
        found = placed(w.op(op, chosen, axes=(rank,), keepdims=False))
        joined = w.op(both, x, found) if include_self else found
    untouched = include_self and how in ("sum", "prod")
    return joined if untouched else w.op("where", w.op("greater", counts, w.const(0, dtype)), joined, x)


@aten("masked_scatter.default")
def masked_scatter(c: Call, w: CallWriter) -> Value:
    """The source's elements, in turn, where the mask holds: element i takes the source's at the count of places before it."""
    x = w.expand(w.value(c["self"]), c.shape)
    mask = w.expand(w.value(c["mask"], DType.BOOL), c.shape)
    source = w.value(c["source"], c.dtype)
    count = math.prod(shape(source))
    taken = w.op("gather", w.reshape(source, [count]), _turns(w, mask, count), axis=0)
    return w.op("where", mask, w.reshape(taken, c.shape), x)


@aten("narrow.Tensor")
def narrow(c: Call, w: CallWriter) -> Value:
    """From a computed start on."""
    x, start = w.value(c["self"]), w.reshape(w.value(c["start"], I64), [1])
    axis = axis_of(c["dim"], len(shape(x)))
    places = w.op("add", _wrapped(w, start, shape(x)[axis]), w.const(np.arange(c["length"]), I64))
    return w.op("gather", x, places, axis=axis)


@aten("index_add.default", "index_copy.default", "index_fill.int_Scalar", "index_fill.int_Tensor", "index_reduce.default")
def index_write(c: Call, w: CallWriter) -> Value:
    """Rows of `self` along an axis, added to, joined with others or replaced."""
    x, index = _at_least_a_vector(w, w.value(c["self"])), w.value(c["index"], I64)
    rank = len(shape(x))
    axis = axis_of(c["dim"], rank)
    rows = [math.prod(shape(index)) if i == axis else n for i, n in enumerate(shape(x))]
    index = w.reshape(_wrapped(w, index, shape(x)[axis]), [n if i == axis else 1 for i, n in enumerate(rows)])
    index = w.expand(index, rows)
    source = w.expand(w.value(c.get("source", c.get("value")), c.dtype), rows)
    if c.target.startswith("index_add"):
        if c["alpha"] != 1:
            source = w.op("mul", source, w.const(c["alpha"], c.dtype))
        return w.reshape(_scatter_reduced(w, x, index, source, axis, "sum"), c.shape)
    if c.target.startswith("index_reduce"):
        return w.reshape(_scatter_reduced(w, x, index, source, axis, c["reduce"], bool(c["include_self"])), c.shape)
    return w.reshape(w.onnx("ScatterElements", x, index, source, type=x.type, axis=axis), c.shape)


# --- advanced indexing ---------------------------------------------------------------------------------------------------------


def _index_axes(c: Call, w: CallWriter, x: Value) -> tuple[list[int], list[Value]]:
    """Indexed axes and their int64 indices, broadcast to one shape."""
    axes: list[int] = []
    indices: list[Value] = []
    axis = 0
    for item in c["indices"]:
        found = [item]
        if item is not None and item.type.dtype is DType.BOOL:
            mask = w.array(item)
            if mask is None:
                raise NoFormError(
                    "a boolean index keeps as many elements as the data decides, which a file of static shapes cannot hold"
                )
            found = [w.const(places, I64) for places in mask.nonzero()]  # of a constant one the places are known
        for each in found:
            if each is not None:
                axes.append(axis)
                indices.append(_wrapped(w, w.value(each), shape(x)[axis]))
            axis += 1
    common = np.broadcast_shapes(*(shape(index) for index in indices))
    return axes, [w.expand(index, common) for index in indices]


@aten("index.Tensor", "_unsafe_index.Tensor")
def index(c: Call, w: CallWriter) -> Value:
    x = w.value(c["self"])
    axes, indices = _index_axes(c, w, x)
    rank, spread = len(shape(x)), len(shape(indices[0]))
    if len(axes) == 1:
        taken = w.op("gather", x, indices[0], axis=axes[0])
    else:
        rest = [axis for axis in range(rank) if axis not in axes]
        front = w.transpose(x, [*axes, *rest])
        taken = w.onnx(
            "GatherND",
            front,
            _stacked(w, indices),
            type=TensorType(x.type.dtype, shape(indices[0]) + tuple(shape(x)[axis] for axis in rest)),
        )
        if axes == list(range(axes[0], axes[-1] + 1)) and axes[0]:  # neighbours: the result's new axes stand where they stood
            before = axes[0]
            perm = [*range(spread, spread + before), *range(spread), *range(spread + before, len(shape(taken)))]
            taken = w.transpose(taken, perm)
    return w.reshape(taken, c.shape)


def _stacked(w: CallWriter, indices: Sequence[Value]) -> Value:
    """`[..., n]` coordinates for GatherND and ScatterND."""
    return w.cat([w.reshape(index, [*shape(index), 1]) for index in indices], len(shape(indices[0])))


@aten("index_put.default", "_unsafe_index_put.default")
def index_put(c: Call, w: CallWriter) -> Value:
    x = w.value(c["self"])
    single = [item for item in c["indices"] if item is not None]
    mask = single[0] if len(single) == 1 and c["indices"][0] is not None else None
    if mask is not None and mask.type.dtype is DType.BOOL:
        return _masked_put(c, w, x, mask)
    axes, indices = _index_axes(c, w, x)
    rank = len(shape(x))
    rest = [axis for axis in range(rank) if axis not in axes]
    perm = [*axes, *rest]
    target = w.transpose(x, perm)
    spread = shape(indices[0])
    block = spread + tuple(shape(x)[axis] for axis in rest)
    values = _placed_values(w, w.value(c["values"], c.dtype), axes, rest, spread, [shape(x)[axis] for axis in rest])
    values = w.expand(values, block)
    if c["accumulate"]:
        return w.transpose(_accumulated(w, target, indices, values), [perm.index(axis) for axis in range(rank)])
    written = w.onnx("ScatterND", target, _stacked(w, indices), values, type=target.type)
    return w.transpose(written, [perm.index(axis) for axis in range(rank)])


def _accumulated(w: CallWriter, target: Value, indices: Sequence[Value], values: Value) -> Value:
    """The rows of `values` added to those of `target`, whose leading axes the indices are on."""
    sizes = shape(target)[: len(indices)]
    at = indices[0]
    for index, size in zip(indices[1:], sizes[1:], strict=True):
        at = w.op("add", w.op("mul", at, w.const(size, I64)), index)
    rest = math.prod(shape(target)[len(indices) :])
    count = math.prod(shape(at))
    places = w.expand(w.reshape(at, [count, 1]), [count, rest])
    rows = w.reshape(target, [math.prod(sizes), rest])
    return w.reshape(_scatter_reduced(w, rows, places, w.reshape(values, [count, rest]), 0, "sum"), shape(target))


def _placed_values(
    w: CallWriter, values: Value, axes: list[int], rest: list[int], spread: tuple[int, ...], sizes: list[int]
) -> Value:
    """Values broadcast as torch lays them out (index axes where the first of neighbouring ones stood), index axes in front."""
    neighbours = axes == list(range(axes[0], axes[-1] + 1))
    before = sum(axis < axes[0] for axis in rest) if neighbours else 0
    if not before:
        return values
    full = [*sizes[:before], *spread, *sizes[before:]]
    values = w.expand(values, full)
    count = len(spread)
    return w.transpose(values, [*range(before, before + count), *range(before), *range(before + count, len(full))])


def _masked_put(c: Call, w: CallWriter, x: Value, mask: Any) -> Value:
    """One value where a mask holds, or a row of values for each place of it, in turn."""
    if c["accumulate"]:
        raise NoFormError("values that are added where a mask holds have no form in opset 11")
    values = w.value(c["values"], c.dtype)
    lead, trailing = shape_of(mask), list(shape(x)[len(shape_of(mask)) :])
    held = w.cast(w.value(mask), DType.BOOL)
    if len(shape(values)) > len(trailing):
        rows = w.reshape(w.expand(values, [shape(values)[0], *trailing]), [shape(values)[0], math.prod(trailing)])
        taken = w.op("gather", rows, _turns(w, held, shape(values)[0]), axis=0)
        values = w.reshape(taken, shape(x))
    condition = w.reshape(held, [*lead, *[1] * len(trailing)])
    return w.op("where", condition, values, x)


def _turns(w: CallWriter, mask: Value, count: int) -> Value:
    """For each place of `mask`, laid out flat: how many before it hold, at most `count - 1`."""
    flat = w.reshape(w.cast(mask, I64), [math.prod(shape(mask))])
    counts = w.op("sub", w.onnx("CumSum", flat, w.const(0, I64), type=flat.type), w.const(1, I64))
    return w.op("minimum", w.op("maximum", counts, w.const(0, I64)), w.const(count - 1, I64))


@aten("searchsorted.Tensor", "bucketize.Tensor")
def searchsorted(c: Call, w: CallWriter) -> Value:
    """How many of the sorted boundaries lie before each value."""
    sorted_, values = c.get("sorted_sequence", c.get("boundaries")), c["self"] if "self" in c.arguments else c["input"]
    edges, x = w.value(sorted_), w.value(values)
    if c.get("sorter") is not None:
        raise NoFormError(f"no ONNX form of aten.{c.target} with a sorter is known")
    right = bool(c["right"]) or c.get("side") == "right"
    dtype = DType.FLOAT64 if DType.FLOAT64 in (edges.type.dtype, x.type.dtype) else DType.FLOAT32
    if not (edges.type.dtype.is_float or x.type.dtype.is_float):
        dtype = I64
    columns = w.reshape(w.cast(x, dtype), [*shape(x), 1])
    rows = (
        w.reshape(edges, [*shape(edges)[:-1], 1, shape(edges)[-1]]) if len(shape(edges)) > 1 else edges
    )  # for each row its own
    before = w.op("less_equal" if right else "less", w.cast(rows, dtype), columns)
    return w.op("cast", w.op("sum", w.cast(before, I64), axes=(len(shape(x)),)), dtype=c.dtype)


@aten("one_hot.default")
def one_hot(c: Call, w: CallWriter) -> Value:
    """OneHot, as a comparison with the class numbers."""
    x = w.value(c["self"], I64)
    classes = c.shape[-1]
    column = w.reshape(x, [*shape(x), 1])
    return w.cast(w.op("equal", column, w.const(np.arange(classes), I64)), c.dtype)
