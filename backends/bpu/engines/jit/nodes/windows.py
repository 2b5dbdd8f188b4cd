"""Pools, resizes and pads of images."""

from __future__ import annotations

from typing import Any

import numpy as np

from hqc.backends.bpu.engines.jit import fields as f
from hqc.backends.bpu.engines.jit.layouts import NativeContext, Order
from hqc.backends.bpu.engines.jit.native import Array, NativeOp, NativeStep
from hqc.backends.bpu.engines.jit.nodes.registry import SMALL, is_one_of, item_size, native, single
from hqc.backends.bpu.engines.jit.problems import address_of
from hqc.backends.bpu.engines.jit.requantization import Finish
from hqc.backends.bpu.epilogue import Epilogue
from hqc.backends.bpu.kernels import constant, operand, shape_of
from hqc.backends.bpu.kernels.resize import source_positions
from hqc.ir import DType, Node


def _window_words(node: Node, kernel: tuple[int, int], stride: tuple[int, int]) -> dict[int, int]:
    _, channels, height, width = shape_of(operand(node, 0))
    _, _, rows, columns = shape_of(node.result)
    padding, dilation = node.attributes.get("padding", (0, 0)), node.attributes.get("dilation", (1, 1))
    return {
        f.CHANNELS: channels, f.HEIGHT: height, f.WIDTH: width, f.OUT_HEIGHT: rows, f.OUT_WIDTH: columns, f.KERNEL_H: kernel[0],
        f.KERNEL_W: kernel[1], f.STRIDE_H: stride[0], f.STRIDE_W: stride[1], f.DILATION_H: dilation[0], f.DILATION_W: dilation[1],
        f.TOP: padding[0], f.LEFT: padding[1],
    }  # fmt: skip


def _row_tiles(node: Node, kernel: str, words: dict[int, int], cost: float, **more: Any) -> NativeStep | None:
    count, channels, rows, columns = shape_of(node.result)
    return single(NativeOp(kernel, count * rows, words, nanoseconds=cost * count * channels * rows * columns, **more))


@native("max_pool2d", order=Order.IMAGE)
def max_pool2d(node: Node, context: NativeContext, products: list[str]) -> NativeStep | None:
    x = operand(node, 0)
    if not is_one_of(x, *SMALL) or len(shape_of(node.result)) != 4:
        return None
    kernel = node.attributes["kernel"]
    words = _window_words(node, kernel, node.attributes["stride"]) | {f.LOW: x.type.dtype.qmin, f.ITEM: item_size(x)}
    return _row_tiles(node, "max_pool", words, 0.15 * kernel[0] * kernel[1])


def _sum_pool(node: Node, context: NativeContext, kernel: tuple[int, int], stride: tuple[int, int]) -> NativeStep | None:
    low, high = context.ranges.of(operand(node, 0))
    count, gain = kernel[0] * kernel[1], node.attributes.get("gain", 0)
    x = operand(node, 0)
    if not is_one_of(x, *SMALL) or count * -x.type.dtype.qmin * max(1, gain) >= 2**31:
        return None
    rows = None if gain else constant(node, "requant")
    if rows is not None and rows.size != 3:
        return None
    attributes = {**node.attributes, "mode": "clip"} if gain else node.attributes
    words = _window_words(node, kernel, stride)
    sums = (count * min(low, 0), count * max(high, 0))
    epilogue = Epilogue(rows, attributes, channels=1, acc_range=sums)
    channels = words[f.CHANNELS]
    finish = Finish(epilogue, width=channels)
    words |= {f.STEPS: gain, f.FINISH: finish.address, f.ITEM_X: item_size(x)}
    scratch = (words[f.OUT_WIDTH] + 1) * -(-channels // 16) * 64 + 256
    return _row_tiles(node, "sum_pool", words, 0.15 * count, scratch=scratch, keep=(finish,))


@native("int_avg_pool2d", order=Order.IMAGE)
def int_avg_pool2d(node: Node, context: NativeContext, products: list[str]) -> NativeStep | None:
    return _sum_pool(node, context, node.attributes["kernel"], node.attributes["stride"])


@native("int_adaptive_avg_pool2d", order=Order.IMAGE)
def int_adaptive_avg_pool2d(node: Node, context: NativeContext, products: list[str]) -> NativeStep | None:
    """Windows of equal size only."""
    _, _, height, width = shape_of(operand(node, 0))
    _, _, rows, columns = shape_of(node.result)
    if height % rows or width % columns:
        return None
    kernel = height // rows, width // columns
    return _sum_pool(node, context, kernel, kernel)


@native("int_resize2d", order=Order.IMAGE)
def int_resize2d(node: Node, context: NativeContext, products: list[str]) -> NativeStep | None:
    x = operand(node, 0)
    _, channels, height, width = shape_of(x)
    h, w = node.attributes["size"]
    top, bottom, down = source_positions(height, 0, node)
    left, right, across = source_positions(width, 1, node)
    words = {f.CHANNELS: channels, f.HEIGHT: height, f.WIDTH: width, f.OUT_HEIGHT: h, f.OUT_WIDTH: w}
    if node.attributes["mode"] == "nearest":
        return _picked(node, words, np.concatenate([top, left]), 0)
    if not is_one_of(x, *SMALL):
        return None
    table = np.concatenate([top, bottom, down, left, right, across]).astype(np.int64)
    return _row_tiles(node, "bilinear", words | {f.TABLE: address_of(table), f.ITEM: item_size(x)}, 0.6, keep=(table,))


def _picked(node: Node, words: dict[int, int], positions: Array, fill: int) -> NativeStep | None:
    table = np.ascontiguousarray(positions, np.int64)
    run = words[f.CHANNELS] * node.result.type.dtype.numpy.itemsize
    return _row_tiles(
        node, "pick_pixels", words | {f.TABLE: address_of(table), f.COPY_RUN: run, f.FILL: fill}, 0.1, keep=(table,)
    )


@native("pad", order=Order.IMAGE)
def pad(node: Node, context: NativeContext, products: list[str]) -> NativeStep | None:
    """Rows and columns of int8 images: constants (negative pads crop), or pixels of the image itself."""
    x, pads, mode = operand(node, 0), node.attributes["pads"], node.attributes["mode"]
    if not is_one_of(x, DType.INT8) or len(pads) != 8 or any(pads[i] for i in (0, 1, 4, 5)):
        return None
    _, channels, height, width = shape_of(x)
    _, _, h, w = shape_of(node.result)
    modes: dict[str, Any] = {"constant": "constant", "reflect": "reflect", "edge": "edge", "replicate": "edge"}
    if mode not in modes:
        return None

    def positions(size: int, before: int, after: int) -> Array:
        index = np.arange(size)[max(0, -before) : size - max(0, -after)]
        fill = {"constant_values": -1} if mode == "constant" else {}
        return np.pad(index, (max(0, before), max(0, after)), mode=modes[mode], **fill)

    words = {f.CHANNELS: channels, f.HEIGHT: height, f.WIDTH: width, f.OUT_HEIGHT: h, f.OUT_WIDTH: w}
    table = np.concatenate([positions(height, pads[2], pads[6]), positions(width, pads[3], pads[7])])
    return _picked(node, words, table, int(node.attributes["value"]) if mode == "constant" else 0)
