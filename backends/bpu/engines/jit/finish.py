"""From accumulators to results, compiled: bias, residual, requantization and clip of int32 sums in one loop.

`finish` reads what `requantization.Finish` wrote. The fast kind is the float32 line of `hqc.backends.bpu.line`, proved at compile
time to give the bits of `hqc.arithmetic.requantize`; the other kinds are the definition in 64 bits.
"""

from __future__ import annotations

from typing import Any

from numba import njit

from hqc.backends.bpu.engines.jit import fields as f
from hqc.backends.bpu.engines.jit.vector import (
    add_floats,
    add_ints,
    all_floats,
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
    load_some_bytes,
    multiply_floats,
    multiply_ints,
    shift_right,
    smaller_floats,
    store_bytes,
    store_i8,
    store_i16,
    store_i32,
    store_ints,
    store_some_bytes,
    store_some_ints,
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
def _wide(e: int, total: int, channel: int) -> int:
    """The definition: `sat(rsr(sat(total >> p) * M, S - p))` and the fused clip, in 64 bits."""
    at = 8 * channel
    limit = word(e, f.F_MIDDLE)
    if limit > 0:
        total = total >> load_i64(word(e, f.F_PRE) + at)
        total = min(max(total, -limit - 1), limit) * load_i64(word(e, f.F_MULTIPLIER) + at)
        post = load_i64(word(e, f.F_POST) + at)
        if post > 0:
            total = (total + (1 << (post - 1))) >> post
        else:
            total = total << -post
    elif limit < 0:
        total = total >> load_i64(word(e, f.F_POST) + at)
    return min(max(total, word(e, f.F_LOW)), word(e, f.F_HIGH))


@inlined
def finish(
    e: int, sums: int, sums_step: int, rows: int, channel: int, channels: int, out: int, out_step: int, res: int
) -> None:
    """Results of int32 `sums` (rows `sums_step` bytes apart, whole vectors readable) for `channels` channels from `channel`.

    `out` and `res` point at the first row's first of these channels; `out_step` bytes lie between rows of `out`.
    """
    kind, item, res_item = word(e, f.F_KIND), word(e, f.F_ITEM), word(e, f.F_RESIDUAL_ITEM)
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
    for row in range(rows):
        for c in range(channels):
            total = load_i32(sums + row * sums_step + 4 * c) + load_i64(word(e, f.F_BIAS) + 8 * (channel + c))
            if res:
                at = 8 * (channel + c)
                term = load_item(res + row * (out_step // item) * res_item + c * res_item, res_item)
                term = term * load_i64(word(e, f.F_RESIDUAL_FACTOR) + at)
                shift = load_i64(word(e, f.F_RESIDUAL_SHIFT) + at)
                total += (term + ((1 << shift) >> 1)) >> shift if shift >= 0 else term << -shift
            store_item(out + row * out_step + c * item, _wide(e, total, channel + c), item)
