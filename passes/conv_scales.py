"""Scales of multiply-accumulate nodes: weights, the accumulator, the headroom rule, and int32 results.

Sections 1 and 4 of docs/arithmetic.md as they apply to a node; the formulas are in `hqc.arithmetic`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from hqc import arithmetic
from hqc.errors import QuantizationError
from hqc.ir import DType, Graph, Node, QuantParams, Trait, Value
from hqc.ir.graph import constant_array
from hqc.march.spec import MarchSpec
from hqc.passes.node_facts import is_conv_like, on_bpu

F64 = npt.NDArray[np.float64]

WEIGHT_AXIS = {"conv_transpose2d": 1, "conv_transpose3d": 1}
"""Axis of a weight that holds the result's channels (of one group), where it is not 0."""
RESULT_AXIS = {"linear": -1}
"""Axis of the result that holds the channels, where it is not 1."""


def tensor_scale(value: Value, node: Node) -> float:
    """The one scale of an operand or result of `node`, exactly as its float32 says."""
    if value.quant is None:
        raise QuantizationError(f"{node.label}: {value.name} has no scale; run propagate-scales first")
    if value.quant.per_channel:
        raise QuantizationError(
            f"{node.label} reads {value.name}, which has one scale per channel; only the CPU can read a high-precision "
            "(int32) output, so give the layer that makes it an activation qconfig"
        )
    return float(value.quant.scale)


def constant_of(value: Value, node: Node) -> npt.NDArray[Any]:
    """The array of an operand of `node` that the BPU needs as a constant."""
    if value.array is None:
        raise QuantizationError(
            f"{node.label}: {value.name} is computed at run time, but {node.op.name} needs it as a constant on the BPU; let "
            f"{node.name} run on the CPU"
        )
    return value.array


def constant_scale(value: Value, node: Node, march: MarchSpec) -> float:
    """Scale of a constant operand: its own, or what its largest element needs; a power of two where the march wants that."""
    if value.quant is not None:
        return tensor_scale(value, node)
    array = constant_of(value, node)
    scale = float(arithmetic.constant_scale(array))
    if not march.power_of_two:
        return scale
    limited = float(arithmetic.power_of_two_scale(scale))
    if limited < scale:
        raise QuantizationError(
            f"{node.label}: a constant of {float(np.abs(array).max()):.6g} is beyond 63.5, the largest that {march.name} can "
            "hold in 8 bits"
        )
    return limited


def operand_scale(value: Value, node: Node, march: MarchSpec) -> float:
    """The scale of an activation or a constant operand."""
    return constant_scale(value, node, march) if value.is_parameter else tensor_scale(value, node)


def conv_operands(node: Node) -> tuple[Value, Value, Value | None, Value | None]:
    """x, weight, bias and residual of a conv-like node."""
    x, weight = node.operand("x"), node.operand("weight")
    assert x is not None
    assert weight is not None
    bias = node.operand("bias")
    if bias is not None:
        constant_of(bias, node)
    return x, weight, bias, node.operand("residual")


def weight_axis(node: Node) -> int:
    return WEIGHT_AXIS.get(node.op.name, 0)


def result_axis(node: Node) -> int:
    """Channel axis of the result, from 0 where the rank is known."""
    axis, rank = RESULT_AXIS.get(node.op.name, 1), node.result.type.rank
    return axis if rank is None else axis % rank


def output_channels(node: Node) -> int:
    _, weight, _, _ = conv_operands(node)
    assert weight.shape is not None, weight
    axis = weight_axis(node)
    return weight.shape[axis] * (int(node.attributes["groups"]) if axis == 1 else 1)


def weight_scale_per_output(node: Node) -> F64:
    """float64 `[O]`: s_w of every output channel. Groups of a transposed convolution share the scales of its axis 1."""
    _, weight, _, _ = conv_operands(node)
    if weight.quant is None:
        raise QuantizationError(f"{node.label}: the weight {weight.name} has no scale; run propagate-scales first")
    scale = weight.quant.scale.astype(np.float64)
    channels = output_channels(node)
    if scale.size == 1:
        return np.full(channels, scale.item())
    return scale if scale.size == channels else np.tile(scale, channels // scale.size)


def accumulator_scale(node: Node) -> F64:
    """float64 `[O]`: `s_in * s_w[c]`."""
    x, _, _, _ = conv_operands(node)
    return tensor_scale(x, node) * weight_scale_per_output(node)


# --- weights -----------------------------------------------------------------------------------------------------------


def give_weight_scale(node: Node, march: MarchSpec) -> bool:
    """Per-channel int8 scales for a constant weight that has none; True when they were given."""
    _, weight, _, _ = conv_operands(node)
    if not weight.is_parameter:
        return False
    if weight.quant is not None:
        _check_weight_quant(node, weight)
        return False
    axis = weight_axis(node)
    rows = np.moveaxis(constant_array(weight), axis, 0).reshape(constant_array(weight).shape[axis], -1)
    low, high = rows.min(axis=1), rows.max(axis=1)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise QuantizationError(f"{node.label}: the weight {weight.name} holds values that are not finite")
    scale = arithmetic.weight_scale(low, high)
    weight.quant = QuantParams(arithmetic.power_of_two_scale(scale) if march.power_of_two else scale, DType.INT8, axis)
    return True


def _check_weight_quant(node: Node, weight: Value) -> None:
    quant = weight.quant
    assert quant is not None
    if quant.dtype is not DType.INT8:
        raise QuantizationError(f"{node.label}: weights are int8 on every march, {weight.name} is {quant.dtype.value}")
    if quant.axis not in (None, weight_axis(node)):
        raise QuantizationError(
            f"{node.label}: {weight.name} has scales along axis {quant.axis}, the output channels are on axis "
            f"{weight_axis(node)}; observe the weight with ch_axis={weight_axis(node)}"
        )


def fit_headroom(node: Node, march: MarchSpec) -> str:
    """Raise weight scales whose bias or residual term could exceed 2^29; what was done, in words, or "".

    `QuantizationError` with the numbers where a fixed or bounded scale forbids it.
    """
    x, weight, bias, residual = conv_operands(node)
    if weight.quant is None or (bias is None and residual is None) or not weight.is_parameter:
        return ""
    term = np.zeros(output_channels(node))
    if bias is not None:
        term = np.maximum(term, np.abs(constant_array(bias).astype(np.float64)))
    if residual is not None:
        assert residual.quant is not None, residual
        term = np.maximum(term, float(-residual.quant.dtype.qmin) * tensor_scale(residual, node))
    if not np.isfinite(term).all():
        raise QuantizationError(f"{node.label}: the bias holds values that are not finite")
    old = np.atleast_1d(weight.quant.scale)
    per_scale = term.reshape(-1, old.size).max(axis=0) if old.size > 1 else term.max(keepdims=True)
    try:
        new = arithmetic.headroom_weight_scale(per_scale, tensor_scale(x, node), old, power_of_two=march.power_of_two)
    except QuantizationError as error:
        raise QuantizationError(f"{node.label}: {error}") from None
    raised = int((new > old).sum())
    if not raised:
        return ""
    worst = int((new / old).argmax())
    change = f"from {old[worst]:.6g} to {new[worst]:.6g}"
    if weight.quant.fixed:
        raise QuantizationError(
            f"{node.label}: a bias or residual of {per_scale[worst]:.6g} exceeds 2^29 accumulator units in channel "
            f"{worst}; the weight scale would have to be raised {change}, but it is fixed"
        )
    weight.quant = weight.quant.replace(scale=new if weight.quant.per_channel else new[0])
    return (
        f"weight scales of {raised} of {old.size} channels raised (channel {worst}: {change}), because a bias or residual of "
        f"{per_scale[worst]:.6g} would not fit the accumulator"
    )


# --- high-precision results --------------------------------------------------------------------------------------------


def high_precision_quant(node: Node) -> QuantParams:
    """int32 with the accumulator's scale, per channel."""
    return QuantParams(accumulator_scale(node).astype(np.float32), DType.INT32, result_axis(node))


def moved_quant(node: Node) -> QuantParams | None:
    """Per-channel quantization of a high-precision value after a layout node; None where channels do not stay together."""
    (source,) = node.data_operands[:1]
    quant = source.quant
    assert quant is not None
    if quant.axis is None or len(node.results) != 1:
        return quant if quant.axis is None else None
    axis: int | None = None
    if "perm" in node.attributes:
        axis = node.attributes["perm"].index(quant.axis)
    elif source.shape is not None and node.result.shape is not None and node.op.name == "reshape":
        axis = _axis_after_reshape(source.shape, node.result.shape, quant.axis)
    return None if axis is None else quant.replace(axis=axis)


def _axis_after_reshape(before: tuple[int, ...], after: tuple[int, ...], axis: int) -> int | None:
    lead = int(np.prod(before[:axis]))
    total = 1
    for index, size in enumerate(after):
        if total == lead and size == before[axis]:
            return index
        total *= size
    return None


def refresh_high_precision(graph: Graph) -> bool:
    """Recompute the scales of int32 results after scales before them changed; True when any differs."""
    changed = False
    for node in graph.nodes:
        if not on_bpu(node) or not node.results or node.results[0].quant is None:
            continue
        if node.results[0].quant.dtype is not DType.INT32:
            continue
        new = high_precision_quant(node) if is_conv_like(node) else None
        if new is None and node.op.has(Trait.LAYOUT_ONLY):
            new = moved_quant(node)
        if new is not None and not new.same_grid(node.result.quant):
            node.result.quant = new
            changed = True
    return changed
