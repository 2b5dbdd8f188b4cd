"""What the user gives against what a model was planned for: the structure of nested inputs, and arrays. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hqc.errors import InputError

Leaf = Callable[[Any, Any, str], Any]
"""`leaf(given, like, name)`: what was given for the tensor `like`, converted."""


def by_name(args: Sequence[Any], names: Sequence[str]) -> tuple[Any, ...]:
    """`args`, or where they are one dict whose keys are names of inputs, its entries in their order; None for one left out."""
    if len(args) == 1 and isinstance(args[0], Mapping) and args[0] and set(args[0]) <= set(names):
        given = args[0]
        last = max(index for index, name in enumerate(names) if name in given)
        return tuple(given.get(name) for name in names[: last + 1])
    return tuple(args)


def with_named(args: tuple[Any, ...], named: Mapping[str, Any], names: Sequence[str]) -> tuple[Any, ...]:
    """`args`, and behind them the inputs that were given as keywords, in the order of `names`; None for one left out between them.

    `InputError` for a keyword that is no input, and for one that has its place among `args`.
    """
    for name in named:
        if name not in names:
            raise InputError(f"the model has no input {name}; it takes {', '.join(names)}")
        if name in names[: len(args)]:
            raise InputError(f"input {name} is given twice: by position and by name")
    last = max((names.index(name) for name in named), default=-1)
    return (*args, *(named.get(name) for name in names[len(args) : last + 1]))


def bind_structure(
    given: tuple[Any, ...], wanted: tuple[Any, ...], names: Sequence[str], tensor: type | tuple[type, ...], leaf: Leaf
) -> tuple[Any, ...]:
    """`given` in the structure of `wanted`, whose leaves of type `tensor` take what `leaf` makes of what was given.

    `InputError` names the input that is missing, too much, or of another kind.
    """
    while wanted and wanted[-1] is None and len(wanted) > len(given):
        wanted = wanted[:-1]
    while given and given[-1] is None and len(given) > len(wanted):
        given = given[:-1]
    if names and len(wanted) > len(names):  # forward(self, *images)
        names = (*names[:-1], *(f"{names[-1]}[{index}]" for index in range(len(wanted) - len(names) + 1)))
    if len(given) != len(wanted):
        raise InputError(f"the model takes {len(wanted)} input(s) ({', '.join(names[: len(wanted)])}), got {len(given)}")

    def bound(given: Any, like: Any, name: str) -> Any:
        if isinstance(like, tensor):
            return leaf(given, like, name)
        if isinstance(like, Mapping):
            missing = [key for key in like if not isinstance(given, Mapping) or key not in given]
            if missing:
                wanted, lacks = ", ".join(map(str, like)), ", ".join(map(str, missing))
                raise InputError(f"input {name} is a dict with {wanted}; it lacks {lacks}")
            return {key: bound(given[key], item, f"{name}[{key!r}]") for key, item in like.items()}
        if isinstance(like, (tuple, list)):
            if not isinstance(given, (tuple, list)) or len(given) != len(like):
                raise InputError(f"input {name} takes {len(like)} entries, got {_size(given)}")
            return like_sequence(like, (bound(a, b, f"{name}[{i}]") for i, (a, b) in enumerate(zip(given, like, strict=True))))
        if given is not None and not _equal(given, like):
            raise InputError(f"input {name} was {like!r} when the model was planned and is a constant of it, got {given!r:.80}")
        return like

    return tuple(bound(arg, like, name) for arg, like, name in zip(given, wanted, names, strict=False))


def _equal(given: Any, constant: Any) -> bool:
    try:
        return bool(given == constant)
    except (ValueError, RuntimeError, TypeError):  # arrays of several elements, and stranger things
        return False


def like_sequence(sequence: Any, items: Iterable[Any]) -> Any:
    """`items` as a tuple, list or named tuple of the kind of `sequence`."""
    return type(sequence)(*items) if hasattr(sequence, "_fields") else type(sequence)(items)


def _size(given: Any) -> str:
    return str(len(given)) if isinstance(given, (tuple, list)) else f"a {type(given).__name__}"


def as_numpy(value: Any, name: str) -> npt.NDArray[Any]:
    """A tensor or array-like as a NumPy array; `InputError` names the input it cannot convert."""
    if hasattr(value, "detach"):
        return np.asarray(value.detach().cpu().numpy())
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise InputError(f"input {name} is not a rectangular array: {error}") from None
    if array.dtype == object:
        raise InputError(f"input {name} must be a tensor or an array, got {type(value).__name__}")
    return array
