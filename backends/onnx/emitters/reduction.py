"""Reductions, arg reductions and softmax."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hqc.backends.onnx.builder import Builder
from hqc.backends.onnx.emitters._operands import cast_to, shapes, type_of, widen
from hqc.backends.onnx.registry import Emitter, emitter
from hqc.ir import DType, Node

_REDUCE = (DType.FLOAT32, DType.FLOAT64, DType.INT32, DType.INT64)
# onnxruntime 1.18 has ArgMin of neither 8-bit type.
_ARG_MIN = (DType.FLOAT32, DType.FLOAT64, DType.INT32, DType.INT64)
_ARG_MAX = (DType.INT8, DType.UINT8, *_ARG_MIN)


def reduction(onnx_op: str) -> Emitter:
    """A reduction over the node's axes (none: all)."""

    def emit(node: Node, b: Builder) -> str:
        dtype = type_of(node)
        x, wide = widen(b, b.operand(node, 0), dtype, *_REDUCE)
        rank = len(shapes(node)[0])
        if rank == 0:  # nothing to reduce, but a norm is not its operand
            return cast_to(b, b(onnx_op, b("Reshape", x, b.ints([1])), axes=[0], keepdims=0), wide, node.result.type.dtype)
        axes = sorted(axis % rank for axis in node.attributes["axes"])
        options: dict[str, Any] = {"axes": axes} if axes else {}
        return cast_to(b, b(onnx_op, x, keepdims=int(node.attributes["keepdims"]), **options), wide, node.result.type.dtype)

    return emit


emitter("mean")(reduction("ReduceMean"))
emitter("sum")(reduction("ReduceSum"))
emitter("reduce_max")(reduction("ReduceMax"))
emitter("reduce_min")(reduction("ReduceMin"))
emitter("reduce_l1")(reduction("ReduceL1"))
emitter("reduce_l2")(reduction("ReduceL2"))
emitter("reduce_sum_square")(reduction("ReduceSumSquare"))
emitter("reduce_log_sum")(reduction("ReduceLogSum"))
emitter("reduce_log_sum_exp")(reduction("ReduceLogSumExp"))


def _arg(onnx_op: str, dtypes: tuple[DType, ...]) -> Emitter:
    """Ties go to the lowest index, ONNX's and torch's rule."""

    def emit(node: Node, b: Builder) -> str:
        x, _ = widen(b, b.operand(node, 0), type_of(node), *dtypes)
        return b(onnx_op, x, axis=node.attributes["axis"], keepdims=int(node.attributes["keepdims"]))

    return emit


emitter("argmax")(_arg("ArgMax", _ARG_MAX))
emitter("argmin")(_arg("ArgMin", _ARG_MIN))


def along_last(b: Builder, x: str, axis: int, shape: tuple[int, ...], body: Callable[[str], str]) -> str:
    """`body` applied with `axis` moved to the end, and moved back."""
    rank = len(shape)
    axis %= rank
    if axis == rank - 1:
        return body(x)
    perm = [i for i in range(rank) if i != axis] + [axis]
    inverse = [perm.index(i) for i in range(rank)]
    return b("Transpose", body(b("Transpose", x, perm=perm)), perm=inverse)


def _softmax(onnx_op: str) -> Emitter:
    """Opset 11 flattens all axes from `axis` on into one, so the axis goes last (or what follows it has size 1)."""

    def emit(node: Node, b: Builder) -> str:
        x, (shape, _) = b.operand(node, 0), shapes(node)
        axis = node.attributes["axis"] % len(shape)
        if all(size == 1 for size in shape[axis + 1 :]):
            return b(onnx_op, x, axis=axis)
        return along_last(b, x, axis, shape, lambda moved: b(onnx_op, moved, axis=len(shape) - 1))

    return emit


emitter("softmax")(_softmax("Softmax"))
emitter("log_softmax")(_softmax("LogSoftmax"))
