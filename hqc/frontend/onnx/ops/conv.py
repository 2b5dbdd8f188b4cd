"""Convolutions and matrix products."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from hqc.frontend.onnx.context import OnnxContext, Operand, Unexpressed
from hqc.frontend.onnx.ops._windows import Window, axes_of, window
from hqc.frontend.onnx.registry import lowers_onnx
from hqc.ir import Value

_OF_RANK = {3: "2d", 4: "2d", 5: "3d"}
"""Which of the IR's convolutions takes an operand of so many axes; rows are images of height 1 to it."""


def _op(ctx: OnnxContext, base: str, x: Value) -> str:
    rank = ctx.rank(x)
    if rank not in _OF_RANK:
        raise Unexpressed(f"it is a convolution over {rank - 2} axes")
    return base + _OF_RANK[rank]


@lowers_onnx("Conv")
def conv(ctx: OnnxContext) -> Value:
    x, weight, bias = ctx.data(), ctx.required(1), ctx.operand(2)
    op, found = _op(ctx, "conv", x), window(ctx, ctx.shape(weight)[2:], ctx.shape(x)[2:])
    groups = int(ctx.attribute("group", 1))
    return ctx.emit(op, x, weight, bias, groups=groups, **found.attributes("stride", "padding", "dilation"))


@lowers_onnx("ConvTranspose")
def conv_transpose(ctx: OnnxContext) -> Value:
    x, weight, bias = ctx.data(), ctx.required(1), ctx.operand(2)
    op, (found, extra) = _op(ctx, "conv_transpose", x), _transposed_window(ctx, ctx.shape(weight)[2:], ctx.shape(x)[2:])
    attributes: dict[str, Any] = {"output_padding": extra, **found.attributes("stride", "padding", "dilation")}
    return ctx.emit(op, x, weight, bias, groups=int(ctx.attribute("group", 1)), **attributes)


def _transposed_window(ctx: OnnxContext, kernel: tuple[int, ...], size: tuple[int, ...]) -> tuple[Window, tuple[int, ...]]:
    """`auto_pad` and `output_shape` of a transposed convolution become pads."""
    found = window(ctx, kernel, size, transposed=True)
    extra = axes_of(ctx.ints("output_padding") or [0] * len(kernel), 0)
    wanted = ctx.ints("output_shape")
    automatic = ctx.attribute("auto_pad", "NOTSET")
    if wanted is None and automatic in ("NOTSET", "VALID"):
        return found, extra
    sizes = axes_of(size, 1)
    goal = (
        axes_of(wanted[-len(kernel) :], 1)
        if wanted is not None
        else tuple(s * k for s, k in zip(sizes, found.stride, strict=True))
    )
    begin, end, added = [], [], list(extra)
    for axis in range(len(sizes)):
        reach = found.stride[axis] * (sizes[axis] - 1) + extra[axis] + (found.kernel[axis] - 1) * found.dilation[axis] + 1
        added[axis] += max(0, goal[axis] - reach)
        total = max(0, reach - goal[axis])
        small = total // 2
        first = total - small if automatic == "SAME_LOWER" else small
        begin.append(first)
        end.append(total - first)
    return Window(found.kernel, found.stride, (*begin, *end), found.dilation), tuple(added)


@lowers_onnx("Gemm")
def gemm(ctx: OnnxContext) -> Value:
    """`alpha A B + beta C`: a linear layer where B is constant and C a vector of outputs."""
    a, b, c = ctx.required(0), ctx.required(1), ctx.operand(2)
    alpha, beta = float(ctx.attribute("alpha", 1.0)), float(ctx.attribute("beta", 1.0))
    x = ctx.value(a)
    if ctx.attribute("transA", 0):
        x = ctx.emit("transpose", x, what="a", perm=(1, 0))
    if isinstance(b, np.ndarray):
        weight = b if ctx.attribute("transB", 0) else ctx.transposed(b)
        if alpha != 1:
            weight = weight * alpha
        bias = _vector(c, weight.shape[0], beta)
        if c is None or bias is not None:
            return ctx.emit("linear", x, weight, bias)
        return _plus(ctx, ctx.emit("linear", x, weight, what="product"), c, beta)
    right = ctx.emit("transpose", b, what="b", perm=(1, 0)) if ctx.attribute("transB", 0) else b
    product = ctx.emit("matmul", x, right, what=None if alpha == 1 and c is None else "product")
    if alpha != 1:
        product = ctx.emit("mul", product, alpha, what=None if c is None else "scaled")
    return product if c is None else _plus(ctx, product, c, beta)


def _vector(c: Operand | None, outputs: int, beta: float) -> np.ndarray[Any, Any] | None:
    """C as a bias: one number per output, or one for all."""
    if not isinstance(c, np.ndarray) or c.size not in (1, outputs) or (c.ndim > 1 and c.shape[-1] != c.size):
        return None
    vector = np.broadcast_to(c.reshape(-1), (outputs,))
    return np.ascontiguousarray(vector * beta) if beta != 1 else np.ascontiguousarray(vector)


def _plus(ctx: OnnxContext, product: Value, c: Operand, beta: float) -> Value:
    scaled = c if beta == 1 else ctx.emit("mul", c, beta, what="addend")
    return ctx.emit("add", product, scaled)


@lowers_onnx("MatMul")
def matmul(ctx: OnnxContext) -> Value:
    """A constant matrix on the right, or one before a vector, makes a linear layer."""
    a, b = ctx.required(0), ctx.required(1)
    if isinstance(a, np.ndarray) and a.ndim == 2 and not isinstance(b, np.ndarray) and ctx.rank(b) == 1:
        return ctx.emit("linear", b, a)
    if isinstance(b, np.ndarray) and b.ndim == 2 and not isinstance(a, np.ndarray) and ctx.rank(a) >= 2:
        return ctx.emit("linear", a, ctx.transposed(b))
    left, right = ctx.shape(a), ctx.shape(b)
    if len(left) >= 2 and len(right) >= 2:
        return ctx.emit("matmul", a, b)
    rows = ctx.reshape(a, (1, *left), what="row") if len(left) == 1 else a
    columns = ctx.reshape(b, (*right, 1), what="column") if len(right) == 1 else b
    product = ctx.emit("matmul", rows, columns, what="product")
    shape = list(ctx.shape(product))
    if len(right) == 1:
        shape.pop()
    if len(left) == 1:
        shape.pop(-1 if len(right) == 1 else -2)
    return ctx.reshape(product, shape)


@lowers_onnx("Einsum")
def einsum(ctx: OnnxContext) -> Value:
    """Two operands whose letters are batch, free and summed axes: a batched matrix product."""
    equation = str(ctx.attribute("equation")).replace(" ", "")
    left_side, _, right_side = equation.partition("->")
    terms = left_side.split(",")
    if len(terms) != 2 or "->" not in equation or "." in equation or any(len(set(term)) != len(term) for term in terms):
        raise Unexpressed(f"its equation {equation} is no product of two tensors")
    a, b = ctx.required(0), ctx.required(1)
    for matrix, labels, vector, label in ((a, terms[0], b, terms[1]), (b, terms[1], a, terms[0])):
        one_matrix = (
            isinstance(matrix, np.ndarray) and not isinstance(vector, np.ndarray) and len(labels) == 2 and len(label) == 1
        )
        if one_matrix and sorted(labels) == sorted(label + right_side):
            assert isinstance(matrix, np.ndarray)
            return ctx.emit("linear", vector, matrix if labels == right_side + label else ctx.transposed(matrix))
    sizes = {**dict(zip(terms[0], ctx.shape(a), strict=True)), **dict(zip(terms[1], ctx.shape(b), strict=True))}
    summed = [letter for letter in terms[0] if letter in terms[1] and letter not in right_side]
    batch = [letter for letter in right_side if letter in terms[0] and letter in terms[1]]
    rows = [letter for letter in right_side if letter in terms[0] and letter not in terms[1]]
    columns = [letter for letter in right_side if letter in terms[1] and letter not in terms[0]]
    if set(terms[0]) != {*batch, *rows, *summed} or set(terms[1]) != {*batch, *columns, *summed} or not summed:
        raise Unexpressed(f"its equation {equation} sums within one operand")

    def arranged(operand: Operand, term: str, order: list[str], groups: list[list[str]], what: str) -> Value:
        perm = tuple(term.index(letter) for letter in order)
        moved = ctx.value(operand) if perm == tuple(range(len(perm))) else ctx.emit("transpose", operand, what=what, perm=perm)
        shape = tuple(math.prod(sizes[letter] for letter in group) for group in groups)
        return moved if shape == ctx.shape(moved) else ctx.reshape(moved, shape, what=f"{what}_matrix")

    lead = [[letter] for letter in batch]
    left = arranged(a, terms[0], [*batch, *rows, *summed], [*lead, rows, summed], "a")
    right = arranged(b, terms[1], [*batch, *summed, *columns], [*lead, summed, columns], "b")
    product = ctx.emit("matmul", left, right, what="product")
    whole = ctx.reshape(product, tuple(sizes[letter] for letter in (*batch, *rows, *columns)), what="sizes")
    perm = tuple([*batch, *rows, *columns].index(letter) for letter in right_side)
    return ctx.emit("transpose", whole, perm=perm) if perm != tuple(range(len(perm))) else ctx.emit("identity", whole)
