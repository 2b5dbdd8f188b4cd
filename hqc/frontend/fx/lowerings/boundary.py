"""Stubs, identity and dropout."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from hqc.frontend.fx.context import LoweringContext
from hqc.frontend.fx.registry import Alias, lower_function, lower_method, lower_module
from hqc.frontend.fx.torch_ao import DEQUANT_STUBS, QUANT_STUBS
from hqc.ir import Value


@lower_module(*QUANT_STUBS)
def quant_stub(ctx: LoweringContext, module: nn.Module, x: Value) -> Value:
    return ctx.emit("quantize", x, stub=True)


@lower_module(*DEQUANT_STUBS)
def dequant_stub(ctx: LoweringContext, module: nn.Module, x: Value) -> Value:
    """Indices and truths (an argmax) are what they are: there is nothing to dequantize."""
    return ctx.emit("dequantize", x, stub=True) if x.type.dtype.is_float else ctx.emit("identity", x)


@lower_module(nn.Identity, alias=Alias.SAME)
def identity_module(ctx: LoweringContext, module: nn.Module, input: Value) -> Value:
    return ctx.emit("identity", input)


@lower_method("contiguous", "detach", "requires_grad_", alias=Alias.SAME)
def same_tensor(ctx: LoweringContext, input: Value, *args: object, **kwargs: object) -> Value:
    return ctx.emit("identity", input)


@lower_function(torch.clone)
def clone(ctx: LoweringContext, input: Value, *, memory_format: object = None) -> Value:
    return ctx.emit("identity", input)


@lower_module(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout, alias=Alias.SAME)
def dropout_module(ctx: LoweringContext, module: nn.Dropout, input: Value) -> Value:
    return ctx.emit("dropout", input, p=module.p)


@lower_function(F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout, alias=Alias.SAME)
def dropout(ctx: LoweringContext, input: Value, p: float = 0.5, training: bool = True, inplace: bool = False) -> Value:
    if training and p:
        raise ctx.error("dropout is active in inference; pass training=self.training")
    return ctx.emit("dropout", input, p=p)
