"""Methods of FloatFunctional modules."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from hqc.frontend.fx.context import LoweringContext, Operand
from hqc.frontend.fx.lowerings import elementwise, layout
from hqc.frontend.fx.lowerings.matmul import matmul as lower_matmul
from hqc.frontend.fx.registry import lower_functional
from hqc.ir import Value


@lower_functional("add", "add_scalar")
def add(ctx: LoweringContext, module: nn.Module, x: Value, y: Operand) -> Value:
    return elementwise.add(ctx, x, y)


@lower_functional("sub")
def sub(ctx: LoweringContext, module: nn.Module, x: Value, y: Operand) -> Value:
    return elementwise.sub(ctx, x, y)


@lower_functional("mul", "mul_scalar")
def mul(ctx: LoweringContext, module: nn.Module, x: Value, y: Operand) -> Value:
    return elementwise.mul(ctx, x, y)


@lower_functional("add_relu")
def add_relu(ctx: LoweringContext, module: nn.Module, x: Value, y: Operand) -> Value:
    return ctx.emit("relu", ctx.emit("add", *ctx.promote(x, y), what="sum"))


@lower_functional("matmul")
def matmul(ctx: LoweringContext, module: nn.Module, x: Value, y: Operand) -> Value:
    return lower_matmul(ctx, x, y)


@lower_functional("cat")
def cat(ctx: LoweringContext, module: nn.Module, x: Sequence[Operand], dim: int = 0) -> Value:
    return layout.cat(ctx, x, dim)
