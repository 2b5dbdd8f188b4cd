"""Convolution, transposed convolution, linear and matmul, with the residual and activation that fusion gave them."""

from __future__ import annotations

from typing import Any

import numpy as np

from hqc.backends.onnx.builder import Builder
from hqc.backends.onnx.emitters._operands import operand_shape, operand_type, shapes
from hqc.backends.onnx.registry import emitter
from hqc.errors import ExportError
from hqc.ir import Node, Trait
from hqc.ir.types import Shape


def _finish(node: Node, b: Builder, result: str) -> str:
    """Add the fused residual and apply the fused activation."""
    if not node.op.has(Trait.CONV_LIKE):
        return result
    residual = b.optional(node, "residual")
    if residual is not None:
        result = b("Add", result, residual)
    if node.attributes["activation"] == "relu":
        return b("Relu", result)
    if node.attributes["activation"] == "relu6":
        return b("Clip", result, b.scalar(0.0), b.scalar(6.0))
    return result


def as_image(shape: Shape) -> Shape:
    """Three axes with a height of 1, four as they are."""
    return (*shape[:2], 1, shape[2]) if len(shape) == 3 else shape


def window(node: Node) -> dict[str, Any]:
    """The attributes ONNX's convolutions share."""
    attributes = node.attributes
    return {
        "kernel_shape": list(as_image(operand_shape(node, 1))[2:]),
        "strides": list(attributes["stride"]),
        "pads": list(attributes["padding"]),
        "dilations": list(attributes["dilation"]),
        "group": attributes["groups"],
    }


def _convolution(node: Node, b: Builder, onnx_op: str, **attributes: Any) -> str:
    """A convolution of images or volumes; rows are images of height 1, which is what the chips' compilers take."""
    x, weight, bias = b.operand(node, 0), b.operand(node, 1), b.optional(node, "bias")
    given, result = shapes(node)
    if len(given) > 3:
        return _finish(node, b, b(onnx_op, x, weight, bias, **{**window(node), **attributes}))
    x = b("Reshape", x, b.ints(as_image(given), "image"))
    kernel = as_image(operand_shape(node, 1))
    weight = b.transformed(weight, lambda array: array.reshape(kernel), "image") or b("Reshape", weight, b.ints(kernel))
    convolved = b(onnx_op, x, weight, bias, **{**window(node), **attributes})
    return _finish(node, b, b("Reshape", convolved, b.ints(result, "rows")))


@emitter("conv2d", "conv3d")
def conv2d(node: Node, b: Builder) -> str:
    return _convolution(node, b, "Conv")


@emitter("conv_transpose2d", "conv_transpose3d")
def conv_transpose2d(node: Node, b: Builder) -> str:
    """Runtimes refuse an output padding as large as the stride; crop less at the end instead, where there is enough to crop."""
    extra, attributes = list(node.attributes["output_padding"]), node.attributes
    if all(more < step for more, step in zip(extra, attributes["stride"], strict=True)):
        return _convolution(node, b, "ConvTranspose", output_padding=extra)
    begins, ends = attributes["padding"][: len(extra)], attributes["padding"][len(extra) :]
    ends = [end - more for end, more in zip(ends, extra, strict=True)]
    if min(ends) < 0:
        raise ExportError(
            f"{node.label}: ONNX's transposed convolution has no output padding of {extra} with a stride of "
            f"{list(attributes['stride'])} and a padding of {list(begins)}; pad less, or crop the result instead"
        )
    return _convolution(node, b, "ConvTranspose", pads=[*begins, *ends])


@emitter("linear")
def linear(node: Node, b: Builder) -> str:
    """Gemm for matrices, else MatMul with the transposed weight."""
    x, weight, bias = b.operand(node, 0), b.operand(node, 1), b.optional(node, "bias")
    if len(operand_shape(node)) == 2 and operand_type(node).dtype.is_float:
        return _finish(node, b, b("Gemm", x, weight, bias, transB=1))
    transposed = b.transformed(weight, np.transpose, "transposed") or b("Transpose", weight, perm=[1, 0])
    result = b("MatMul", x, transposed)
    return _finish(node, b, result if bias is None else b("Add", result, bias))


@emitter("matmul")
def matmul(node: Node, b: Builder) -> str:
    return b("MatMul", b.operand(node, 0), b.operand(node, 1))
