"""Operators that move elements: reshapes, transposes, slices, joins, pads, gathers."""

from __future__ import annotations

import math

import numpy as np

from hqc.frontend.onnx.context import OnnxContext, Operand, Unexpressed
from hqc.frontend.onnx.ops.quantized import real_number
from hqc.frontend.onnx.registry import lowers_onnx
from hqc.ir import DType, Value


@lowers_onnx("Shape")
def shape(ctx: OnnxContext) -> Operand:
    sizes = ctx.shape(ctx.required(0))
    start, end = ctx.attribute("start", 0), ctx.attribute("end")
    return np.array(sizes[start:end], np.int64)


@lowers_onnx("Size")
def size(ctx: OnnxContext) -> Operand:
    return np.array(math.prod(ctx.shape(ctx.required(0))), np.int64)


@lowers_onnx("Reshape")
def reshape(ctx: OnnxContext) -> Value:
    wanted = ctx.constant(1)
    if wanted is None:
        raise ctx.error("has no target shape")
    target = [int(item) for item in wanted]
    given = ctx.shape(ctx.required(0))
    if ctx.attribute("allowzero", 0) and 0 in target:
        raise Unexpressed("it makes an empty tensor")
    return ctx.reshape(ctx.data(), [given[axis] if item == 0 else item for axis, item in enumerate(target)])


@lowers_onnx("Flatten")
def flatten(ctx: OnnxContext) -> Value:
    sizes = ctx.shape(ctx.required(0))
    axis = int(ctx.attribute("axis", 1))
    axis = axis + len(sizes) if axis < 0 else axis
    return ctx.reshape(ctx.data(), (math.prod(sizes[:axis]), math.prod(sizes[axis:])))


@lowers_onnx("Squeeze", "Unsqueeze")
def squeeze(ctx: OnnxContext) -> Value:
    sizes, axes = list(ctx.shape(ctx.required(0))), ctx.ints("axes", 1)
    if ctx.node.op_type == "Squeeze":
        dropped = {axis % len(sizes) for axis in axes} if axes is not None else {k for k, item in enumerate(sizes) if item == 1}
        return ctx.reshape(ctx.data(), [item for k, item in enumerate(sizes) if k not in dropped])
    rank = len(sizes) + len(axes or [])
    for axis in sorted(axis % rank for axis in axes or []):
        sizes.insert(axis, 1)
    return ctx.reshape(ctx.data(), sizes)


@lowers_onnx("Transpose")
def transpose(ctx: OnnxContext) -> Value:
    x = ctx.data()
    return ctx.emit("transpose", x, perm=tuple(ctx.ints("perm") or range(ctx.rank(x) - 1, -1, -1)))


@lowers_onnx("Concat")
def concat(ctx: OnnxContext) -> Value:
    operands = [ctx.required(index) for index in range(len(ctx.node.input))]
    kept = [item for item in operands if 0 not in ctx.shape(item)] or operands[:1]
    return ctx.emit("cat", *kept, axis=ctx.axis(of=kept[0])) if len(kept) > 1 else ctx.emit("identity", kept[0])


@lowers_onnx("Split")
def split(ctx: OnnxContext) -> tuple[Value, ...]:
    x = ctx.data()
    axis = ctx.axis(default=0, of=x)
    total, count = ctx.shape(x)[axis], len(ctx.node.output)
    sizes = ctx.ints("split", 1)
    if sizes is None:
        part = -(-total // count)
        sizes = [min(part, total - part * k) for k in range(count)]
    names = [name or ctx.graph.unique_name(f"{ctx.label}_{k}") for k, name in enumerate(ctx.node.output)]
    return ctx.emit_results("split", x, names=names, axis=axis, sizes=tuple(sizes))


@lowers_onnx("Slice")
def slice_(ctx: OnnxContext) -> Value:
    """Positive steps are slices; a step of -1 over a whole axis turns it round."""
    x = ctx.data()
    rank, sizes = ctx.rank(x), ctx.shape(x)
    starts, ends = ctx.ints("starts", 1) or [], ctx.ints("ends", 2) or []
    given = ctx.ints("axes", 3)
    axes = [axis % rank for axis in given] if given is not None else list(range(len(starts)))
    steps = (ctx.ints("steps", 4) if ctx.opset >= 10 else None) or [1] * len(starts)
    forward: list[tuple[int, int, int, int]] = []
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        if step < 0:
            order = np.arange(sizes[axis])[
                slice(start if start < sizes[axis] else None, None if end < -sizes[axis] else end, step)
            ]
            x = ctx.emit("gather", x, order.astype(np.int64), what=f"axis{axis}", axis=axis)
        else:
            begin, stop, _ = slice(start, end, step).indices(sizes[axis])
            forward.append((axis, begin, max(begin, stop), step))
    if not forward:
        return ctx.emit("identity", x)
    columns = [tuple(column) for column in zip(*forward, strict=True)]
    return ctx.emit("slice", x, axes=columns[0], starts=columns[1], ends=columns[2], steps=columns[3])


@lowers_onnx("Pad")
def pad(ctx: OnnxContext) -> Value:
    x = ctx.data()
    rank = ctx.rank(x)
    pads = ctx.ints("pads", 1) or []
    axes = ctx.ints("axes", 3) if ctx.opset >= 18 else None
    if axes is not None:
        whole = [0] * (2 * rank)
        for k, axis in enumerate(axes):
            whole[axis % rank], whole[axis % rank + rank] = pads[k], pads[k + len(axes)]
        pads = whole
    mode = {"constant": "constant", "reflect": "reflect", "edge": "edge"}.get(ctx.attribute("mode", "constant"))
    if mode is None:
        raise Unexpressed(f"the IR has no padding mode {ctx.attribute('mode')}")
    value = ctx.attribute("value", 0.0) if ctx.opset < 11 else ctx.constant(2)
    number = 0.0 if value is None or (isinstance(value, np.ndarray) and not value.size) else float(np.reshape(value, -1)[0])
    sizes = ctx.shape(x)
    cut = [(k, max(0, -pads[k]), sizes[k] - max(0, -pads[k + rank])) for k in range(rank) if pads[k] < 0 or pads[k + rank] < 0]
    if cut:
        columns = [tuple(column) for column in zip(*cut, strict=True)]
        x = ctx.emit("slice", x, what="cropped", axes=columns[0], starts=columns[1], ends=columns[2])
    number = real_number(ctx, x, number)
    return ctx.emit("pad", x, pads=tuple(max(0, item) for item in pads), value=number, mode=mode)


@lowers_onnx("Expand")
def expand(ctx: OnnxContext) -> Value:
    wanted = ctx.constant(1)
    if wanted is None:
        raise ctx.error("has no target shape")
    x = ctx.data()
    goal = np.broadcast_shapes(ctx.shape(x), tuple(int(item) for item in wanted))
    if ctx.rank(x) < len(goal):
        x = ctx.reshape(x, (*[1] * (len(goal) - ctx.rank(x)), *ctx.shape(x)), what="axes")
    return ctx.emit("expand", x, shape=goal)


@lowers_onnx("Tile")
def tile(ctx: OnnxContext) -> Value:
    return ctx.emit("tile", ctx.data(), repeats=tuple(int(item) for item in ctx.ints("repeats", 1) or []))


@lowers_onnx("Gather")
def gather(ctx: OnnxContext) -> Value:
    """One constant index is a slice; several are a gather."""
    x, indices = ctx.required(0), ctx.required(1)
    axis = int(ctx.attribute("axis", 0)) % ctx.rank(x)
    sizes = ctx.shape(x)
    if isinstance(indices, np.ndarray):
        if indices.size and (int(indices.min()) < -sizes[axis] or int(indices.max()) >= sizes[axis]):
            raise ctx.error(f"takes index {int(indices.max())} of an axis of {sizes[axis]}")
        whole = np.where(indices < 0, indices + sizes[axis], indices).astype(np.int64)
        if whole.ndim == 0:
            start = int(whole)
            part = ctx.emit("slice", x, what="slice", axes=(axis,), starts=(start,), ends=(start + 1,))
            return ctx.reshape(part, (*sizes[:axis], *sizes[axis + 1 :]))
        return ctx.emit("gather", x, whole, axis=axis)
    return ctx.emit("gather", x, indices, axis=axis)


@lowers_onnx("DepthToSpace")
def depth_to_space(ctx: OnnxContext) -> Value:
    x, factor = ctx.data(), int(ctx.attribute("blocksize"))
    if ctx.attribute("mode", "DCR") == "CRD":
        return ctx.emit("pixel_shuffle", x, factor=factor)
    batch, channels, height, width = ctx.shape(x)
    parts = ctx.reshape(x, (batch, factor, factor, channels // factor**2, height, width), what="parts")
    moved = ctx.emit("transpose", parts, what="moved", perm=(0, 3, 4, 1, 5, 2))
    return ctx.reshape(moved, (batch, channels // factor**2, height * factor, width * factor))


@lowers_onnx("SpaceToDepth")
def space_to_depth(ctx: OnnxContext) -> Value:
    x, factor = ctx.data(), int(ctx.attribute("blocksize"))
    batch, channels, height, width = ctx.shape(x)
    parts = ctx.reshape(x, (batch, channels, height // factor, factor, width // factor, factor), what="parts")
    moved = ctx.emit("transpose", parts, what="moved", perm=(0, 3, 5, 1, 2, 4))
    return ctx.reshape(moved, (batch, channels * factor**2, height // factor, width // factor))


@lowers_onnx("ConstantOfShape")
def constant_of_shape(ctx: OnnxContext) -> Operand:
    raise Unexpressed("its shape is computed at run time")


@lowers_onnx("NonZero", "NonMaxSuppression", "Unique")
def of_unknown_size(ctx: OnnxContext) -> Value:
    raise ctx.error("has a result whose size depends on the data; a deployed graph needs static shapes: cut it off the model")


@lowers_onnx("ArgMax", "ArgMin")
def arg_extremum(ctx: OnnxContext) -> Value:
    x = ctx.data()
    if ctx.attribute("select_last_index", 0):
        raise Unexpressed("of equals it takes the last")
    op = "argmax" if ctx.node.op_type == "ArgMax" else "argmin"
    found = ctx.emit(op, x, axis=ctx.axis(default=0, of=x), keepdims=bool(ctx.attribute("keepdims", 1)))
    return found if found.type.dtype is DType.INT64 else ctx.emit("cast", found, dtype=DType.INT64)
