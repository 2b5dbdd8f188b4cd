"""From accumulators to results, compiled: bias, residual, requantization and clip of int32 sums in one loop.

`finish` reads what `requantization.Finish` wrote. The fast kind is the float32 line of `hqc.backends.bpu.line`, proved at compile
time to give the bits of `hqc.arithmetic.requantize`; the widest is the definition in 64 bits.
"""

from __future__ import annotations

from typing import Any

from numba import njit

from hqc.backends.bpu.engines.jit import fields as f
from hqc.backends.bpu.engines.jit.vector import (
    add_floats,
    add_ints,
    all_floats,
    all_ints,
    floor,
    larger_floats,
    load_bytes,
    load_f32,
    load_floats,
    load_i8,
    load_i16,
    load_i32,
    load_i64,
    load_ints,
    load_shorts,
    load_some_bytes,
    load_some_ints,
    load_some_shorts,
    multiply_floats,
    multiply_ints,
    requantize,
    shift_right,
    smaller_floats,
    store_bytes,
    store_i8,
    store_i16,
    store_i32,
    store_ints,
    store_shorts,
    store_some_bytes,
    store_some_ints,
    store_some_shorts,
    to_floats,
    to_ints,
)

_names: set[str] = set()


def inlined(function: Any, name: str | None = None) -> Any:
    """A function that kernels call, compiled into each of them. `name`: its own, for a function that a factory makes.

    Every kernel is an object of its own in the disk cache, with a copy of what it calls; objects in one process find each other's
    copies by symbol. A symbol is the qualified name and a counter that starts anew in each process, so two functions of one name
    would stand in for each other as soon as two kernels came from the cache. Hence names are unique.
    """
    if name is not None:
        function.__name__ = function.__qualname__ = name
    symbol = f"{function.__module__}.{function.__qualname__}"
    if symbol in _names:
        raise ValueError(f"pass developer: two compiled functions are called {symbol}; give the second another name")
    _names.add(symbol)
    return njit(error_model="numpy", nogil=True)(function)


@inlined
def word(descriptor: int, index: int) -> int:
    return load_i64(descriptor + 8 * index)


@inlined
def load_item(address: int, item: int) -> int:
    if item == 1:
        return load_i8(address)
    if item == 2:
        return load_i16(address)
    return load_i32(address)


@inlined
def store_item(address: int, value: int, item: int) -> None:
    if item == 1:
        store_i8(address, value)
    elif item == 2:
        store_i16(address, value)
    else:
        store_i32(address, value)


@inlined
def copy_item(target: int, source: int, item: int) -> None:
    """One element of 1 or 2 bytes."""
    if item == 1:
        store_i8(target, load_i8(source))
    else:
        store_i16(target, load_i16(source))


@inlined
def load_items(address: int, count: int, item: int) -> int:
    """Sixteen integers of `item` bytes as int32 lanes, zeros beyond `count`; reads nothing there."""
    if item == 1:
        return load_bytes(address) if count >= 16 else load_some_bytes(address, count)
    if item == 2:
        return load_shorts(address) if count >= 16 else load_some_shorts(address, count)
    return load_ints(address) if count >= 16 else load_some_ints(address, count)


@inlined
def store_items(address: int, values: int, count: int, item: int) -> None:
    """The first `count` of sixteen lanes as integers of `item` bytes."""
    if item == 1:
        if count >= 16:
            store_bytes(address, values)
        else:
            store_some_bytes(address, values, count)
    elif item == 2:
        if count >= 16:
            store_shorts(address, values)
        else:
            store_some_shorts(address, values, count)
    elif count >= 16:
        store_ints(address, values)
    else:
        store_some_ints(address, values, count)


@inlined
def _line(e: int, sums: int, sums_step: int, rows: int, channel: int, channels: int, out: int, out_step: int, res: int) -> None:
    """int8 results of `rows` rows. Constants have whole vectors; sums may be read past `channels`, results are not written there."""
    bias, pre = word(e, f.F_BIAS) + 4 * channel, word(e, f.F_PRE) + 4 * channel
    slope, offset = word(e, f.F_SLOPE) + 4 * channel, word(e, f.F_OFFSET) + 4 * channel
    factor, half = word(e, f.F_RESIDUAL_FACTOR) + 4 * channel, word(e, f.F_RESIDUAL_HALF) + 4 * channel
    shift = word(e, f.F_RESIDUAL_SHIFT) + 4 * channel
    low, high = all_floats(load_f32(e + 8 * f.F_LOW)), all_floats(load_f32(e + 8 * f.F_HIGH))
    for c in range(0, channels, 16):
        at = 4 * c
        bias_v, pre_v, slope_v, offset_v = (
            load_ints(bias + at),
            load_ints(pre + at),
            load_floats(slope + at),
            load_floats(offset + at),
        )
        factor_v, half_v, shift_v = load_ints(factor + at), load_ints(half + at), load_ints(shift + at)
        source, target, addend = sums + at, out + c, res + c
        for _ in range(rows):
            total = add_ints(load_ints(source), bias_v)
            if res:
                term = load_bytes(addend) if c + 16 <= channels else load_some_bytes(addend, channels - c)
                total = add_ints(total, shift_right(add_ints(multiply_ints(term, factor_v), half_v), shift_v))
                addend += out_step
            value = add_floats(multiply_floats(to_floats(shift_right(total, pre_v)), slope_v), offset_v)
            result = to_ints(floor(smaller_floats(larger_floats(value, low), high)))
            if c + 16 <= channels:
                store_bytes(target, result)
            else:
                store_some_bytes(target, result, channels - c)
            source += sums_step
            target += out_step


@inlined
def _wide(e: int, sums: int, sums_step: int, rows: int, channel: int, channels: int, out: int, out_step: int, res: int) -> None:
    """Results of any dtype by the definition, sixteen at a time in 64-bit lanes."""
    item, res_item, plane = word(e, f.F_ITEM), word(e, f.F_RESIDUAL_ITEM), word(e, f.F_PLANE)
    factor_x, factor_y, limit = word(e, f.F_FACTOR_X), word(e, f.F_FACTOR_Y), word(e, f.F_MIDDLE)
    low, high, step = word(e, f.F_LOW), word(e, f.F_HIGH), word(e, f.F_CONSTANT_STEP)
    for c in range(0, channels, 16):
        constants = word(e, f.F_CONSTANTS) + 8 * (channel + c)
        for row in range(rows):
            at, term = sums + row * sums_step + 4 * c, all_ints(0)
            if res:
                term = load_items(res + (row * (out_step // item) + c) * res_item, channels - c, res_item)
            x, y = load_ints(at), load_ints(at + plane)
            result = requantize(x, y, factor_x, factor_y, term, constants, step, limit, low, high)
            store_items(out + row * out_step + c * item, result, channels - c, item)


@inlined
def finish(
    e: int, sums: int, sums_step: int, rows: int, channel: int, channels: int, out: int, out_step: int, res: int
) -> None:
    """Results of int32 `sums` (rows `sums_step` bytes apart, whole vectors readable) for `channels` channels from `channel`.

    `out` and `res` point at the first row's first of these channels; `out_step` bytes lie between rows of `out`.
    """
    kind = word(e, f.F_KIND)
    if kind == f.LINE:
        _line(e, sums, sums_step, rows, channel, channels, out, out_step, res)
        return
    if kind == f.PLAIN:
        for c in range(0, channels, 16):
            bias_v = load_ints(word(e, f.F_BIAS) + 4 * (channel + c))
            for row in range(rows):
                result = add_ints(load_ints(sums + row * sums_step + 4 * c), bias_v)
                if c + 16 <= channels:
                    store_ints(out + row * out_step + 4 * c, result)
                else:
                    store_some_ints(out + row * out_step + 4 * c, result, channels - c)
        return
    _wide(e, sums, sums_step, rows, channel, channels, out, out_step, res)
