"""Ops that move elements without computing. What they compute serves every element type, and is the simulator's kernel too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hqc.errors import ShapeError
from hqc.ir.op import Array, Attr, Attributes, OperandTypes, Range, Trait, all_ranges, op
from hqc.ir.ops._shapes import (
    agree,
    broadcast,
    differ,
    first,
    normalize_axis,
    present,
    resolve_reshape,
    shown,
    sizes_of_rank,
)
from hqc.ir.types import TensorType

MOVES = {Trait.PASS_THROUGH, Trait.LAYOUT_ONLY, Trait.SELECTS}
PASSIVE = {*MOVES, Trait.PASSIVE}


def _reshape(arrays: Sequence[Any], attributes: Attributes) -> Array:
    x: Array = arrays[0]
    return x.reshape([size or 0 for size in resolve_reshape(x.shape, attributes["shape"])])


@op("reshape", operands="x", attributes=(Attr("shape", "ints", required=True),), traits=PASSIVE, compute=_reshape)
def reshape(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """ONNX's reshape: 0 copies a size, -1 takes what remains. Flatten, view, squeeze and unsqueeze become this op."""
    x = first(types)
    return [x.with_shape(resolve_reshape(x.sizes, attributes["shape"]))]


def _transpose(arrays: Sequence[Any], attributes: Attributes) -> Array:
    return np.transpose(arrays[0], attributes["perm"])


@op("transpose", operands="x", attributes=(Attr("perm", "ints", required=True),), traits=PASSIVE, compute=_transpose)
def transpose(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """Permute axes: result axis i is operand axis `perm[i]`."""
    x, perm = first(types), attributes["perm"]
    sizes = (None,) * len(perm) if x.sizes is None else x.sizes
    if sorted(perm) != list(range(len(sizes))):
        raise ShapeError(f"perm {list(perm)} is not a permutation of {len(sizes)} axes")
    return [x.with_shape(tuple(sizes[axis] for axis in perm))]


def _slices(attributes: Attributes) -> list[tuple[int, slice]]:
    """Axes with the Python slice along each."""
    axes, starts, ends = (attributes[name] for name in ("axes", "starts", "ends"))
    steps = attributes["steps"] or (1,) * len(axes)
    if not len(axes) == len(starts) == len(ends) == len(steps):
        raise ShapeError("axes, starts, ends and steps must have as many entries as one another")
    if min(steps, default=1) < 1:
        raise ShapeError(f"slice step must be positive, got {min(steps)}")
    return [(axis, slice(start, end, step)) for axis, start, end, step in zip(axes, starts, ends, steps, strict=True)]


def _slice(arrays: Sequence[Any], attributes: Attributes) -> Array:
    x: Array = arrays[0]
    index = [slice(None)] * x.ndim
    for axis, where in _slices(attributes):
        index[axis] = where
    return x[tuple(index)]


@op(
    "slice",
    operands="x",
    attributes=(
        Attr("axes", "ints", required=True),
        Attr("starts", "ints", required=True),
        Attr("ends", "ints", required=True),
        Attr("steps", "ints", ()),
    ),
    traits=PASSIVE,
    compute=_slice,
)
def slice_(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """Python slices along axes; negative bounds count from the end; steps are positive (default 1)."""
    x, slices = first(types), _slices(attributes)
    if x.sizes is None:
        return [x]
    sizes = list(x.sizes)
    for axis, where in slices:
        size = x.sizes[normalize_axis(axis, len(sizes))]
        sizes[axis] = None if size is None else len(range(*where.indices(size)))
    return [x.with_shape(tuple(sizes))]


def _split(arrays: Sequence[Any], attributes: Attributes) -> list[Array]:
    return np.split(arrays[0], np.cumsum(attributes["sizes"])[:-1].tolist(), axis=attributes["axis"])


@op(
    "split",
    operands="x",
    attributes=(Attr("axis", "int", required=True), Attr("sizes", "ints", required=True, minimum=0)),
    traits=PASSIVE,
    compute=_split,
)
def split(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """Cut into parts of `sizes` along `axis`: one result per part."""
    x, parts = first(types), attributes["sizes"]
    if x.sizes is None:
        return [x] * len(parts)
    axis = normalize_axis(attributes["axis"], len(x.sizes))
    if differ(sum(parts), x.sizes[axis]):
        raise ShapeError(f"split sizes {list(parts)} do not add up to {x.sizes[axis]}")
    return [x.with_shape((*x.sizes[:axis], size, *x.sizes[axis + 1 :])) for size in parts]


def _cat(arrays: Sequence[Any], attributes: Attributes) -> Array:
    return np.concatenate(list(arrays), axis=attributes["axis"])


@op(
    "cat",
    operands="xs*",
    attributes=(Attr("axis", "int", required=True),),
    traits={Trait.LAYOUT_ONLY, Trait.SAME_SCALE, Trait.SELECTS},
    compute=_cat,
    bounds=all_ranges,
)
def cat(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """Concatenate along `axis`."""
    x = first(types)
    shapes = [present(types, i).sizes for i in range(len(types))]
    known = [sizes for sizes in shapes if sizes is not None]
    if not known:
        return [x]
    axis = normalize_axis(attributes["axis"], len(known[0]))
    result = list(known[0])
    total: int | None = 0
    for sizes in known:
        if len(sizes) != len(result) or not agree((*sizes[:axis], *sizes[axis + 1 :]), (*result[:axis], *result[axis + 1 :])):
            raise ShapeError(f"cannot concatenate {shown(known[0])} and {shown(sizes)} along axis {axis}")
        result = [own if size is None else size for own, size in zip(result, sizes, strict=True)]
        total = None if total is None or sizes[axis] is None else total + (sizes[axis] or 0)
    result[axis] = total if len(known) == len(shapes) else None
    return [x.with_shape(tuple(result))]


def _pad(arrays: Sequence[Any], attributes: Attributes) -> Array:
    """A negative pad crops."""
    x: Array = arrays[0]
    pads, mode, rank = attributes["pads"], attributes["mode"], x.ndim
    if min(pads, default=0) < 0:
        x = x[tuple(slice(max(0, -pads[i]), size - max(0, -pads[rank + i])) for i, size in enumerate(x.shape))]
    widths = [(max(0, pads[i]), max(0, pads[rank + i])) for i in range(rank)]
    if mode == "constant":
        value = attributes["value"]
        return np.pad(x, widths, constant_values=value if x.dtype.kind == "f" else int(value))
    return np.pad(x, widths, mode=mode)


def _padded_range(ranges: Sequence[Range | None], attributes: Attributes) -> Range | None:
    bounds = ranges[0]
    if bounds is None or attributes["mode"] != "constant":
        return bounds
    fill = int(attributes["value"])
    return min(bounds[0], fill), max(bounds[1], fill)


@op(
    "pad",
    operands="x",
    attributes=(
        Attr("pads", "ints", required=True),  # ONNX order: all begins, then all ends
        Attr("value", "float", 0.0),
        Attr("mode", "str", "constant", choices=("constant", "reflect", "edge")),
    ),
    traits={*MOVES, Trait.FILLS},
    compute=_pad,
    bounds=_padded_range,
)
def pad(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """Pad every axis, or crop it where the pad is negative; `value` fills in constant mode."""
    x, pads = first(types), attributes["pads"]
    sizes = (None,) * (len(pads) // 2) if x.sizes is None else x.sizes
    rank = len(sizes)
    if len(pads) != 2 * rank:
        raise ShapeError(f"pads must have {2 * rank} entries for rank {rank}, got {list(pads)}")
    if attributes["mode"] == "constant" and not x.dtype.holds(attributes["value"]):
        raise ShapeError(f"{x} is padded with {attributes['value']}, which {x.dtype.value} cannot hold")
    if attributes["mode"] == "reflect":
        for i, size in enumerate(sizes):
            if size is not None and max(pads[i], pads[rank + i]) >= size:
                raise ShapeError(
                    f"a reflecting pad of {max(pads[i], pads[rank + i])} needs more than {size} elements on axis {i}"
                )
    return [x.with_shape(tuple(None if size is None else size + pads[i] + pads[rank + i] for i, size in enumerate(sizes)))]


_FACTOR = (Attr("factor", "int", required=True, minimum=1),)


def _pixel_shuffle(arrays: Sequence[Any], attributes: Attributes) -> Array:
    x: Array = arrays[0]
    f = attributes["factor"]
    n, c, h, w = x.shape
    parts = x.reshape(n, c // (f * f), f, f, h, w)
    return parts.transpose(0, 1, 4, 2, 5, 3).reshape(n, c // (f * f), h * f, w * f)


@op("pixel_shuffle", operands="x", attributes=_FACTOR, traits=MOVES, compute=_pixel_shuffle)
def pixel_shuffle(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """`[N, C*f*f, H, W]` -> `[N, C, H*f, W*f]` (torch's order, ONNX DepthToSpace CRD)."""
    x, f = first(types), attributes["factor"]
    n, c, h, w = sizes_of_rank(x, 4)
    if c is not None and c % (f * f):
        raise ShapeError(f"pixel_shuffle by {f} needs a multiple of {f * f} channels, got {c}")
    return [x.with_shape((n, _times(c, 1, f * f), _times(h, f), _times(w, f)))]


def _pixel_unshuffle(arrays: Sequence[Any], attributes: Attributes) -> Array:
    x: Array = arrays[0]
    f = attributes["factor"]
    n, c, h, w = x.shape
    parts = x.reshape(n, c, h // f, f, w // f, f)
    return parts.transpose(0, 1, 3, 5, 2, 4).reshape(n, c * f * f, h // f, w // f)


@op("pixel_unshuffle", operands="x", attributes=_FACTOR, traits=MOVES, compute=_pixel_unshuffle)
def pixel_unshuffle(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """Inverse of pixel_shuffle."""
    x, f = first(types), attributes["factor"]
    n, c, h, w = sizes_of_rank(x, 4)
    if (h or 0) % f or (w or 0) % f:
        raise ShapeError(f"pixel_unshuffle by {f} needs height and width divisible by it, got {shown((h, w))}")
    return [x.with_shape((n, _times(c, f * f), _times(h, 1, f), _times(w, 1, f)))]


def _times(size: int | None, factor: int, divisor: int = 1) -> int | None:
    return None if size is None else size * factor // divisor


def _expand(arrays: Sequence[Any], attributes: Attributes) -> Array:
    x: Array = arrays[0]
    target = attributes["shape"]
    lead = len(target) - x.ndim
    return np.broadcast_to(x, [x.shape[i - lead] if size == -1 else size for i, size in enumerate(target)])


@op("expand", operands="x", attributes=(Attr("shape", "ints", required=True),), traits=PASSIVE, compute=_expand)
def expand(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """Broadcast to `shape`; -1 keeps a size."""
    x, target = first(types), attributes["shape"]
    if x.sizes is None:
        return [x.with_shape(tuple(None if size == -1 else size for size in target))]
    lead = len(target) - len(x.sizes)
    if lead < 0 or min(target, default=0) < -1 or -1 in target[:lead]:
        raise ShapeError(f"cannot expand {shown(x.sizes)} to {list(target)}")
    wanted = tuple(x.sizes[i - lead] if size == -1 else size for i, size in enumerate(target))
    result = broadcast(x.sizes, wanted)
    if result is None or not agree(result, wanted):
        raise ShapeError(f"cannot expand {shown(x.sizes)} to {list(target)}")
    return [x.with_shape(wanted)]


def _tile(arrays: Sequence[Any], attributes: Attributes) -> Array:
    return np.tile(arrays[0], attributes["repeats"])


@op("tile", operands="x", attributes=(Attr("repeats", "ints", required=True, minimum=1),), traits=PASSIVE, compute=_tile)
def tile(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """Repeat along each axis; `repeats` has one entry per axis of the operand."""
    x, repeats = first(types), attributes["repeats"]
    sizes = (None,) * len(repeats) if x.sizes is None else x.sizes
    if len(repeats) != len(sizes):
        raise ShapeError(f"tile needs {len(sizes)} repeats, got {list(repeats)}")
    return [x.with_shape(tuple(_times(size, n) for size, n in zip(sizes, repeats, strict=True)))]


def _gather(arrays: Sequence[Any], attributes: Attributes) -> Array:
    return np.asarray(np.take(arrays[0], arrays[1], axis=attributes["axis"]))


def _indices_in_range(arrays: Sequence[Any], types: OperandTypes, attributes: Attributes) -> None:
    indices, sizes = arrays[1], first(types).sizes
    size = None if sizes is None else sizes[attributes["axis"]]
    if indices is None or size is None or not indices.size:
        return
    low, high = int(indices.min()), int(indices.max())
    if low < -size or high >= size:
        raise ShapeError(f"index {low if low < -size else high} is out of range for axis {attributes['axis']} of size {size}")


@op(
    "gather",
    operands="x, indices",
    attributes=(Attr("axis", "int", 0),),
    traits=PASSIVE,
    compute=_gather,
    check_constants=_indices_in_range,
)
def gather(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """ONNX Gather: take `indices` (integers) along `axis`."""
    x, indices = first(types), present(types, 1)
    if x.sizes is None or indices.sizes is None:
        return [x.with_shape(None)]
    axis = normalize_axis(attributes["axis"], len(x.sizes))
    return [x.with_shape((*x.sizes[:axis], *indices.sizes, *x.sizes[axis + 1 :]))]
