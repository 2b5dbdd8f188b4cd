"""Is a file right where its outputs are far off? Every part of it by itself, on the operands that the reference had there.

Sums in another order (another runtime, another processor) flip single roundings, and a deep network may carry one flip to every
output. Beginning each operation anew from the reference's own values keeps flips from adding up: what is then more than a rounding
off is another computation.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import onnx

from hqc import arithmetic
from hqc.backends.onnx.pieces import GIVEN, CutModel, pieces_of
from hqc.backends.onnx.skeleton import Skeleton
from hqc.backends.onnx.verify import Arrays, OutputComparison, compare_output, output_step, outputs_of_choices, run_model
from hqc.errors import ExportError
from hqc.ir import Graph, QuantParams, Value

Array = npt.NDArray[Any]
See = Callable[[str, Array], None]
PIECE = 1 << 28
"""Bytes of values that are computed at a time: all values of a network at 1024 pixels would be more than a machine has. Beyond that the
reference runs twice, and what it has is held no longer than a part still reads it."""


@runtime_checkable
class TracedReference(Protocol):
    """A reference that can tell what it computes on the way."""

    def __call__(self, arrays: Arrays) -> Arrays:
        """Outputs by name of the inputs by name."""
        ...

    def visit(self, arrays: Arrays, see: See) -> None:
        """Compute, and show `see` what the reference has for values of the graph, by their names, as it goes: reals where they are
        quantized, or integers of the grid. The arrays stay the reference's own; who keeps one copies it.

        Values that it does not hold are not shown; the parts between those that it does are then larger.
        """
        ...


def differing_parts(
    graph: Graph,
    skeleton: Skeleton,
    outputs: list[str],
    arrays: Arrays,
    reference: TracedReference,
    expected: Arrays | None = None,
) -> list[OutputComparison]:
    """The values that `model` computes wrongly from the values of `reference` that they depend on, in program order.

    `skeleton`: `graph` as emitted, whose tensors are called as the graph's values; `outputs`: its output names. `expected`: the reference's
    outputs, where they are known already. One run of the model, in pieces where its values are large.
    """
    given = _Given(graph, skeleton.model)
    reference.visit(arrays, given.see)
    sizes = given.in_program_order()
    parts = _Parts(given, CutModel(skeleton, sizes), arrays)
    parts.add(sizes, given.compared)
    expected = reference(arrays) if expected is None else expected
    places = {name: index for index, name in enumerate(outputs)}

    def compared_output(name: str, result: Array, _: Array | None) -> OutputComparison:
        key = graph.output_names[places[name]]
        return compare_output(key, result, np.asarray(expected[key]), output_step(graph.outputs[places[name]]))

    parts.add({name: np.asarray(expected[graph.output_names[at]]).nbytes for name, at in places.items()}, compared_output)
    if given.kept is None:
        reference.visit(arrays, parts.see)
    else:
        for name, array in given.kept.items():
            parts.take(name, array)
    return [part for part in parts.finished() if part.fails]


Compared = Callable[[str, Array, Array | None], OutputComparison]


@dataclass(frozen=True)
class _Part:
    """`names`: what is computed in one run, from the values `reads`; `compared`: each beside what the reference has. `needs`: what the
    reference must have computed before."""

    names: Sequence[str]
    reads: Sequence[str]
    compared: Compared
    needs: frozenset[str]


class _Parts:
    """The parts of a model, each run as soon as the reference has computed what it reads and what it is compared with."""

    def __init__(self, given: _Given, cut: CutModel, arrays: Arrays) -> None:
        self._given, self._cut, self._arrays = given, cut, arrays
        self._waiting: deque[_Part] = deque()
        self._held: dict[str, Array] = {}
        self._readers: Counter[str] = Counter()  # how many parts still need a value
        self._missing: set[str] = set()  # what the first of the parts waits for
        self._found: list[OutputComparison] = []

    def add(self, sizes: Mapping[str, int], compared: Compared) -> None:
        """Compute the values called in `sizes` (bytes by name), in pieces that are not too large."""
        for names in pieces_of(sizes, PIECE):
            reads = self._cut.reads(names)
            needs = frozenset((*reads, *(name for name in names if name in self._given.sizes)))
            self._waiting.append(_Part(names, reads, compared, needs))
            self._readers.update(needs)

    def see(self, name: str, array: Array) -> None:
        """The reference has computed a value."""
        if name in self._readers:
            held = self._given.held(name, array)
            if held is not None:
                self.take(name, held)

    def take(self, name: str, array: Array) -> None:
        """`see` for an array as the file holds it."""
        self._held[name] = array
        self._missing.discard(name)
        if not self._missing:
            self._advance()

    def finished(self) -> list[OutputComparison]:
        """What was found, in program order; `ExportError` where the reference did not compute again what it had computed."""
        self._advance()
        if self._waiting:
            raise ExportError(f"the model computes no {min(self._missing)} in a second run, which it computed in the first")
        return self._found

    def _advance(self) -> None:
        while self._waiting:
            part = self._waiting[0]
            self._missing = set(part.needs - self._held.keys())
            if self._missing:
                return
            self._waiting.popleft()
            self._found += [part.compared(name, result, self._held.get(name)) for name, result in self._computed(part)]
            self._readers.subtract(part.needs)
            for name in part.needs:
                if not self._readers[name]:
                    del self._held[name], self._readers[name]

    def _computed(self, part: _Part) -> Iterator[tuple[str, Array]]:
        """What the model computes for a part; those values that hang on a choice are left out, for equals are ordered as each runtime
        pleases, also on the same operands."""
        piece = self._cut.piece(part.names)
        chosen = outputs_of_choices(piece.model)
        feeds = {info.name: self._arrays[info.name] for info in piece.model.graph.input if info.name in self._arrays}
        results = run_model(piece, {**feeds, **{GIVEN.format(name): self._held[name] for name in part.reads}})
        yield from ((name, results.pop(name)) for name in part.names if name not in chosen)


class _Given:
    """What the reference has of values that the file computes, as the file holds them.

    `sizes`: of each in bytes, as they come. `kept`: the arrays; None once they are more than a piece may have.
    """

    def __init__(self, graph: Graph, model: onnx.ModelProto) -> None:
        self._elements = {info.name: info.type.tensor_type.elem_type for info in model.graph.value_info}
        computed = {name for node in model.graph.node for name in node.output if name}
        results = [value for node in graph.nodes for value in node.results]
        self._values = {value.name: value for value in results if value.name in computed and value.name in self._elements}
        self.sizes: dict[str, int] = {}
        self.kept: dict[str, Array] | None = {}
        self._total = 0

    def see(self, name: str, array: Array) -> None:
        """Take note of a value, where the file has it too."""
        value = self._values.get(name)
        if value is None or not _fits(value, array):
            return
        self.sizes[name] = math.prod(array.shape) * self._dtype(name).itemsize
        self._total += self.sizes[name]
        if self._total > PIECE:
            self.kept = None
        if self.kept is not None:
            held = self.held(name, array)
            assert held is not None, name
            self.kept[name] = held

    def in_program_order(self) -> dict[str, int]:
        """`sizes`, by the order of the graph."""
        return {name: self.sizes[name] for name in self._values if name in self.sizes}

    def held(self, name: str, array: Array) -> Array | None:
        """A value as the file holds it, in memory of its own; None where that cannot be said."""
        value = self._values[name]
        if not _fits(value, array):
            return None
        held = _as_tensor(value, array, self._dtype(name))
        return held.copy() if np.may_share_memory(held, array) else held

    def compared(self, name: str, result: Array, given: Array | None) -> OutputComparison:
        """What the file computes for a value beside what it was given."""
        assert given is not None, name
        value = self._values[name]
        result = _saturated(value, result)  # a file rounds and saturates behind the tensor that has the value's name
        rounded = _as_tensor(value, result, self._dtype(name)) if _fits(value, result) else result
        return compare_output(name, rounded, given, _step(value, given))

    def _dtype(self, name: str) -> np.dtype[Any]:
        return onnx.helper.tensor_dtype_to_np_dtype(self._elements[name])


def _step(value: Value, array: Array) -> float | None:
    """Of an integer tensor the step is 1, of reals on a grid its scale, of others a part of the largest."""
    if array.dtype.kind in "iu" and value.quant is not None:
        return 1.0
    return output_step(value)


def _fits(value: Value, array: Array) -> bool:
    """Whether it can be said how the file holds what the reference, or the file itself, has for a value."""
    if array.shape != value.shape or value.off_grid:
        return False
    if value.quant is None:
        return array.dtype.kind == "f" or not value.type.dtype.is_float
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


def _saturated(value: Value, array: Array) -> Array:
    """Reals within the reach of the value's grid, with a step to spare: infinite where a divisor on a grid is 0, they end there too."""
    if value.quant is None or array.dtype.kind != "f":
        return array
    reach = float(np.max(value.quant.scale)) * (1 << value.quant.dtype.bits)
    return np.clip(array, -reach, reach)


def _as_tensor(value: Value, array: Array, dtype: np.dtype[Any]) -> Array:
    """What the reference has, as the file holds it; for arrays that fit."""
    quant = value.quant
    if quant is None:
        return array.astype(dtype, copy=False)
    if quant.axis is not None:
        return _on_grid(quant, array, dtype)
    held = np.empty(array.shape, dtype)
    flat, given = held.reshape(-1), np.ravel(array)
    for start in range(0, flat.size, arithmetic.BLOCK):  # the grid's integers are computed in 64 bits
        block = slice(start, start + arithmetic.BLOCK)
        flat[block] = _on_grid(quant, given[block], dtype)
    return held


def _on_grid(quant: QuantParams, array: Array, dtype: np.dtype[Any]) -> Array:
    if array.dtype.kind == "f":
        array = arithmetic.quantize(array, quant.scale, quant.dtype.bits, quant.rounding, quant.axis)
    if dtype.kind == "f":
        array = arithmetic.dequantize(array, quant.scale, quant.axis)
    return array.astype(dtype, copy=False)
