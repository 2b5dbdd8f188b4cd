"""Matrix products of activations, and attention built from them."""

from __future__ import annotations

import math
import operator

import torch
from torch.nn import functional as F

from hqc.frontend.fx.context import LoweringContext, Operand
from hqc.frontend.fx.registry import lower_function
from hqc.ir import DType, Value


@lower_function(torch.matmul, torch.bmm, torch.mm, operator.matmul)
def matmul(ctx: LoweringContext, input: Operand, other: Operand) -> Value:
    for operand in (input, other):
        if not isinstance(operand, (int, float)) and ctx.shape(operand) is not None and ctx.rank(operand) < 2:
            raise ctx.cannot("an operand is a vector")
    return ctx.emit("matmul", *ctx.promote(input, other))


@lower_function(torch.addmm, torch.baddbmm)
def addmm(ctx: LoweringContext, input: Operand, mat1: Value, mat2: Operand, *, beta: float = 1, alpha: float = 1) -> Value:
    if beta != 1 or alpha != 1:
        raise ctx.cannot("beta or alpha is not 1")
    if isinstance(mat2, torch.Tensor) and mat2.ndim == 2 and isinstance(input, torch.Tensor) and input.ndim == 1:
        return ctx.emit("linear", mat1, ctx.parameter(mat2.t().contiguous(), "weight"), input)
    product = ctx.emit("matmul", *ctx.promote(mat1, mat2), what="product")
    return ctx.emit("add", *ctx.promote(input, product))


@lower_function(F.scaled_dot_product_attention)
def scaled_dot_product_attention(
    ctx: LoweringContext,
    query: Value,
    key: Value,
    value: Value,
    attn_mask: Operand | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Value:
    """`softmax(q k^T * scale + mask) v`, as torch defines it."""
    if is_causal or enable_gqa:
        raise ctx.cannot("is_causal or enable_gqa is set")
    if dropout_p:
        raise ctx.error("attention dropout is active in inference; pass dropout_p=0.0 in eval mode")
    if isinstance(attn_mask, Value) and attn_mask.type.dtype is DType.BOOL:
        raise ctx.cannot("the mask is boolean")
    rank = ctx.rank(key)
    transposed = ctx.emit("transpose", key, what="key", perm=(*range(rank - 2), rank - 1, rank - 2))
    scores = ctx.emit("matmul", query, transposed, what="scores")
    factor = scale if scale is not None else 1 / math.sqrt(ctx.size(query, -1))
    scores = ctx.emit("mul", scores, ctx.scalar(factor, DType.FLOAT32, "scale"), what="scaled")
    if isinstance(attn_mask, torch.Tensor) and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros(attn_mask.shape).masked_fill(~attn_mask, float("-inf"))
    if attn_mask is not None:
        scores = ctx.emit("add", scores, attn_mask, what="masked")
    weights = ctx.emit("softmax", scores, what="weights", axis=rank - 1)
    return ctx.emit("matmul", weights, value)
