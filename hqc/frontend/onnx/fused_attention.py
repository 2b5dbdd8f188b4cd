"""onnxruntime's attention: `Attention` and `MultiHeadAttention`, which its optimizers make of products, reshapes and a softmax."""

from __future__ import annotations

import math

import numpy as np
from onnx import helper

from hqc.frontend.onnx.context import Unexpressed
from hqc.frontend.onnx.fused import OPENINGS, Parts

_BLOCKED = -10000.0
"""What onnxruntime adds where a mask blocks, unless the node says otherwise."""


@OPENINGS.register("Attention")
def attention(parts: Parts) -> None:
    """`input`, `weights`, `bias`, a mask of keys, past, what is added to the scores: one projection for queries, keys and values."""
    ctx = parts.ctx
    _check(parts, past=(4, 6))
    if ctx.ints("qkv_hidden_sizes") or ctx.attribute("do_rotary", 0):
        raise Unexpressed("its heads are of several sizes, or turned by their position")
    packed = parts.add("MatMul", parts.input(0), parts.input(1), what="product")
    if parts.input(2):
        packed = parts.add("Add", packed, parts.input(2), what="projection")
    names = [f"{ctx.node.output[0]}_{what}" for what in ("query", "key", "value")]
    parts.nodes.append(helper.make_node("Split", [packed], names, ctx.node.name, axis=2))
    batch, length, _ = ctx.shape(ctx.required(0))
    width = ctx.shape(ctx.required(1))[1] // 3
    _attend(parts, names, (batch, length, length, width), mask=3, added=5)


@OPENINGS.register("MultiHeadAttention")
def multi_head_attention(parts: Parts) -> None:
    """`query`, `key`, `value`, their bias in one vector, a mask of keys, what is added to the scores, past."""
    ctx = parts.ctx
    _check(parts, past=(6, 7))
    if not (parts.input(1) and parts.input(2)) or any(len(ctx.shape(ctx.required(index))) != 3 for index in range(3)):
        raise Unexpressed("its queries, keys and values are packed in one tensor")
    batch, length, width = ctx.shape(ctx.required(0))
    reach, values = ctx.shape(ctx.required(1))[1], ctx.shape(ctx.required(2))[2]
    if values != width:
        raise Unexpressed("its heads are of several sizes")
    names = [parts.input(index) for index in range(3)]
    if parts.input(3):
        bias = ctx.constant(3)
        if bias is None:
            raise Unexpressed("its bias is computed")
        for index, what in enumerate(("query", "key", "value")):
            vector = parts.constant(bias[index * width : (index + 1) * width], f"{what}_bias")
            names[index] = parts.add("Add", names[index], vector, what=what)
    _attend(parts, names, (batch, length, reach, width), mask=4, added=5)


def _check(parts: Parts, past: tuple[int, ...]) -> None:
    if any(map(parts.input, past)) or any(parts.ctx.node.output[1:]):
        raise Unexpressed("it goes on with keys and values of an earlier call")


def _attend(parts: Parts, names: list[str], sizes: tuple[int, int, int, int], mask: int, added: int) -> None:
    """`softmax(q k^T * scale + masks) v`. `names`: queries, keys, values; `sizes`: batch, queries, keys, width."""
    ctx = parts.ctx
    batch, length, reach, width = sizes
    heads = int(ctx.attribute("num_heads", 0))
    if not heads or width % heads:
        raise Unexpressed(f"its {heads} heads do not share a width of {width}")
    size = width // heads
    query, key, value = (
        _heads(parts, name, what, (batch, count, heads, size), perm)
        for name, what, count, perm in zip(
            names, "qkv", (length, reach, reach), ((0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3)), strict=True
        )
    )
    scores = parts.add("MatMul", query, key, what="scores")
    scale = float(ctx.attribute("scale", 0.0)) or 1 / math.sqrt(size)
    scores = parts.add("Mul", scores, parts.constant(scale, "scale"), what="scaled")
    if parts.input(added):
        scores = parts.add("Add", scores, parts.input(added), what="biased")
    blocked = float(ctx.attribute("mask_filter_value", _BLOCKED))
    if ctx.attribute("unidirectional", 0):
        later = np.triu(np.ones((length, reach), np.float32), 1 + reach - length)
        scores = parts.add("Add", scores, parts.constant(later * np.float32(blocked), "later"), what="causal")
    if parts.input(mask):
        if ctx.shape(ctx.required(mask)) != (batch, reach):
            raise Unexpressed("its mask is no mask of keys")
        kept = parts.add("Cast", parts.input(mask), what="kept", to=1)
        gone = parts.add("Sub", parts.constant(1.0, "one"), kept, what="gone")
        low = parts.add("Mul", gone, parts.constant(blocked, "low"), what="mask")
        of_heads = parts.add("Reshape", low, parts.constant((batch, 1, 1, reach), "mask_shape", np.int64), what="mask_of_heads")
        scores = parts.add("Add", scores, of_heads, what="masked")
    weights = parts.add("Softmax", scores, what="weights", axis=-1 if ctx.opset >= 13 else 3)
    result = parts.add("MatMul", weights, value, what="heads")
    result = parts.add("Transpose", result, what="rows", perm=(0, 2, 1, 3))
    parts.add("Reshape", result, parts.constant((batch, length, width), "shape", np.int64))


def _heads(parts: Parts, name: str, what: str, shape: tuple[int, ...], perm: tuple[int, ...]) -> str:
    apart = parts.add("Reshape", name, parts.constant(shape, f"{what}_shape", np.int64), what=f"{what}_apart")
    return parts.add("Transpose", apart, what=f"{what}_heads", perm=perm)
