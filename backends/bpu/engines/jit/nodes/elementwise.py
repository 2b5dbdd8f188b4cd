"""Sums, products and quotients of two values, and what is computed of each element by itself."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from hqc.backends.bpu.engines.jit import fields as f
from hqc.backends.bpu.engines.jit.layouts import NativeContext, runs
from hqc.backends.bpu.engines.jit.native import Array, NativeOp, NativeStep
from hqc.backends.bpu.engines.jit.nodes.registry import BLOCK, SMALL, is_one_of, item_size, native, single
from hqc.backends.bpu.engines.jit.problems import address_of
from hqc.backends.bpu.engines.jit.requantization import Finish
from hqc.backends.bpu.epilogue import Epilogue, result_bounds
from hqc.backends.bpu.kernels import constant, operand, shape_of
from hqc.backends.bpu.kernels.activation import prelu_table
from hqc.backends.bpu.kernels.elementwise import product_range, sum_range
from hqc.backends.bpu.ranges import Range
from hqc.ir import DType, Node, Value

_ROWS = 256  # rows of a tile of sums
_ROW = 1 << 12  # elements of a row of sums, where that may be chosen
_ALIKE, _SINGLE, _ROWS_OF, _ONE_A_ROW = range(4)  # how the second operand runs beside the first


def _spread(y: Value, result: Value, context: NativeContext, width: int) -> tuple[int, int, Array]:
    """How a smaller operand is spread over the result: its kind, the width of a row, and where each row finds it."""
    if math.prod(shape_of(y)) == 1:
        return _SINGLE, width, np.zeros(0, np.int64)
    layouts = context.layouts
    places = np.broadcast_to(layouts.places(y), shape_of(result))
    found = runs(layouts.to_memory(places, result))
    if found.length == 1 and found.step == 0:
        return _ONE_A_ROW, found.count, found.first
    # rows of a length that leaves their sums in the cache
    row = next((size for size in range(min(_ROW, found.length), _ROW // 8, -1) if found.length % size == 0), found.length)
    starts = found.first[:, None, None] + found.step * np.arange(found.count)[:, None] + np.arange(0, found.length, row)
    return _ROWS_OF, row, np.ascontiguousarray(starts.reshape(-1))


def _combined(node: Node, context: NativeContext, acc_range: Range, kind: int, factors: tuple[int, int]) -> NativeStep | None:
    x, y = operand(node, 0), operand(node, 1 if kind < 2 else 0)
    wide = kind == 0 and max(map(abs, acc_range)) >= 2**31  # terms apart: 64 bits hold what the verifier allows
    if (not wide and max(map(abs, acc_range)) >= 2**31) or max(map(abs, factors)) >= 2**31 or max(map(abs, acc_range)) >= 2**62:
        return None
    shape = shape_of(node.result)
    size, width, spread, table = math.prod(shape), 64, _ALIKE, np.zeros(0, np.int64)
    operands = {f.X: 0}
    if kind < 2:
        swapped = shape_of(x) != shape
        if swapped:
            x, y, factors = y, x, factors[::-1]
        operands = {f.X: int(swapped), f.Y: int(not swapped)}
        if shape_of(x) != shape:
            return None
        if shape_of(y) != shape:
            spread, width, table = _spread(y, node.result, context, width)
    if not is_one_of(x, *SMALL) or not is_one_of(y, *SMALL, DType.INT32):
        return None
    requant = node.operand("requant")
    rows = None if requant is None else constant(node, "requant")
    epilogue = Epilogue(rows, node.attributes, channels=1, acc_range=acc_range)
    block, step = max(1, min(_ROWS * 64 // max(16, width), -(-size // width))), -(-width // 16) * 64
    plane = block * step if wide else 0
    finish = Finish(epilogue, width=width, planes=(plane, *factors) if wide else None)
    words = {
        f.SIZE: size, f.COLUMNS: width, f.BLOCK: block, f.FINISH: finish.address, f.ROUNDING: kind, f.FILL: spread,
        f.TABLE: address_of(table), f.FACTOR_X: factors[0], f.FACTOR_Y: factors[1], f.ITEM: item_size(y), f.ITEM_X: item_size(x),
        f.PLANE: plane,
    }  # fmt: skip
    tiles = -(-size // (block * width))
    return single(
        NativeOp(
            "combine", tiles, words, operands, scratch=block * step + plane + 256, keep=(finish, table), nanoseconds=0.5 * size
        )
    )


@native("int_add")
def int_add(node: Node, context: NativeContext, products: list[str]) -> NativeStep | None:
    return _combined(node, context, sum_range(node, context), 0, (node.attributes["k_a"], node.attributes["k_b"]))


@native("int_mul")
def int_mul(node: Node, context: NativeContext, products: list[str]) -> NativeStep | None:
    return _combined(node, context, product_range(node, context), 1, (1, 1))


@native("int_div")
def int_div(node: Node, context: NativeContext, products: list[str]) -> NativeStep | None:
    x, y, shape = operand(node, 0), operand(node, 1), shape_of(node.result)
    if not is_one_of(x, *SMALL) or not is_one_of(y, *SMALL) or shape_of(x) != shape:
        return None
    size, width, spread, table = math.prod(shape), 64, _ALIKE, np.zeros(0, np.int64)
    if shape_of(y) != shape:
        spread, width, table = _spread(y, node.result, context, width)
    low, high = result_bounds(node.attributes)
    ratio, block = np.array([node.attributes["ratio"]], np.float64), max(1, BLOCK // width)
    words = {
        f.SIZE: size, f.COLUMNS: width, f.BLOCK: block, f.FILL: spread, f.TABLE: address_of(table), f.SCALE: address_of(ratio),
        f.LOW: low, f.HIGH: high, f.ITEM: item_size(y), f.ITEM_X: item_size(x), f.ITEM_OUT: item_size(node.result),
    }  # fmt: skip
    tiles, operands = -(-size // (block * width)), {f.X: 0, f.Y: 1}
    return single(NativeOp("divide", tiles, words, operands, keep=(ratio, table), nanoseconds=3.0 * size))


@native("int_requantize")
def int_requantize(node: Node, context: NativeContext, products: list[str]) -> NativeStep | None:
    low, high = context.ranges.of(operand(node, 0))
    return _combined(node, context, (min(0, low), max(0, high)), 2, (1, 1))


def _flat(node: Node, kernel: str, words: dict[int, int], keep: tuple[Any, ...] = (), cost: float = 0.2) -> NativeStep | None:
    size = math.prod(shape_of(node.result))
    words |= {f.SIZE: size, f.BLOCK: BLOCK}
    return single(NativeOp(kernel, -(-size // BLOCK), words, keep=keep, nanoseconds=cost * size))


@native("relu", "clamp")
def clip(node: Node, context: NativeContext, products: list[str]) -> NativeStep | None:
    if not is_one_of(operand(node, 0), *SMALL):
        return None
    dtype = operand(node, 0).type.dtype
    low, high = node.attributes.get("min", 0), node.attributes.get("max")
    low = dtype.qmin if low is None else min(max(int(low), dtype.qmin), dtype.qmax)
    high = dtype.qmax if high is None else min(max(int(high), dtype.qmin), dtype.qmax)
    return _flat(node, "clip", {f.LOW: low, f.HIGH: high, f.ITEM: item_size(operand(node, 0))})


@native("int_lut")
def int_lut(node: Node, context: NativeContext, products: list[str]) -> NativeStep | None:
    x, table = operand(node, 0), np.ascontiguousarray(constant(node, "table"))
    if not is_one_of(x, *SMALL) or table.dtype not in (np.int8, np.int16):
        return None
    words = {f.TABLE: address_of(table), f.LOW: x.type.dtype.qmin, f.ITEM_X: item_size(x), f.ITEM: table.itemsize}
    return _flat(node, "look_up", words, (table,), 0.6)


@native("int_prelu")
def int_prelu(node: Node, context: NativeContext, products: list[str]) -> NativeStep | None:
    x = operand(node, 0)
    if not is_one_of(x, DType.INT8) or not is_one_of(node.result, *SMALL):
        return None
    table = np.ascontiguousarray(prelu_table(node).T)
    words = {f.TABLE: address_of(table), f.ITEM: item_size(node.result)}
    if len(table) == 1:
        return _flat(node, "look_up", words | {f.LOW: x.type.dtype.qmin, f.ITEM_X: 1}, (table,), 0.6)
    run = math.prod(context.layouts.shape(x)[context.layouts.axis(x, 1) + 1 :])
    return _flat(node, "look_up_by_channel", words | {f.CHANNELS: len(table), f.COLUMNS: run}, (table,), 0.8)
