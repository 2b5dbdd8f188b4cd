"""Shape arithmetic shared by the op families. All functions raise `ShapeError` with the numbers."""

from __future__ import annotations

from collections.abc import Sequence

from hqc.errors import ShapeError
from hqc.ir.op import OperandTypes
from hqc.ir.types import DType, Shape, TensorType


def first(types: OperandTypes) -> TensorType:
    """The type of the first operand, which must be present."""
    return present(types, 0)


def present(types: OperandTypes, index: int) -> TensorType:
    operand = types[index] if index < len(types) else None
    if operand is None:
        raise ShapeError(f"operand {index} is missing")
    return operand


def same_as_first(types: OperandTypes, attributes: object) -> list[TensorType]:
    """Inference of ops whose result has the type of the first operand."""
    return [first(types)]


def require_rank(type: TensorType, ranks: Sequence[int], what: str = "the input") -> None:
    if type.shape is not None and type.rank not in ranks:
        raise ShapeError(f"{what} must have rank {' or '.join(map(str, ranks))}, got {type}")


def normalize_axis(axis: int, rank: int) -> int:
    """`axis` as a non-negative index."""
    if not -rank <= axis < rank:
        raise ShapeError(f"axis {axis} is out of range for rank {rank}")
    return axis % rank


def broadcast(*shapes: Shape | None) -> Shape | None:
    """NumPy broadcasting; None when any shape is unknown."""
    if None in shapes:
        return None
    if shapes.count(shapes[0]) == len(shapes):
        return shapes[0]
    result: list[int] = []
    known = [shape for shape in shapes if shape is not None]
    for position in range(1, max(map(len, known)) + 1):
        sizes = {shape[-position] for shape in known if len(shape) >= position} - {1}
        if len(sizes) > 1:
            raise ShapeError(f"shapes {' and '.join(map(str, map(list, known)))} do not broadcast")
        result.append(sizes.pop() if sizes else 1)
    return tuple(reversed(result))


def window_size(size: int, kernel: int, stride: int, pads: tuple[int, int], dilation: int = 1, ceil: bool = False) -> int:
    """Number of windows along one axis (torch's rule: in ceil mode the last window starts inside input or left pad)."""
    effective = dilation * (kernel - 1) + 1
    span = size + pads[0] + pads[1] - effective
    count = (-(-span // stride) if ceil else span // stride) + 1
    if ceil and (count - 1) * stride >= size + pads[0]:
        count -= 1
    if count < 1:
        raise ShapeError(f"a window of {effective} does not fit into {size} + padding {pads[0]} + {pads[1]}")
    return count


def resolve_reshape(shape: Shape | None, target: Sequence[int]) -> Shape | None:
    """ONNX's rule: 0 copies the input's size at that position, one -1 takes what remains."""
    if shape is None:
        return None
    sizes = [shape[i] if size == 0 and i < len(shape) else size for i, size in enumerate(target)]
    total = 1
    for size in shape:
        total *= size
    known = 1
    for size in sizes:
        known *= size if size != -1 else 1
    if sizes.count(-1) > 1 or any(size < -1 for size in sizes):
        raise ShapeError(f"reshape target {list(target)} is not valid")
    if -1 in sizes:
        if known == 0 or total % known:
            raise ShapeError(f"cannot reshape {list(shape)} to {list(target)}")
        sizes[sizes.index(-1)] = total // known
    elif known != total:
        raise ShapeError(f"cannot reshape {list(shape)} to {list(target)}")
    return tuple(sizes)


def reduced(shape: Shape | None, axes: Sequence[int], keepdims: bool) -> Shape | None:
    if shape is None:
        return None
    drop = {normalize_axis(axis, len(shape)) for axis in axes} if axes else set(range(len(shape)))
    if keepdims:
        return tuple(1 if i in drop else size for i, size in enumerate(shape))
    return tuple(size for i, size in enumerate(shape) if i not in drop)


def result_dtype(types: OperandTypes) -> DType:
    """dtype of an element-wise result: the first operand's (the front end inserts casts where torch would promote)."""
    return first(types).dtype
