"""Words and vectors for compiled kernels: numba intrinsics on raw addresses.

Kernels are numba functions over integers (addresses, sizes) and two register types, sixteen int32 or sixteen float32 lanes. LLVM
cuts them into what the processor has. Writing vectors out, instead of hoping for the auto-vectorizer, keeps a kernel's speed
independent of aliasing checks and of channel counts; no NumPy arrays inside keeps its compilation short.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.datamodel import models
from numba.core.extending import register_model
from numba.extending import intrinsic

LANES = 16
I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
F32, F64 = ir.FloatType(), ir.DoubleType()
BYTES_V, SHORTS_V, INT_V, LONG_V, FLOAT_V = (ir.VectorType(element, LANES) for element in (I8, I16, I32, I64, F32))


class VectorType(types.Type):
    """A numba type that lives in one LLVM vector."""

    def __init__(self, name: str, llvm: ir.Type) -> None:
        self.llvm = llvm
        super().__init__(name=name)


int_v = VectorType("int32x16", INT_V)
float_v = VectorType("float32x16", FLOAT_V)


@register_model(VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: VectorType) -> None:
        super().__init__(manager, kind, kind.llvm)


def constant(kind: ir.Type, value: Any) -> ir.Constant:
    """One scalar, or the same scalar in all lanes."""
    if isinstance(kind, ir.VectorType):
        return ir.Constant(kind, [ir.Constant(kind.element, value)] * kind.count)
    return ir.Constant(kind, value)


def pointer(builder: ir.IRBuilder, address: Any, kind: ir.Type) -> Any:
    return builder.inttoptr(address, kind.as_pointer())


def load(builder: ir.IRBuilder, address: Any, kind: ir.Type) -> Any:
    """A load that asks for no alignment."""
    return builder.load(pointer(builder, address, kind), align=1)


def store(builder: ir.IRBuilder, value: Any, address: Any) -> None:
    builder.store(value, pointer(builder, address, value.type), align=1)


def function(builder: ir.IRBuilder, name: str, result: ir.Type, arguments: list[ir.Type]) -> Any:
    """The declaration of an LLVM intrinsic or C function in the module that is being built."""
    known = builder.module.globals.get(name)
    return known if known is not None else ir.Function(builder.module, ir.FunctionType(result, arguments), name)


def splat(builder: ir.IRBuilder, scalar: Any, kind: ir.VectorType) -> Any:
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, constant(I32, 0))
    zeros = ir.Constant(ir.VectorType(I32, kind.count), None)
    return builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), zeros)


def emit(name: str, signature: Any, build: Callable[..., Any]) -> Any:
    """A numba intrinsic `name` of a fixed signature whose code is `build(builder, *arguments)`."""

    def typer(context: Any, *arguments: Any) -> Any:
        def generate(target: Any, builder: ir.IRBuilder, _: Any, values: Any) -> Any:
            result = build(builder, *values)
            return target.get_dummy_value() if result is None else result

        return signature, generate

    # numba calls the typer with as many names as its code object declares
    names = [f"a{index}" for index in range(len(signature.args))]
    scope: dict[str, Any] = {"typer": typer}
    exec(f"def {name}(context{''.join(', ' + n for n in names)}):\n    return typer(context, {', '.join(names)})", scope)
    typed = scope[name]
    typed.__module__ = __name__
    return intrinsic(typed)


# --- scalars in memory -----------------------------------------------------------------------------------------------------

_address = types.int64


def _wide_load(kind: ir.Type) -> Any:
    return lambda b, address: load(b, address, kind) if kind is I64 else b.sext(load(b, address, kind), I64)


def _narrow_store(kind: ir.Type) -> Any:
    return lambda b, address, value: store(b, value if kind is I64 else b.trunc(value, kind), address)


load_i8, load_i16, load_i32, load_i64 = (
    emit(f"load_i{kind.width}", types.int64(_address), _wide_load(kind)) for kind in (I8, I16, I32, I64)
)
store_i8, store_i16, store_i32, store_i64 = (
    emit(f"store_i{kind.width}", types.void(_address, types.int64), _narrow_store(kind)) for kind in (I8, I16, I32, I64)
)
load_f32 = emit("load_f32", types.float32(_address), lambda b, address: load(b, address, F32))
store_f32 = emit("store_f32", types.void(_address, types.float32), lambda b, address, value: store(b, value, address))
load_f64 = emit("load_f64", types.float64(_address), lambda b, address: load(b, address, F64))


# --- vectors in memory -----------------------------------------------------------------------------------------------------


def _mask(b: ir.IRBuilder, count: Any) -> Any:
    """Lanes below `count`."""
    indices = ir.Constant(INT_V, [ir.Constant(I32, lane) for lane in range(LANES)])
    return b.icmp_signed("<", indices, splat(b, b.trunc(count, I32), INT_V))


def _masked_store(kind: ir.VectorType, name: str) -> Any:
    def build(b: ir.IRBuilder, address: Any, vector: Any, count: Any) -> None:
        value = b.trunc(vector, kind) if vector.type != kind else vector
        target = kind.as_pointer()
        masked = function(b, f"llvm.masked.store.{name}.p0", ir.VoidType(), [kind, target, I32, ir.VectorType(I1, LANES)])
        b.call(masked, [value, b.inttoptr(address, target), constant(I32, 1), _mask(b, count)])

    return build


load_ints = emit("load_ints", int_v(_address), lambda b, address: load(b, address, INT_V))
load_floats = emit("load_floats", float_v(_address), lambda b, address: load(b, address, FLOAT_V))
load_bytes = emit("load_bytes", int_v(_address), lambda b, address: b.sext(load(b, address, BYTES_V), INT_V))
load_shorts = emit("load_shorts", int_v(_address), lambda b, address: b.sext(load(b, address, SHORTS_V), INT_V))
store_ints = emit("store_ints", types.void(_address, int_v), lambda b, address, v: store(b, v, address))
store_floats = emit("store_floats", types.void(_address, float_v), lambda b, address, v: store(b, v, address))
store_bytes = emit("store_bytes", types.void(_address, int_v), lambda b, address, v: store(b, b.trunc(v, BYTES_V), address))
store_shorts = emit("store_shorts", types.void(_address, int_v), lambda b, address, v: store(b, b.trunc(v, SHORTS_V), address))
store_some_bytes = emit("store_some_bytes", types.void(_address, int_v, types.int64), _masked_store(BYTES_V, "v16i8"))
store_some_shorts = emit("store_some_shorts", types.void(_address, int_v, types.int64), _masked_store(SHORTS_V, "v16i16"))
store_some_ints = emit("store_some_ints", types.void(_address, int_v, types.int64), _masked_store(INT_V, "v16i32"))


def _masked_load(kind: ir.VectorType, name: str) -> Any:
    def build(b: ir.IRBuilder, address: Any, count: Any) -> Any:
        mask, target = ir.VectorType(I1, LANES), kind.as_pointer()
        masked = function(b, f"llvm.masked.load.{name}.p0", kind, [target, I32, mask, kind])
        found = b.call(masked, [b.inttoptr(address, target), constant(I32, 1), _mask(b, count), ir.Constant(kind, None)])
        return found if kind is INT_V else b.sext(found, INT_V)

    return build


load_some_bytes = emit("load_some_bytes", int_v(_address, types.int64), _masked_load(BYTES_V, "v16i8"))
load_some_shorts = emit("load_some_shorts", int_v(_address, types.int64), _masked_load(SHORTS_V, "v16i16"))
load_some_ints = emit("load_some_ints", int_v(_address, types.int64), _masked_load(INT_V, "v16i32"))


def _copy(width: int) -> Any:
    kind = ir.VectorType(I8, width)

    def build(b: ir.IRBuilder, target: Any, source: Any, flip: Any) -> None:
        store(b, b.xor(load(b, source, kind), splat(b, b.trunc(flip, I8), kind)), target)

    return emit(f"copy_{width}", types.void(_address, _address, types.int64), build)


copy_4, copy_8, copy_16, copy_32, copy_64 = (_copy(width) for width in (4, 8, 16, 32, 64))


def _copy_half(half: int, kind: ir.VectorType) -> Callable[..., Any]:
    """The low (0) or high (1) bytes of int16; as reals the low ones are unsigned, the high ones signed."""

    def build(b: ir.IRBuilder, target: Any, source: Any, flip: Any) -> None:
        shorts = load(b, source, ir.VectorType(I16, kind.count))
        if half:
            shorts = b.ashr(shorts, constant(shorts.type, 8))
        found = b.trunc(shorts, ir.VectorType(I8, kind.count))
        if kind.element is F32:
            store(b, b.sitofp(found, kind) if half else b.uitofp(found, kind), target)
        else:
            store(b, b.xor(found, splat(b, b.trunc(flip, I8), kind)), target)

    return build


_half_signature = types.void(_address, _address, types.int64)
copy_low_16, copy_low_1, copy_high_16, copy_high_1 = (
    emit(f"copy_{name}_{width}", _half_signature, _copy_half(half, ir.VectorType(I8, width)))
    for half, name in enumerate(("low", "high"))
    for width in (16, 1)
)
copy_low_floats_16, copy_low_floats_1, copy_high_floats_16, copy_high_floats_1 = (
    emit(f"copy_{name}_floats_{width}", _half_signature, _copy_half(half, ir.VectorType(F32, width)))
    for half, name in enumerate(("low", "high"))
    for width in (16, 1)
)


# --- arithmetic ------------------------------------------------------------------------------------------------------------


def _unary(name: str, result: Any, kind: Any, build: Callable[..., Any]) -> Any:
    return emit(name, result(kind), build)


def _binary(name: str, kind: Any, build: Callable[..., Any]) -> Any:
    return emit(name, kind(kind, kind), build)


def _choose(compare: str, floating: bool) -> Callable[..., Any]:
    def build(b: ir.IRBuilder, x: Any, y: Any) -> Any:
        test = b.fcmp_ordered(compare, x, y) if floating else b.icmp_signed(compare, x, y)
        return b.select(test, x, y)

    return build


def _library(name: str) -> Callable[..., Any]:
    return lambda b, x: b.call(function(b, f"llvm.{name}.v{LANES}f32", FLOAT_V, [FLOAT_V]), [x])


all_ints = _unary("all_ints", int_v, types.int64, lambda b, x: splat(b, b.trunc(x, I32), INT_V))
all_floats = _unary("all_floats", float_v, types.float32, lambda b, x: splat(b, x, FLOAT_V))
add_ints = _binary("add_ints", int_v, lambda b, x, y: b.add(x, y))
multiply_ints = _binary("multiply_ints", int_v, lambda b, x, y: b.mul(x, y))
shift_right = _binary("shift_right", int_v, lambda b, x, y: b.ashr(x, y))
shift_left = _binary("shift_left", int_v, lambda b, x, y: b.shl(x, y))
and_ints = _binary("and_ints", int_v, lambda b, x, y: b.and_(x, y))
smaller_ints = _binary("smaller_ints", int_v, _choose("<", False))
larger_ints = _binary("larger_ints", int_v, _choose(">", False))
add_floats = _binary("add_floats", float_v, lambda b, x, y: b.fadd(x, y))
multiply_floats = _binary("multiply_floats", float_v, lambda b, x, y: b.fmul(x, y))
divide_floats = _binary("divide_floats", float_v, lambda b, x, y: b.fdiv(x, y))
smaller_floats = _binary("smaller_floats", float_v, _choose("<", True))
larger_floats = _binary("larger_floats", float_v, _choose(">", True))
floor = _unary("floor", float_v, float_v, _library("floor"))
round_half_even = _unary("round_half_even", float_v, float_v, _library("roundeven"))
to_floats = _unary("to_floats", float_v, int_v, lambda b, x: b.sitofp(x, FLOAT_V))
to_ints = _unary("to_ints", int_v, float_v, lambda b, x: b.fptosi(x, INT_V))
# Only for whole numbers whose sums are exact: fused or not, the bits are the same.
multiply_add = emit(
    "multiply_add",
    float_v(float_v, float_v, float_v),
    lambda b, x, y, total: b.fadd(b.fmul(x, y, flags=("contract",)), total, flags=("contract",)),
)


def _requantize(
    b: ir.IRBuilder,
    x: Any,
    y: Any,
    factor_x: Any,
    factor_y: Any,
    term: Any,
    constants: Any,
    step: Any,
    limit: Any,
    low: Any,
    high: Any,
) -> Any:
    """The definition of a requantized sum in 64-bit lanes: `x * factor_x + y * factor_y`, bias, residual `term`, and so on.

    `constants`: ten rows of 64-bit words, `step` bytes apart, in the order of the names below.
    """

    def row(index: int) -> Any:
        return load(b, b.add(constants, b.mul(step, constant(I64, index))), LONG_V)

    def narrow(value: Any) -> Any:
        """The same number, known to fit 32 bits: its product is one instruction."""
        return b.sext(b.trunc(value, INT_V), LONG_V)

    def all_of(scalar: Any) -> Any:
        return splat(b, scalar, LONG_V)

    def clip(value: Any, least: Any, most: Any) -> Any:
        value = b.select(b.icmp_signed(">", value, least), value, least)
        return b.select(b.icmp_signed("<", value, most), value, most)

    bias, factor, term_left, term_half, term_right, pre, multiplier, left, half, right = (row(index) for index in range(10))
    total = b.add(b.mul(b.sext(x, LONG_V), narrow(all_of(factor_x))), b.mul(b.sext(y, LONG_V), narrow(all_of(factor_y))))
    scaled = b.shl(b.mul(b.sext(term, LONG_V), narrow(factor)), term_left)
    total = b.add(b.add(total, bias), b.ashr(b.add(scaled, term_half), term_right))
    most = all_of(limit)
    middle = narrow(clip(b.ashr(total, pre), b.xor(most, constant(LONG_V, -1)), most))
    total = b.ashr(b.add(b.shl(b.mul(middle, narrow(multiplier)), left), half), right)
    return b.trunc(clip(total, all_of(low), all_of(high)), INT_V)


requantize = emit("requantize", int_v(*[int_v] * 2, *[types.int64] * 2, int_v, *[types.int64] * 5), _requantize)


def _any_nan(b: ir.IRBuilder, x: Any) -> Any:
    bits = b.bitcast(b.fcmp_unordered("uno", x, x), ir.IntType(LANES))
    return b.zext(bits, I64)


float_of = emit("float_of", types.float32(types.int64), lambda b, x: b.sitofp(x, F32))
any_nan = _unary("any_nan", types.int64, float_v, _any_nan)


# --- control ---------------------------------------------------------------------------------------------------------------


def _indirect_call(b: ir.IRBuilder, target: Any, descriptor: Any, tile: Any, scratch: Any) -> None:
    kind = ir.FunctionType(ir.VoidType(), [I64, I64, I64])
    b.call(b.inttoptr(target, kind.as_pointer()), [descriptor, tile, scratch])


call_kernel = emit("call_kernel", types.void(*[types.int64] * 4), _indirect_call)
fetch_add = emit(
    "fetch_add",
    types.int64(_address, types.int64),
    lambda b, address, value: b.atomic_rmw("add", pointer(b, address, I64), value, "seq_cst"),
)
load_shared = emit(
    "load_shared",
    types.int64(_address),
    lambda b, address: b.load_atomic(pointer(b, address, I64), "acquire", 8),
)


def _yield_core(b: ir.IRBuilder) -> None:
    """`sched_yield` where the C library has it; elsewhere the loop spins on."""
    if hasattr(os, "sched_yield"):
        b.call(function(b, "sched_yield", I32, []), [])


yield_core = emit("yield_core", types.void(), _yield_core)
