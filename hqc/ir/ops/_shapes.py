"""Shape arithmetic shared by the op families. Sizes may be unknown (None), and so may ranks (no sizes at all).

What is unknown never makes an error, and a size that is returned holds whatever the unknown ones turn out to be. All functions
raise `ShapeError` with the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from hqc.errors import ShapeError
from hqc.ir.op import OperandTypes
from hqc.ir.types import Sizes, TensorType


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


def shown(sizes: Sizes) -> str:
    """`[1, 3, ?, ?]`."""
    return f"[{', '.join('?' if size is None else str(size) for size in sizes)}]"


def sizes_of_rank(type: TensorType, rank: int, what: str = "the input") -> Sizes:
    """The sizes of an operand that must have `rank` axes; all unknown where its rank is."""
    if type.sizes is None:
        return (None,) * rank
    if len(type.sizes) != rank:
        raise ShapeError(f"{what} must have rank {rank}, got {type}")
    return type.sizes


def differ(a: int | None, b: int | None) -> bool:
    """True when both sizes are known and are not the same."""
    return a is not None and b is not None and a != b


def agree(a: Sizes, b: Sizes) -> bool:
    """True when two shapes may be the same."""
    return len(a) == len(b) and not any(differ(x, y) for x, y in zip(a, b, strict=True))


def normalize_axis(axis: int, rank: int) -> int:
    """`axis` as a non-negative index."""
    if not -rank <= axis < rank:
        raise ShapeError(f"axis {axis} is out of range for rank {rank}")
    return axis % rank


def broadcast(*shapes: Sizes | None) -> Sizes | None:
    """NumPy broadcasting; None when any rank is unknown."""
    if None in shapes:
        return None
    if shapes.count(shapes[0]) == len(shapes):
        return shapes[0]
    result: list[int | None] = []
    known = [shape for shape in shapes if shape is not None]
    for position in range(1, max(map(len, known)) + 1):
        sizes = {shape[-position] for shape in known if len(shape) >= position} - {1}
        fixed = sizes - {None}
        if len(fixed) > 1:
            raise ShapeError(f"shapes {' and '.join(map(shown, known))} do not broadcast")
        result.append(fixed.pop() if fixed else (None if sizes else 1))
    return tuple(reversed(result))


def window_size(
    size: int | None, kernel: int | None, stride: int, pads: tuple[int, int], dilation: int = 1, ceil: bool = False
) -> int | None:
    """Number of windows along one axis (torch's rule: in ceil mode the last window starts inside input or left pad)."""
    if size is None or kernel is None:
        return None
    effective = dilation * (kernel - 1) + 1
    span = size + pads[0] + pads[1] - effective
    count = (-(-span // stride) if ceil else span // stride) + 1
    if ceil and (count - 1) * stride >= size + pads[0]:
        count -= 1
    if count < 1:
        raise ShapeError(f"a window of {effective} does not fit into {size} + padding {pads[0]} + {pads[1]}")
    return count


def resolve_reshape(sizes: Sizes | None, target: Sequence[int]) -> Sizes:
    """ONNX's rule: 0 copies the input's size at that position, one -1 takes what remains."""
    if target.count(-1) > 1 or any(size < -1 for size in target):
        raise ShapeError(f"reshape target {list(target)} is not valid")
    if sizes is None:
        return tuple(None if size < 1 else size for size in target)
    copied = {i for i, size in enumerate(target) if size == 0 and i < len(sizes)}
    result: list[int | None] = [sizes[i] if i in copied else size for i, size in enumerate(target)]
    rest = _product([size for i, size in enumerate(sizes) if i not in copied])  # copied sizes cancel, known or not
    given = math.prod(size for i, size in enumerate(target) if i not in copied and size != -1)
    if -1 in target:
        fits = rest is None or (given != 0 and rest % given == 0)
        result[target.index(-1)] = None if rest is None or not fits else rest // given
    else:
        fits = rest is None or rest == given
    if not fits:
        raise ShapeError(f"cannot reshape {shown(sizes)} to {list(target)}")
    return tuple(result)


def _product(sizes: Sequence[int | None]) -> int | None:
    total = 1
    for size in sizes:
        if size is None:
            return None
        total *= size
    return total


def reduced(sizes: Sizes | None, axes: Sequence[int], keepdims: bool) -> Sizes | None:
    """Sizes after a reduction over `axes`, over all of them where none are given."""
    if sizes is None:
        return None if axes or keepdims else ()
    drop = {normalize_axis(axis, len(sizes)) for axis in axes} if axes else set(range(len(sizes)))
    if keepdims:
        return tuple(1 if i in drop else size for i, size in enumerate(sizes))
    return tuple(size for i, size in enumerate(sizes) if i not in drop)
