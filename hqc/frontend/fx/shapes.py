"""Sizes that are not known while no example inputs are given, and the arithmetic that models do with them.

With example inputs every size is a plain int and nothing here matters. Without them, the types of values have None for unknown sizes
(`Sizes`), or nothing where not even the rank is known, so that most networks lower all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from hqc.errors import LoweringError
from hqc.ir.types import Sizes

GIVE_INPUTS = "give example_inputs so that sizes are known"


class UnknownSize:
    """A size of a tensor whose shape is unknown, or something computed from one.

    `axis`: the axis of the value `owner` that it is the size of, None for computed sizes. Using it as a number raises `LoweringError`.
    """

    def __init__(self, text: str, axis: int | None = None, owner: str = "") -> None:
        self.text, self.axis, self.owner = text, axis, owner

    def __repr__(self) -> str:
        return self.text

    def _refuse(self, *_: Any) -> NoReturn:
        raise LoweringError(f"the size {self.text} is not known; {GIVE_INPUTS}")

    __bool__ = __int__ = __index__ = __float__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse

    def __eq__(self, other: object) -> bool:
        if other is not self:
            self._refuse()
        return True

    __hash__ = object.__hash__


def _define_arithmetic() -> None:
    symbols = {"add": "+", "sub": "-", "mul": "*", "floordiv": "//", "truediv": "/", "mod": "%", "pow": "**"}
    for name, symbol in symbols.items():

        def forward(self: UnknownSize, other: object, symbol: str = symbol) -> UnknownSize:
            return UnknownSize(f"({self} {symbol} {other})")

        def reflected(self: UnknownSize, other: object, symbol: str = symbol) -> UnknownSize:
            return UnknownSize(f"({other} {symbol} {self})")

        setattr(UnknownSize, f"__{name}__", forward)
        setattr(UnknownSize, f"__r{name}__", reflected)


_define_arithmetic()
Size = int | UnknownSize


def sizes_of(shape: Sizes, name: str) -> tuple[Size, ...]:
    """What `x.shape` is to the model's code."""
    return tuple(UnknownSize(f"{name}.shape[{i}]", i, name) if size is None else size for i, size in enumerate(shape))


class UnknownShape:
    """`x.shape` where not even the rank is known: indexing from the front works, nothing else."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"{self.name}.shape"

    def __getitem__(self, index: Any) -> UnknownSize:
        if isinstance(index, int) and index >= 0:
            return UnknownSize(f"{self.name}.shape[{index}]", index, self.name)
        self._refuse()

    def _refuse(self, *_: Any) -> NoReturn:
        raise LoweringError(f"the rank of {self.name} is not known; {GIVE_INPUTS}")

    __iter__ = __len__ = _refuse


def reshape_target(name: str, shape: Sizes | None, wanted: Sequence[Size]) -> list[int]:
    """The `shape` attribute of a reshape of the value `name` to `wanted` sizes (-1 as in torch), with at most one -1.

    The leading size is written 0 when it is the operand's batch, so that the graph works for any batch. `LoweringError` when
    two sizes are unknown.
    """
    target: list[int] = []
    for position, size in enumerate(wanted):
        own = shape[position] if shape is not None and position < len(shape) else None
        if isinstance(size, UnknownSize):
            copied = size.axis == position and (position == 0 or size.owner == name)  # axis 0 of any value is the batch
            target.append(0 if copied else -1)
        elif position == 0 and own is not None and size == own:
            target.append(0)
        else:
            target.append(int(size))
    if target.count(-1) > 1:
        raise LoweringError(f"the sizes {list(wanted)} are not known; {GIVE_INPUTS}")
    return target
