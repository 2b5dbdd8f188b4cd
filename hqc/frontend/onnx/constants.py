"""Constant folding in the ONNX front end: what depends on no input is computed by ONNX's own reference implementation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from hqc.frontend.onnx.context import Array, OnnxContext
from hqc.frontend.onnx.reader import LARGEST_TENSOR, array_of, widened

_GROWING = {"ConstantOfShape", "Expand", "Tile", "Range", "Resize", "Upsample", "Pad"}
"""Operators whose result may be far larger than their operands."""


def fold(ctx: OnnxContext) -> tuple[Array, ...] | None:
    """The results of the current node, all of whose operands are arrays; None where the reference cannot compute it."""
    node = ctx.node
    if node.op_type == "Constant":
        return (_constant(ctx),)
    operands = {name: ctx.env[name] for name in node.input if name}
    if node.op_type in _GROWING:
        _check_size(ctx, operands)
    try:
        evaluator = ReferenceEvaluator(_one_node(ctx, operands))
        results = evaluator.run(None, operands)
    except Exception as error:  # the reference raises whatever NumPy and its own code do; the node is lowered or kept instead
        del error
        return None
    arrays = tuple(np.asarray(item) for item in results)
    if any(array.dtype.kind not in "fiub" for array in arrays):
        return None
    return tuple(map(widened, arrays))


def branch_of(ctx: OnnxContext) -> onnx.GraphProto | None:
    """The branch that an `If` with a constant condition takes."""
    condition = ctx.operand(0)
    if not isinstance(condition, np.ndarray):
        return None
    taken = ctx.attribute("then_branch" if bool(condition.reshape(-1)[0]) else "else_branch")
    if not isinstance(taken, onnx.GraphProto):
        raise ctx.error("has no branch for its condition")
    return taken


def _constant(ctx: OnnxContext) -> Array:
    for item in ctx.node.attribute:
        value: Any = onnx.helper.get_attribute_value(item)
        if item.name == "value":
            return array_of(ctx.file.where, value)
        if item.name in ("value_float", "value_floats"):
            return np.array(value, np.float32)
        if item.name in ("value_int", "value_ints"):
            return np.array(value, np.int64)
    raise ctx.error("holds no value that hqc can read (a sparse tensor or a string)")


def _one_node(ctx: OnnxContext, operands: dict[str, Any]) -> onnx.ModelProto:
    inputs = [
        onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in operands.items()
    ]
    outputs = [onnx.helper.make_empty_tensor_value_info(name) for name in ctx.node.output if name]
    graph = onnx.helper.make_graph([ctx.node], "constant", inputs, outputs)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", ctx.opset)])


def _check_size(ctx: OnnxContext, operands: dict[str, Any]) -> None:
    """A file may ask for any size: what would not fit is refused before it is allocated."""
    sizes = [array for array in operands.values() if array.dtype.kind == "i" and array.size <= 16]
    for array in sizes:
        if math.prod(max(1, int(size)) for size in array.reshape(-1)) > LARGEST_TENSOR:
            raise ctx.error(f"asks for a tensor of sizes {array.reshape(-1).tolist()}, which is too large")
