"""Is a file right where its outputs are far off? Every part of it by itself, on the operands that the reference had there.

Sums in another order (another runtime, another processor) flip single roundings, and a deep network may carry one flip to every
output. Beginning each operation anew from the reference's own values keeps flips from adding up: what is then more than a rounding
off is another computation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import onnx

from hqc import arithmetic
from hqc.backends.onnx.pieces import GIVEN, CutModel, pieces_of
from hqc.backends.onnx.skeleton import Skeleton
from hqc.backends.onnx.verify import Arrays, OutputComparison, compare_output, output_step, outputs_of_choices, run_model
from hqc.ir import Graph, Value

Array = npt.NDArray[Any]
PIECE = 1 << 28
"""Bytes of values that are computed, and held, at a time: all values of a network at 1024 pixels would be more than a machine has."""


@runtime_checkable
class TracedReference(Protocol):
    """A reference that can tell what it computes on the way."""

    def __call__(self, arrays: Arrays) -> Arrays:
        """Outputs by name of the inputs by name."""
        ...

    def values(self, arrays: Arrays) -> Mapping[str, Array]:
        """What the reference has for values of the graph, by their names: reals where they are quantized, or integers of the grid.

        Those that it does not hold are absent; the parts between those that it does are then larger.
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
    given = _Given(graph, skeleton.model, reference.values(arrays))
    cut = CutModel(skeleton, given.sizes)
    found = []
    for name, result in _computed(cut, given.sizes, arrays, given):
        value, array = graph.value(name), given[name]
        # A file rounds and saturates behind the tensor that has the value's name.
        rounded = given.converted(value, result)
        found.append(compare_output(name, result if rounded is None else rounded, array, _step(value, array)))
    expected = reference(arrays) if expected is None else expected
    places = {name: index for index, name in enumerate(outputs)}
    sizes = {name: np.asarray(expected[graph.output_names[index]]).nbytes for name, index in places.items()}
    for name, result in _computed(cut, sizes, arrays, given):
        index = places[name]
        key = graph.output_names[index]
        found.append(compare_output(key, result, np.asarray(expected[key]), output_step(graph.outputs[index])))
    return [part for part in found if part.fails]


def _computed(cut: CutModel, sizes: Mapping[str, int], arrays: Arrays, given: _Given) -> Iterator[tuple[str, Array]]:
    """What the model computes for the values called in `sizes`, from given ones; those that hang on a choice are left out, for equals
    are ordered as each runtime pleases, also on the same operands."""
    for names in pieces_of(sizes, PIECE):
        piece, reads = cut.piece(names)
        chosen = outputs_of_choices(piece.model)
        feeds = {info.name: arrays[info.name] for info in piece.model.graph.input if info.name in arrays}
        results = run_model(piece, {**feeds, **{GIVEN.format(name): given[name] for name in reads}})
        yield from ((name, results.pop(name)) for name in names if name not in chosen)


class _Given:
    """What the reference has of values that the file computes, as the file holds them. `sizes`: of each in bytes, in program order."""

    def __init__(self, graph: Graph, model: onnx.ModelProto, traced: Mapping[str, Array]) -> None:
        self._graph, self._traced = graph, traced
        self._elements = {info.name: info.type.tensor_type.elem_type for info in model.graph.value_info}
        self._kept: dict[str, Array] = {}
        self.sizes: dict[str, int] = {}
        computed = {name for node in model.graph.node for name in node.output if name}
        total = 0
        for node in graph.nodes:
            for value in node.results:
                if value.name in computed and value.name in self._elements and value.name in traced:
                    array = self.converted(value, np.asarray(traced[value.name]))
                    if array is not None:
                        self.sizes[value.name] = array.nbytes
                        total += array.nbytes
                        if total <= PIECE:
                            self._kept[value.name] = array

    def __getitem__(self, name: str) -> Array:
        if name in self._kept:
            return self._kept[name]
        array = self.converted(self._graph.value(name), np.asarray(self._traced[name]))
        assert array is not None, name
        return array

    def converted(self, value: Value, array: Array) -> Array | None:
        return _as_tensor(value, array, self._elements[value.name])


def _step(value: Value, array: Array) -> float | None:
    """Of an integer tensor the step is 1, of reals on a grid its scale, of others a part of the largest."""
    if array.dtype.kind in "iu" and value.quant is not None:
        return 1.0
    return output_step(value)


def _as_tensor(value: Value, array: Array, element: int) -> Array | None:
    """What the reference has, as the file holds it; None where that cannot be said."""
    dtype = onnx.helper.tensor_dtype_to_np_dtype(element)
    quant = value.quant
    if array.shape != value.shape or value.off_grid:
        return None
    if quant is None:
        as_held = array.dtype.kind == "f" or not value.type.dtype.is_float
        return array.astype(dtype, copy=False) if as_held else None
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            return None
        array = arithmetic.quantize(array, quant.scale, quant.dtype.bits, quant.rounding, quant.axis)
    if dtype.kind == "f":
        return arithmetic.dequantize(array, quant.scale, quant.axis).astype(dtype, copy=False)
    return array.astype(dtype, copy=False)
