"""Native steps and segments: nodes as descriptors of compiled kernels, and a run of them as one native call.

Inside a segment values live in one block of memory, planned when the program is made: a value's bytes are reused after its last
reader. `layouts` says in which order. Threads share the tiles of each step.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from hqc.backends.bpu.engines.jit import fields as f
from hqc.backends.bpu.engines.jit import library
from hqc.backends.bpu.engines.jit.layouts import Layouts
from hqc.backends.bpu.workers import Workers
from hqc.ir import Value

Array = npt.NDArray[Any]
_ALIGNMENT = 64
_COUNTERS = 32  # words of a step: two counters, 128 bytes apart, so that threads do not share a line by accident
_SHARE_NS = 60_000  # segments below this stay on the calling thread: waking another costs about half of it


@dataclass(frozen=True, eq=False)
class NativeOp:
    """One descriptor. `operands` and `results` say which words take the address of which operand or result of the node."""

    kernel: str
    tiles: int
    words: dict[int, int]
    operands: dict[int, int] = field(default_factory=lambda: {f.X: 0})
    results: dict[int, int] = field(default_factory=lambda: {f.OUT: 0})
    scratch: int = 0
    keep: tuple[Any, ...] = ()
    nanoseconds: float = 0.0
    complaint: Callable[[], Exception] | None = None


@dataclass(frozen=True, eq=False)
class NativeStep:
    """A node: operations in order, or none where the result is its operand's memory (`alias`)."""

    ops: tuple[NativeOp, ...]
    alias: bool = False


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def aligned_buffer(size: int) -> tuple[Array, int]:
    """Uninitialized bytes and the aligned address in them from which `size` are free."""
    buffer = np.empty(size + _ALIGNMENT, np.uint8)
    start: int = buffer.__array_interface__["data"][0]
    return buffer, -(-start // _ALIGNMENT) * _ALIGNMENT


@dataclass(frozen=True, eq=False)
class Member:
    """A node of a segment: its native step, operands (None: not given to kernels) and results."""

    step: NativeStep
    inputs: tuple[Value | None, ...]
    results: tuple[Value, ...]


class _State:
    """What one run needs for itself: descriptors, counters, scratch memory, values."""

    def __init__(self, segment: Segment) -> None:
        ops = segment.ops
        self.words = np.zeros((len(ops), f.WORDS), np.int64)
        self.counters = np.zeros(len(ops) * _COUNTERS, np.int64)
        self.status = np.zeros(len(ops), np.int64)
        self.arena, base = aligned_buffer(segment.arena)
        self.scratch, scratch = aligned_buffer(segment.scratch * segment.threads)
        self.scratches = [scratch + index * segment.scratch for index in range(segment.threads)]
        row = self.words.__array_interface__["data"][0]
        status = self.status.__array_interface__["data"][0]
        for index, op in enumerate(ops):
            for word, value in op.words.items():
                self.words[index, word] = value
            self.words[index, f.KERNEL] = library.address(op.kernel)
            self.words[index, f.TILES] = op.tiles
            self.words[index, f.STATUS] = status + 8 * index
        for index, word, name in segment.internal:
            self.words[index, word] = base + segment.offsets[name]
        self.table = np.arange(len(ops), dtype=np.int64) * (8 * f.WORDS) + row
        self.arguments = tuple(int(a.__array_interface__["data"][0]) for a in (self.table, self.counters))


class Segment:
    """Native steps that run as one call. `kept`: names of results that something outside reads."""

    def __init__(self, members: Sequence[Member], kept: frozenset[str], workers: Workers, layouts: Layouts) -> None:
        self.workers, self._layouts = workers, layouts
        self.ops = [op for member in members for op in member.step.ops]
        self.threads = workers.threads if sum(op.nanoseconds for op in self.ops) >= _SHARE_NS else 1
        self.scratch = _aligned(max((op.scratch for op in self.ops), default=0) + 256)
        self._root: dict[str, str] = {}
        produced = {value.name: value for member in members for value in member.results}
        self.inputs: list[Value] = []
        self.results = [value for value in produced.values() if value.name in kept]
        self._find_aliases(members)
        homes = {self._root.get(value.name, value.name) for value in self.results}
        self._outside = {
            value.name: value for value in produced.values() if value.name in homes and value.name not in self._root
        }
        self._plan(members, produced)
        self._free: list[_State] = []
        self._lock = threading.Lock()
        self._drive = library.driver() if self.ops else None
        self._complaints = [(index, op.complaint) for index, op in enumerate(self.ops) if op.complaint is not None]
        self._keep = [op.keep for op in self.ops]

    def _find_aliases(self, members: Sequence[Member]) -> None:
        for member in members:
            if member.step.alias:
                source = member.inputs[0]
                assert source is not None
                self._root[member.results[0].name] = self._root.get(source.name, source.name)

    def _plan(self, members: Sequence[Member], produced: dict[str, Value]) -> None:
        """Which words take which addresses, and where in the arena inner values lie (first fit by last reader)."""
        self.internal: list[tuple[int, int, str]] = []
        self._external: list[tuple[int, int, str]] = []
        seen: dict[str, Value] = {}
        spans: dict[str, list[int]] = {}
        index = 0
        for member in members:
            for operand in member.inputs if member.step.alias else ():
                if operand is not None and operand.name not in produced:
                    seen.setdefault(operand.name, operand)
            for op in member.step.ops:
                used = [(word, member.inputs[position]) for word, position in op.operands.items()]
                used += [(word, member.results[position]) for word, position in op.results.items()]
                for word, value in used:
                    assert value is not None
                    home = self._root.get(value.name, value.name)
                    if home in produced and home not in self._outside:
                        spans.setdefault(home, [index, index])[1] = index
                        self.internal.append((index, word, home))
                    else:
                        if home not in produced and value.name not in produced:
                            seen.setdefault(value.name, value)
                        self._external.append((index, word, home))
                index += 1
        self.inputs = list(seen.values())
        self.offsets, self.arena = _pack({name: (span, self._layouts.nbytes(produced[name])) for name, span in spans.items()})

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """Results for arrays of `inputs`, in the order of `results`."""
        memories: dict[str, Array] = {}
        layouts = self._layouts
        for value, array in zip(self.inputs, arrays, strict=True):
            memories[value.name] = layouts.to_memory(array, value)
        for name, value in self._outside.items():
            memories[name] = np.empty(layouts.shape(value), value.type.dtype.numpy)
        if self.ops:
            addresses = {name: memory.__array_interface__["data"][0] for name, memory in memories.items()}
            state = self._take()
            try:
                for index, word, name in self._external:
                    state.words[index, word] = addresses[name]
                self._call(state)
            finally:
                with self._lock:
                    self._free.append(state)
        found = []
        for value in self.results:
            memory = memories[self._root.get(value.name, value.name)]
            found.append(layouts.from_memory(memory.reshape(layouts.shape(value)), value))
        return found

    def _take(self) -> _State:
        with self._lock:
            if self._free:
                return self._free.pop()
        return _State(self)

    def _call(self, state: _State) -> None:
        state.counters.fill(0)
        assert self._drive is not None
        table, counters = state.arguments
        drive, count = self._drive, len(self.ops)
        if self.threads == 1:
            drive(table, count, counters, state.scratches[0])
        else:
            self.workers.together(lambda part: drive(table, count, counters, state.scratches[part]))
        for index, complaint in self._complaints:
            if state.status[index]:
                state.status[index] = 0
                raise complaint()


def _pack(spans: dict[str, tuple[list[int], int]]) -> tuple[dict[str, int], int]:
    """Offsets such that values that live at the same time do not overlap: larger ones first, each as low as it fits."""
    offsets: dict[str, int] = {}
    # What is placed, by where it begins: first and last step, begin and end. A column each, for a program has thousands of values and
    # each looks at all that are placed.
    placed = np.zeros((4, len(spans)), np.int64)
    ordered = sorted(spans.items(), key=lambda item: (-item[1][1], item[0]))
    for count, (name, ((first, last), size)) in enumerate(ordered):
        firsts, lasts, begins, ends = placed[:, :count]
        beside = (firsts <= last) & (lasts >= first)
        lows = begins[beside]
        free = np.concatenate(
            ([0], np.maximum.accumulate(ends[beside]))
        )  # from where on it is free below each of them, and above all
        fitting = np.flatnonzero(free[:-1] + size <= lows)
        begin = offsets[name] = int(free[fitting[0] if fitting.size else -1])
        place = int(np.searchsorted(begins, begin, side="right"))
        placed[:, place + 1 : count + 1] = placed[:, place:count]
        placed[:, place] = first, last, begin, begin + _aligned(size + _ALIGNMENT)
    return offsets, int(placed[3].max(initial=0))
