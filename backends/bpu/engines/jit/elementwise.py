"""Compiled element-wise kernels, pools and copies. Sums go through `finish`, as those of convolutions do."""

from __future__ import annotations

import math

from hqc.backends.bpu.engines.jit import fields as f
from hqc.backends.bpu.engines.jit.convolution import copy_bytes, fill_bytes
from hqc.backends.bpu.engines.jit.finish import copy_item, finish, inlined, load_item, load_items, store_item, store_items, word
from hqc.backends.bpu.engines.jit.vector import (
    add_ints,
    all_floats,
    all_ints,
    any_nan,
    divide_floats,
    float_of,
    larger_floats,
    larger_ints,
    load_f32,
    load_f64,
    load_floats,
    load_i8,
    load_i16,
    load_i32,
    load_i64,
    multiply_floats,
    multiply_ints,
    round_half_even,
    shift_right,
    smaller_floats,
    smaller_ints,
    store_f32,
    store_floats,
    store_i8,
    store_i16,
    store_i32,
    store_i64,
    store_ints,
    to_floats,
    to_ints,
)


def combine(d: int, tile: int, scratch: int) -> None:
    """`x * FACTOR_X + y * FACTOR_Y`, `x * y` (ROUNDING 1) or `x` alone (2), finished. Rows of COLUMNS elements.

    FILL says how y runs: 0 like x, 1 a single element, 2 a row of it for each row, 3 an element of it for each row; TABLE has the
    rows' first elements. PLANE: where sums do not fit 32 bits, y goes that far behind x, and the finish has the factors.
    """
    width, rows = word(d, f.COLUMNS), word(d, f.BLOCK)
    first = tile * rows
    size, e, kind, runs = word(d, f.SIZE), word(d, f.FINISH), word(d, f.ROUNDING), word(d, f.FILL)
    x_item, y_item, plane = word(d, f.ITEM_X), word(d, f.ITEM), word(d, f.PLANE)
    k_x, k_y = all_ints(word(d, f.FACTOR_X)), all_ints(word(d, f.FACTOR_Y))
    step = (width + 15) // 16 * 64
    done = 0
    while done < rows and (first + done) * width < size:
        at = (first + done) * width
        x, y = word(d, f.X) + at * x_item, word(d, f.Y)
        count = min(width, size - at)
        if runs == 0:
            y += at * y_item
        elif runs >= 2:
            y += load_i64(word(d, f.TABLE) + 8 * (first + done)) * y_item
        for c in range(0, count, 16):
            total, target = load_items(x + c * x_item, count - c, x_item), scratch + done * step + 4 * c
            if kind < 2:
                other = all_ints(load_item(y, y_item)) if runs % 2 else load_items(y + c * y_item, count - c, y_item)
                if plane:
                    store_ints(target + plane, other)
                elif kind == 1:
                    total = multiply_ints(total, other)
                else:
                    total = add_ints(multiply_ints(total, k_x), multiply_ints(other, k_y))
            store_ints(target, total)
        done += 1
    item = word(e, f.F_ITEM)
    whole = min(done, (size - first * width) // width)
    out = word(d, f.OUT) + first * width * item
    finish(e, scratch, step, whole, 0, width, out, width * item, 0)
    if whole < done:
        rest = size - (first + whole) * width
        finish(e, scratch + whole * step, step, 1, 0, rest, out + whole * width * item, width * item, 0)


def divide(d: int, tile: int, scratch: int) -> None:
    """`clip(floor(x / y * SCALE + 0.5))` in float64, of 0 for 0 / 0; y runs as in `combine`."""
    width, size, runs, ratio = word(d, f.COLUMNS), word(d, f.SIZE), word(d, f.FILL), load_f64(word(d, f.SCALE))
    x_item, y_item, item = word(d, f.ITEM_X), word(d, f.ITEM), word(d, f.ITEM_OUT)
    low, high = word(d, f.LOW), word(d, f.HIGH)
    first = tile * word(d, f.BLOCK)
    for row in range(first, min(first + word(d, f.BLOCK), (size + width - 1) // width)):
        at, y = row * width, word(d, f.Y)
        if runs == 0:
            y += at * y_item
        elif runs >= 2:
            y += load_i64(word(d, f.TABLE) + 8 * row) * y_item
        step = 0 if runs % 2 else y_item
        for i in range(min(width, size - at)):
            x, divisor = load_item(word(d, f.X) + (at + i) * x_item, x_item), load_item(y + i * step, y_item)
            if divisor == 0:
                result = high if x > 0 else low if x < 0 else min(max(0, low), high)
            else:
                scaled = x / divisor * ratio + 0.5
                result = high if scaled >= high else low if scaled < low else math.floor(scaled)
            store_item(word(d, f.OUT) + (at + i) * item, result, item)


def sum_places(d: int, tile: int, scratch: int) -> None:
    """Sums of STEPS elements, finished: ROWS rows of COLUMNS neighbouring results. A tile: BLOCK rows.

    TABLE: how far the elements of a sum lie apart, then where each row begins. FILL: the elements of a sum are neighbours.
    """
    apart, count, width, item = word(d, f.TABLE), word(d, f.STEPS), word(d, f.COLUMNS), word(d, f.ITEM_X)
    first = tile * word(d, f.BLOCK)
    rows = min(word(d, f.BLOCK), word(d, f.ROWS) - first)
    for row in range(rows):
        x = word(d, f.X) + load_i64(apart + 8 * (count + first + row)) * item
        target = scratch + 4 * row * width
        if word(d, f.FILL) and width == 1:
            total = all_ints(0)
            for at in range(0, count, 16):
                total = add_ints(total, load_items(x + at * item, count - at, item))
            store_ints(target, total)
            single = 0
            for lane in range(16):
                single += load_i32(target + 4 * lane)
            store_i32(target, single)
        elif width == 1:
            single = 0
            for at in range(count):
                single += load_item(x + load_i64(apart + 8 * at) * item, item)
            store_i32(target, single)
        else:
            for c in range(0, width, 16):
                total = all_ints(0)
                for at in range(count):
                    total = add_ints(total, load_items(x + (load_i64(apart + 8 * at) + c) * item, width - c, item))
                store_ints(target + 4 * c, total)
    e = word(d, f.FINISH)
    size, result = rows * width, word(e, f.F_ITEM)
    out, whole = word(d, f.OUT) + first * width * result, size // 64
    finish(e, scratch, 256, whole, 0, 64, out, 64 * result, 0)
    if size > whole * 64:
        finish(e, scratch + 256 * whole, 256, 1, 0, size - whole * 64, out + whole * 64 * result, 64 * result, 0)


def clip(d: int, tile: int, scratch: int) -> None:
    """`min(max(x, LOW), HIGH)`."""
    item, low, high = word(d, f.ITEM), all_ints(word(d, f.LOW)), all_ints(word(d, f.HIGH))
    first = tile * word(d, f.BLOCK)
    last = min(first + word(d, f.BLOCK), word(d, f.SIZE))
    for at in range(first, last, 16):
        values = smaller_ints(larger_ints(load_items(word(d, f.X) + at * item, last - at, item), low), high)
        store_items(word(d, f.OUT) + at * item, values, last - at, item)


def look_up(d: int, tile: int, scratch: int) -> None:
    """`table[x - LOW]`."""
    x, out, x_item, item = word(d, f.X), word(d, f.OUT), word(d, f.ITEM_X), word(d, f.ITEM)
    middle = word(d, f.TABLE) - word(d, f.LOW) * item
    first = tile * word(d, f.BLOCK)
    for at in range(first, min(first + word(d, f.BLOCK), word(d, f.SIZE))):
        copy_item(out + at * item, middle + load_item(x + at * x_item, x_item) * item, item)


def look_up_by_channel(d: int, tile: int, scratch: int) -> None:
    """`table[c, x + 128]` of int8, where CHANNELS follow each other every COLUMNS elements."""
    x, out, table, item = word(d, f.X), word(d, f.OUT), word(d, f.TABLE), word(d, f.ITEM)
    channels, run = word(d, f.CHANNELS), word(d, f.COLUMNS)
    first = tile * word(d, f.BLOCK)
    channel, left = first // run % channels, run - first % run
    middle = table + (256 * channel + 128) * item
    for at in range(first, min(first + word(d, f.BLOCK), word(d, f.SIZE))):
        copy_item(out + at * item, middle + load_i8(x + at) * item, item)
        left -= 1
        if left == 0:
            channel, left, middle = channel + 1, run, middle + 256 * item
            if channel == channels:
                channel, middle = 0, table + 128 * item


@inlined
def _quantized(address: int, scale: int, low: int, high: int) -> int:
    return to_ints(smaller_floats(larger_floats(round_half_even(divide_floats(load_floats(address), scale)), low), high))


def quantize(d: int, tile: int, scratch: int) -> None:
    """float32 `[N, C, pixels]` to integers of LOW to HIGH, `[N, pixels, C]`, half to even.

    STATUS becomes 1 where the input has a NaN. A tile: BLOCK pixels.
    """
    channels, pixels = word(d, f.CHANNELS), word(d, f.PIXELS)
    tiles = (pixels + word(d, f.BLOCK) - 1) // word(d, f.BLOCK)
    image, first = tile // tiles, tile % tiles * word(d, f.BLOCK)
    last = min(first + word(d, f.BLOCK), pixels)
    scale, low, high = (
        all_floats(load_f32(word(d, f.SCALE))),
        all_floats(float_of(word(d, f.LOW))),
        all_floats(float_of(word(d, f.HIGH))),
    )
    bad, item = 0, word(d, f.ITEM)
    for channel in range(channels):
        x = word(d, f.X) + 4 * (image * channels + channel) * pixels
        out = word(d, f.OUT) + (image * channels * pixels + channel) * item
        for at in range(first, last, 16):
            count = min(16, last - at)
            source = x + 4 * at
            if count < 16:
                for i in range(count):
                    store_f32(scratch + 4 * i, load_f32(source + 4 * i))
                source = scratch
                for i in range(count, 16):
                    store_f32(scratch + 4 * i, 0.0)
            bad |= any_nan(load_floats(source))
            values = _quantized(source, scale, low, high)
            if channels == 1:
                store_items(out + at * item, values, count, item)
            else:
                store_items(scratch + 64, values, 16, item)
                for i in range(count):
                    copy_item(out + (at + i) * channels * item, scratch + 64 + i * item, item)
    if bad:
        store_i64(word(d, f.STATUS), 1)


def dequantize(d: int, tile: int, scratch: int) -> None:
    """Integers `[N, pixels, C]` times float32 scales (`[C]`, or one where FILL is 0) to `[N, C, pixels]`. A tile: BLOCK pixels."""
    channels, pixels, item, per_channel = word(d, f.CHANNELS), word(d, f.PIXELS), word(d, f.ITEM_X), word(d, f.FILL)
    tiles = (pixels + word(d, f.BLOCK) - 1) // word(d, f.BLOCK)
    image, first = tile // tiles, tile % tiles * word(d, f.BLOCK)
    last = min(first + word(d, f.BLOCK), pixels)
    for channel in range(channels):
        scale = load_f32(word(d, f.SCALE) + 4 * channel * per_channel)
        x = word(d, f.X) + (image * pixels * channels + channel) * item
        out = word(d, f.OUT) + 4 * (image * channels + channel) * pixels
        at = first
        if channels == 1:
            scales = all_floats(scale)
            while at + 16 <= last:
                store_floats(out + 4 * at, multiply_floats(to_floats(load_items(x + at * item, 16, item)), scales))
                at += 16
        while at < last:
            store_f32(out + 4 * at, float_of(load_item(x + at * channels * item, item)) * scale)
            at += 1


def max_pool(d: int, tile: int, scratch: int) -> None:
    """Largest integer of each window; the operand's outside is LOW. A tile: one output row."""
    channels, height, width = word(d, f.CHANNELS), word(d, f.HEIGHT), word(d, f.WIDTH)
    rows, columns = word(d, f.OUT_HEIGHT), word(d, f.OUT_WIDTH)
    image, row, item = tile // rows, tile % rows, word(d, f.ITEM)
    y, apart_h, apart_w = row * word(d, f.STRIDE_H) - word(d, f.TOP), word(d, f.DILATION_H), word(d, f.DILATION_W)
    for column in range(columns):
        x = column * word(d, f.STRIDE_W) - word(d, f.LEFT)
        out = word(d, f.OUT) + ((image * rows + row) * columns + column) * channels * item
        for c in range(0, channels, 16):
            best = all_ints(word(d, f.LOW))
            for i in range(word(d, f.KERNEL_H)):
                if 0 <= y + i * apart_h < height:
                    line = word(d, f.X) + ((image * height + y + i * apart_h) * width * channels + c) * item
                    for j in range(word(d, f.KERNEL_W)):
                        if 0 <= x + j * apart_w < width:
                            best = larger_ints(best, load_items(line + (x + j * apart_w) * channels * item, channels - c, item))
            store_items(out + c * item, best, channels - c, item)


def sum_pool(d: int, tile: int, scratch: int) -> None:
    """Sum of each window, scaled by `STEPS / 512` where STEPS is not 0, finished. A tile: one output row."""
    channels, height, width = word(d, f.CHANNELS), word(d, f.HEIGHT), word(d, f.WIDTH)
    rows, columns, gain, e = word(d, f.OUT_HEIGHT), word(d, f.OUT_WIDTH), word(d, f.STEPS), word(d, f.FINISH)
    image, row = tile // rows, tile % rows
    y, step = row * word(d, f.STRIDE_H) - word(d, f.TOP), (channels + 15) // 16 * 64
    gains, nine, x_item = all_ints(gain), all_ints(9), word(d, f.ITEM_X)
    for column in range(columns):
        x = column * word(d, f.STRIDE_W) - word(d, f.LEFT)
        for c in range(0, channels, 16):
            total = all_ints(0)
            for i in range(max(y, 0), min(y + word(d, f.KERNEL_H), height)):
                line = word(d, f.X) + ((image * height + i) * width * channels + c) * x_item
                for j in range(max(x, 0), min(x + word(d, f.KERNEL_W), width)):
                    total = add_ints(total, load_items(line + j * channels * x_item, channels - c, x_item))
            if gain:
                total = shift_right(multiply_ints(total, gains), nine)
            store_ints(scratch + column * step + 4 * c, total)
    item = word(e, f.F_ITEM)
    out = word(d, f.OUT) + (image * rows + row) * columns * channels * item
    finish(e, scratch, step, columns, 0, channels, out, channels * item, 0)


def copy_runs(d: int, tile: int, scratch: int) -> None:
    """COPY_OUTER runs of COPY_RUN bytes between regularly spaced places. A tile: BLOCK runs."""
    first = tile * word(d, f.BLOCK)
    run, source, target = word(d, f.COPY_RUN), word(d, f.COPY_SOURCE_STEP), word(d, f.COPY_TARGET_STEP)
    x, out = word(d, f.X) + word(d, f.COPY_SOURCE_OFFSET), word(d, f.OUT) + word(d, f.COPY_TARGET_OFFSET)
    for at in range(first, min(first + word(d, f.BLOCK), word(d, f.COPY_OUTER))):
        copy_bytes(out + at * target, x + at * source, run, 0)


def move(d: int, tile: int, scratch: int) -> None:
    """ROWS rows of COLUMNS runs of COPY_RUN bytes, COPY_SOURCE_STEP apart where they come from. A tile: BLOCK rows.

    TABLE: the bytes at which each row begins there.
    """
    run, count, step = word(d, f.COPY_RUN), word(d, f.COLUMNS), word(d, f.COPY_SOURCE_STEP)
    first = tile * word(d, f.BLOCK)
    for row in range(first, min(first + word(d, f.BLOCK), word(d, f.ROWS))):
        x, out = word(d, f.X) + load_i64(word(d, f.TABLE) + 8 * row), word(d, f.OUT) + row * count * run
        if run == 1:
            for at in range(count):
                store_i8(out + at, load_i8(x + at * step))
        elif run == 2:
            for at in range(count):
                store_i16(out + 2 * at, load_i16(x + at * step))
        else:
            for at in range(count):
                copy_bytes(out + at * run, x + at * step, run, 0)


def pick_pixels(d: int, tile: int, scratch: int) -> None:
    """Output pixel (i, j) is input pixel (rows[i], columns[j]), FILL where either is negative. A tile: one output row."""
    rows, columns, run = word(d, f.OUT_HEIGHT), word(d, f.OUT_WIDTH), word(d, f.COPY_RUN)
    image, row = tile // rows, tile % rows
    y = load_i64(word(d, f.TABLE) + 8 * row)
    line = word(d, f.X) + (image * word(d, f.HEIGHT) + y) * word(d, f.WIDTH) * run
    out = word(d, f.OUT) + (image * rows + row) * columns * run
    for column in range(columns):
        x = load_i64(word(d, f.TABLE) + 8 * (rows + column))
        if y < 0 or x < 0:
            fill_bytes(out + column * run, run, word(d, f.FILL))
        else:
            copy_bytes(out + column * run, line + x * run, run, 0)


@inlined
def _between(first: int, second: int, count: int, item: int, w_first: int, w_second: int) -> int:
    return add_ints(
        multiply_ints(load_items(first, count, item), w_first), multiply_ints(load_items(second, count, item), w_second)
    )


def bilinear(d: int, tile: int, scratch: int) -> None:
    """Four neighbours with 8-bit weights, `>> 16`. TABLE: first, second and weight of rows, then of columns."""
    channels, rows, columns = word(d, f.CHANNELS), word(d, f.OUT_HEIGHT), word(d, f.OUT_WIDTH)
    width, table, item = word(d, f.WIDTH), word(d, f.TABLE), word(d, f.ITEM)
    image, row, pixel = tile // rows, tile % rows, channels * word(d, f.ITEM)
    base = word(d, f.X) + image * word(d, f.HEIGHT) * width * pixel
    upper, lower = load_i64(table + 8 * row), load_i64(table + 8 * (rows + row))
    down = load_i64(table + 8 * (2 * rows + row))
    across = table + 8 * 3 * rows
    out = word(d, f.OUT) + (image * rows + row) * columns * pixel
    sixteen, w_lower, w_upper = all_ints(16), all_ints(down), all_ints(256 - down)
    for column in range(columns):
        left, right = load_i64(across + 8 * column), load_i64(across + 8 * (columns + column))
        weight = load_i64(across + 8 * (2 * columns + column))
        w_right, w_left = all_ints(weight), all_ints(256 - weight)
        p, q = base + (upper * width + left) * pixel, base + (upper * width + right) * pixel
        r, s = base + (lower * width + left) * pixel, base + (lower * width + right) * pixel
        for c in range(0, channels, 16):
            n = channels - c
            top = _between(p + c * item, q + c * item, n, item, w_left, w_right)
            low = _between(r + c * item, s + c * item, n, item, w_left, w_right)
            total = add_ints(multiply_ints(top, w_upper), multiply_ints(low, w_lower))
            store_items(out + column * pixel + c * item, shift_right(total, sixteen), n, item)
