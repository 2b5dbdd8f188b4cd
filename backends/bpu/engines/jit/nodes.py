"""Which nodes have native steps. A lowering returns None for what it leaves to the NumPy kernels: other dtypes, other broadcasts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hqc.backends.bpu.engines import ConvSpec
from hqc.backends.bpu.engines.jit import fields as f
from hqc.backends.bpu.engines.jit.native import Array, NativeOp, NativeStep, memory_shape
from hqc.backends.bpu.engines.jit.problems import Place, address_of, convolution
from hqc.backends.bpu.engines.jit.requantization import Finish
from hqc.backends.bpu.engines.jit.transposed import as_convolutions
from hqc.backends.bpu.epilogue import Epilogue
from hqc.backends.bpu.kernels import KernelContext, constant, operand, shape_of
from hqc.backends.bpu.kernels.conv import conv_problem, transpose_problem
from hqc.backends.bpu.kernels.elementwise import product_range, sum_range
from hqc.backends.bpu.kernels.linear import linear_problem
from hqc.backends.bpu.kernels.resize import source_positions
from hqc.backends.bpu.ranges import Range
from hqc.errors import QuantizationError
from hqc.ir import DType, Node, Value
from hqc.registry import Registry

Lowering = Callable[[Node, KernelContext, "list[str]"], "NativeStep | None"]
NATIVE: Registry[str, Lowering] = Registry("native kernel")
_BLOCK = 1 << 15  # elements of an element-wise tile
_ROWS = 256  # rows of a tile of sums


def native_step(node: Node, context: KernelContext, products: list[str]) -> NativeStep | None:
    """The native form of a node, or None. `products`: the dense kernels that may be used, fastest first."""
    lowering = NATIVE.get(node.op.name)
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


@NATIVE.register("int_conv2d", "int_linear")
def product(node: Node, context: KernelContext, products: list[str]) -> NativeStep | None:
    linear = node.op.name == "int_linear"
    if linear and len(shape_of(operand(node, 0))) == 4:
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
    node: Node, context: KernelContext, products: list[str], epilogue: Epilogue, parts: Sequence[tuple[ConvSpec, Place | None]]
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


@NATIVE.register("int_conv_transpose2d")
def transposed(node: Node, context: KernelContext, products: list[str]) -> NativeStep | None:
    if not _takes(node):
        return None
    spec, epilogue = transpose_problem(node, context)
    return _placed(node, context, products, epilogue, as_convolutions(spec))


# --- between the real and the quantized world --------------------------------------------------------------------------------


def _pixels(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Images, channels and pixels of a memory that is transposed on the way; other ranks are one row of pixels."""
    return (shape[0], shape[1], shape[2] * shape[3]) if len(shape) == 4 else (1, 1, math.prod(shape))


@NATIVE.register("quantize")
def quantize(node: Node, context: KernelContext, products: list[str]) -> NativeStep | None:
    x, quant = operand(node, 0), node.result.quant
    if quant is None or quant.axis is not None or node.attributes["rounding"] != "half_even":
        return None
    if not (_is(x, DType.FLOAT32) and _is(node.result, *_SMALL)):
        return None
    images, channels, pixels = _pixels(shape_of(x))
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


@NATIVE.register("dequantize")
def dequantize(node: Node, context: KernelContext, products: list[str]) -> NativeStep | None:
    x = operand(node, 0)
    quant, shape = x.quant, shape_of(x)
    if quant is None or not _is(x, DType.INT8, DType.INT16, DType.INT32) or not _is(node.result, DType.FLOAT32):
        return None
    images, channels, pixels = _pixels(shape)
    scale = np.ascontiguousarray(np.atleast_1d(np.asarray(quant.scale, np.float32)))
    if quant.axis is not None:
        if quant.axis % len(shape) != 1:
            return None
        if len(shape) == 2:
            images, channels, pixels = shape[0], shape[1], 1
        elif len(shape) != 4:
            return None
    block = max(64, _BLOCK // channels)
    words = {
        f.CHANNELS: channels, f.PIXELS: pixels, f.BLOCK: block, f.SCALE: address_of(scale), f.ITEM_X: _item(x),
        f.FILL: int(scale.size > 1),
    }  # fmt: skip
    size = images * channels * pixels
    return _one(NativeOp("dequantize", images * -(-pixels // block), words, keep=(scale,), nanoseconds=size))


# --- element-wise ----------------------------------------------------------------------------------------------------------


def _combined(node: Node, context: KernelContext, acc_range: Range, kind: int, factors: tuple[int, int]) -> NativeStep | None:
    x, y = operand(node, 0), operand(node, 1 if kind < 2 else 0)
    wide = kind == 0 and max(map(abs, acc_range)) >= 2**31  # terms apart: 64 bits hold what the verifier allows
    if (not wide and max(map(abs, acc_range)) >= 2**31) or max(map(abs, factors)) >= 2**31 or max(map(abs, acc_range)) >= 2**62:
        return None
    shape = shape_of(node.result)
    size, width, runs, pixels = math.prod(shape), 64, 0, 1
    operands = {f.X: 0}
    if kind < 2:
        swapped = shape_of(x) != shape
        if swapped:
            x, y, factors = y, x, factors[::-1]
        first, second = shape_of(x), shape_of(y)
        operands = {f.X: int(swapped), f.Y: int(not swapped)}
        if first != shape:
            return None
        if second != shape:
            if math.prod(second) == 1:
                runs = 1
            elif len(shape) == 4 and second == (*shape[:2], 1, 1):
                runs, width, pixels = 2, shape[1], shape[2] * shape[3]
            else:
                return None
    if not _is(x, *_SMALL) or not _is(y, *_SMALL, DType.INT32):
        return None
    requant = node.operand("requant")
    rows = None if requant is None else constant(node, "requant")
    epilogue = Epilogue(rows, node.attributes, channels=1, acc_range=acc_range)
    block, step = max(1, min(_ROWS * 64 // width, -(-size // width))), -(-width // 16) * 64
    plane = block * step if wide else 0
    finish = Finish(epilogue, width=width, planes=(plane, *factors) if wide else None)
    words = {
        f.SIZE: size, f.COLUMNS: width, f.BLOCK: block, f.FINISH: finish.address, f.ROUNDING: kind, f.FILL: runs, f.PIXELS: pixels,
        f.FACTOR_X: factors[0], f.FACTOR_Y: factors[1], f.ITEM: _item(y), f.ITEM_X: _item(x), f.PLANE: plane,
    }  # fmt: skip
    tiles = -(-size // (block * width))
    return _one(
        NativeOp("combine", tiles, words, operands, scratch=block * step + plane + 256, keep=(finish,), nanoseconds=0.5 * size)
    )


@NATIVE.register("int_add")
def int_add(node: Node, context: KernelContext, products: list[str]) -> NativeStep | None:
    return _combined(node, context, sum_range(node, context), 0, (node.attributes["k_a"], node.attributes["k_b"]))


@NATIVE.register("int_mul")
def int_mul(node: Node, context: KernelContext, products: list[str]) -> NativeStep | None:
    return _combined(node, context, product_range(node, context), 1, (1, 1))


@NATIVE.register("int_requantize")
def int_requantize(node: Node, context: KernelContext, products: list[str]) -> NativeStep | None:
    low, high = context.ranges.of(operand(node, 0))
    return _combined(node, context, (min(0, low), max(0, high)), 2, (1, 1))


def _flat(node: Node, kernel: str, words: dict[int, int], keep: tuple[Any, ...] = (), cost: float = 0.2) -> NativeStep | None:
    size = math.prod(shape_of(node.result))
    words |= {f.SIZE: size, f.BLOCK: _BLOCK}
    return _one(NativeOp(kernel, -(-size // _BLOCK), words, keep=keep, nanoseconds=cost * size))


@NATIVE.register("relu", "clamp")
def clip(node: Node, context: KernelContext, products: list[str]) -> NativeStep | None:
    if not _is(operand(node, 0), *_SMALL):
        return None
    dtype = operand(node, 0).type.dtype
    low, high = node.attributes.get("min", 0), node.attributes.get("max")
    low = dtype.qmin if low is None else min(max(int(low), dtype.qmin), dtype.qmax)
    high = dtype.qmax if high is None else min(max(int(high), dtype.qmin), dtype.qmax)
    return _flat(node, "clip", {f.LOW: low, f.HIGH: high, f.ITEM: _item(operand(node, 0))})


@NATIVE.register("int_lut")
def int_lut(node: Node, context: KernelContext, products: list[str]) -> NativeStep | None:
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


@NATIVE.register("max_pool2d")
def max_pool2d(node: Node, context: KernelContext, products: list[str]) -> NativeStep | None:
    x = operand(node, 0)
    if not _is(x, *_SMALL) or len(shape_of(node.result)) != 4:
        return None
    kernel = node.attributes["kernel"]
    words = _window_words(node, kernel, node.attributes["stride"]) | {f.LOW: x.type.dtype.qmin, f.ITEM: _item(x)}
    return _row_tiles(node, "max_pool", words, 0.15 * kernel[0] * kernel[1])


def _sum_pool(node: Node, context: KernelContext, kernel: tuple[int, int], stride: tuple[int, int]) -> NativeStep | None:
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


@NATIVE.register("int_avg_pool2d")
def int_avg_pool2d(node: Node, context: KernelContext, products: list[str]) -> NativeStep | None:
    return _sum_pool(node, context, node.attributes["kernel"], node.attributes["stride"])


@NATIVE.register("int_adaptive_avg_pool2d")
def int_adaptive_avg_pool2d(node: Node, context: KernelContext, products: list[str]) -> NativeStep | None:
    """Windows of equal size only."""
    _, _, height, width = shape_of(operand(node, 0))
    _, _, rows, columns = shape_of(node.result)
    if height % rows or width % columns:
        return None
    kernel = height // rows, width // columns
    return _sum_pool(node, context, kernel, kernel)


@NATIVE.register("int_resize2d")
def int_resize2d(node: Node, context: KernelContext, products: list[str]) -> NativeStep | None:
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


@NATIVE.register("identity", "dropout", "reshape")
def same_memory(node: Node, context: KernelContext, products: list[str]) -> NativeStep | None:
    """Reshapes that keep the order of elements in memory; sizes of one and ranks other than 4 do."""
    source, result = operand(node, 0), node.result
    if not _is_integer(source, result):
        return None

    def keeps_order(value: Value) -> bool:
        shape = shape_of(value)
        return len(shape) != 4 or shape[1] == 1 or shape[2] * shape[3] == 1

    if memory_shape(source) == memory_shape(result) or (keeps_order(source) and keeps_order(result)):
        return NativeStep((), alias=True)
    return None


def _copy(value: Value, outer: int, run: int, steps: tuple[int, int], offsets: tuple[int, int], **where: Any) -> NativeOp:
    item = value.type.dtype.numpy.itemsize
    block = max(1, _BLOCK // max(1, run * item))
    words = {
        f.COPY_OUTER: outer, f.COPY_RUN: run * item, f.COPY_SOURCE_STEP: steps[0] * item, f.COPY_TARGET_STEP: steps[1] * item,
        f.COPY_SOURCE_OFFSET: offsets[0] * item, f.COPY_TARGET_OFFSET: offsets[1] * item, f.BLOCK: block,
    }  # fmt: skip
    return NativeOp("copy_runs", -(-outer // block), words, nanoseconds=outer * (3 + 0.05 * run * item), **where)


def _memory_axis(shape: tuple[int, ...], axis: int) -> int:
    axis %= len(shape)
    return (0, 3, 1, 2)[axis] if len(shape) == 4 else axis


@NATIVE.register("cat")
def cat(node: Node, context: KernelContext, products: list[str]) -> NativeStep | None:
    if not _is_integer(node.result) or len(node.data_operands) != len(node.inputs):
        return None  # a constant among the operands is no operand of a native step
    target = memory_shape(node.result)
    axis = _memory_axis(shape_of(node.result), node.attributes["axis"])
    outer, whole = math.prod(target[:axis]), math.prod(target[axis:])
    ops, offset = [], 0
    for index, value in enumerate(node.data_operands):
        run = math.prod(memory_shape(value)[axis:])
        ops.append(_copy(node.result, outer, run, (run, whole), (0, offset), operands={f.X: index}))
        offset += run
    return NativeStep(tuple(ops))


@NATIVE.register("split")
def split(node: Node, context: KernelContext, products: list[str]) -> NativeStep | None:
    source = operand(node, 0)
    if not _is_integer(source):
        return None
    memory = memory_shape(source)
    axis = _memory_axis(shape_of(source), node.attributes["axis"])
    outer, whole = math.prod(memory[:axis]), math.prod(memory[axis:])
    ops, offset = [], 0
    for index, value in enumerate(node.results):
        run = math.prod(memory_shape(value)[axis:])
        ops.append(_copy(source, outer, run, (whole, run), (offset, 0), results={f.OUT: index}))
        offset += run
    return NativeStep(tuple(ops))


@NATIVE.register("slice")
def slice_(node: Node, context: KernelContext, products: list[str]) -> NativeStep | None:
    """One axis, step 1: a run of bytes out of each outer index."""
    source = operand(node, 0)
    axes, steps = node.attributes["axes"], node.attributes["steps"]
    if not _is_integer(source) or len(axes) != 1 or any(step != 1 for step in steps):
        return None
    size = shape_of(source)[axes[0]]
    start, stop, _ = slice(node.attributes["starts"][0], node.attributes["ends"][0]).indices(size)
    memory, axis = memory_shape(source), _memory_axis(shape_of(source), axes[0])
    outer, whole, inner = math.prod(memory[:axis]), math.prod(memory[axis:]), math.prod(memory[axis + 1 :])
    run = (stop - start) * inner
    return NativeStep((_copy(source, outer, run, (whole, run), (start * inner, 0)),))


@NATIVE.register("pad")
def pad(node: Node, context: KernelContext, products: list[str]) -> NativeStep | None:
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
