"""aten operations that move elements: views, slices, joins, padding, rolls, triangles, factories."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from hqc.backends.onnx.aten.calls import Call
from hqc.backends.onnx.aten.writer import CallWriter, NoFormError, aten, axis_of, shape
from hqc.ir import DType, TensorType, Value


@aten("view.default", "reshape.default", "_unsafe_view.default", "_reshape_alias.default", "unsqueeze.default", "squeeze.default",
      "squeeze.dim", "squeeze.dims", "flatten.using_ints", "unflatten.int", "view_as.default", "reshape_as.default",
      "atleast_1d.default", "atleast_2d.default", "atleast_3d.default", "ravel.default")  # fmt: skip
def reshape(c: Call, w: CallWriter) -> Value:
    """The traced shape says it all."""
    return w.reshape(w.value(c["self"]), c.shape)


@aten("permute.default", "t.default", "transpose.int", "swapaxes.default", "swapdims.default", "movedim.intlist", "movedim.int",
      "numpy_T.default", "mT.default", "adjoint.default")  # fmt: skip
def permute(c: Call, w: CallWriter) -> Value:
    x = w.value(c["self"])
    rank = len(shape(x))
    name = c.target.split(".")[0]
    if name == "permute":
        return w.transpose(x, [axis_of(dim, rank) for dim in c["dims"]])
    if name == "movedim":
        return w.transpose(x, _moved(c["source"], c["destination"], rank))
    if name == "numpy_T":
        return w.transpose(x, list(range(rank))[::-1])
    first = c.get("dim0", c.get("axis0", -2 if name in ("mT", "adjoint") else 0))
    second = c.get("dim1", c.get("axis1", -1))
    perm = list(range(rank))
    if rank > 1:
        a, b = first % rank, second % rank
        perm[a], perm[b] = perm[b], perm[a]
    return w.transpose(x, perm)


def _moved(source: Any, destination: Any, rank: int) -> list[int]:
    sources = [dim % rank for dim in ([source] if isinstance(source, int) else source)]
    targets = [dim % rank for dim in ([destination] if isinstance(destination, int) else destination)]
    rest = iter(axis for axis in range(rank) if axis not in sources)
    placed = dict(zip(targets, sources, strict=True))
    return [placed[axis] if axis in placed else next(rest) for axis in range(rank)]


@aten("expand.default", "expand_as.default", "broadcast_to.default")
def expand(c: Call, w: CallWriter) -> Value:
    return w.expand(w.value(c["self"]), c.shape)


@aten("repeat.default", "tile.default")
def repeat(c: Call, w: CallWriter) -> Value:
    x = w.value(c["self"])
    counts = list(c.get("repeats", c.get("dims")))
    counts = [1] * (len(c.shape) - len(counts)) + counts
    x = w.reshape(x, [1] * (len(c.shape) - len(shape(x))) + list(shape(x)))
    return w.op("tile", x, repeats=tuple(counts)) if counts else x


@aten("repeat_interleave.self_int")
def repeat_interleave(c: Call, w: CallWriter) -> Value:
    x = w.value(c["self"])
    if c["dim"] is None:
        x = w.reshape(x, [math.prod(shape(x))])
    axis = axis_of(c["dim"] or 0, len(shape(x)))
    return w.gather(x, np.repeat(np.arange(shape(x)[axis]), c["repeats"]), axis)


# --- joins and parts -----------------------------------------------------------------------------------------------------------


@aten("cat.default", "concat.default", "concatenate.default")
def cat(c: Call, w: CallWriter) -> Value:
    parts = [w.value(item, c.dtype) for item in c["tensors"]]
    parts = [part for part in parts if shape(part) != (0,)]  # torch skips empty vectors
    return w.cat(parts, axis_of(c["dim"], len(c.shape)))


@aten("stack.default")
def stack(c: Call, w: CallWriter) -> Value:
    axis = axis_of(c["dim"], len(c.shape))
    single = [1 if i == axis else size for i, size in enumerate(c.shape)]
    return w.cat([w.reshape(w.value(item, c.dtype), single) for item in c["tensors"]], axis)


@aten("split.Tensor", "split.sizes", "split_with_sizes.default", "chunk.default", "unbind.int", "tensor_split.sections",
      "tensor_split.indices", "unsafe_chunk.default", "unsafe_split.Tensor")  # fmt: skip
def parts(c: Call, w: CallWriter) -> list[Value]:
    """The traced results' shapes say where to cut."""
    x = w.value(c["self"])
    axis, start, made = axis_of(c["dim"], len(shape(x))), 0, []
    for tensor in c.results:
        assert tensor.type.shape is not None
        size = 1 if c.target.startswith("unbind") else tensor.type.shape[axis]
        made.append(w.reshape(w.slice(x, axis, start, start + size), tensor.type.shape))
        start += size
    return made


@aten("select.int")
def select(c: Call, w: CallWriter) -> Value:
    x = w.value(c["self"])
    axis = axis_of(c["dim"], len(shape(x)))
    index = c["index"] % shape(x)[axis]
    return w.reshape(w.slice(x, axis, index, index + 1), c.shape)


def _bounds(c: Call, size: int) -> tuple[int, int, int]:
    return slice(c.get("start"), c.get("end"), c.get("step", 1)).indices(size)


@aten("slice.Tensor", "narrow.default")
def slice_(c: Call, w: CallWriter) -> Value:
    x = w.value(c["self"])
    axis = axis_of(c["dim"], len(shape(x)))
    if c.target.startswith("narrow"):
        start = c["start"] % shape(x)[axis]
        return w.slice(x, axis, start, start + c["length"])
    return w.slice(x, axis, *_bounds(c, shape(x)[axis]))


@aten("slice_scatter.default", "select_scatter.default")
def scatter_part(c: Call, w: CallWriter) -> Value:
    """`self` with a part along one axis replaced by `src`: of each position, the source row or the old one."""
    x, source = w.value(c["self"]), w.value(c["src"], c.dtype)
    axis = axis_of(c["dim"], len(c.shape))
    size = c.shape[axis]
    if c.target.startswith("select"):
        index = c["index"] % size
        start, end, step = index, index + 1, 1
        source = w.reshape(source, [1 if i == axis else n for i, n in enumerate(c.shape)])
    else:
        start, end, step = _bounds(c, size)
    source = w.expand(source, [len(range(start, end, step)) if i == axis else n for i, n in enumerate(c.shape)])
    if step == 1:
        before = [w.slice(x, axis, 0, start)] if start > 0 else []
        after = [w.slice(x, axis, end, size)] if end < size else []
        return w.cat([*before, source, *after], axis)
    order = np.arange(size)
    order[start:end:step] = size + np.arange(len(range(start, end, step)))
    return w.gather(w.cat([x, source], axis), order, axis)


@aten("diagonal_scatter.default")
def diagonal_scatter(c: Call, w: CallWriter) -> Value:
    """`self` with the elements of a diagonal replaced by `src`."""
    x, source = w.value(c["self"]), w.value(c["src"], c.dtype)
    rank = len(c.shape)
    first, second = axis_of(c["dim1"], rank), axis_of(c["dim2"], rank)
    rest = [axis for axis in range(rank) if axis not in (first, second)]
    perm = [*rest, first, second]
    lead, (rows, columns) = [c.shape[axis] for axis in rest], (c.shape[first], c.shape[second])
    order = np.arange(rows * columns)
    at = np.diagonal(order.reshape(rows, columns), c["offset"])
    order[at] = rows * columns + np.arange(at.size)
    flat = w.reshape(w.transpose(x, perm), [*lead, rows * columns])
    written = w.gather(w.cat([flat, w.expand(source, [*lead, at.size])], len(lead)), order, len(lead))
    return w.transpose(w.reshape(written, [*lead, rows, columns]), [perm.index(axis) for axis in range(rank)])


# --- order of elements -----------------------------------------------------------------------------------------------------------


@aten("flip.default", "fliplr.default", "flipud.default")
def flip(c: Call, w: CallWriter) -> Value:
    x = w.value(c["self"])
    dims = c.get("dims", [1] if c.target.startswith("fliplr") else [0])
    for dim in dims:
        axis = axis_of(dim, len(c.shape))
        x = w.gather(x, np.arange(c.shape[axis])[::-1], axis)
    return x


@aten("roll.default")
def roll(c: Call, w: CallWriter) -> Value:
    x = w.value(c["self"])
    if not c["dims"]:
        flat = w.reshape(x, [math.prod(c.shape)])
        return w.reshape(rolled(w, flat, 0, c["shifts"][0]), c.shape)
    for shift, dim in zip(c["shifts"], c["dims"], strict=True):
        x = rolled(w, x, axis_of(dim, len(c.shape)), shift)
    return x


def rolled(w: CallWriter, x: Value, axis: int, shift: int) -> Value:
    """`x` moved on by `shift` positions along `axis`, round the end."""
    size = shape(x)[axis]
    cut = size - shift % size if size else 0
    if cut in (0, size):
        return x
    return w.cat([w.slice(x, axis, cut, size), w.slice(x, axis, 0, cut)], axis)


@aten("rot90.default")
def rot90(c: Call, w: CallWriter) -> Value:
    x, rank = w.value(c["self"]), len(c.shape)
    a, b = (axis_of(dim, rank) for dim in c["dims"])
    perm = list(range(rank))
    perm[a], perm[b] = b, a
    for _ in range(c["k"] % 4):
        x = w.transpose(x, perm)
        x = w.gather(x, np.arange(shape(x)[a])[::-1], a)
    return x


@aten("channel_shuffle.default", "native_channel_shuffle.default")
def channel_shuffle(c: Call, w: CallWriter) -> Value:
    groups, channels = c["groups"], c.shape[1]
    return w.gather(w.value(c["self"]), np.arange(channels).reshape(groups, -1).T.reshape(-1), 1)


@aten("pixel_shuffle.default", "pixel_unshuffle.default")
def pixel_shuffle(c: Call, w: CallWriter) -> Value:
    x = w.value(c["self"])
    lead, (channels, high, wide) = shape(x)[:-3], shape(x)[-3:]
    rank = len(lead)
    if "unshuffle" in c.target:
        f = c["downscale_factor"]
        x = w.reshape(x, [*lead, channels, high // f, f, wide // f, f])
        perm = [0, 2, 4, 1, 3]
    else:
        f = c["upscale_factor"]
        x = w.reshape(x, [*lead, channels // (f * f), f, f, high, wide])
        perm = [0, 3, 1, 4, 2]
    return w.reshape(w.transpose(x, [*range(rank), *(rank + axis for axis in perm)]), c.shape)


@aten("unfold.default")
def sliding_windows(c: Call, w: CallWriter) -> Value:
    """`Tensor.unfold`: windows along one axis, their elements last."""
    x = w.value(c["self"])
    rank = len(shape(x))
    if not rank:
        return w.reshape(x, c.shape)
    axis = axis_of(c["dimension"], rank)
    count = c.shape[axis]
    index = np.arange(count)[:, None] * c["step"] + np.arange(c["size"])
    taken = w.gather(x, index, axis)  # the window axis is followed by the element axis
    perm = [i for i in range(rank + 1) if i != axis + 1] + [axis + 1]
    return w.transpose(taken, perm)


@aten("diagonal.default")
def diagonal(c: Call, w: CallWriter) -> Value:
    x = w.value(c["self"])
    rank = len(shape(x))
    first, second = axis_of(c["dim1"], rank), axis_of(c["dim2"], rank)
    rest = [axis for axis in range(rank) if axis not in (first, second)]
    rows, columns = shape(x)[first], shape(x)[second]
    offset = c["offset"]
    size = c.shape[-1]
    at = np.arange(size) + max(-offset, 0), np.arange(size) + max(offset, 0)
    flat = w.reshape(w.transpose(x, [*rest, first, second]), [*(shape(x)[axis] for axis in rest), rows * columns])
    return w.gather(flat, at[0] * columns + at[1], len(rest))


@aten("tril.default", "triu.default")
def triangle(c: Call, w: CallWriter) -> Value:
    make = np.tril if c.target.startswith("tril") else np.triu
    mask = make(np.ones(c.shape[-2:], bool), c["diagonal"])
    return w.op("where", w.const(mask, DType.BOOL), w.value(c["self"]), w.const(0, c.dtype))


# --- padding -----------------------------------------------------------------------------------------------------------------------


def padded(w: CallWriter, x: Value, amounts: Sequence[int], mode: str, value: float = 0.0) -> Value:
    """torch's padding: pairs of (before, after), the last axis first; mode `constant`, `reflect`, `edge` or `wrap`."""
    rank = len(shape(x))
    pairs = [(0, 0)] * rank
    for i in range(len(amounts) // 2):
        pairs[rank - 1 - i] = (amounts[2 * i], amounts[2 * i + 1])
    if mode == "wrap":
        for axis, (before, after) in enumerate(pairs):
            size = shape(x)[axis]
            if before or after:
                x = w.gather(x, np.arange(-before, size + after) % size, axis)
        return x
    if mode == "edge" and min(min(pair) for pair in pairs) < 0:  # what is cropped may be all, and is repeated still
        for axis, (before, after) in enumerate(pairs):
            size = shape(x)[axis]
            x = w.gather(x, np.arange(-before, size + after).clip(0, size - 1), axis)
        return x
    pads = (*(before for before, _ in pairs), *(after for _, after in pairs))
    return w.op("pad", x, pads=pads, mode=mode, value=value)


_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


@aten("pad.default", "constant_pad_nd.default", "_pad_circular.default")
def pad(c: Call, w: CallWriter) -> Value:
    mode = "circular" if "circular" in c.target else c.get("mode", "constant")
    if isinstance(mode, int):
        raise NoFormError(f"no ONNX form of aten.{c.target} is known")
    return padded(w, w.value(c["self"]), c["pad"], _MODES[mode], float(c.get("value") or 0.0))


@aten(*(f"{kind}_pad{n}d.default" for kind in ("reflection", "replication") for n in (1, 2, 3)))
def pad_mirror(c: Call, w: CallWriter) -> Value:
    return padded(w, w.value(c["self"]), c["padding"], "reflect" if c.target.startswith("reflection") else "edge")


# --- made from nothing ------------------------------------------------------------------------------------------------------------


@aten("zeros_like.default", "ones_like.default", "full_like.default", "new_zeros.default", "new_ones.default", "new_full.default",
      "empty_like.default", "new_empty.default", "fill.Scalar", "fill.Tensor", "zero.default", "new_empty_strided.default")  # fmt: skip
def filled(c: Call, w: CallWriter) -> Value:
    name = c.target.split(".")[0]
    fill = 1 if "ones" in name else c.get("fill_value", c.get("value", 0))
    value = w.value(fill, c.dtype)
    return w.expand(value, c.shape)


@aten("copy.default")
def copy(c: Call, w: CallWriter) -> Value:
    return w.expand(w.value(c["src"], c.dtype), c.shape)


@aten("meshgrid.default", "meshgrid.indexing")
def meshgrid(c: Call, w: CallWriter) -> list[Value]:
    tensors = [w.value(item) for item in c["tensors"]]
    order = list(range(len(tensors)))
    if c.get("indexing", "ij") == "xy" and len(order) > 1:
        order[0], order[1] = 1, 0
    made = []
    for position, (value, result) in enumerate(zip(tensors, c.results, strict=True)):
        size = math.prod(shape(value))
        placed = [size if axis == order[position] else 1 for axis in range(len(tensors))]
        made.append(w.expand(w.reshape(value, placed), TensorType(value.type.dtype, result.type.shape).shape or ()))
    return made
