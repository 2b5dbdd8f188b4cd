"""Ops that move elements without computing."""

from __future__ import annotations

from hqc.errors import ShapeError
from hqc.ir.op import Attr, Attributes, OperandTypes, Trait, op
from hqc.ir.ops._shapes import broadcast, first, normalize_axis, present, require_rank, resolve_reshape
from hqc.ir.types import TensorType

_LAYOUT = {Trait.PASS_THROUGH, Trait.LAYOUT_ONLY, Trait.PASSIVE}


@op("reshape", operands="x", attributes=(Attr("shape", "ints", required=True),), traits=_LAYOUT)
def reshape(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """ONNX's reshape: 0 copies a size, -1 takes what remains. Flatten, view, squeeze and unsqueeze become this op."""
    x = first(types)
    return [x.with_shape(resolve_reshape(x.shape, attributes["shape"]))]


@op("transpose", operands="x", attributes=(Attr("perm", "ints", required=True),), traits=_LAYOUT)
def transpose(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """Permute axes: result axis i is operand axis `perm[i]`."""
    x, perm = first(types), attributes["perm"]
    if x.shape is None:
        return [x]
    if sorted(perm) != list(range(len(x.shape))):
        raise ShapeError(f"perm {list(perm)} is not a permutation of {len(x.shape)} axes")
    return [x.with_shape(tuple(x.shape[axis] for axis in perm))]


@op(
    "slice",
    operands="x",
    attributes=(
        Attr("axes", "ints", required=True),
        Attr("starts", "ints", required=True),
        Attr("ends", "ints", required=True),
        Attr("steps", "ints", ()),
    ),
    traits=_LAYOUT,
)
def slice_(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """Python slices along axes; negative bounds count from the end; steps are positive (default 1)."""
    x = first(types)
    if x.shape is None:
        return [x]
    shape = list(x.shape)
    steps = attributes["steps"] or (1,) * len(attributes["axes"])
    if not len(attributes["axes"]) == len(attributes["starts"]) == len(attributes["ends"]) == len(steps):
        raise ShapeError("axes, starts, ends and steps must have as many entries as one another")
    for axis, start, end, step in zip(attributes["axes"], attributes["starts"], attributes["ends"], steps, strict=True):
        axis = normalize_axis(axis, len(shape))
        if step < 1:
            raise ShapeError(f"slice step must be positive, got {step}")
        shape[axis] = len(range(*slice(start, end, step).indices(x.shape[axis])))
    return [x.with_shape(tuple(shape))]


@op(
    "split",
    operands="x",
    attributes=(Attr("axis", "int", required=True), Attr("sizes", "ints", required=True, minimum=0)),
    traits=_LAYOUT,
)
def split(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """Cut into parts of `sizes` along `axis`: one result per part."""
    x, sizes = first(types), attributes["sizes"]
    if x.shape is None:
        return [x] * len(sizes)
    axis = normalize_axis(attributes["axis"], len(x.shape))
    if sum(sizes) != x.shape[axis]:
        raise ShapeError(f"split sizes {list(sizes)} do not add up to {x.shape[axis]}")
    return [x.with_shape((*x.shape[:axis], size, *x.shape[axis + 1 :])) for size in sizes]


@op("cat", operands="xs*", attributes=(Attr("axis", "int", required=True),), traits={Trait.LAYOUT_ONLY, Trait.SAME_SCALE})
def cat(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """Concatenate along `axis`."""
    x = first(types)
    if any(present(types, i).shape is None for i in range(len(types))) or x.shape is None:
        return [x.with_shape(None)]
    axis = normalize_axis(attributes["axis"], len(x.shape))
    total = 0
    for index in range(len(types)):
        shape = present(types, index).shape
        assert shape is not None
        if len(shape) != len(x.shape) or any(a != b for i, (a, b) in enumerate(zip(shape, x.shape, strict=True)) if i != axis):
            raise ShapeError(f"cannot concatenate {list(x.shape)} and {list(shape)} along axis {axis}")
        total += shape[axis]
    return [x.with_shape((*x.shape[:axis], total, *x.shape[axis + 1 :]))]


@op(
    "pad",
    operands="x",
    attributes=(
        Attr("pads", "ints", required=True),  # ONNX order: all begins, then all ends
        Attr("value", "float", 0.0),
        Attr("mode", "str", "constant", choices=("constant", "reflect", "edge")),
    ),
    traits={Trait.PASS_THROUGH, Trait.LAYOUT_ONLY, Trait.FILLS},
)
def pad(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """Pad every axis; `value` fills in constant mode."""
    x, pads = first(types), attributes["pads"]
    if x.shape is None:
        return [x]
    rank = len(x.shape)
    if len(pads) != 2 * rank:
        raise ShapeError(f"pads must have {2 * rank} entries for rank {rank}, got {list(pads)}")
    return [x.with_shape(tuple(size + pads[i] + pads[rank + i] for i, size in enumerate(x.shape)))]


@op(
    "pixel_shuffle",
    operands="x",
    attributes=(Attr("factor", "int", required=True, minimum=1),),
    traits={Trait.PASS_THROUGH, Trait.LAYOUT_ONLY},
)
def pixel_shuffle(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """`[N, C*f*f, H, W]` -> `[N, C, H*f, W*f]` (torch's order, ONNX DepthToSpace CRD)."""
    x, f = first(types), attributes["factor"]
    require_rank(x, (4,))
    if x.shape is None:
        return [x]
    n, c, h, w = x.shape
    if c % (f * f):
        raise ShapeError(f"pixel_shuffle by {f} needs a multiple of {f * f} channels, got {c}")
    return [x.with_shape((n, c // (f * f), h * f, w * f))]


@op(
    "pixel_unshuffle",
    operands="x",
    attributes=(Attr("factor", "int", required=True, minimum=1),),
    traits={Trait.PASS_THROUGH, Trait.LAYOUT_ONLY},
)
def pixel_unshuffle(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """Inverse of pixel_shuffle."""
    x, f = first(types), attributes["factor"]
    require_rank(x, (4,))
    if x.shape is None:
        return [x]
    n, c, h, w = x.shape
    if h % f or w % f:
        raise ShapeError(f"pixel_unshuffle by {f} needs height and width divisible by it, got {h}x{w}")
    return [x.with_shape((n, c * f * f, h // f, w // f))]


@op("expand", operands="x", attributes=(Attr("shape", "ints", required=True),), traits=_LAYOUT)
def expand(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """Broadcast to `shape`; -1 keeps a size."""
    x, target = first(types), attributes["shape"]
    if x.shape is None:
        return [x]
    lead = len(target) - len(x.shape)
    if lead < 0 or min(target, default=0) < -1 or -1 in target[:lead]:
        raise ShapeError(f"cannot expand {list(x.shape)} to {list(target)}")
    wanted = tuple(x.shape[i - lead] if size == -1 and i >= lead else size for i, size in enumerate(target))
    result = broadcast(x.shape, wanted)
    if result != wanted:
        raise ShapeError(f"cannot expand {list(x.shape)} to {list(target)}")
    return [x.with_shape(wanted)]


@op("tile", operands="x", attributes=(Attr("repeats", "ints", required=True, minimum=1),), traits=_LAYOUT)
def tile(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """Repeat along each axis; `repeats` has one entry per axis of the operand."""
    x, repeats = first(types), attributes["repeats"]
    if x.shape is None:
        return [x]
    if len(repeats) != len(x.shape):
        raise ShapeError(f"tile needs {len(x.shape)} repeats, got {list(repeats)}")
    return [x.with_shape(tuple(size * n for size, n in zip(x.shape, repeats, strict=True)))]


@op("gather", operands="x, indices", attributes=(Attr("axis", "int", 0),), traits=_LAYOUT)
def gather(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """ONNX Gather: take `indices` (integers) along `axis`."""
    x, indices = first(types), present(types, 1)
    if x.shape is None or indices.shape is None:
        return [x.with_shape(None)]
    axis = normalize_axis(attributes["axis"], len(x.shape))
    return [x.with_shape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))]
