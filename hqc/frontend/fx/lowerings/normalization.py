"""Batch, layer, group and instance normalization."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.nn import functional as F

from hqc.frontend.fx.context import LoweringContext, Operand
from hqc.frontend.fx.lowerings._arguments import batched
from hqc.frontend.fx.registry import lower_function, lower_module
from hqc.ir import Value


@lower_module(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
def batch_norm_module(ctx: LoweringContext, module: nn.BatchNorm2d, input: Value) -> Value:
    return batch_norm(
        ctx, input, module.running_mean, module.running_var, module.weight, module.bias, False, module.momentum, module.eps
    )


@lower_function(F.batch_norm)
def batch_norm(
    ctx: LoweringContext,
    input: Value,
    running_mean: Operand | None,
    running_var: Operand | None,
    weight: Operand | None = None,
    bias: Operand | None = None,
    training: bool = False,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
) -> Value:
    if training:
        raise ctx.error("batch norm with training=True uses the statistics of the batch; pass training=self.training")
    if running_mean is None or running_var is None:
        raise ctx.cannot("batch norm without running statistics uses those of the batch")
    return ctx.emit("batch_norm", input, running_mean, running_var, weight, bias, eps=eps)


@lower_module(nn.LayerNorm)
def layer_norm_module(ctx: LoweringContext, module: nn.LayerNorm, input: Value) -> Value:
    return layer_norm(ctx, input, module.normalized_shape, module.weight, module.bias, module.eps)


@lower_function(F.layer_norm)
def layer_norm(
    ctx: LoweringContext,
    input: Value,
    normalized_shape: Sequence[int],
    weight: Operand | None = None,
    bias: Operand | None = None,
    eps: float = 1e-5,
) -> Value:
    return ctx.emit("layer_norm", input, weight, bias, normalized_ndim=len(tuple(normalized_shape)), eps=eps)


@lower_module(nn.GroupNorm)
def group_norm_module(ctx: LoweringContext, module: nn.GroupNorm, input: Value) -> Value:
    return group_norm(ctx, input, module.num_groups, module.weight, module.bias, module.eps)


@lower_function(F.group_norm)
def group_norm(
    ctx: LoweringContext,
    input: Value,
    num_groups: int,
    weight: Operand | None = None,
    bias: Operand | None = None,
    eps: float = 1e-5,
) -> Value:
    return ctx.emit("group_norm", input, weight, bias, groups=num_groups, eps=eps)


@lower_module(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
def instance_norm_module(ctx: LoweringContext, module: nn.InstanceNorm2d, input: Value) -> Value:
    mean, var = module.running_mean, module.running_var

    def norm(x: Value, what: str | None) -> Value:
        return instance_norm(ctx, x, mean, var, module.weight, module.bias, mean is None, 0.1, module.eps, what=what)

    return batched(ctx, input, module._get_no_batch_dim() + 1, norm)


@lower_function(F.instance_norm)
def instance_norm(
    ctx: LoweringContext,
    input: Value,
    running_mean: Operand | None = None,
    running_var: Operand | None = None,
    weight: Operand | None = None,
    bias: Operand | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    what: str | None = None,
) -> Value:
    shape = ctx.shape(input)
    if shape is not None and len(shape) < 3:
        raise ctx.cannot("the operand has no spatial dimensions")
    if not use_input_stats:  # running statistics make it a batch norm
        return ctx.emit("batch_norm", input, running_mean, running_var, weight, bias, what=what, eps=eps)
    return ctx.emit("instance_norm", input, weight, bias, what=what, eps=eps)
