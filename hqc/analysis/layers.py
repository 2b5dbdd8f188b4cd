"""Each layer by itself: the integer kernel against the fake-quant computation of the same layer, fed the same integers.

Errors grow with depth and mislead; a single layer fed the same integers cannot hide behind the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from hqc import arithmetic
from hqc.backends import bpu
from hqc.backends.onnx import emit_segment
from hqc.ir import Device, DType, Graph, Node, Trait, Value
from hqc.workflow.deployment import Deployment

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class LayerError:
    """`elements`: size of the result; `differing`: how many integers differ; `max_lsb`: by how much at most.

    Of an int32 result, whose unit is the accumulator's, an LSB is `max|y| / 127.5`: one step of the int8 grid of its range.
    """

    name: str
    op: str
    elements: int
    differing: int
    max_lsb: int

    @property
    def share(self) -> float:
        """Share of integers that differ."""
        return self.differing / max(self.elements, 1)


def layer_errors(deployment: Deployment, inputs: Mapping[str, Array]) -> list[LayerError]:
    """One row per BPU operation of a deployed model, in program order.

    `inputs`: name -> array of the shapes the deployment has. Results that are indices or truth values are compared as they are.
    """
    program = bpu.compile(deployment.integer, opaque=deployment.opaque)
    kept = program.run(inputs, keep=True)
    graph = _with_quantized_parameters(deployment.scaled)
    return [
        _compare(node, kept)
        for node in graph.nodes
        if node.device is Device.BPU and all(value.name in kept for value in node.results)
    ]


def _with_quantized_parameters(graph: Graph) -> Graph:
    """A copy whose quantized parameters hold the values that they have on their grid."""
    graph = graph.clone()
    for value in graph.parameters.values():
        if value.quant is not None and value.array is not None and value.type.dtype.is_float:
            quant = value.quant
            q = arithmetic.quantize(value.array, quant.scale, quant.dtype.bits, axis=quant.axis)
            value.array = arithmetic.dequantize(q, quant.scale, quant.axis)
    return graph


def _compare(node: Node, kept: Mapping[str, Array]) -> LayerError:
    data = list(dict.fromkeys(node.data_operands))
    model = emit_segment([node], data, node.results)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {i.name: _real(value, kept) for i, value in zip(session.get_inputs(), data, strict=True)}
    differing = largest = elements = 0
    for value, real in zip(node.results, session.run(None, feeds), strict=True):
        difference = _difference(node, value, real, kept[value.name])
        elements += difference.size
        differing += int((difference > 0).sum())
        largest = max(largest, int(difference.max(initial=0)))
    return LayerError(node.name, node.op.name, elements, differing, largest)


def _real(value: Value, kept: Mapping[str, Array]) -> Array:
    array = kept[value.name]
    if value.quant is None or array.dtype.kind == "f":
        return array
    return arithmetic.dequantize(array, value.quant.scale, value.quant.axis)


def _difference(node: Node, value: Value, real: Array, simulated: Array) -> npt.NDArray[np.int64]:
    """How many LSBs each element is off. `simulated`: integers, or reals where the program keeps the result dequantized."""
    quant = value.quant
    if node.op.has(Trait.INTEGER_RESULT) or (quant is None and simulated.dtype.kind != "f"):
        return np.abs(real.astype(np.int64) - simulated.astype(np.int64))
    if quant is None or quant.dtype is DType.INT32:
        other = simulated
        if quant is not None and simulated.dtype.kind != "f":
            other = arithmetic.dequantize(simulated, quant.scale, quant.axis)
        step = max(float(np.abs(real).max(initial=0.0)) / 127.5, arithmetic.FLOAT32_EPS)
        return np.asarray(np.floor(np.abs(real - other) / step + 0.5), np.int64)
    if simulated.dtype.kind == "f":  # on the grid already: whatever the rounding, dividing by the scale gives the integer back
        simulated = arithmetic.quantize(simulated, quant.scale, quant.dtype.bits, axis=quant.axis)
    if value.off_grid:
        q = arithmetic.quantize_off_grid(real, quant.scale, quant.dtype.bits)
    else:
        q = arithmetic.quantize(real, quant.scale, quant.dtype.bits, quant.rounding, quant.axis)
    return np.abs(q.astype(np.int64) - simulated.astype(np.int64))
