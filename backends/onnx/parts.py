"""Is a file right where its outputs are far off? Every part of it by itself, on the operands that the reference had there.

Sums in another order (another runtime, another processor) flip single roundings, and a deep network may carry one flip to every
output. Beginning each operation anew from the reference's own values keeps flips from adding up: what is then more than a rounding
off is another computation.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import onnx

from hqc import arithmetic
from hqc.backends.onnx.pieces import GIVEN, CutModel, pieces_of
from hqc.backends.onnx.skeleton import Skeleton
from hqc.backends.onnx.verify import Arrays, OutputComparison, compare_output, output_step, outputs_of_choices, run_model
from hqc.ir import Graph, QuantParams, Value

Array = npt.NDArray[Any]
See = Callable[[str, Array], None]
PIECE = 1 << 28
"""Bytes of values that are computed at a time: all values of a network at 1024 pixels would be more than a machine has. What the reference
computed is held no longer than a part still reads it."""


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
    outputs, where they are known already. One run of the reference and one of the model, in pieces where its values are large.
    """
    given = _Given(graph, skeleton.model)
    parts = _Parts(given, CutModel(skeleton), arrays)
    reference.visit(arrays, parts.see)
    found = parts.finished()
    expected = reference(arrays) if expected is None else expected
    places = {name: index for index, name in enumerate(outputs)}

    def compared_output(name: str, result: Array) -> OutputComparison:
        key = graph.output_names[places[name]]
        return compare_output(key, result, np.asarray(expected[key]), output_step(graph.outputs[places[name]]))

    found += parts.computed(
        {name: np.asarray(expected[graph.output_names[at]]).nbytes for name, at in places.items()}, compared_output
    )
    return [part for part in found if part.fails]


class _Parts:
    """The values of a model, each computed from those before it that the reference showed, some at a time."""

    def __init__(self, given: _Given, cut: CutModel, arrays: Arrays) -> None:
        self._given, self._cut, self._arrays = given, cut, arrays
        self._readers = cut.readers()
        self._held: dict[str, Array] = {}
        self._waiting: dict[str, int] = {}  # sizes of the values of the next piece
        self._found: dict[str, OutputComparison] = {}

    def see(self, name: str, array: Array) -> None:
        """The reference has computed a value."""
        held = self._given.held(name, array)
        if held is None or name in self._found or name in self._waiting:
            return
        if self._waiting and sum(self._waiting.values()) + held.nbytes > PIECE:
            self._run()
        self._held[name] = held
        self._waiting[name] = held.nbytes

    def finished(self) -> list[OutputComparison]:
        """What was found, in program order. What the outputs are computed from is still held."""
        self._run()
        return [self._found[name] for name in self._given.in_program_order(self._found)]

    def computed(self, sizes: Mapping[str, int], compared: Callable[[str, Array], OutputComparison]) -> list[OutputComparison]:
        """`compared` of each value called in `sizes` (bytes by name), computed in pieces that are not too large.

        Those that hang on a choice are left out, for equals are ordered as each runtime pleases, also on the same operands.
        """
        found = []
        for names in pieces_of(sizes, PIECE):
            piece, reads = self._cut.piece(names, self._held)
            chosen = outputs_of_choices(piece.model)
            feeds = {info.name: self._arrays[info.name] for info in piece.model.graph.input if info.name in self._arrays}
            results = run_model(piece, {**feeds, **{GIVEN.format(name): self._held[name] for name in reads}})
            found += [compared(name, results.pop(name)) for name in names if name not in chosen]
        return found

    def _run(self) -> None:
        """Compute what waits, and let go of what nothing reads any more."""
        waiting, self._waiting = self._waiting, {}
        for part in self.computed(waiting, lambda name, result: self._given.compared(name, result, self._held[name])):
            self._found[part.name] = part
        for name in waiting:
            for unread in self._readers.done(name, self._held):
                del self._held[unread]
        for name in waiting:
            if name in self._held and not self._readers.is_needed(name):
                del self._held[name]


class _Given:
    """What the reference has of values that the file computes, as the file holds them."""

    def __init__(self, graph: Graph, model: onnx.ModelProto) -> None:
        self._elements = {info.name: info.type.tensor_type.elem_type for info in model.graph.value_info}
        computed = {name for node in model.graph.node for name in node.output if name}
        results = [value for node in graph.nodes for value in node.results]
        self._values = {value.name: value for value in results if value.name in computed and value.name in self._elements}

    def in_program_order(self, names: Collection[str]) -> list[str]:
        """`names` by the order of the graph."""
        return [name for name in self._values if name in names]

    def held(self, name: str, array: Array) -> Array | None:
        """A value as the file holds it, in memory of its own; None where the file has none, or that cannot be said."""
        value = self._values.get(name)
        if value is None or not _fits(value, array):
            return None
        held = _as_tensor(value, array, self._dtype(name))
        return held.copy() if np.may_share_memory(held, array) else held

    def compared(self, name: str, result: Array, given: Array) -> OutputComparison:
        """What the file computes for a value beside what it was given."""
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
