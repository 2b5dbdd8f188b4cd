"""Convolutions as descriptors: which product, how weights are packed, how the output is cut into tiles."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt

from hqc.backends.bpu.engines import ConvSpec
from hqc.backends.bpu.engines.jit import fields as f
from hqc.backends.bpu.engines.jit.native import NativeOp, aligned_buffer
from hqc.backends.bpu.engines.jit.requantization import Finish
from hqc.backends.bpu.epilogue import Epilogue
from hqc.backends.bpu.proof import FLOAT32_EXACT, sum_bounds
from hqc.ir import DType

Array = npt.NDArray[Any]
_PATCH_BYTES = 3 << 16  # of one tile: patches stay in the second-level cache beside a panel of weights
_PANEL = 64
_FEW_ROWS = 64  # of a product to which reading its weights is most of the work
_REAL = ("dense_float256", "dense_thin256")  # products of float32


def address_of(array: Array) -> int:
    found: int = array.__array_interface__["data"][0]
    return found


def _pieces(size: int, piece: int) -> int:
    return -(-size // piece)


def _round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


# --- dense -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Where the results of a product go in an output `[N, height, width]`: pixel `(y, x)` to `(y, x) * step + first`."""

    height: int
    width: int
    first: tuple[int, int]
    step: tuple[int, int]


@dataclass(frozen=True, eq=False)
class PackedWeights:
    """Weights `[O, C, kh, kw]` as `[groups][O / groups / 16][k][16][4 bytes]`, of `dense_thin256` one byte.

    `block`: bytes between blocks of columns; `patch`: of a patch row. Some of the convolution's groups may be one here.
    """

    source: npt.NDArray[np.integer]
    array: Array
    block: int
    patch: int


_packed: WeakValueDictionary[tuple[Any, ...], PackedWeights] = WeakValueDictionary()


def pack_weights(weight: npt.NDArray[np.integer], product: str, groups: int = 1, joined: int = 1) -> PackedWeights:
    """The weights in the order that `product` reads. Programs of one array share them, whatever their batch size.

    `joined` neighbouring groups become one, whose weights are zero between them.
    """
    # An entry lives as long as some program has it, and holds the array: until then nothing else lies at this address.
    key = (product, groups, joined, address_of(weight), weight.shape, weight.strides, weight.dtype.str)
    found = _packed.get(key)
    if found is None:
        found = _packed[key] = _pack(weight, product, groups, joined)
    return found


def _pack(weight: npt.NDArray[np.integer], product: str, groups: int, joined: int) -> PackedWeights:
    each, kernel = weight.shape[1], weight.shape[2:]
    outputs, reduction = weight.shape[0] * joined // groups, math.prod(weight.shape[1:]) * joined
    dtype: np.dtype[Any] = np.dtype(np.float32 if product == "dense_float256" else np.int8)
    step, columns = {"dense_amx": (64, 32)}.get(product, (1, 16) if product in _REAL else (4, 16))
    row = _round_up(reduction, step)
    together = 1 if product in _REAL else 4  # elements of a row that lie side by side
    shape = (groups // joined, _round_up(outputs, columns) // 16, row // together, 16, together)
    buffer, start = aligned_buffer(math.prod(shape) * dtype.itemsize)
    array: Array = np.ndarray(shape, dtype, buffer, offset=start - address_of(buffer))
    home = np.arange(outputs) // (outputs // joined)  # which of the joined groups an output belongs to
    for group, block in np.ndindex(shape[:2]):  # block by block: a copy of a large weight would be its second
        first = group * outputs + 16 * block
        rows = weight[first : min(first + 16, (group + 1) * outputs)].transpose(0, 2, 3, 1)
        padded = np.zeros((16, row), np.int8)
        filled = padded[: len(rows), :reduction].reshape(len(rows), *kernel, joined, each)
        filled[np.arange(len(rows)), :, :, home[16 * block : 16 * block + len(rows)]] = rows
        np.copyto(array[group, block], padded.reshape(16, -1, together).transpose(1, 0, 2))
    return PackedWeights(weight, array, row * 16 * dtype.itemsize, row * 4 // together)


def choose_product(spec: ConvSpec, products: list[str]) -> str | None:
    """The fastest product that is exact for the layer and right on this processor, or None."""
    from hqc.backends.bpu.engines.jit.check import trusted

    reduction = math.prod(spec.weight.shape[1:]) * joined_groups(spec)
    for product in products:
        if product == "dense_amx" and reduction < 128:
            continue  # a step of 64 would be mostly padding, and few steps do not pay for setting tiles up
        few = math.prod(spec.out_shape[:3]) <= _FEW_ROWS
        found = "dense_thin256" if product == "dense_float256" and few else product
        narrow = found in _REAL or spec.x_dtype is DType.INT16  # the accumulator of int8 is proved to fit 32 bits already
        if narrow and not _exact(spec, FLOAT32_EXACT if found in _REAL else 2**31 - 1):
            continue
        if trusted(found, spec.x_dtype):
            return found
    return None


def _exact(spec: ConvSpec, limit: int) -> bool:
    """True when no sum of products exceeds `limit`: those of int8, or those of each byte of int16, whatever is combined with it."""
    factors = spec.x_range if spec.x_dtype is DType.INT8 else (-128, 255)
    return sum_bounds(spec.weight.reshape(len(spec.weight), -1).T, factors).within(limit)


def joined_groups(spec: ConvSpec) -> int:
    """How many neighbouring groups are computed as one: with fewer than 16 columns a register is not full of results anyway."""
    each = spec.out_shape[3] // spec.groups
    divisors = [count for count in range(1, spec.groups + 1) if spec.groups % count == 0]
    return next((count for count in divisors if count * each >= 16), spec.groups)


def dense(
    spec: ConvSpec, epilogue: Epilogue, threads: int, product: str, *, place: Place | None = None, residual: DType = DType.INT8
) -> NativeOp:
    """A convolution, or a linear layer as one; each group a product of its own.

    `place`: where results go, default the whole output. `residual`: the dtype of what is added.
    """
    joined = joined_groups(spec)
    groups = spec.groups // joined
    weights = pack_weights(spec.weight, product, spec.groups, joined)
    patch = weights.patch
    count, rows, columns, outputs = spec.out_shape
    pixels, channels = count * rows * columns, spec.x_shape[3] // groups
    same_size = spec.x_shape[1:3] == spec.out_shape[1:3]
    pointwise = spec.kernel == (1, 1) and spec.stride == (1, 1) and same_size and not any(spec.padding) and groups == 1
    unsigned, wide = product in ("dense_dot512", "dense_dot256"), spec.x_dtype is DType.INT16
    flip = 128 if unsigned and spec.x_range[0] < 0 else 0
    flip_low = 128 if wide and product == "dense_amx" else 0
    item = 4 if product in _REAL else 1
    multiple = 32 if product == "dense_amx" else 6
    direct = pointwise and not flip and patch == channels * item and item == 1 and (product != "dense_amx" or pixels % 32 == 0)
    direct = direct and not wide
    offset = None
    if flip or flip_low:  # what is added to each operand, taken from the sums
        added = flip * (256 if wide else 1) - flip_low
        offset = -added * spec.weight.reshape(outputs, -1).sum(axis=1, dtype=np.int64)
    per_tile = max(multiple, min(_PATCH_BYTES // patch, 384))
    pieces = _pieces(pixels, per_tile)
    if pieces > 1 and pieces % threads and pieces < 4 * threads:  # so that the threads end together
        pieces = _round_up(pieces, threads)
    elif pieces == 1 and pixels >= 4 * multiple * threads:
        pieces = threads
    per_tile = _round_up(_pieces(pixels, pieces), multiple)
    row_tiles = _pieces(pixels, per_tile)
    column_tiles = 1
    if groups == 1 and row_tiles < 2 * threads and threads > 1:
        column_tiles = max(1, min(2 * threads // row_tiles, outputs // _PANEL))
    per_column = _round_up(_pieces(outputs, column_tiles), _PANEL) if groups == 1 else outputs // groups
    column_tiles = _pieces(outputs, per_column)
    blocks = weights.array.shape[1] if groups > 1 else per_column // 16  # of weights, from one column tile to the next
    plane = 0 if direct else _round_up((per_tile + 32) * patch, 64)
    patches, sums = plane * (2 if wide else 1), (per_tile + 32) * 4 * _PANEL
    finish = Finish(epilogue, offset=offset, planes=(sums, 1, 256) if wide else None, residual=residual)
    words = {
        f.OUT_CHANNELS: outputs, f.CHANNELS: channels, f.HEIGHT: spec.x_shape[1], f.WIDTH: spec.x_shape[2], f.OUT_HEIGHT: rows,
        f.OUT_WIDTH: columns, f.KERNEL_H: spec.kernel[0], f.KERNEL_W: spec.kernel[1], f.STRIDE_H: spec.stride[0],
        f.STRIDE_W: spec.stride[1], f.DILATION_H: spec.dilation[0], f.DILATION_W: spec.dilation[1], f.TOP: spec.padding[0],
        f.LEFT: spec.padding[1], f.WEIGHT: address_of(weights.array), f.WEIGHT_STEP: weights.block, f.PIXELS: pixels, f.ROWS: per_tile,
        f.COLUMNS: per_column, f.COLUMN_TILES: column_tiles, f.DIRECT: int(direct), f.PATCH_STRIDE: patch,
        f.STEPS: patch // (64 if product == "dense_amx" else 4), f.FLIP: flip, f.SUMS: patches, f.FINISH: finish.address,
        f.PIXEL: spec.x_shape[3], f.TILE_CHANNELS: channels if groups > 1 else 0, f.TILE_WEIGHT: blocks * weights.block,
        f.PLANE: plane, f.FLIP_LOW: flip_low,
    }  # fmt: skip
    words |= _whole_output(pixels) if place is None else _placed(spec, place)
    keep: list[Any] = [weights, finish]
    if product == "dense_amx":
        keep.append(_amx_configuration())
        words[f.CONFIGURE] = address_of(keep[-1])
    macs = pixels * outputs * math.prod(spec.weight.shape[1:])
    return NativeOp(
        f"{product}_16" if wide else product, row_tiles * column_tiles, words, scratch=patches + sums * (2 if wide else 1) + 256,
        keep=tuple(keep), nanoseconds=(1 + wide) * macs / 250 + pixels * outputs * 0.3,
    )  # fmt: skip


def _whole_output(pixels: int) -> dict[int, int]:
    """All results are one run."""
    return {f.RUN: pixels, f.RUNS: 1, f.RUN_FIRST: 0, f.RUN_STEP: 1, f.RUN_ROW: 0, f.RUN_IMAGE: 0}


def _placed(spec: ConvSpec, place: Place) -> dict[int, int]:
    """Each row of results is a run."""
    return {
        f.RUN: spec.out_shape[2], f.RUNS: spec.out_shape[1], f.RUN_FIRST: place.first[0] * place.width + place.first[1],
        f.RUN_STEP: place.step[1], f.RUN_ROW: place.step[0] * place.width, f.RUN_IMAGE: place.height * place.width,
    }  # fmt: skip


def _amx_configuration() -> Array:
    """Palette 1: eight tiles of 16 rows of 64 bytes."""
    words = np.zeros(64, np.uint8)
    words[0] = 1
    words[16:32].view(np.uint16)[:] = 64
    words[48:56] = 16
    return words


# --- depthwise -------------------------------------------------------------------------------------------------------------

_WRITTEN_OUT = {(3, 1): 31, (3, 2): 32, (5, 1): 51}  # kernel columns and stride that have tiles of four columns


def depthwise(spec: ConvSpec, epilogue: Epilogue, threads: int, residual: DType) -> NativeOp:
    """groups = channels = outputs."""
    wide, item = spec.x_dtype is DType.INT16, spec.x_dtype.numpy.itemsize
    count, rows, columns, channels = spec.out_shape
    kh, kw = spec.kernel
    padded_channels = _round_up(channels, 16)
    taps = np.zeros((kh, kw, padded_channels), np.int32 if wide else np.float32)
    taps[:, :, :channels] = spec.weight[:, 0].transpose(1, 2, 0)
    finish = Finish(epilogue, residual=residual)
    reach = (columns - 1) * spec.stride[1] + (kw - 1) * spec.dilation[1] + 1
    padded = max(reach, spec.padding[1] + 1) * channels * item
    kind = _WRITTEN_OUT.get((kw, spec.stride[1]), 0) if spec.dilation[1] == 1 and not wide else 0
    total = count * rows * columns * channels
    per_tile = max(1, min(rows, (1 << 17) // max(1, columns * channels), _pieces(rows, 2 * threads)))
    seen = (per_tile - 1) * spec.stride[0] + spec.dilation[0] * (kh - 1) + 1
    image = _round_up(seen * padded + 64, 64)
    step = 4 * padded_channels
    words = {
        f.CHANNELS: channels, f.HEIGHT: spec.x_shape[1], f.WIDTH: spec.x_shape[2], f.OUT_HEIGHT: rows, f.OUT_WIDTH: columns,
        f.KERNEL_H: kh, f.KERNEL_W: kw, f.STRIDE_H: spec.stride[0], f.STRIDE_W: spec.stride[1], f.DILATION_H: spec.dilation[0],
        f.DILATION_W: spec.dilation[1], f.TOP: spec.padding[0], f.LEFT: spec.padding[1], f.WEIGHT: address_of(taps),
        f.WEIGHT_STEP: step, f.ROWS: per_tile, f.DIRECT: kind, f.PATCH_STRIDE: padded, f.SUMS: image, f.FINISH: finish.address,
    }  # fmt: skip
    return NativeOp(
        "depthwise_16" if wide else "depthwise", count * _pieces(rows, per_tile), words,
        scratch=image + (columns + 4) * step + 256, keep=(taps, finish), nanoseconds=total * (0.3 + 0.05 * kh * kw),
    )  # fmt: skip


def convolution(
    spec: ConvSpec,
    epilogue: Epilogue,
    threads: int,
    products: list[str],
    *,
    place: Place | None = None,
    residual: DType = DType.INT8,
) -> NativeOp | None:
    """The native form of a convolution on int8 or int16, or None. `place`: where its results go, default the whole output.

    `residual`: the dtype of what is added, where something is.
    """
    low, high = spec.x_dtype.qmin, spec.x_dtype.qmax
    limit = 2**31 if spec.x_dtype is DType.INT8 else 2**62
    if not (spec.x_range[0] >= low and spec.x_range[1] <= high) or max(map(abs, epilogue.acc_range)) >= limit:
        return None
    if place is None and spec.groups == spec.x_shape[3] == spec.out_shape[3] > 1 and _exact_depthwise(spec):
        return depthwise(spec, epilogue, threads, residual)
    product = choose_product(spec, products)
    return None if product is None else dense(spec, epilogue, threads, product, place=place, residual=residual)


def _exact_depthwise(spec: ConvSpec) -> bool:
    """float32 holds the sums of int8, int32 those of int16."""
    if spec.x_dtype is DType.INT8:
        return _exact(spec, FLOAT32_EXACT)
    return sum_bounds(spec.weight.reshape(len(spec.weight), -1).T, spec.x_range).within(2**31 - 1)


# --- products of two activations -------------------------------------------------------------------------------------------

_PACKED_BYTES = 8 << 20  # of the second operand as float32: more would be copied anew for each tile out of memory


def product_of_activations(
    a: npt.NDArray[np.int64],
    b: npt.NDArray[np.int64],
    a_low: int,
    epilogue: Epilogue,
    threads: int,
    products: list[str],
) -> NativeOp | None:
    """Products of int8 matrices `a[batch, M, K] @ b[batch, K, N]`, given where each element lies, or None. Results are in C order.

    `a_low`: the smallest integer of `a`.
    """
    from hqc.backends.bpu.engines.jit.check import trusted_activations

    worst = max(map(abs, epilogue.acc_range))
    exact = [name for name in _OF_ACTIVATIONS if name.replace("matmul", "dense") in products or name == _LAST]
    chosen = next((n for n in exact if worst <= (FLOAT32_EXACT if n == _LAST else 2**31 - 1) and trusted_activations(n)), None)
    if chosen is None or _pieces(b.shape[2], 16) * 64 * b.shape[1] > _PACKED_BYTES:
        return None
    return activations_op(chosen, a, b, a_low, epilogue, threads)


def activations_op(
    kernel: str, a: npt.NDArray[np.int64], b: npt.NDArray[np.int64], a_low: int, epilogue: Epilogue, threads: int
) -> NativeOp:
    """The same by one kernel."""
    batch, rows, reduction = a.shape
    columns = b.shape[2]
    real = kernel == _LAST
    steps = reduction if real else _pieces(reduction, 4)
    block = steps * 64  # bytes of sixteen packed columns
    packed = _pieces(columns, 16) * block
    flip = 0 if real or a_low >= 0 else 128
    per_tile = rows if batch >= 2 * threads else _pieces(rows, threads)
    per_tile = min(per_tile, max(48, _PATCH_BYTES // (4 * steps)), 384)
    finish = Finish(epilogue, width=_PANEL)
    starts = np.ascontiguousarray(np.stack([a[:, 0, 0], b[:, 0, 0]], axis=1))
    patches = _round_up((per_tile + 16) * 4 * steps, 64)
    offsets = _round_up(columns, 16) * 4
    words = {
        f.TABLE: address_of(starts), f.PIXELS: rows, f.ROWS: per_tile, f.STEPS: steps, f.OUT_CHANNELS: columns, f.CHANNELS: reduction,
        f.A_ROW: _apart(a, 1), f.A_STEP: _apart(a, 2), f.B_ROW: _apart(b, 1), f.B_STEP: _apart(b, 2), f.FLIP: flip,
        f.WEIGHT_STEP: block, f.PATCH_STRIDE: 4 * steps, f.PACKED: patches, f.OFFSETS: patches + packed,
        f.SUMS: patches + packed + _round_up(offsets, 64), f.FINISH: finish.address,
    }  # fmt: skip
    scratch = words[f.SUMS] + (per_tile + 32) * 4 * _PANEL + 256
    macs = batch * rows * columns * reduction
    cost = macs / 100 + batch * (rows * columns * 0.3 + columns * reduction * 0.5)
    return NativeOp(
        kernel,
        batch * _pieces(rows, per_tile),
        words,
        {f.X: 0, f.Y: 1},
        scratch=scratch,
        keep=(finish, starts),
        nanoseconds=cost,
    )


_OF_ACTIVATIONS = ("matmul_dot512", "matmul_dot256", "matmul_float256")
_LAST = _OF_ACTIVATIONS[-1]  # any processor has it


def _apart(places: npt.NDArray[np.int64], axis: int) -> int:
    """Bytes between neighbours of int8 along an axis."""
    if places.shape[axis] < 2:
        return 0
    first, second = (places.take(index, axis).reshape(-1)[0] for index in (0, 1))
    return int(second - first)
