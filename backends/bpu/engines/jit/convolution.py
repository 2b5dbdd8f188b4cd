"""Compiled convolutions: patches, register tiles and the finish of one tile after another, so that sums never leave the cache."""

from __future__ import annotations

from typing import Any

from hqc.backends.bpu.engines.jit import fields as f
from hqc.backends.bpu.engines.jit import products as p
from hqc.backends.bpu.engines.jit.finish import finish, inlined, word
from hqc.backends.bpu.engines.jit.vector import (
    add_ints,
    all_ints,
    copy_4,
    copy_8,
    copy_16,
    copy_32,
    copy_high_1,
    copy_high_16,
    copy_high_floats_1,
    copy_high_floats_16,
    copy_low_1,
    copy_low_16,
    copy_low_floats_1,
    copy_low_floats_16,
    load_bytes,
    load_floats,
    load_i8,
    load_ints,
    load_shorts,
    multiply_add,
    multiply_ints,
    store_f32,
    store_floats,
    store_i8,
    store_ints,
    to_floats,
    to_ints,
)

_PANEL = 64  # columns whose sums are finished together


@inlined
def copy_bytes(target: int, source: int, count: int, flip: int) -> None:
    """`target[i] = source[i] ^ flip`; reads and writes nothing beyond `count` bytes."""
    if count >= 32:
        for at in range(0, count - 31, 32):
            copy_32(target + at, source + at, flip)
        if count % 32:
            copy_32(target + count - 32, source + count - 32, flip)
    elif count >= 16:
        copy_16(target, source, flip)
        copy_16(target + count - 16, source + count - 16, flip)
    elif count >= 8:
        copy_8(target, source, flip)
        copy_8(target + count - 8, source + count - 8, flip)
    elif count >= 4:
        copy_4(target, source, flip)
        copy_4(target + count - 4, source + count - 4, flip)
    else:
        for at in range(count):
            store_i8(target + at, load_i8(source + at) ^ flip)


@inlined
def fill_bytes(target: int, count: int, value: int) -> None:
    for at in range(count):
        store_i8(target + at, value)


@inlined
def copy_floats(target: int, source: int, count: int, flip: int) -> None:
    """`target[i] = float(source[i])`; `flip` is not used: the operand stays signed."""
    if count >= 16:
        for at in range(0, count - 15, 16):
            store_floats(target + 4 * at, to_floats(load_bytes(source + at)))
        store_floats(target + 4 * (count - 16), to_floats(load_bytes(source + count - 16)))
    else:
        for at in range(count):
            store_f32(target + 4 * at, load_i8(source + at))


@inlined
def fill_floats(target: int, count: int, value: int) -> None:
    for at in range(count):
        store_f32(target + 4 * at, value)


def _halves(name: str, wide: Any, single: Any, item: int) -> Any:
    """`copy(target, source, count, flip)`: the low or high bytes of int16, to elements of `item` bytes."""

    def copy(target: int, source: int, count: int, flip: int) -> None:
        if count >= 16:
            for at in range(0, count - 15, 16):
                wide(target + item * at, source + 2 * at, flip)
            wide(target + item * (count - 16), source + 2 * (count - 16), flip)
        else:
            for at in range(count):
                single(target + item * at, source + 2 * at, flip)

    return inlined(copy, f"copy_{name}")


_copy_low = _halves("low", copy_low_16, copy_low_1, 1)
_copy_high = _halves("high", copy_high_16, copy_high_1, 1)
_copy_low_floats = _halves("low_floats", copy_low_floats_16, copy_low_floats_1, 4)
_copy_high_floats = _halves("high_floats", copy_high_floats_16, copy_high_floats_1, 4)


@inlined
def dot512(d: int, a: int, stride: int, rows: int, w: int, w_step: int, sums: int, vectors: int) -> None:
    steps = word(d, f.STEPS)
    if vectors == 4:
        for row in range(0, rows, 6):
            p.dot512_6x64(a + row * stride, stride, rows - 1 - row, w, w_step, sums + row * 256, 256, steps)
    elif vectors == 3:
        for row in range(0, rows, 8):
            p.dot512_8x48(a + row * stride, stride, rows - 1 - row, w, w_step, sums + row * 256, 256, steps)
    elif vectors == 2:
        for row in range(0, rows, 12):
            p.dot512_12x32(a + row * stride, stride, rows - 1 - row, w, w_step, sums + row * 256, 256, steps)
    else:
        for row in range(0, rows, 14):
            p.dot512_14x16(a + row * stride, stride, rows - 1 - row, w, w_step, sums + row * 256, 256, steps)


@inlined
def dot256(d: int, a: int, stride: int, rows: int, w: int, w_step: int, sums: int, vectors: int) -> None:
    steps = word(d, f.STEPS)
    for pair in range(0, vectors - 1, 2):
        for row in range(0, rows, 3):
            at = sums + row * 256 + pair * 64
            p.dot256_3x32(a + row * stride, stride, rows - 1 - row, w + pair * w_step, w_step, at, 256, steps)
    if vectors % 2:
        last = vectors - 1
        for row in range(0, rows, 6):
            at = sums + row * 256 + last * 64
            p.dot256_6x16(a + row * stride, stride, rows - 1 - row, w + last * w_step, w_step, at, 256, steps)


@inlined
def float256(d: int, a: int, stride: int, rows: int, w: int, w_step: int, sums: int, vectors: int) -> None:
    steps = word(d, f.STEPS)
    for vector in range(vectors):
        for row in range(0, rows, 6):
            at = sums + row * 256 + vector * 64
            p.float256_6x16(a + row * stride, stride, rows - 1 - row, w + vector * w_step, w_step, at, 256, steps)


@inlined
def _thin256(d: int, a: int, stride: int, rows: int, w: int, w_step: int, sums: int, vectors: int) -> None:
    steps = word(d, f.STEPS)
    for vector in range(vectors):
        for row in range(0, rows, 6):
            at = sums + row * 256 + vector * 64
            p.thin256_6x16(a + row * stride, stride, rows - 1 - row, w + vector * w_step, w_step, at, 256, steps)


@inlined
def _amx(d: int, a: int, stride: int, rows: int, w: int, w_step: int, sums: int, vectors: int) -> None:
    """Rows and columns are padded to 32 in scratch memory and weights."""
    steps = word(d, f.STEPS)
    p.amx_configure(word(d, f.CONFIGURE))
    for pair in range(0, vectors, 2):
        for row in range(0, rows, 32):
            p.amx_32x32(a + row * stride, stride, w + pair * w_step, w_step, sums + row * 256 + pair * 64, 256, steps)
    p.amx_release(0)


def _patches(name: str, item: int, source_item: int, copy: Any, fill: Any) -> Any:
    """How a kernel's patches are made: `item` bytes an element of operands of `source_item` bytes."""

    def copy_patches(d: int, first: int, last: int, channel: int, target: int, flip: int) -> None:
        """One row per output pixel `first <= i < last`: its window, `[kernel rows, kernel columns, channels]`, from `channel` on."""
        channels, height, width, apart = word(d, f.CHANNELS), word(d, f.HEIGHT), word(d, f.WIDTH), word(d, f.PIXEL)
        columns, per_image = word(d, f.OUT_WIDTH), word(d, f.OUT_HEIGHT) * word(d, f.OUT_WIDTH)
        kernel_h, kernel_w = word(d, f.KERNEL_H), word(d, f.KERNEL_W)
        step_h, step_w, apart_h, apart_w = (
            word(d, f.STRIDE_H),
            word(d, f.STRIDE_W),
            word(d, f.DILATION_H),
            word(d, f.DILATION_W),
        )
        top, left, patch = word(d, f.TOP), word(d, f.LEFT), word(d, f.PATCH_STRIDE)
        run = kernel_w * channels
        for pixel in range(first, last):
            image, inside = pixel // per_image, pixel % per_image
            y, x = inside // columns * step_h - top, inside % columns * step_w - left
            base = word(d, f.X) + (image * height * width * apart + channel) * source_item
            where = target + (pixel - first) * patch
            whole = apart_w == 1 and channels == apart and x >= 0 and x + kernel_w <= width
            for i in range(kernel_h):
                row = y + i * apart_h
                if row < 0 or row >= height:
                    fill(where, run, flip)
                    where += run * item
                elif whole:
                    copy(where, base + (row * width + x) * apart * source_item, run, flip)
                    where += run * item
                else:
                    for j in range(kernel_w):
                        column = x + j * apart_w
                        if column < 0 or column >= width:
                            fill(where, channels, flip)
                        else:
                            copy(where, base + (row * width + column) * apart * source_item, channels, flip)
                        where += channels * item

    return inlined(copy_patches, f"{name}_patches")


def _dense(name: str, product: Any, patches: Any, high_patches: Any = None) -> Any:
    """The dense kernel `name`: `product` multiplies `patches`.

    With `high_patches`, of int16: `patches` are low bytes then, and there are two products.
    """
    wide = high_patches is not None
    if high_patches is None:
        high_patches = patches

    def dense(d: int, tile: int, scratch: int) -> None:
        """One tile of output pixels x output channels."""
        outputs, pixels, column_tiles = word(d, f.OUT_CHANNELS), word(d, f.PIXELS), word(d, f.COLUMN_TILES)
        first, column_tile = tile // column_tiles * word(d, f.ROWS), tile % column_tiles
        rows = min(word(d, f.ROWS), pixels - first)
        left = column_tile * word(d, f.COLUMNS)
        right = min(left + word(d, f.COLUMNS), outputs)
        stride, step, e = word(d, f.PATCH_STRIDE), word(d, f.WEIGHT_STEP), word(d, f.FINISH)
        if word(d, f.DIRECT):
            a = word(d, f.X) + first * stride
        else:
            a = scratch
            channel = column_tile * word(d, f.TILE_CHANNELS)
            patches(d, first, first + rows, channel, a, word(d, f.FLIP_LOW if wide else f.FLIP))
            if wide:
                high_patches(d, first, first + rows, channel, a + word(d, f.PLANE), word(d, f.FLIP))
        weight = word(d, f.WEIGHT) + column_tile * word(d, f.TILE_WEIGHT)
        sums, size, residual = scratch + word(d, f.SUMS), word(e, f.F_ITEM), word(d, f.RESIDUAL)
        length, runs, next_pixel = word(d, f.RUN), word(d, f.RUNS), word(d, f.RUN_STEP) * outputs * size
        for column in range(left, right, _PANEL):
            count = min(_PANEL, right - column)
            w, vectors = weight + (column - left) // 16 * step, (count + 15) // 16
            product(d, a, stride, rows, w, step, sums, vectors)
            if wide:
                product(d, a + word(d, f.PLANE), stride, rows, w, step, sums + word(e, f.F_PLANE), vectors)
            row = 0
            while row < rows:
                run, inside = (first + row) // length, (first + row) % length
                together = min(rows - row, length - inside)
                at = word(d, f.RUN_FIRST) + run // runs * word(d, f.RUN_IMAGE) + run % runs * word(d, f.RUN_ROW)
                at = (at + inside * word(d, f.RUN_STEP)) * outputs + column
                addend = residual + at * word(e, f.F_RESIDUAL_ITEM) if residual else 0
                results = word(d, f.OUT) + at * size
                finish(e, sums + row * 4 * _PANEL, 4 * _PANEL, together, column, count, results, next_pixel, addend)
                row += together

    return inlined(dense, f"{name}_tile")


_bytes = _patches("bytes", 1, 1, copy_bytes, fill_bytes)
_floats = _patches("floats", 4, 1, copy_floats, fill_floats)
_low = _patches("low", 1, 2, _copy_low, fill_bytes)
_high = _patches("high", 1, 2, _copy_high, fill_bytes)
_low_floats = _patches("low_floats", 4, 2, _copy_low_floats, fill_floats)
_high_floats = _patches("high_floats", 4, 2, _copy_high_floats, fill_floats)
_with_dot512, _with_dot512_16 = _dense("dot512", dot512, _bytes), _dense("dot512_16", dot512, _low, _high)
_with_dot256, _with_dot256_16 = _dense("dot256", dot256, _bytes), _dense("dot256_16", dot256, _low, _high)
_with_amx, _with_amx_16 = _dense("amx", _amx, _bytes), _dense("amx_16", _amx, _low, _high)
_with_float256 = _dense("float256", float256, _floats)
_with_float256_16 = _dense("float256_16", float256, _low_floats, _high_floats)
_with_thin256 = _dense("thin256", _thin256, _floats)
_with_thin256_16 = _dense("thin256_16", _thin256, _low_floats, _high_floats)


def dense_dot512(d: int, tile: int, scratch: int) -> None:
    _with_dot512(d, tile, scratch)


def dense_dot512_16(d: int, tile: int, scratch: int) -> None:
    _with_dot512_16(d, tile, scratch)


def dense_dot256(d: int, tile: int, scratch: int) -> None:
    _with_dot256(d, tile, scratch)


def dense_dot256_16(d: int, tile: int, scratch: int) -> None:
    _with_dot256_16(d, tile, scratch)


def dense_amx(d: int, tile: int, scratch: int) -> None:
    _with_amx(d, tile, scratch)


def dense_amx_16(d: int, tile: int, scratch: int) -> None:
    _with_amx_16(d, tile, scratch)


def dense_float256(d: int, tile: int, scratch: int) -> None:
    _with_float256(d, tile, scratch)


def dense_float256_16(d: int, tile: int, scratch: int) -> None:
    _with_float256_16(d, tile, scratch)


def dense_thin256(d: int, tile: int, scratch: int) -> None:
    _with_thin256(d, tile, scratch)


def dense_thin256_16(d: int, tile: int, scratch: int) -> None:
    _with_thin256_16(d, tile, scratch)


# --- depthwise -------------------------------------------------------------------------------------------------------------


@inlined
def _columns(kind: int, x: int, x_row: int, pixel: int, w: int, w_tap: int, rows: int, sums: int, step: int) -> None:
    """Four neighbouring results of sixteen channels."""
    if kind == 31:
        p.depthwise_3_1(x, x_row, pixel, w, w_tap, rows, sums, step)
    elif kind == 32:
        p.depthwise_3_2(x, x_row, pixel, w, w_tap, rows, sums, step)
    elif kind == 51:
        p.depthwise_5_1(x, x_row, pixel, w, w_tap, rows, sums, step)


@inlined
def _column(taps: int, x: int, x_row: int, pixel: int, w: int, w_tap: int, rows: int, sums: int, apart: int) -> None:
    """One result of sixteen channels, any kernel."""
    total = to_floats(all_ints(0))
    for row in range(rows):
        for tap in range(taps):
            value = to_floats(load_bytes(x + row * x_row + tap * apart * pixel))
            total = multiply_add(value, load_floats(w + (row * taps + tap) * w_tap), total)
    store_ints(sums, to_ints(total))


@inlined
def _column_16(taps: int, x: int, x_row: int, pixel: int, w: int, w_tap: int, rows: int, sums: int, apart: int) -> None:
    """The same of int16, in integers: float32 does not hold their sums."""
    total = all_ints(0)
    for row in range(rows):
        for tap in range(taps):
            value = load_shorts(x + row * x_row + tap * apart * pixel)
            total = add_ints(total, multiply_ints(value, load_ints(w + (row * taps + tap) * w_tap)))
    store_ints(sums, total)


@inlined
def _depthwise(d: int, tile: int, scratch: int, item: int) -> None:
    channels, height, width = word(d, f.CHANNELS), word(d, f.HEIGHT), word(d, f.WIDTH)
    rows, columns = word(d, f.OUT_HEIGHT), word(d, f.OUT_WIDTH)
    per_image = (rows + word(d, f.ROWS) - 1) // word(d, f.ROWS)
    image, first = tile // per_image, tile % per_image * word(d, f.ROWS)
    last = min(first + word(d, f.ROWS), rows)
    taps_h, taps_w, apart_h, apart_w = word(d, f.KERNEL_H), word(d, f.KERNEL_W), word(d, f.DILATION_H), word(d, f.DILATION_W)
    step_h, step_w, left = word(d, f.STRIDE_H), word(d, f.STRIDE_W), word(d, f.LEFT)
    pixel, padded = channels * item, word(d, f.PATCH_STRIDE)  # bytes of a pixel and of a padded row
    begin = first * step_h - word(d, f.TOP)
    seen = (last - first - 1) * step_h + apart_h * (taps_h - 1) + 1
    right = padded // pixel - left - width
    for row in range(seen):
        target, y = scratch + row * padded, begin + row
        if y < 0 or y >= height:
            fill_bytes(target, padded, 0)
        else:
            fill_bytes(target, left * pixel, 0)
            copied = min(width, width + right) * pixel
            copy_bytes(target + left * pixel, word(d, f.X) + (image * height + y) * width * pixel, copied, 0)
            fill_bytes(target + left * pixel + copied, max(right, 0) * pixel, 0)
    e, weight, step = word(d, f.FINISH), word(d, f.WEIGHT), word(d, f.WEIGHT_STEP)
    sums, size, residual, kind = scratch + word(d, f.SUMS), word(e, f.F_ITEM), word(d, f.RESIDUAL), word(d, f.DIRECT)
    for row in range(last - first):
        source = scratch + row * step_h * padded
        for channel in range(0, channels, 16):
            x, w, total = source + channel * item, weight + 4 * channel, sums + 4 * channel
            column = 0
            if kind:
                while column + 4 <= columns:
                    at = x + column * step_w * pixel
                    _columns(kind, at, apart_h * padded, pixel, w, step, taps_h, total + column * step, step)
                    column += 4
            while column < columns:
                at = x + column * step_w * pixel
                if item == 1:
                    _column(taps_w, at, apart_h * padded, pixel, w, step, taps_h, total + column * step, apart_w)
                else:
                    _column_16(taps_w, at, apart_h * padded, pixel, w, step, taps_h, total + column * step, apart_w)
                column += 1
        at = ((image * rows + first + row) * columns) * channels
        addend = residual + at * word(e, f.F_RESIDUAL_ITEM) if residual else 0
        finish(e, sums, step, columns, 0, channels, word(d, f.OUT) + at * size, channels * size, addend)


def depthwise(d: int, tile: int, scratch: int) -> None:
    """One tile: some output rows of one image, all channels. Rows are copied once into scratch memory that has the padding."""
    _depthwise(d, tile, scratch, 1)


def depthwise_16(d: int, tile: int, scratch: int) -> None:
    """`depthwise` of int16."""
    _depthwise(d, tile, scratch, 2)
