"""Conversions between element types, and constants shaped like a tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from hqc.frontend.fx.context import LoweringContext, to_torch_dtype
from hqc.frontend.fx.registry import Alias, lower_function, lower_method
from hqc.ir import Value


def _to(ctx: LoweringContext, input: Value | torch.Tensor, dtype: torch.dtype | None) -> Value | torch.Tensor:
    if isinstance(input, torch.Tensor):  # a constant beside a traced tensor: `constant.type_as(x)`
        return input.to(dtype)
    if dtype is None or ctx.ir_dtype(dtype) is input.type.dtype:
        return ctx.emit("identity", input)
    return ctx.emit("cast", input, dtype=ctx.ir_dtype(dtype))


def _named(name: str, dtype: torch.dtype) -> None:
    def lower(ctx: LoweringContext, input: Value, memory_format: Any = None) -> Value | torch.Tensor:
        return _to(ctx, input, dtype)

    lower_method(name, alias=Alias.VIEW)(lower)


for _name, _dtype in (
    ("float", torch.float32),
    ("double", torch.float64),
    ("int", torch.int32),
    ("long", torch.int64),
    ("short", torch.int16),
    ("char", torch.int8),
    ("byte", torch.uint8),
    ("bool", torch.bool),
    ("half", torch.float16),
    ("bfloat16", torch.bfloat16),
):
    _named(_name, _dtype)


@lower_method("to", alias=Alias.VIEW)
def to(ctx: LoweringContext, input: Value | torch.Tensor, *args: Any, **kwargs: Any) -> Value | torch.Tensor:
    """Only the dtype matters: of an argument, or of a tensor given as an argument."""
    for item in (*args, *kwargs.values()):
        if isinstance(item, torch.dtype):
            return _to(ctx, input, item)
        if isinstance(item, Value):
            return _to(ctx, input, to_torch_dtype(item.type.dtype))
        if isinstance(item, torch.Tensor):
            return _to(ctx, input, item.dtype)
    return _to(ctx, input, None)


@lower_method("cpu", "cuda", alias=Alias.SAME)
def move(ctx: LoweringContext, input: Value, *args: Any, **kwargs: Any) -> Value:
    return ctx.emit("identity", input)


@lower_method("type", alias=Alias.VIEW)
def type_(ctx: LoweringContext, input: Value | torch.Tensor, dtype: Any) -> Value | torch.Tensor:
    if isinstance(dtype, str):  # "torch.cuda.FloatTensor", which x.type() returns
        dtype = getattr(torch, dtype.rpartition(".")[2], dtype)
    kind = getattr(dtype, "dtype", dtype)
    if not isinstance(kind, torch.dtype):
        raise ctx.cannot(f"type {dtype!r}")
    return _to(ctx, input, kind)


@lower_method("type_as", alias=Alias.VIEW)
def type_as(ctx: LoweringContext, input: Value | torch.Tensor, other: Value | torch.Tensor) -> Value | torch.Tensor:
    return _to(ctx, input, to_torch_dtype(other.type.dtype) if isinstance(other, Value) else other.dtype)


def _like(function: Callable[..., Any]) -> None:
    """`zeros_like(x)` and its kin: constants of x's shape and dtype."""

    def lower(ctx: LoweringContext, input: Value, *args: Any, **kwargs: Any) -> torch.Tensor:
        kwargs = {key: item for key, item in kwargs.items() if key not in ("device", "memory_format", "requires_grad")}
        constant: torch.Tensor = function(
            torch.empty(_shape(ctx, input), dtype=to_torch_dtype(input.type.dtype)), *args, **kwargs
        )
        if function is torch.empty_like:
            constant.zero_()  # whatever it holds: all of it is written before anybody reads
        ctx.name_tensor(constant, ctx.node.name)
        return constant

    lower_function(function)(lower)


def _shape(ctx: LoweringContext, input: Value) -> tuple[int, ...]:
    return ctx.known_shape(input)


for _function in (torch.zeros_like, torch.ones_like, torch.full_like, torch.empty_like):
    _like(_function)


@lower_method("new_zeros", "new_ones", "new_full", "new_tensor", "new_empty")
def new_constant(ctx: LoweringContext, input: Value, *args: Any, **kwargs: Any) -> torch.Tensor:
    kwargs.pop("device", None)
    stand_in = torch.zeros((), dtype=to_torch_dtype(input.type.dtype))
    name = str(ctx.node.target).replace("new_empty", "new_zeros")  # all of it is written before anybody reads
    constant: torch.Tensor = getattr(stand_in, name)(*args, **kwargs)
    ctx.name_tensor(constant, ctx.node.name)
    return constant
