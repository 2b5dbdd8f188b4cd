"""Matrix and vector products, and attention built from them."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

from hqc.frontend.fx.context import LoweringContext, Operand
from hqc.frontend.fx.registry import lower_function, lower_method
from hqc.ir import DType, Value


@lower_function(torch.matmul, torch.bmm, torch.mm, torch.mv, torch.dot, operator.matmul)
def matmul(ctx: LoweringContext, input: Operand, other: Operand) -> Value:
    """A vector is a matrix of one row (on the left) or one column (on the right); a constant matrix times a vector is a linear
    layer."""
    left, right = (_rank(ctx, operand) for operand in (input, other))
    if left == 2 and right == 1 and isinstance(input, torch.Tensor):
        return ctx.emit("linear", other, input)
    return _product(ctx, input, other, left, right)


@lower_method("__rmatmul__")
def reflected_matmul(ctx: LoweringContext, input: Operand, other: Operand) -> Value:
    return matmul(ctx, other, input)


def _rank(ctx: LoweringContext, operand: Operand) -> int | None:
    """The rank where it is known."""
    assert isinstance(operand, (Value, torch.Tensor))
    shape = ctx.shape(operand)
    return None if shape is None else len(shape)


def _product(ctx: LoweringContext, input: Operand, other: Operand, left: int | None, right: int | None) -> Value:
    a, b = ctx.promote(input, other)
    if left != 1 and right != 1:
        return ctx.emit("matmul", a, b)
    a = ctx.reshape(a, (1, ctx.size(a, 0)), what="row") if left == 1 else a
    b = ctx.reshape(b, (ctx.size(b, 0), 1), what="column") if right == 1 else b
    product = ctx.emit("matmul", a, b, what="product")
    sizes = list(ctx.sizes(product))
    if right == 1:
        del sizes[-1]
    if left == 1:
        del sizes[len(sizes) - (1 if right == 1 else 2)]
    return ctx.reshape(product, sizes)


@lower_function(torch.addmm, torch.baddbmm, torch.addmv)
def addmm(ctx: LoweringContext, input: Operand, mat1: Operand, mat2: Operand, *, beta: float = 1, alpha: float = 1) -> Value:
    """`beta * input + alpha * mat1 @ mat2`."""
    plain = beta == 1 and alpha == 1 and isinstance(mat1, Value)
    if plain and isinstance(mat2, torch.Tensor) and mat2.ndim == 2 and isinstance(input, torch.Tensor) and input.ndim == 1:
        return ctx.emit("linear", mat1, ctx.derived(mat2, mat2.t().contiguous(), "transposed"), input)
    product = _named_product(ctx, mat1, mat2)
    return _added(ctx, input, product, beta, alpha)


@lower_function(torch.addbmm)
def addbmm(
    ctx: LoweringContext, input: Operand, batch1: Operand, batch2: Operand, *, beta: float = 1, alpha: float = 1
) -> Value:
    """As addmm, with the sum over the batch."""
    product = ctx.emit("sum", _named_product(ctx, batch1, batch2), what="total", axes=(0,))
    return _added(ctx, input, product, beta, alpha)


def _named_product(ctx: LoweringContext, mat1: Operand, mat2: Operand) -> Value:
    if _rank(ctx, mat2) == 1:
        if isinstance(mat1, torch.Tensor) and mat1.ndim == 2:
            return ctx.emit("linear", mat2, mat1, what="product")
        column = ctx.reshape(ctx.value(mat2), (ctx.size(ctx.value(mat2), 0), 1), what="column")
        product = ctx.emit("matmul", *ctx.promote(mat1, column), what="product")
        return ctx.reshape(product, ctx.sizes(product)[:-1], what="vector")
    return ctx.emit("matmul", *ctx.promote(mat1, mat2), what="product")


def _added(ctx: LoweringContext, input: Operand, product: Value, beta: float, alpha: float) -> Value:
    if alpha != 1:
        product = ctx.emit("mul", *ctx.promote(product, alpha), what="scaled")
    if beta == 0:
        return ctx.emit("identity", product)
    if beta != 1:
        input = input * beta if isinstance(input, torch.Tensor) else ctx.emit("mul", *ctx.promote(input, beta), what="start")
    return ctx.emit("add", *ctx.promote(input, product))


@lower_function(torch.outer, torch.ger)
def outer(ctx: LoweringContext, input: Operand, vec2: Operand) -> Value:
    column = ctx.reshape(ctx.value(input), (-1, 1), what="column")
    return ctx.emit("mul", *ctx.promote(column, vec2))


# --- contractions --------------------------------------------------------------------------------------------------------


@lower_function(torch.einsum)
def einsum(ctx: LoweringContext, equation: Any, *operands: Any) -> Value:
    """Matrix products of the operands in turn: what two of them share and nothing else needs is summed."""
    terms: list[Operand] = []
    for operand in operands:
        terms.extend(operand if isinstance(operand, (tuple, list)) else [operand])
    if not isinstance(equation, str):
        raise ctx.cannot("the operands come with lists of labels")
    lefts, result = _labels(ctx, equation, terms)
    if len(terms) == 2:
        for matrix, vector in ((0, 1), (1, 0)):
            found = _with_vector(ctx, terms[matrix], lefts[matrix], terms[vector], lefts[vector], result)
            if found is not None:
                return found
    if len(terms) == 1:
        return _settle(ctx, ctx.value(terms[0]), lefts[0], result, None)
    value, labels = ctx.value(terms[0]), lefts[0]
    for i in range(1, len(terms)):
        later = "".join(lefts[i + 1 :]) + result
        last = i == len(terms) - 1
        value, labels = _contract(ctx, value, labels, ctx.value(terms[i]), lefts[i], later, result if last else "", last, i)
    return value


def _with_vector(ctx: LoweringContext, matrix: Operand, labels: str, vector: Operand, label: str, result: str) -> Value | None:
    """A constant matrix times a vector, which is a linear layer; None for another contraction."""
    if (
        not (isinstance(matrix, torch.Tensor) and isinstance(vector, Value))
        or len(labels) != 2
        or sorted(labels) != sorted(label + result)
    ):
        return None
    if len(label) != 1:
        return None
    weight = matrix if labels == result + label else ctx.derived(matrix, matrix.t().contiguous(), "transposed")
    return ctx.emit("linear", vector, weight)


def _labels(ctx: LoweringContext, equation: str, terms: Sequence[Operand]) -> tuple[list[str], str]:
    """The operands' labels and the result's, with `...` written out."""
    left, arrow, result = equation.replace(" ", "").partition("->")
    given = left.split(",")
    ranks = [_rank(ctx, term) for term in terms]
    if len(given) != len(terms) or None in ranks:
        raise ctx.cannot(f"the equation {equation!r} does not fit operands of known rank")
    free = [letter for letter in "zyxwvutsrqponmlkjihgfedcbaZYXWVUTSRQPONMLKJIHGFEDCBA" if letter not in equation]
    widest = max(
        (
            rank - len(labels.replace("...", ""))
            for rank, labels in zip(ranks, given, strict=True)
            if "." in labels and rank is not None
        ),
        default=0,
    )
    dots = "".join(free[:widest])
    written = []
    for rank, labels in zip(ranks, given, strict=True):
        assert rank is not None
        own = rank - len(labels.replace("...", ""))
        written.append(labels.replace("...", dots[len(dots) - own :] if own else ""))
        if len(set(written[-1])) < len(written[-1]):
            raise ctx.cannot(f"the equation {equation!r} takes a diagonal")
    every = "".join(written)
    if not arrow:
        result = ("..." if dots else "") + "".join(sorted(label for label in set(every) - set(dots) if every.count(label) == 1))
    return written, result.replace("...", dots)


def _contract(
    ctx: LoweringContext,
    a: Value,
    a_labels: str,
    b: Value,
    b_labels: str,
    later: str,
    result: str,
    last: bool,
    step: int,
) -> tuple[Value, str]:
    """The product of two operands, summed over the labels that nothing `later` needs."""
    a, a_labels = _summed(ctx, a, a_labels, b_labels + later, f"a{step}")
    b, b_labels = _summed(ctx, b, b_labels, a_labels + later, f"b{step}")
    batch = [label for label in a_labels if label in b_labels and label in later]
    common = [label for label in a_labels if label in b_labels and label not in later]
    rows = [label for label in a_labels if label not in b_labels]
    columns = [label for label in b_labels if label not in a_labels]
    size = {label: ctx.size(a, i) for i, label in enumerate(a_labels)}
    for i, label in enumerate(b_labels):
        if size.setdefault(label, ctx.size(b, i)) != ctx.size(b, i):
            raise ctx.cannot(f"the operands have {size[label]} and {ctx.size(b, i)} elements along one axis")
    lead = [size[label] for label in batch]
    inner = math.prod(size[label] for label in common)
    merged = (
        [math.prod(size[r] for r in rows)] if batch or not rows else [size[r] for r in rows]
    )  # a matrix product has any rows
    left = _arranged(ctx, a, a_labels, batch + rows + common, [*lead, *merged, inner], f"left{step}")
    right = _arranged(
        ctx, b, b_labels, batch + common + columns, [*lead, inner, math.prod(size[c] for c in columns)], f"right{step}"
    )
    made = "".join(batch + rows + columns)
    shape = [*lead, *(size[r] for r in rows), *(size[c] for c in columns)]
    reshaped = len(merged) != len(rows) or len(columns) != 1
    moved = last and made != result
    product = ctx.emit("matmul", *ctx.promote(left, right), what=None if last and not (reshaped or moved) else f"product{step}")
    if reshaped:
        product = ctx.reshape(product, shape, what=None if last and not moved else f"opened{step}")
    if moved:
        return _settle(ctx, product, made, result, None), result
    return product, made


def _summed(ctx: LoweringContext, x: Value, labels: str, needed: str, what: str) -> tuple[Value, str]:
    """Without the labels that nothing needs, and without axes of one element that the other operand broadcasts."""
    axes = tuple(i for i, label in enumerate(labels) if label not in needed)
    if not axes:
        return x, labels
    return ctx.emit("sum", x, what=f"summed_{what}", axes=axes), "".join(label for label in labels if label in needed)


def _arranged(ctx: LoweringContext, x: Value, labels: str, order: list[str], shape: list[int], what: str) -> Value:
    perm = [labels.index(label) for label in order]
    if perm != list(range(len(perm))):
        x = ctx.emit("transpose", x, what=f"{what}_moved", perm=perm)
    return x if ctx.known_shape(x) == tuple(shape) else ctx.reshape(x, shape, what=what)


def _settle(ctx: LoweringContext, x: Value, labels: str, result: str, what: str | None) -> Value:
    """Sum what the result does not have and put the rest in its order."""
    axes = tuple(i for i, label in enumerate(labels) if label not in result)
    kept = [label for label in labels if label in result]
    perm = [kept.index(label) for label in result]
    moved = perm != list(range(len(perm)))
    if axes:
        x = ctx.emit("sum", x, what="summed" if moved else what, axes=axes)
    if moved:
        return ctx.emit("transpose", x, what=what, perm=perm)
    return x if axes else ctx.emit("identity", x, what=what)


@lower_function(torch.tensordot)
def tensordot(ctx: LoweringContext, a: Operand, b: Operand, dims: int | Sequence[Sequence[int]] = 2, out: None = None) -> Value:
    """The contraction of axes of `a` with axes of `b`, as an einsum."""
    left, right = _rank(ctx, a), _rank(ctx, b)
    if left is None or right is None or isinstance(dims, (torch.Tensor, Value)):
        raise ctx.cannot("the axes are not known")
    if isinstance(dims, int):
        axes = ([left - dims + i for i in range(dims)], list(range(dims)))
    else:
        first, second = dims
        axes = ([axis % left for axis in _listed(first)], [axis % right for axis in _listed(second)])
    letters = "abcdefghijklmnopqrstuvwxyz"
    a_labels = list(letters[:left])
    b_labels = list(letters[left : left + right])
    for one, other in zip(*axes, strict=True):
        b_labels[other] = a_labels[one]
    result = [x for i, x in enumerate(a_labels) if i not in axes[0]] + [x for i, x in enumerate(b_labels) if i not in axes[1]]
    return einsum(ctx, f"{''.join(a_labels)},{''.join(b_labels)}->{''.join(result)}", a, b)


def _listed(value: int | Sequence[int]) -> list[int]:
    return [value] if isinstance(value, int) else list(value)


@lower_function(torch.inner)
def inner(ctx: LoweringContext, input: Operand, other: Operand) -> Value:
    """Sums of products along the last axes."""
    left, right = _rank(ctx, input), _rank(ctx, other)
    if left == 0 or right == 0:
        return ctx.emit("mul", *ctx.promote(input, other))
    return tensordot(ctx, input, other, ([-1], [-1]))


# --- attention -------------------------------------------------------------------------------------------------------------


@lower_function(F.scaled_dot_product_attention)
def scaled_dot_product_attention(
    ctx: LoweringContext,
    query: Operand,
    key: Operand,
    value: Operand,
    attn_mask: Operand | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Value:
    """`softmax(q k^T * scale + mask) v`, as torch defines it."""
    if dropout_p:
        raise ctx.error("attention dropout is active in inference; pass dropout_p=0.0 in eval mode")
    query, key, value = (ctx.value(operand) for operand in (query, key, value))
    rank = ctx.rank(key)
    if enable_gqa:
        heads = ctx.size(query, -3)
        key, value = (_repeated(ctx, item, heads, name) for item, name in ((key, "keys"), (value, "values")))
    transposed = ctx.emit("transpose", key, what="key", perm=(*range(rank - 2), rank - 1, rank - 2))
    scores = ctx.emit("matmul", *ctx.promote(query, transposed), what="scores")
    factor = scale if scale is not None else 1 / math.sqrt(ctx.size(query, -1))
    scores = ctx.emit("mul", *ctx.promote(scores, factor), what="scaled")
    if is_causal:
        length, reach = ctx.size(query, -2), ctx.size(key, -2)
        attn_mask = torch.ones(length, reach, dtype=torch.bool).tril()
    scores = masked(ctx, scores, attn_mask)
    weights = ctx.emit("softmax", scores, what="weights", axis=ctx.rank(scores) - 1)
    return ctx.emit("matmul", weights, value)


def _repeated(ctx: LoweringContext, x: Value, heads: int, what: str) -> Value:
    """Each head of grouped queries, as often as it is shared."""
    axis = ctx.rank(x) - 3
    own = ctx.size(x, axis)
    if own == heads:
        return x
    order = torch.arange(own).repeat_interleave(heads // own)
    return ctx.emit("gather", x, ctx.parameter(order, f"{what}_order"), what=what, axis=axis)


def masked(ctx: LoweringContext, scores: Value, mask: Operand | None) -> Value:
    """Scores with a mask: a boolean one keeps where it is true, another is added.

    Minus infinity never enters an addition: no grid holds it. A constant mask of zeros and infinities is a boolean one.
    """
    if mask is None:
        return scores
    keep: Operand | None = None
    bias: Operand | None = mask
    if isinstance(mask, Value) and mask.type.dtype is DType.BOOL:
        keep, bias = mask, None
    elif isinstance(mask, torch.Tensor):
        keep = mask if mask.dtype == torch.bool else ~torch.isneginf(mask)
        bias = None if mask.dtype == torch.bool else mask.masked_fill(~keep, 0.0)
        keep = None if bool(keep.all()) else keep
        bias = None if bias is None or bool((bias == 0).all()) else bias
    if bias is not None:
        scores = ctx.emit("add", *ctx.promote(scores, bias), what="biased")
    if keep is not None:
        blocked = ctx.scalar(-math.inf, scores.type.dtype, "blocked")
        scores = ctx.emit("where", keep, scores, blocked, what="masked")
    return scores
