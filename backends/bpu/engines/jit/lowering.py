"""Which nodes have native steps, and their descriptors. `native_step` returns None for what the NumPy kernels run."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from hqc.backends.bpu.engines.jit import fields as f
from hqc.backends.bpu.engines.jit import library
from hqc.backends.bpu.engines.jit.native import NativeOp, NativeStep, aligned_buffer
from hqc.backends.bpu.engines.jit.requantization import Finish
from hqc.backends.bpu.engines import ConvSpec
from hqc.backends.bpu.epilogue import Epilogue
from hqc.backends.bpu.proof import FLOAT32_EXACT

Array = npt.NDArray[Any]
_PATCH_BYTES = 3 << 16  # of one tile: patches stay in the second-level cache beside a panel of weights
_PANEL = 64


def _address(array: Array) -> int:
    found: int = array.__array_interface__["data"][0]
    return found


# --- dense -----------------------------------------------------------------------------------------------------------------


def pack_weights(weight: npt.NDArray[np.integer], product: str) -> tuple[Array, int, int]:
    """Weights `[O, C, kh, kw]` as `[O / 16][k][16][4 bytes]`, bytes between blocks of columns, and bytes of a patch row."""
    outputs = weight.shape[0]
    rows = weight.transpose(0, 2, 3, 1).reshape(outputs, -1)
    if product == "dense_float256":
        step, columns = 1, 16
    else:
        step, columns = (64, 32) if product == "dense_amx" else (4, 16)
    padded = np.zeros((-(-outputs // columns) * columns, -(-rows.shape[1] // step) * step), np.int8)
    padded[:outputs, : rows.shape[1]] = rows
    if product == "dense_float256":
        packed = np.ascontiguousarray(padded.reshape(-1, 16, padded.shape[1]).transpose(0, 2, 1), np.float32)
        return packed, padded.shape[1] * 64, padded.shape[1] * 4
    packed = padded.reshape(-1, 16, padded.shape[1] // 4, 4).transpose(0, 2, 1, 3)
    buffer, start = aligned_buffer(packed.size)
    aligned: Array = np.ndarray(packed.shape, np.int8, buffer, offset=start - _address(buffer))
    np.copyto(aligned, packed)
    return aligned, padded.shape[1] * 16, padded.shape[1]


def choose_product(spec: ConvSpec, epilogue: Epilogue, products: list[str]) -> str | None:
    """The fastest product that is exact for the layer, or None."""
    reduction = math.prod(spec.weight.shape[1:])
    for product in products:
        if product == "dense_amx" and reduction < 128:
            continue  # a step of 64 would be mostly padding, and few steps do not pay for setting tiles up
        if product != "dense_float256" or max(map(abs, epilogue.acc_range)) <= FLOAT32_EXACT:
            return product
    return None


def dense(spec: ConvSpec, epilogue: Epilogue, threads: int, product: str) -> NativeOp:
    """A convolution with groups = 1, or a linear layer as one."""
    weights, block, patch = pack_weights(spec.weight, product)
    count, rows, columns, outputs = spec.out_shape
    pixels, channels = count * rows * columns, spec.x_shape[3]
    pointwise = spec.kernel == (1, 1) and spec.stride == (1, 1) and not any(spec.padding)
    unsigned = product in ("dense_dot512", "dense_dot256")
    flip = 128 if unsigned and spec.x_range[0] < 0 else 0
    item = 4 if product == "dense_float256" else 1
    multiple = 32 if product == "dense_amx" else 6
    direct = pointwise and not flip and patch == channels * item and item == 1 and (product != "dense_amx" or pixels % 32 == 0)
    offset = None
    if flip:
        offset = -128 * spec.weight.reshape(outputs, -1).sum(axis=1, dtype=np.int64)
    finish = Finish(epilogue, offset=offset)
    per_tile = max(multiple, min(_PATCH_BYTES // patch, 384))
    pieces = -(-pixels // per_tile)
    if pieces > 1 and pieces % threads and pieces < 4 * threads:  # so that the threads end together
        pieces = -(-pieces // threads) * threads
    elif pieces == 1 and pixels >= 4 * multiple * threads:
        pieces = threads
    per_tile = -(-(-(-pixels // pieces)) // multiple) * multiple
    row_tiles = -(-pixels // per_tile)
    column_tiles = 1
    if row_tiles < 2 * threads and threads > 1:
        column_tiles = max(1, min(2 * threads // row_tiles, outputs // _PANEL))
    per_column = -(-(-(-outputs // column_tiles)) // _PANEL) * _PANEL
    column_tiles = -(-outputs // per_column)
    patches = 0 if direct else -(-(per_tile + 32) * patch // 64) * 64
    words = {
        f.OUT_CHANNELS: outputs, f.CHANNELS: channels, f.HEIGHT: spec.x_shape[1], f.WIDTH: spec.x_shape[2], f.OUT_HEIGHT: rows,
        f.OUT_WIDTH: columns, f.KERNEL_H: spec.kernel[0], f.KERNEL_W: spec.kernel[1], f.STRIDE_H: spec.stride[0],
        f.STRIDE_W: spec.stride[1], f.DILATION_H: spec.dilation[0], f.DILATION_W: spec.dilation[1], f.TOP: spec.padding[0],
        f.LEFT: spec.padding[1], f.WEIGHT: _address(weights), f.WEIGHT_STEP: block, f.PIXELS: pixels, f.ROWS: per_tile,
        f.COLUMNS: per_column, f.COLUMN_TILES: column_tiles, f.DIRECT: int(direct), f.PATCH_STRIDE: patch,
        f.STEPS: patch // (64 if product == "dense_amx" else 4), f.FLIP: flip, f.SUMS: patches, f.FINISH: finish.address,
    }  # fmt: skip
    keep: list[Any] = [weights, finish]
    if product == "dense_amx":
        keep.append(_amx_configuration())
        words[f.CONFIGURE] = _address(keep[-1])
    macs = pixels * outputs * math.prod(spec.weight.shape[1:])
    return NativeOp(
        product, row_tiles * column_tiles, words, scratch=patches + (per_tile + 32) * 4 * _PANEL + 256, keep=tuple(keep),
        nanoseconds=macs / 250 + pixels * outputs * 0.3,
    )  # fmt: skip


def _amx_configuration() -> Array:
    """Palette 1: eight tiles of 16 rows of 64 bytes."""
    words = np.zeros(64, np.uint8)
    words[0] = 1
    words[16:32].view(np.uint16)[:] = 64
    words[48:56] = 16
    return words


# --- depthwise -------------------------------------------------------------------------------------------------------------

_WRITTEN_OUT = {(3, 1): 31, (3, 2): 32, (5, 1): 51}  # kernel columns and stride that have tiles of four columns


def depthwise(spec: ConvSpec, epilogue: Epilogue, threads: int) -> NativeOp:
    """groups = channels = outputs."""
    count, rows, columns, channels = spec.out_shape
    kh, kw = spec.kernel
    padded_channels = -(-channels // 16) * 16
    taps = np.zeros((kh, kw, padded_channels), np.float32)
    taps[:, :, :channels] = spec.weight[:, 0].transpose(1, 2, 0)
    finish = Finish(epilogue)
    reach = (columns - 1) * spec.stride[1] + (kw - 1) * spec.dilation[1] + 1
    padded = max(reach, spec.padding[1] + 1) * channels
    kind = _WRITTEN_OUT.get((kw, spec.stride[1]), 0) if spec.dilation[1] == 1 else 0
    total = count * rows * columns * channels
    per_tile = max(1, min(rows, (1 << 17) // max(1, columns * channels), -(-rows // (2 * threads))))
    seen = (per_tile - 1) * spec.stride[0] + spec.dilation[0] * (kh - 1) + 1
    image = -(-(seen * padded + 64) // 64) * 64
    step = 4 * padded_channels
    words = {
        f.CHANNELS: channels, f.HEIGHT: spec.x_shape[1], f.WIDTH: spec.x_shape[2], f.OUT_HEIGHT: rows, f.OUT_WIDTH: columns,
        f.KERNEL_H: kh, f.KERNEL_W: kw, f.STRIDE_H: spec.stride[0], f.STRIDE_W: spec.stride[1], f.DILATION_H: spec.dilation[0],
        f.DILATION_W: spec.dilation[1], f.TOP: spec.padding[0], f.LEFT: spec.padding[1], f.WEIGHT: _address(taps),
        f.WEIGHT_STEP: step, f.ROWS: per_tile, f.DIRECT: kind, f.PATCH_STRIDE: padded, f.SUMS: image, f.FINISH: finish.address,
    }  # fmt: skip
    return NativeOp(
        "depthwise", count * -(-rows // per_tile), words, scratch=image + (columns + 4) * step + 256, keep=(taps, finish),
        nanoseconds=total * (0.3 + 0.05 * kh * kw),
    )  # fmt: skip


def convolution(spec: ConvSpec, epilogue: Epilogue, threads: int, products: list[str]) -> NativeOp | None:
    """The native form of a convolution on int8, or None."""
    if not (spec.x_range[0] >= -128 and spec.x_range[1] <= 127) or max(map(abs, epilogue.acc_range)) >= 2**31:
        return None
    if spec.groups == 1:
        product = choose_product(spec, epilogue, products)
        return None if product is None else dense(spec, epilogue, threads, product)
    if spec.groups == spec.x_shape[3] == spec.out_shape[3] and max(map(abs, epilogue.acc_range)) <= FLOAT32_EXACT:
        return depthwise(spec, epilogue, threads)
    return None


Lower = Callable[..., "NativeStep | None"]
