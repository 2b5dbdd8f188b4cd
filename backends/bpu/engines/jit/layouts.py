"""How the integers of a segment lie in memory: channels last where an image operation touches them, else in C order.

Convolutions and windows want the channels of a pixel side by side. Between them images keep that order, through whatever works element
by element. Tokens and attention scores of rank 4 meet no such operation: in C order their reshapes move nothing, and rows of
products are rows of memory. Where the two meet, a transposition or reshape copies.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hqc.backends.bpu.kernels import Array, KernelContext
from hqc.ir import Graph, Value


class Order(enum.Enum):
    """What the native kernel of an operation asks of its values of rank 4."""

    IMAGE = "operands and results are images"
    SAME = "operands and results have one order"
    ANY = "each operand and result has its own"


def _can_be_image(value: Value | None) -> bool:
    return value is not None and value.shape is not None and len(value.shape) == 4 and not value.type.dtype.is_float


@dataclass(frozen=True)
class Layouts:
    """`images`: names of the values whose memory is channels last."""

    images: frozenset[str]

    @classmethod
    def of(cls, graph: Graph, orders: Mapping[str, Order]) -> Layouts:
        """`orders`: by op name; an op that is not there is run by NumPy, which takes any."""
        roots: dict[str, str] = {}

        def find(name: str) -> str:
            while (above := roots.setdefault(name, name)) != name:
                roots[name] = roots[above]
                name = above
            return name

        anchors: list[str] = []
        for node in graph.nodes:
            order = orders.get(node.op.name, Order.ANY)
            names = [value.name for value in (*node.inputs, *node.results) if value is not None and _can_be_image(value)]
            if order is Order.ANY or not names:
                continue
            for name in names[1:]:
                roots[find(name)] = find(names[0])
            if order is Order.IMAGE:
                anchors.append(names[0])
        images = {find(name) for name in anchors}
        return cls(frozenset(name for name in list(roots) if find(name) in images) | images)

    def is_image(self, value: Value) -> bool:
        return value.name in self.images

    def shape(self, value: Value) -> tuple[int, ...]:
        """The shape of a value's memory."""
        shape = value.shape
        assert shape is not None
        return (shape[0], shape[2], shape[3], shape[1]) if self.is_image(value) else shape

    def axis(self, value: Value, axis: int) -> int:
        """Where an axis of the value lies in its memory."""
        axis %= len(value.shape or ())
        return (0, 3, 1, 2)[axis] if self.is_image(value) else axis

    def nbytes(self, value: Value) -> int:
        return math.prod(self.shape(value)) * value.type.dtype.numpy.itemsize

    def to_memory(self, array: Array, value: Value) -> Array:
        """The array in the memory order of its value; a view where it has that order."""
        return np.ascontiguousarray(array.transpose(0, 2, 3, 1) if self.is_image(value) else array)

    def from_memory(self, memory: Array, value: Value) -> Array:
        return memory.transpose(0, 3, 1, 2) if self.is_image(value) else memory

    def places(self, value: Value) -> npt.NDArray[np.int64]:
        """Where in its memory each element of the value lies: numbers in the value's own shape."""
        shape = self.shape(value)
        return self.from_memory(np.arange(math.prod(shape)).reshape(shape), value)


@dataclass(frozen=True)
class NativeContext(KernelContext):
    """What a lowering may use: also the orders of memory in its graph."""

    layouts: Layouts


@dataclass(frozen=True)
class Runs:
    """Places that make up a row of memory: for each of `first`, `count` runs of `length` neighbours, each `step` on from the last."""

    first: npt.NDArray[np.int64]
    count: int
    step: int
    length: int


def runs(places: npt.NDArray[np.int64]) -> Runs:
    """The places, in the order that they are wanted, as regular runs: as few and long ones as a look at the first ones finds."""
    flat = places.reshape(-1)
    length = _regular(flat, 1)
    starts = flat[::length]
    step = int(starts[1] - starts[0]) if len(starts) > 1 else 0
    count = _regular(starts, step)
    return Runs(np.ascontiguousarray(starts[::count]), count, step, length)


def _regular(numbers: npt.NDArray[np.int64], step: int) -> int:
    """The largest number of neighbours, of those that cut `numbers` into equal parts, which are all `step` apart."""
    size = len(numbers)
    breaks = np.flatnonzero(np.diff(numbers) != step) + 1
    return size if not len(breaks) else int(np.gcd.reduce(np.append(breaks, size)))
