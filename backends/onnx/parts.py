"""Is a file right where its outputs are far off? Every part of it by itself, on the operands that the reference had there.

Sums in another order (another runtime, another processor) flip single roundings, and a deep network may carry one flip to every
output. Beginning each operation anew from the reference's own values keeps flips from adding up: what is then more than a rounding
off is another computation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import onnx

from hqc import arithmetic
from hqc.backends.onnx.builder import value_info
from hqc.backends.onnx.skeleton import Skeleton
from hqc.backends.onnx.verify import Arrays, OutputComparison, compare_output, output_step, outputs_of_choices, run_model
from hqc.ir import Graph, TensorType, Value

Array = npt.NDArray[Any]
_GIVEN = "{}/given"


@runtime_checkable
class TracedReference(Protocol):
    """A reference that can tell what it computes on the way."""

    def __call__(self, arrays: Arrays) -> Arrays:
        """Outputs by name of the inputs by name."""
        ...

    def values(self, arrays: Arrays) -> Mapping[str, Array]:
        """What the reference has for values of the graph, by their names; reals where they are quantized.

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
    outputs, where they are known already. One run of the model.
    """
    model = skeleton.model
    types = {info.name: info.type.tensor_type for info in model.graph.value_info}
    computed = {name for node in model.graph.node for name in node.output if name}
    traced = reference.values(arrays)
    given: dict[str, Array] = {}
    for node in graph.nodes:
        for value in node.results:
            if value.name in computed and value.name in types and value.name in traced:
                array = _as_tensor(value, np.asarray(traced[value.name]), types[value.name].elem_type)
                if array is not None:
                    given[value.name] = array
    opened = _opened(graph, model, given)
    chosen = outputs_of_choices(opened)  # equals are ordered as each runtime pleases, also on the same operands
    feeds = {**arrays, **{_GIVEN.format(name): each for name, each in given.items()}}
    results = run_model(Skeleton(opened, skeleton.constants), feeds)
    expected = reference(arrays) if expected is None else expected
    found = []
    for name, array in given.items():
        value = graph.value(name)
        # A file rounds and saturates behind the tensor that has the value's name.
        result = _as_tensor(value, results[name], types[name].elem_type)
        found.append(compare_output(name, results[name] if result is None else result, array, _step(value, array)))
    for value, name, key in zip(graph.outputs, outputs, graph.output_names, strict=True):
        found.append(compare_output(key, results[name], np.asarray(expected[key]), output_step(value)))
    names = [*given, *outputs]
    return [part for part, name in zip(found, names, strict=True) if part.fails and name not in chosen]


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
        return array.astype(dtype, copy=False)
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            return None
        array = arithmetic.quantize(array, quant.scale, quant.dtype.bits, quant.rounding, quant.axis)
    if dtype.kind == "f":
        return arithmetic.dequantize(array, quant.scale, quant.axis).astype(dtype, copy=False)
    return array.astype(dtype, copy=False)


def _opened(graph: Graph, model: onnx.ModelProto, given: Mapping[str, Array]) -> onnx.ModelProto:
    """A copy of the model in which the values of `given` are outputs, and inputs to all that read them."""
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    already = {info.name for info in opened.graph.output}
    for node in opened.graph.node:
        for index, name in enumerate(node.input):
            if name in given:
                node.input[index] = _GIVEN.format(name)
    for name, array in given.items():
        type = TensorType(graph.value(name).type.dtype.from_numpy(array.dtype), array.shape)
        opened.graph.input.append(value_info(_GIVEN.format(name), type))
        if name not in already:
            opened.graph.output.append(value_info(name, type))
    return opened
