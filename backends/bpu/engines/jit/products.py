"""Register tiles: the innermost loops of dense and depthwise products, built as LLVM code.

A dense tile multiplies `rows` rows of bytes by columns packed sixteen at a time, `B[columns / 16][k][16][4 bytes]`. What a step
of four bytes holds depends on the product: four int8 factors (`vpdpbusd`: unsigned by signed, four products added to each int32
lane) or one float32 factor. Thin tiles read `B[columns / 16][k][16]` bytes and make them float32. Sums wrap modulo 2^32 (dot products)
or are proved exact (float32), so their order never matters.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from hqc.backends.bpu.engines.jit.vector import (
    BYTES_V,
    F32,
    FLOAT_V,
    I8,
    I32,
    I64,
    INT_V,
    LANES,
    constant,
    emit,
    function,
    load,
    pointer,
    splat,
    store,
)

_tile_signature = types.void(*[types.int64] * 8)


def _offset(b: ir.IRBuilder, base: Any, stride: Any, index: int) -> Any:
    return base if index == 0 else b.add(base, b.mul(stride, constant(I64, index)))


def _dense_tile(name: str, dot: str, lanes: int, rows: int, vectors: int, weight_item: int = 4) -> Any:
    """`tile(a, a_stride, last, b, b_stride, c, c_stride, steps)`: `rows` x (`vectors` * `lanes`) int32 sums to `c`.

    `last`: index of the last row there is; rows beyond repeat it, so that no product reads past its operand.
    """
    sums = ir.VectorType(F32 if dot == "float" else I32, lanes)
    whole = ir.VectorType(I32, lanes)

    def accumulate(b: ir.IRBuilder, total: Any, x: Any, y: Any) -> Any:
        if dot == "float":
            return b.fadd(b.fmul(x, y, flags=("contract",)), total, flags=("contract",))
        name = f"llvm.x86.avx512.vpdpbusd.{lanes * 32}"
        return b.call(function(b, name, whole, [whole] * 3), [total, x, y])

    def build(
        b: ir.IRBuilder, a: Any, stride: Any, last: Any, w: Any, w_stride: Any, c: Any, c_stride: Any, steps: Any
    ) -> None:
        starts = []
        for row in range(rows):
            index = constant(I64, row)
            index = b.select(b.icmp_signed("<", index, last), index, last)
            starts.append(b.add(a, b.mul(index, stride)))
        before, body, after = b.block, b.append_basic_block("step"), b.append_basic_block("sums")
        b.branch(body)
        b.position_at_end(body)
        k = b.phi(I64)
        k.add_incoming(constant(I64, 0), before)
        totals = [[b.phi(sums) for _ in range(vectors)] for _ in range(rows)]
        where, w_where = b.mul(k, constant(I64, 4)), b.add(w, b.mul(k, constant(I64, 16 * weight_item)))
        columns = []
        for index in range(vectors):
            block, inside = divmod(index * lanes, 16)
            at = b.add(_offset(b, w_where, w_stride, block), constant(I64, inside * weight_item))
            if weight_item == 1:
                columns.append(b.sitofp(b.sext(load(b, at, ir.VectorType(I8, lanes)), whole), sums))
            else:
                columns.append(load(b, at, sums))
        following = b.add(k, constant(I64, 1))
        for row in range(rows):
            factor = splat(b, load(b, b.add(starts[row], where), sums.element), sums)
            for index in range(vectors):
                total = totals[row][index]
                total.add_incoming(ir.Constant(sums, None), before)
                totals[row][index] = accumulate(b, total, factor, columns[index])
                total.add_incoming(totals[row][index], body)
        k.add_incoming(following, body)
        b.cbranch(b.icmp_signed("<", following, steps), body, after)
        b.position_at_end(after)
        for row in range(rows):
            target = _offset(b, c, c_stride, row)
            for index in range(vectors):
                found = totals[row][index]
                found = b.fptosi(found, whole) if dot == "float" else found
                store(b, found, b.add(target, constant(I64, index * lanes * 4)))

    return emit(name, _tile_signature, build)


# As many sums as fit the registers beside one set of columns and one factor: 32 registers of 64 bytes or 16 of 32.
dot512_6x64, dot512_8x48, dot512_12x32, dot512_14x16 = (
    _dense_tile(f"dot512_{rows}x{vectors * 16}", "dot", 16, rows, vectors)
    for rows, vectors in ((6, 4), (8, 3), (12, 2), (14, 1))
)
dot256_3x32, dot256_6x16 = (
    _dense_tile(f"dot256_{rows}x{vectors * 8}", "dot", 8, rows, vectors) for rows, vectors in ((3, 4), (6, 2))
)
float512_6x64, float512_12x32, float512_14x16 = (
    _dense_tile(f"float512_{rows}x{vectors * 16}", "float", 16, rows, vectors) for rows, vectors in ((6, 4), (12, 2), (14, 1))
)
float256_6x16 = _dense_tile("float256_6x16", "float", 8, 6, 2)
thin256_6x16 = _dense_tile("thin256_6x16", "float", 8, 6, 2, weight_item=1)


# --- AMX -------------------------------------------------------------------------------------------------------------------

_POINTER = I8.as_pointer()
_NOTHING = ir.VoidType()


def _amx(b: ir.IRBuilder, name: str, kinds: list[ir.Type], arguments: list[Any]) -> None:
    b.call(function(b, f"llvm.x86.{name}", _NOTHING, kinds), arguments)


def _register(index: int) -> ir.Constant:
    return constant(I8, index)


amx_configure = emit(
    "amx_configure", types.void(types.int64), lambda b, at: _amx(b, "ldtilecfg", [_POINTER], [pointer(b, at, I8)])
)


def _no_argument(name: str) -> Any:
    return emit(name, types.void(types.int64), lambda b, _: _amx(b, "tilerelease", [], []))


amx_release = _no_argument("amx_release")


def _amx_tile(b: ir.IRBuilder, a: Any, stride: Any, w: Any, w_stride: Any, c: Any, c_stride: Any, steps: Any) -> None:
    """32 rows x 32 columns, signed by signed, 64 bytes a step."""
    for tile in range(4):
        _amx(b, "tilezero", [I8], [_register(tile)])
    lower, right = b.add(a, b.mul(stride, constant(I64, 16))), b.add(w, w_stride)
    before, body, after = b.block, b.append_basic_block("step"), b.append_basic_block("sums")
    b.branch(body)
    b.position_at_end(body)
    k = b.phi(I64)
    k.add_incoming(constant(I64, 0), before)
    where, w_where = b.mul(k, constant(I64, 64)), b.mul(k, constant(I64, 1024))

    def fetch(register: int, base: Any, offset: Any, step: Any) -> None:
        kinds = [I8, _POINTER, I64]
        _amx(b, "tileloadd64", kinds, [_register(register), pointer(b, b.add(base, offset), I8), step])

    def multiply(total: int, x: int, y: int) -> None:
        _amx(b, "tdpbssd", [I8] * 3, [_register(total), _register(x), _register(y)])

    fetch(4, a, where, stride)
    fetch(6, w, w_where, constant(I64, 64))
    multiply(0, 4, 6)
    fetch(7, right, w_where, constant(I64, 64))
    multiply(1, 4, 7)
    fetch(5, lower, where, stride)
    multiply(2, 5, 6)
    multiply(3, 5, 7)
    following = b.add(k, constant(I64, 1))
    k.add_incoming(following, body)
    b.cbranch(b.icmp_signed("<", following, steps), body, after)
    b.position_at_end(after)
    below = b.add(c, b.mul(c_stride, constant(I64, 16)))
    for tile, base, offset in ((0, c, 0), (1, c, 64), (2, below, 0), (3, below, 64)):
        target = pointer(b, b.add(base, constant(I64, offset)), I8)
        _amx(b, "tilestored64", [I8, _POINTER, I64], [_register(tile), target, c_stride])


amx_32x32 = emit("amx_32x32", types.void(*[types.int64] * 7), _amx_tile)


# --- depthwise -------------------------------------------------------------------------------------------------------------


def _depthwise_tile(name: str, taps: int, stride: int, columns: int) -> Any:
    """`tile(x, x_row, pixel, w, w_tap, rows, acc, acc_step)`: `columns` neighbouring results of sixteen channels.

    Kernel rows are a loop, their `taps` are written out: a pixel under several windows is loaded and converted once. `w` holds
    float32 weights `[rows, taps, channels]`, `w_tap` bytes apart; sums go to `acc` as int32, `acc_step` bytes apart.
    """

    def build(b: ir.IRBuilder, x: Any, x_row: Any, pixel: Any, w: Any, w_tap: Any, rows: Any, acc: Any, step: Any) -> None:
        before, body, after = b.block, b.append_basic_block("row"), b.append_basic_block("sums")
        b.branch(body)
        b.position_at_end(body)
        row = b.phi(I64)
        row.add_incoming(constant(I64, 0), before)
        totals = [b.phi(FLOAT_V) for _ in range(columns)]
        source = b.add(x, b.mul(row, x_row))
        weights = b.add(w, b.mul(b.mul(row, constant(I64, taps)), w_tap))
        factors = [load(b, _offset(b, weights, w_tap, tap), FLOAT_V) for tap in range(taps)]
        found: list[Any] = list(totals)
        for position in range((columns - 1) * stride + taps):
            users = [(position - column * stride, column) for column in range(columns)]
            users = [(tap, column) for tap, column in users if 0 <= tap < taps]
            if not users:
                continue
            values = b.sitofp(b.sext(load(b, _offset(b, source, pixel, position), BYTES_V), INT_V), FLOAT_V)
            for tap, column in users:
                product = b.fmul(values, factors[tap], flags=("contract",))
                found[column] = b.fadd(product, found[column], flags=("contract",))
        following = b.add(row, constant(I64, 1))
        row.add_incoming(following, body)
        for total, value in zip(totals, found, strict=True):
            total.add_incoming(ir.Constant(FLOAT_V, None), before)
            total.add_incoming(value, body)
        b.cbranch(b.icmp_signed("<", following, rows), body, after)
        b.position_at_end(after)
        for column, value in enumerate(found):
            store(b, b.fptosi(value, INT_V), _offset(b, acc, step, column))

    return emit(name, _tile_signature, build)


depthwise_3_1, depthwise_3_1_single = (_depthwise_tile(f"depthwise_3_1_{n}", 3, 1, n) for n in (4, 1))
depthwise_3_2, depthwise_3_2_single = (_depthwise_tile(f"depthwise_3_2_{n}", 3, 2, n) for n in (4, 1))
depthwise_5_1, depthwise_5_1_single = (_depthwise_tile(f"depthwise_5_1_{n}", 5, 1, n) for n in (4, 1))
assert LANES == 16
