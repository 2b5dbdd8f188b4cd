"""Between the real and the quantized world."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from hqc.backends.bpu.engines.jit import fields as f
from hqc.backends.bpu.engines.jit.layouts import NativeContext, Order
from hqc.backends.bpu.engines.jit.native import NativeOp, NativeStep
from hqc.backends.bpu.engines.jit.nodes.registry import BLOCK, SMALL, is_one_of, item_size, native, single
from hqc.backends.bpu.engines.jit.problems import address_of
from hqc.backends.bpu.kernels import cannot_quantize, operand, shape_of
from hqc.ir import DType, Node, Value


def _pixels(value: Value, context: NativeContext) -> tuple[int, int, int]:
    """Images, channels and pixels of integers that are transposed on the way; what is no image is one row of pixels."""
    shape = shape_of(value)
    return (shape[0], shape[1], shape[2] * shape[3]) if context.layouts.is_image(value) else (1, 1, math.prod(shape))


@native("quantize", order=Order.ANY)
def quantize(node: Node, context: NativeContext, products: list[str]) -> NativeStep | None:
    x, quant = operand(node, 0), node.result.quant
    if quant is None or quant.axis is not None or node.attributes["rounding"] != "half_even":
        return None
    if not (is_one_of(x, DType.FLOAT32) and is_one_of(node.result, *SMALL)):
        return None
    images, channels, pixels = _pixels(node.result, context)
    block = max(64, BLOCK // channels)
    scale = np.array(quant.scale, np.float32).reshape(1)
    dtype = node.result.type.dtype
    words = {
        f.CHANNELS: channels, f.PIXELS: pixels, f.BLOCK: block, f.SCALE: address_of(scale), f.LOW: dtype.qmin, f.HIGH: dtype.qmax,
        f.ITEM: item_size(node.result),
    }  # fmt: skip
    tiles, size = images * -(-pixels // block), images * channels * pixels
    return single(
        NativeOp(
            "quantize", tiles, words, keep=(scale,), nanoseconds=size, complaint=partial(cannot_quantize, node), scratch=256
        )
    )


@native("dequantize", order=Order.ANY)
def dequantize(node: Node, context: NativeContext, products: list[str]) -> NativeStep | None:
    x = operand(node, 0)
    quant = x.quant
    if quant is None or not is_one_of(x, DType.INT8, DType.INT16, DType.INT32) or not is_one_of(node.result, DType.FLOAT32):
        return None
    images, channels, pixels = _pixels(x, context)
    scale = np.ascontiguousarray(np.atleast_1d(np.asarray(quant.scale, np.float32)))
    if quant.axis is not None:
        memory = context.layouts.shape(x)
        if context.layouts.axis(x, quant.axis) != len(memory) - 1:
            return None
        if not context.layouts.is_image(x):
            images, channels, pixels = math.prod(memory[:-1]), memory[-1], 1
    block = max(64, BLOCK // channels)
    words = {
        f.CHANNELS: channels, f.PIXELS: pixels, f.BLOCK: block, f.SCALE: address_of(scale), f.ITEM_X: item_size(x),
        f.FILL: int(scale.size > 1),
    }  # fmt: skip
    size = images * channels * pixels
    return single(NativeOp("dequantize", images * -(-pixels // block), words, keep=(scale,), nanoseconds=size))
