"""Which nodes have native steps. A lowering returns None for what it leaves to the NumPy kernels: other dtypes, other broadcasts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hqc.backends.bpu.engines import ConvSpec
from hqc.backends.bpu.engines.jit import fields as f
from hqc.backends.bpu.engines.jit.layouts import NativeContext, Order, runs
from hqc.backends.bpu.engines.jit.native import Array, NativeOp, NativeStep
from hqc.backends.bpu.engines.jit.problems import Place, address_of, convolution, product_of_activations
from hqc.backends.bpu.engines.jit.requantization import Finish
from hqc.backends.bpu.engines.jit.transposed import as_convolutions
from hqc.backends.bpu.epilogue import Epilogue, result_bounds
from hqc.backends.bpu.kernels import constant, operand, shape_of
from hqc.backends.bpu.kernels.conv import conv_problem, transpose_problem
from hqc.backends.bpu.kernels.elementwise import product_range, sum_range
from hqc.backends.bpu.kernels.linear import linear_problem, matmul_problem
from hqc.backends.bpu.kernels.reduction import sum_problem
from hqc.backends.bpu.kernels.resize import source_positions
from hqc.backends.bpu.ranges import Range
from hqc.errors import QuantizationError
from hqc.ir import DType, Node, Trait, Value
from hqc.registry import Registry

Lowering = Callable[[Node, NativeContext, "list[str]"], "NativeStep | None"]
NATIVE: Registry[str, Lowering] = Registry("native kernel")
ORDERS: dict[str, Order] = {}
"""What each native kernel asks of its values of rank 4, by op name."""
_BLOCK = 1 << 15  # elements of an element-wise tile
_ROWS = 256  # rows of a tile of sums
_ROW = 1 << 12  # elements of a row of sums, where that may be chosen


def native(*names: str, order: Order = Order.SAME) -> Callable[[Lowering], Lowering]:
    """Register the native form of one or several ops."""
    ORDERS.update(dict.fromkeys(names, order))
    return NATIVE.register(*names)


def native_step(node: Node, context: NativeContext, products: list[str]) -> NativeStep | None:
    """The native form of a node, or None. `products`: the dense kernels that may be used, fastest first."""
    lowering = NATIVE.get(node.op.name) or (moved if node.op.has(Trait.LAYOUT_ONLY) else None)
    if lowering is None or any(
        value.shape is None or math.prod(value.shape) == 0 for value in (*node.data_operands, *node.results)
    ):
        return None
    return lowering(node, context, products)


def _is(value: Value, *dtypes: DType) -> bool:
    return value.type.dtype in dtypes


_SMALL = (DType.INT8, DType.INT16)


def _item(value: Value) -> int:
    return value.type.dtype.numpy.itemsize


def _one(op: NativeOp | None) -> NativeStep | None:
    return None if op is None else NativeStep((op,))


# --- products --------------------------------------------------------------------------------------------------------------


@native("int_linear", order=Order.ANY)
@native("int_conv2d", order=Order.IMAGE)
def product(node: Node, context: NativeContext, products: list[str]) -> NativeStep | None:
    linear = node.op.name == "int_linear"
    if linear and any(value is not None and context.layouts.is_image(value) for value in (*node.inputs, node.result)):
        return None  # its rows are not in the order of memory
    if not _takes(node):
        return None
    problem = linear_problem if linear else conv_problem
    spec, epilogue = problem(node, context)
    return _placed(node, context, products, epilogue, [(spec, None)])


def _takes(node: Node) -> bool:
    residual = node.operand("residual")
    return _is(operand(node, 0), *_SMALL) and (residual is None or _is(residual, *_SMALL))


def _placed(
    node: Node, context: NativeContext, products: list[str], epilogue: Epilogue, parts: Sequence[tuple[ConvSpec, Place | None]]
) -> NativeStep | None:
    """Convolutions that make up a node's result."""
    residual, ops = node.operand("residual"), []
    dtype = DType.INT8 if residual is None else residual.type.dtype
    for spec, place in parts:
        op = convolution(spec, epilogue, context.workers.threads, products, place=place, residual=dtype)
        if op is None:
            return None
        if residual is not None:
            op.operands[f.RESIDUAL] = list(node.inputs).index(residual)
        ops.append(op)
    return NativeStep(tuple(ops))


@native("int_conv_transpose2d", order=Order.IMAGE)
def transposed(node: Node, context: NativeContext, products: list[str]) -> NativeStep | None:
    if not _takes(node):
        return None
    spec, epilogue = transpose_problem(node, context)
    return _placed(node, context, products, epilogue, as_convolutions(spec))


@native("int_matmul", order=Order.ANY)
def int_matmul(node: Node, context: NativeContext, products: list[str]) -> NativeStep | None:
    a, b, layouts = operand(node, 0), operand(node, 1), context.layouts
    if not (_is(a, DType.INT8) and _is(b, DType.INT8)) or len(shape_of(a)) < 2 or len(shape_of(b)) < 2:
        return None
    if layouts.is_image(node.result):
        return None
    epilogue = matmul_problem(node, context)
    batch = shape_of(node.result)[:-2]
    places = [layouts.places(value) for value in (a, b)]
    found = [np.broadcast_to(array, (*batch, *array.shape[-2:])).reshape(-1, *array.shape[-2:]) for array in places]
    low = context.ranges.of(a)[0]
    op = product_of_activations(found[0], found[1], low, epilogue, context.workers.threads, products)
    return _one(op)


@native("int_sum", order=Order.ANY)
def int_sum(node: Node, context: NativeContext, products: list[str]) -> NativeStep | None:
    x, result, layouts = operand(node, 0), node.result, context.layouts
    axes, epilogue = sum_problem(node, context)
    if not _is(x, *_SMALL) or max(map(abs, epilogue.acc_range)) >= 2**31:
        return None
    places = layouts.places(x)
    apart = places[tuple(slice(None) if axis in axes else slice(1) for axis in range(places.ndim))].reshape(-1)
    kept = places[tuple(slice(1) if axis in axes else slice(None) for axis in range(places.ndim))]
    found = runs(layouts.to_memory(kept.reshape(shape_of(result)), result))
    starts, size = found.first[:, None] + found.step * np.arange(found.count), math.prod(shape_of(result))
    table = np.concatenate([apart, starts.reshape(-1)]).astype(np.int64)
    together = bool((apart == np.arange(len(apart))).all())
    block, finish = max(1, _BLOCK // found.length // 8), Finish(epilogue, width=64)
    words = {
        f.TABLE: address_of(table), f.STEPS: len(apart), f.ROWS: starts.size, f.COLUMNS: found.length, f.BLOCK: block,
        f.FINISH: finish.address, f.ITEM_X: _item(x), f.FILL: int(together),
    }  # fmt: skip
    return _one(
        NativeOp(
            "sum_places", -(-starts.size // block), words, scratch=4 * block * found.length + 1024, keep=(table, finish),
            nanoseconds=size * len(apart) * (0.1 if found.length >= 8 or together else 1.0),
        )
    )  # fmt: skip


# --- between the real and the quantized world --------------------------------------------------------------------------------


def _pixels(value: Value, context: NativeContext) -> tuple[int, int, int]:
    """Images, channels and pixels of integers that are transposed on the way; what is no image is one row of pixels."""
    shape = shape_of(value)
    return (shape[0], shape[1], shape[2] * shape[3]) if context.layouts.is_image(value) else (1, 1, math.prod(shape))


@native("quantize", order=Order.ANY)
def quantize(node: Node, context: NativeContext, products: list[str]) -> NativeStep | None:
    x, quant = operand(node, 0), node.result.quant
    if quant is None or quant.axis is not None or node.attributes["rounding"] != "half_even":
        return None
    if not (_is(x, DType.FLOAT32) and _is(node.result, *_SMALL)):
        return None
    images, channels, pixels = _pixels(node.result, context)
    block = max(64, _BLOCK // channels)
    scale = np.array(quant.scale, np.float32).reshape(1)

    def complaint() -> Exception:
        return QuantizationError(f"{node.label}: cannot quantize NaN in {x.name}; find the operation that produced it")

    dtype = node.result.type.dtype
    words = {
        f.CHANNELS: channels, f.PIXELS: pixels, f.BLOCK: block, f.SCALE: address_of(scale), f.LOW: dtype.qmin, f.HIGH: dtype.qmax,
        f.ITEM: _item(node.result),
    }  # fmt: skip
    tiles, size = images * -(-pixels // block), images * channels * pixels
    return _one(NativeOp("quantize", tiles, words, keep=(scale,), nanoseconds=size, complaint=complaint, scratch=256))


@native("dequantize", order=Order.ANY)
def dequantize(node: Node, context: NativeContext, products: list[str]) -> NativeStep | None:
    x = operand(node, 0)
    quant = x.quant
    if quant is None or not _is(x, DType.INT8, DType.INT16, DType.INT32) or not _is(node.result, DType.FLOAT32):
        return None
    images, channels, pixels = _pixels(x, context)
    scale = np.ascontiguousarray(np.atleast_1d(np.asarray(quant.scale, np.float32)))
    if quant.axis is not None:
        memory = context.layouts.shape(x)
        if context.layouts.axis(x, quant.axis) != len(memory) - 1:
            return None
        if not context.layouts.is_image(x):
            images, channels, pixels = math.prod(memory[:-1]), memory[-1], 1
    block = max(64, _BLOCK // channels)
    words = {
        f.CHANNELS: channels, f.PIXELS: pixels, f.BLOCK: block, f.SCALE: address_of(scale), f.ITEM_X: _item(x),
        f.FILL: int(scale.size > 1),
    }  # fmt: skip
    size = images * channels * pixels
    return _one(NativeOp("dequantize", images * -(-pixels // block), words, keep=(scale,), nanoseconds=size))


# --- element-wise ----------------------------------------------------------------------------------------------------------


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
    if not _is(x, *_SMALL) or not _is(y, *_SMALL, DType.INT32):
        return None
    requant = node.operand("requant")
    rows = None if requant is None else constant(node, "requant")
    epilogue = Epilogue(rows, node.attributes, channels=1, acc_range=acc_range)
    block, step = max(1, min(_ROWS * 64 // max(16, width), -(-size // width))), -(-width // 16) * 64
    plane = block * step if wide else 0
    finish = Finish(epilogue, width=width, planes=(plane, *factors) if wide else None)
    words = {
        f.SIZE: size, f.COLUMNS: width, f.BLOCK: block, f.FINISH: finish.address, f.ROUNDING: kind, f.FILL: spread,
        f.TABLE: address_of(table), f.FACTOR_X: factors[0], f.FACTOR_Y: factors[1], f.ITEM: _item(y), f.ITEM_X: _item(x),
        f.PLANE: plane,
    }  # fmt: skip
    tiles = -(-size // (block * width))
    return _one(
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
    if not _is(x, *_SMALL) or not _is(y, *_SMALL) or shape_of(x) != shape:
        return None
    size, width, spread, table = math.prod(shape), 64, _ALIKE, np.zeros(0, np.int64)
    if shape_of(y) != shape:
        spread, width, table = _spread(y, node.result, context, width)
    low, high = result_bounds(node.attributes)
    ratio, block = np.array([node.attributes["ratio"]], np.float64), max(1, _BLOCK // width)
    words = {
        f.SIZE: size, f.COLUMNS: width, f.BLOCK: block, f.FILL: spread, f.TABLE: address_of(table), f.SCALE: address_of(ratio),
        f.LOW: low, f.HIGH: high, f.ITEM: _item(y), f.ITEM_X: _item(x), f.ITEM_OUT: _item(node.result),
    }  # fmt: skip
    tiles, operands = -(-size // (block * width)), {f.X: 0, f.Y: 1}
    return _one(NativeOp("divide", tiles, words, operands, keep=(ratio, table), nanoseconds=3.0 * size))


@native("int_requantize")
def int_requantize(node: Node, context: NativeContext, products: list[str]) -> NativeStep | None:
    low, high = context.ranges.of(operand(node, 0))
    return _combined(node, context, (min(0, low), max(0, high)), 2, (1, 1))


def _flat(node: Node, kernel: str, words: dict[int, int], keep: tuple[Any, ...] = (), cost: float = 0.2) -> NativeStep | None:
    size = math.prod(shape_of(node.result))
    words |= {f.SIZE: size, f.BLOCK: _BLOCK}
    return _one(NativeOp(kernel, -(-size // _BLOCK), words, keep=keep, nanoseconds=cost * size))


@native("relu", "clamp")
def clip(node: Node, context: NativeContext, products: list[str]) -> NativeStep | None:
    if not _is(operand(node, 0), *_SMALL):
        return None
    dtype = operand(node, 0).type.dtype
    low, high = node.attributes.get("min", 0), node.attributes.get("max")
    low = dtype.qmin if low is None else min(max(int(low), dtype.qmin), dtype.qmax)
    high = dtype.qmax if high is None else min(max(int(high), dtype.qmin), dtype.qmax)
    return _flat(node, "clip", {f.LOW: low, f.HIGH: high, f.ITEM: _item(operand(node, 0))})


@native("int_lut")
def int_lut(node: Node, context: NativeContext, products: list[str]) -> NativeStep | None:
    x, table = operand(node, 0), np.ascontiguousarray(constant(node, "table"))
    if not _is(x, *_SMALL) or table.dtype not in (np.int8, np.int16):
        return None
    words = {f.TABLE: address_of(table), f.LOW: x.type.dtype.qmin, f.ITEM_X: _item(x), f.ITEM: table.itemsize}
    return _flat(node, "look_up", words, (table,), 0.6)


# --- windows ---------------------------------------------------------------------------------------------------------------


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
    return _one(NativeOp(kernel, count * rows, words, nanoseconds=cost * count * channels * rows * columns, **more))


@native("max_pool2d", order=Order.IMAGE)
def max_pool2d(node: Node, context: NativeContext, products: list[str]) -> NativeStep | None:
    x = operand(node, 0)
    if not _is(x, *_SMALL) or len(shape_of(node.result)) != 4:
        return None
    kernel = node.attributes["kernel"]
    words = _window_words(node, kernel, node.attributes["stride"]) | {f.LOW: x.type.dtype.qmin, f.ITEM: _item(x)}
    return _row_tiles(node, "max_pool", words, 0.15 * kernel[0] * kernel[1])


def _sum_pool(node: Node, context: NativeContext, kernel: tuple[int, int], stride: tuple[int, int]) -> NativeStep | None:
    low, high = context.ranges.of(operand(node, 0))
    count, gain = kernel[0] * kernel[1], node.attributes.get("gain", 0)
    x = operand(node, 0)
    if not _is(x, *_SMALL) or count * -x.type.dtype.qmin * max(1, gain) >= 2**31:
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
    words |= {f.STEPS: gain, f.FINISH: finish.address, f.ITEM_X: _item(x)}
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
    if not _is(x, *_SMALL):
        return None
    table = np.concatenate([top, bottom, down, left, right, across]).astype(np.int64)
    return _row_tiles(node, "bilinear", words | {f.TABLE: address_of(table), f.ITEM: _item(x)}, 0.6, keep=(table,))


def _picked(node: Node, words: dict[int, int], positions: Array, fill: int) -> NativeStep | None:
    table = np.ascontiguousarray(positions, np.int64)
    run = words[f.CHANNELS] * node.result.type.dtype.numpy.itemsize
    return _row_tiles(
        node, "pick_pixels", words | {f.TABLE: address_of(table), f.COPY_RUN: run, f.FILL: fill}, 0.1, keep=(table,)
    )


# --- layout ----------------------------------------------------------------------------------------------------------------


def _is_integer(*values: Value) -> bool:
    return all(not value.type.dtype.is_float for value in values)


@native("identity", "dropout")
def same_memory(node: Node, context: NativeContext, products: list[str]) -> NativeStep | None:
    return NativeStep((), alias=True) if _is_integer(operand(node, 0), node.result) else None


@native("slice", "pixel_shuffle", "pixel_unshuffle")
def moved(node: Node, context: NativeContext, products: list[str]) -> NativeStep | None:
    """Any operation whose card says where each element comes from: what it makes of the elements' places is what is copied."""
    source, compute, layouts = operand(node, 0), node.op.compute, context.layouts
    others = [None if value is None else value.array for value in node.inputs[1:]]
    if compute is None or len(node.results) != 1 or node.op.has(Trait.FILLS) or len(node.data_operands) != 1:
        return None
    if source.is_parameter or not _is_integer(source, node.result):
        return None
    places = np.asarray(compute([layouts.places(source), *others], node.attributes))
    found = runs(layouts.to_memory(places, node.result))
    size, item = math.prod(shape_of(node.result)), _item(source)
    if found.length == size == math.prod(shape_of(source)):
        return NativeStep((), alias=True)
    table, row = found.first * item, found.count * found.length * item
    block = max(1, _BLOCK // row)
    words = {
        f.TABLE: address_of(table), f.ROWS: len(table), f.BLOCK: block, f.COLUMNS: found.count, f.COPY_RUN: found.length * item,
        f.COPY_SOURCE_STEP: found.step * item,
    }  # fmt: skip
    cost = size * (0.05 * item + 2 / found.length)
    return _one(NativeOp("move", -(-len(table) // block), words, keep=(table,), nanoseconds=cost))


def _copy(value: Value, outer: int, run: int, steps: tuple[int, int], offsets: tuple[int, int], **where: Any) -> NativeOp:
    item = value.type.dtype.numpy.itemsize
    block = max(1, _BLOCK // max(1, run * item))
    words = {
        f.COPY_OUTER: outer, f.COPY_RUN: run * item, f.COPY_SOURCE_STEP: steps[0] * item, f.COPY_TARGET_STEP: steps[1] * item,
        f.COPY_SOURCE_OFFSET: offsets[0] * item, f.COPY_TARGET_OFFSET: offsets[1] * item, f.BLOCK: block,
    }  # fmt: skip
    return NativeOp("copy_runs", -(-outer // block), words, nanoseconds=outer * (3 + 0.05 * run * item), **where)


@native("cat")
def cat(node: Node, context: NativeContext, products: list[str]) -> NativeStep | None:
    layouts = context.layouts
    if not _is_integer(node.result):
        return None
    target = layouts.shape(node.result)
    axis = layouts.axis(node.result, node.attributes["axis"])
    outer, whole = math.prod(target[:axis]), math.prod(target[axis:])
    ops, offset = [], 0
    for index in range(len(node.inputs)):  # constants too
        run = math.prod(layouts.shape(operand(node, index))[axis:])
        ops.append(_copy(node.result, outer, run, (run, whole), (0, offset), operands={f.X: index}))
        offset += run
    return NativeStep(tuple(ops))


@native("split")
def split(node: Node, context: NativeContext, products: list[str]) -> NativeStep | None:
    source, layouts = operand(node, 0), context.layouts
    if not _is_integer(source):
        return None
    memory, axis = layouts.shape(source), layouts.axis(source, node.attributes["axis"])
    outer, whole = math.prod(memory[:axis]), math.prod(memory[axis:])
    ops, offset = [], 0
    for index, value in enumerate(node.results):
        run = math.prod(layouts.shape(value)[axis:])
        ops.append(_copy(source, outer, run, (whole, run), (offset, 0), results={f.OUT: index}))
        offset += run
    return NativeStep(tuple(ops))


@native("pad", order=Order.IMAGE)
def pad(node: Node, context: NativeContext, products: list[str]) -> NativeStep | None:
    """Rows and columns of int8 images: constants (negative pads crop), or pixels of the image itself."""
    x, pads, mode = operand(node, 0), node.attributes["pads"], node.attributes["mode"]
    if not _is(x, DType.INT8) or len(pads) != 8 or any(pads[i] for i in (0, 1, 4, 5)):
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
