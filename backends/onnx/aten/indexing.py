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


@aten("scatter.src", "scatter.value", "scatter_add.default")
def scatter(c: Call, w: CallWriter) -> Value:
    x, index = w.value(c["self"]), w.value(c["index"], I64)
    rank = len(shape(x))
    if rank == 0:
        raise NoFormError(f"no ONNX form of aten.{c.target} is known")
    axis = axis_of(c["dim"], rank)
    source = w.value(c.get("src", c.get("value")), c.dtype)
    if not shape(source):
        source = w.expand(source, shape(index))
    for i in range(rank):
        source = w.slice(source, i, 0, shape(index)[i])
    if c.target.startswith("scatter_add"):
        return _scatter_add(w, x, index, source, axis)
    return w.onnx("ScatterElements", x, index, source, type=c.type, axis=axis)


def _scatter_add(w: CallWriter, x: Value, index: Value, source: Value, axis: int) -> Value:
    """Opset 11 only overwrites. A one-hot product sums what falls on the same place: `sum_j [index_j == i] * source_j`."""
    rank, size, count = len(shape(x)), shape(x)[axis], shape(index)[axis]
    if size * math.prod(shape(index)) > 2**24:
        raise NoFormError("scatter_add on more than 2^24 pairs of positions has no affordable form in opset 11")
    rest = [i for i in range(rank) if i != axis]
    perm = [*rest, axis]
    inner = [shape(index)[i] for i in rest]
    at = w.reshape(w.transpose(index, perm), [*inner, 1, count])
    positions = w.const(np.arange(size).reshape(size, 1), I64)
    hit = w.cast(w.op("equal", at, positions), x.type.dtype)  # [..., size, count]
    values = w.reshape(w.transpose(source, perm), [*inner, 1, count])
    total = w.op("sum", w.op("mul", hit, values), axes=(rank,), keepdims=False)
    total = w.transpose(total, [perm.index(i) for i in range(rank)])
    pads = [after for i in reversed(range(rank)) for after in (0, shape(x)[i] - shape(total)[i])]
    if any(pads):
        from hqc.backends.onnx.aten.layout import padded

        total = padded(w, total, pads, "constant")
    return w.op("add", x, total)


@aten("index_add.default", "index_copy.default", "index_fill.int_Scalar", "index_fill.int_Tensor")
def index_write(c: Call, w: CallWriter) -> Value:
    """Rows of `self` along an axis, added to or replaced."""
    x, index = w.value(c["self"]), w.value(c["index"], I64)
    rank = len(shape(x))
    if rank == 0:
        raise NoFormError(f"no ONNX form of aten.{c.target} on a scalar is known")
    axis = axis_of(c["dim"], rank)
    rows = [math.prod(shape(index)) if i == axis else n for i, n in enumerate(shape(x))]
    index = w.reshape(_wrapped(w, index, shape(x)[axis]), [n if i == axis else 1 for i, n in enumerate(rows)])
    index = w.expand(index, rows)
    source = w.expand(w.value(c.get("source", c.get("value")), c.dtype), rows)
    if c.target.startswith("index_add"):
        if c["alpha"] != 1:
            source = w.op("mul", source, w.const(c["alpha"], c.dtype))
        return _scatter_add(w, x, index, source, axis)
    return w.onnx("ScatterElements", x, index, source, type=c.type, axis=axis)


# --- advanced indexing ---------------------------------------------------------------------------------------------------------


def _index_axes(c: Call, w: CallWriter, x: Value) -> tuple[list[int], list[Value]]:
    """Indexed axes and their int64 indices, broadcast to one shape."""
    axes = [axis for axis, index in enumerate(c["indices"]) if index is not None]
    if any(c["indices"][axis].type.dtype is DType.BOOL for axis in axes):
        raise NoFormError(
            "a boolean index keeps as many elements as the data decides, which a file of static shapes cannot hold"
        )
    indices = [_wrapped(w, w.value(c["indices"][axis]), shape(x)[axis]) for axis in axes]
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
        raise NoFormError("index_put with accumulate=True has no form in opset 11")
    written = w.onnx("ScatterND", target, _stacked(w, indices), values, type=target.type)
    return w.transpose(written, [perm.index(axis) for axis in range(rank)])


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
    values = w.value(c["values"], c.dtype)
    if math.prod(shape(values)) != 1 or c["accumulate"]:
        raise NoFormError("values put where a mask holds are counted by the data, which a file of static shapes cannot hold")
    trailing = len(shape(x)) - len(shape_of(mask))
    condition = w.reshape(w.value(mask), [*shape_of(mask), *[1] * trailing])
    return w.op("where", condition, w.reshape(values, []), x)


@aten("searchsorted.Tensor", "bucketize.Tensor")
def searchsorted(c: Call, w: CallWriter) -> Value:
    """How many of the sorted boundaries lie before each value."""
    sorted_, values = c.get("sorted_sequence", c.get("boundaries")), c["self"] if "self" in c.arguments else c["input"]
    edges, x = w.value(sorted_), w.value(values)
    if len(shape(edges)) != 1 or c.get("sorter") is not None:
        raise NoFormError(f"no ONNX form of aten.{c.target} with boundaries of {len(shape(edges))} axes is known")
    right = bool(c["right"]) or c.get("side") == "right"
    dtype = DType.FLOAT64 if DType.FLOAT64 in (edges.type.dtype, x.type.dtype) else DType.FLOAT32
    if not (edges.type.dtype.is_float or x.type.dtype.is_float):
        dtype = I64
    columns = w.reshape(w.cast(x, dtype), [*shape(x), 1])
    before = w.op("less_equal" if right else "less", w.cast(edges, dtype), columns)
    return w.op("cast", w.op("sum", w.cast(before, I64), axes=(len(shape(x)),)), dtype=c.dtype)


@aten("one_hot.default")
def one_hot(c: Call, w: CallWriter) -> Value:
    """OneHot, as a comparison with the class numbers."""
    x = w.value(c["self"], I64)
    classes = c.shape[-1]
    column = w.reshape(x, [*shape(x), 1])
    return w.cast(w.op("equal", column, w.const(np.arange(classes), I64)), c.dtype)
