"""Compiled products of two activations: both operands are packed when they are known, tile by tile."""

from __future__ import annotations

from typing import Any

from hqc.backends.bpu.engines.jit import fields as f
from hqc.backends.bpu.engines.jit.convolution import copy_bytes, copy_floats, dot256, dot512, float256
from hqc.backends.bpu.engines.jit.finish import finish, inlined, load_items, word
from hqc.backends.bpu.engines.jit.vector import (
    add_ints,
    all_ints,
    and_ints,
    load_i8,
    load_i64,
    load_ints,
    multiply_ints,
    shift_left,
    store_f32,
    store_floats,
    store_i8,
    store_ints,
    to_floats,
)

_PANEL = 64


@inlined
def _row_of_columns(address: int, step: int, count: int, buffer: int) -> int:
    """Up to sixteen int8, `step` bytes apart, as int32 lanes; zeros beyond `count`."""
    if step == 1 or count == 1:
        return load_items(address, count, 1)
    for at in range(min(count, 16)):
        store_i8(buffer + at, load_i8(address + at * step))
    return load_items(buffer, count, 1)


@inlined
def _pack_bytes(d: int, b: int, packed: int, offsets: int, buffer: int) -> None:
    """Columns as `[N / 16][K / 4][16][4 bytes]`, and what FLIP adds to the sums of each, to be taken off again."""
    reduction, columns, steps = word(d, f.CHANNELS), word(d, f.OUT_CHANNELS), word(d, f.STEPS)
    down, across, flip = word(d, f.B_ROW), word(d, f.B_STEP), all_ints(-word(d, f.FLIP))
    byte = all_ints(255)
    for column in range(0, columns, 16):
        source, count, total = b + column * across, columns - column, all_ints(0)
        for step in range(steps):
            lanes = all_ints(0)
            for inside in range(min(4, reduction - 4 * step)):
                row = _row_of_columns(source + (4 * step + inside) * down, across, count, buffer)
                total = add_ints(total, row)
                lanes = add_ints(lanes, shift_left(and_ints(row, byte), all_ints(8 * inside)))
            store_ints(packed, lanes)
            packed += 64
        store_ints(offsets + 4 * column, multiply_ints(total, flip))


@inlined
def _pack_floats(d: int, b: int, packed: int, offsets: int, buffer: int) -> None:
    """Columns as float32 `[N / 16][K][16]`; nothing is flipped."""
    columns, steps, down, across = word(d, f.OUT_CHANNELS), word(d, f.STEPS), word(d, f.B_ROW), word(d, f.B_STEP)
    for column in range(0, columns, 16):
        source = b + column * across
        for step in range(steps):
            store_floats(packed, to_floats(_row_of_columns(source + step * down, across, columns - column, buffer)))
            packed += 64


@inlined
def _rows_of_bytes(d: int, a: int, rows: int, target: int) -> None:
    reduction, step, patch, flip = word(d, f.CHANNELS), word(d, f.A_STEP), word(d, f.PATCH_STRIDE), word(d, f.FLIP)
    for row in range(rows):
        source, at = a + row * word(d, f.A_ROW), target + row * patch
        if step == 1:
            copy_bytes(at, source, reduction, flip)
        else:
            for k in range(reduction):
                store_i8(at + k, load_i8(source + k * step) ^ flip)
        for k in range(reduction, patch):
            store_i8(at + k, 0)


@inlined
def _rows_of_floats(d: int, a: int, rows: int, target: int) -> None:
    reduction, step, patch = word(d, f.CHANNELS), word(d, f.A_STEP), word(d, f.PATCH_STRIDE)
    for row in range(rows):
        source, at = a + row * word(d, f.A_ROW), target + row * patch
        if step == 1:
            copy_floats(at, source, reduction, 0)
        else:
            for k in range(reduction):
                store_f32(at + 4 * k, load_i8(source + k * step))


def _matmul(name: str, product: Any, pack: Any, rows_of: Any) -> Any:
    def matmul(d: int, tile: int, scratch: int) -> None:
        """One tile: rows of one product of the batch."""
        size, each, columns = word(d, f.PIXELS), word(d, f.ROWS), word(d, f.OUT_CHANNELS)
        tiles = (size + each - 1) // each
        index, first = tile // tiles, tile % tiles * each
        rows = min(each, size - first)
        starts = word(d, f.TABLE) + 16 * index
        packed, offsets, sums = scratch + word(d, f.PACKED), scratch + word(d, f.OFFSETS), scratch + word(d, f.SUMS)
        pack(d, word(d, f.Y) + load_i64(starts + 8), packed, offsets, sums)
        rows_of(d, word(d, f.X) + load_i64(starts) + first * word(d, f.A_ROW), rows, scratch)
        step, e, flip = word(d, f.WEIGHT_STEP), word(d, f.FINISH), word(d, f.FLIP)
        item = word(e, f.F_ITEM)
        out = word(d, f.OUT) + (index * size + first) * columns * item
        for column in range(0, columns, _PANEL):
            count = min(_PANEL, columns - column)
            vectors = (count + 15) // 16
            product(d, scratch, word(d, f.PATCH_STRIDE), rows, packed + column // 16 * step, step, sums, vectors)
            if flip:
                for vector in range(vectors):
                    taken = load_ints(offsets + 4 * column + 64 * vector)
                    for row in range(rows):
                        at = sums + row * 4 * _PANEL + 64 * vector
                        store_ints(at, add_ints(load_ints(at), taken))
            finish(e, sums, 4 * _PANEL, rows, 0, count, out + column * item, columns * item, 0)

    return inlined(matmul, f"{name}_activations")


_with_dot512 = _matmul("dot512", dot512, _pack_bytes, _rows_of_bytes)
_with_dot256 = _matmul("dot256", dot256, _pack_bytes, _rows_of_bytes)
_with_float256 = _matmul("float256", float256, _pack_floats, _rows_of_floats)


def matmul_dot512(d: int, tile: int, scratch: int) -> None:
    _with_dot512(d, tile, scratch)


def matmul_dot256(d: int, tile: int, scratch: int) -> None:
    _with_dot256(d, tile, scratch)


def matmul_float256(d: int, tile: int, scratch: int) -> None:
    _with_float256(d, tile, scratch)
