"""Descriptors: what a compiled kernel is told, as 64-bit words in memory. One name per word, shared by both sides.

Every descriptor starts with the address of its kernel and its number of tiles; a tile is the unit that threads take. Addresses are
filled in before each run, everything else when a node is compiled.
"""

from __future__ import annotations

WORDS = 72  # of one descriptor

KERNEL, TILES, X, Y, OUT, RESIDUAL, FINISH, STATUS, SIZE, BLOCK = range(10)
"""Words that all kernels share: operands (X, Y, RESIDUAL), result, address of the finish, where a complaint goes, elements, elements a
tile."""

(
    CHANNELS, HEIGHT, WIDTH, OUT_CHANNELS, OUT_HEIGHT, OUT_WIDTH, KERNEL_H, KERNEL_W, STRIDE_H, STRIDE_W, DILATION_H, DILATION_W, TOP,
    LEFT, WEIGHT, WEIGHT_STEP, PIXELS, ROWS, COLUMNS, COLUMN_TILES, DIRECT, PATCH_STRIDE, STEPS, FLIP, SUMS, CONFIGURE, FILL,
) = range(10, 37)  # fmt: skip
"""Convolutions and windows. ROWS and COLUMNS of a tile; SUMS: where a tile's accumulators lie in the scratch memory."""

FACTOR_X, FACTOR_Y, SCALE, ROUNDING, LOW, HIGH, TABLE, ITEM = range(37, 45)
"""Element-wise kernels. SCALE: address of a float32. ITEM: bytes of an element of y, or of the result where there is no y."""

COPY_OUTER, COPY_RUN, COPY_SOURCE_STEP, COPY_TARGET_STEP, COPY_SOURCE_OFFSET, COPY_TARGET_OFFSET = range(45, 51)

PIXEL, TILE_CHANNELS, TILE_WEIGHT, RUN, RUNS, RUN_FIRST, RUN_STEP, RUN_ROW, RUN_IMAGE, FLIP_LOW, PLANE, ITEM_X, ITEM_OUT = (
    range(51, 64)
)
"""Dense products. PIXEL: channels of a whole input pixel, of which CHANNELS are read, from the tile's column index times TILE_CHANNELS;
TILE_WEIGHT: bytes of weights of a tile's columns. Where results go, in pixels of the output: runs of RUN, RUN_STEP apart, the first
at RUN_FIRST, then each RUN_ROW on; RUNS of them are an image, and the next image's begin RUN_IMAGE on. Patches of int16 are two: low bytes,
and PLANE bytes behind them high bytes; FLIP_LOW and FLIP are what these are combined with. ITEM_X, ITEM_OUT: bytes
of an element of x and of the result."""

BATCH_Y, A_ROW, A_STEP, B_ROW, B_STEP, PACKED, OFFSETS = range(64, 71)
"""Products of two activations. TABLE: for each product of the batch where its operands begin; bytes between rows and between columns of
each; where packed columns and what is taken from their sums lie in the scratch memory."""

(
    F_KIND, F_BIAS, F_PRE, F_SLOPE, F_OFFSET, F_LOW, F_HIGH, F_RESIDUAL_FACTOR, F_RESIDUAL_HALF, F_RESIDUAL_SHIFT, F_ITEM,
    F_RESIDUAL_ITEM, F_MIDDLE, F_CONSTANTS, F_CONSTANT_STEP, F_PLANE, F_FACTOR_X, F_FACTOR_Y,
) = range(18)  # fmt: skip
"""A finish (bias, residual, requantization, clip). Addresses of per-channel constants, padded to whole vectors."""

LINE, PLAIN, WIDE = range(3)
"""Kinds of finish: one float32 line per channel; int32 sums as they are; the definition in 64 bits, of `x * FACTOR_X + y * FACTOR_Y`
where y lies PLANE bytes behind x."""
