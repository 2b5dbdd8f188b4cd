"""Convolution and transposed convolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hqc import arithmetic
from hqc.backends.bpu.engines import ConvSpec, TransposeSpec
from hqc.backends.bpu.epilogue import Epilogue, parameters
from hqc.backends.bpu.kernels import (
    Array,
    KernelContext,
    Run,
    channels_last,
    constant,
    kernel,
    operand,
    optional_constant,
    shape_of,
)
from hqc.backends.bpu.proof import FLOAT32_EXACT, sum_bounds
from hqc.backends.bpu.ranges import Range
from hqc.errors import CompileError
from hqc.ir import DType, Node


def accumulator_epilogue(node: Node, context: KernelContext, matrix: Array, channels: int) -> Epilogue:
    """The epilogue of a conv-like node whose channel c sums `matrix[:, c] * x`, with the accumulator's range proved.

    `CompileError` when the 32-bit accumulator of an int8 layer could overflow.
    """
    x = operand(node, 0)
    bounds = sum_bounds(matrix, context.ranges.of(x))
    low, high = bounds.low.copy(), bounds.high.copy()
    bias = optional_constant(node, "bias")
    if bias is not None:
        low += np.minimum(bias, 0)
        high += np.maximum(bias, 0)
    residual, residual_requant = node.operand("residual"), None
    residual_range: Range = (0, 0)
    if residual is not None:
        residual_requant = constant(node, "residual_requant")
        residual_range = context.ranges.of(residual)
        rows = parameters(residual_requant, "multiply")
        ends = np.array(residual_range, np.int64)[:, None] * rows.multiplier
        terms = arithmetic.rounding_shift_right(ends, rows.post_shift)
        low += np.minimum(terms.min(axis=0), 0)
        high += np.maximum(terms.max(axis=0), 0)
    limit = 1 << (31 if x.type.dtype is DType.INT8 else 63)
    worst = max(-int(low.min()), int(high.max()))
    if worst >= limit:
        channel = int(np.argmax(np.maximum(-low, high)))
        raise CompileError(
            f"{node.label}: the accumulator of channel {channel} can reach {worst}, the limit is {limit - 1}; "
            "its weights are too large for one layer, split the channels of its input or give it smaller weight ranges"
        )
    return Epilogue(
        optional_constant(node, "requant"),
        node.attributes,
        channels=channels,
        acc_range=(int(low.min()), int(high.max())),
        bias=bias,
        residual_requant=residual_requant,
        residual_range=residual_range,
    )


def conv_problem(node: Node, context: KernelContext) -> tuple[ConvSpec, Epilogue]:
    """What an engine is asked to compute for an `int_conv2d`."""
    weight = constant(node, "weight")
    n, c, h, w = shape_of(operand(node, 0))
    _, o, ho, wo = shape_of(node.result)
    spec = ConvSpec(
        x_shape=(n, h, w, c),
        out_shape=(n, ho, wo, o),
        weight=weight,
        stride=node.attributes["stride"],
        padding=node.attributes["padding"],
        dilation=node.attributes["dilation"],
        groups=node.attributes["groups"],
        x_range=context.ranges.of(operand(node, 0)),
        x_dtype=operand(node, 0).type.dtype,
    )
    return spec, accumulator_epilogue(node, context, weight.transpose(2, 3, 1, 0).reshape(-1, o), o)


@kernel("int_conv2d")
def int_conv2d(node: Node, context: KernelContext) -> Run:
    spec, epilogue = conv_problem(node, context)
    conv = context.engine.conv(spec, epilogue)
    dtype = node.result.type.dtype.numpy

    def run(operands: Sequence[Any]) -> Array:
        residual = operands[4] if len(operands) > 4 else None
        out = np.empty(spec.out_shape, dtype)
        conv(operands[0].transpose(0, 2, 3, 1), out, None if residual is None else channels_last(residual))
        return out.transpose(0, 3, 1, 2)

    return run


def transpose_problem(node: Node, context: KernelContext) -> tuple[TransposeSpec, Epilogue]:
    """What an `int_conv_transpose2d` computes."""
    weight, groups = constant(node, "weight"), node.attributes["groups"]
    n, c, h, w = shape_of(operand(node, 0))
    _, o, ho, wo = shape_of(node.result)
    grouped = weight.reshape(groups, c // groups, *weight.shape[1:])
    # Every product that can meet in one output pixel, per output channel.
    epilogue = accumulator_epilogue(node, context, grouped.transpose(1, 3, 4, 0, 2).reshape(-1, o), o)
    spec = TransposeSpec(
        x_shape=(n, h, w, c),
        out_shape=(n, ho, wo, o),
        weight=weight,
        stride=node.attributes["stride"],
        padding=node.attributes["padding"][:2],
        dilation=node.attributes["dilation"],
        groups=groups,
        x_range=context.ranges.of(operand(node, 0)),
        x_dtype=operand(node, 0).type.dtype,
    )
    return spec, epilogue


@kernel("int_conv_transpose2d")
def int_conv_transpose2d(node: Node, context: KernelContext) -> Run:
    """One product gives every input pixel's contribution to every tap; the taps are then added into the strided output."""
    spec, epilogue = transpose_problem(node, context)
    (n, h, w, c), (_, ho, wo, o), groups = spec.x_shape, spec.out_shape, spec.groups
    (th, tw), (dh, dw), (top, left) = spec.stride, spec.dilation, spec.padding
    per_group, kh, kw = spec.weight.shape[1:]
    grouped = spec.weight.reshape(groups, c // groups, per_group, kh, kw)
    exact = max(map(abs, epilogue.acc_range)) <= FLOAT32_EXACT
    dtype = np.dtype(np.float32 if exact else np.float64)
    matrices = np.ascontiguousarray(grouped.transpose(0, 1, 3, 4, 2).reshape(groups, c // groups, -1), dtype)
    height = max((h - 1) * th + dh * (kh - 1) + 1, top + ho)
    width = max((w - 1) * tw + dw * (kw - 1) + 1, left + wo)
    out_dtype = node.result.type.dtype.numpy
    scratch = context.workers.scratch

    def run(operands: Sequence[Any]) -> Array:
        x = operands[0].transpose(0, 2, 3, 1).reshape(n * h * w, groups, c // groups).transpose(1, 0, 2).astype(dtype)
        products = np.matmul(x, matrices).reshape(groups, n, h, w, kh, kw, per_group)
        acc = np.zeros((n, height, width, groups, per_group), dtype)
        for row in range(kh):
            for column in range(kw):
                target = acc[:, row * dh : row * dh + (h - 1) * th + 1 : th, column * dw : column * dw + (w - 1) * tw + 1 : tw]
                np.add(target, products[:, :, :, :, row, column].transpose(1, 2, 3, 0, 4), out=target)
        acc = np.ascontiguousarray(acc[:, top : top + ho, left : left + wo]).reshape(-1, o)
        out = np.empty((n, ho, wo, o), out_dtype)
        residual = operands[4] if len(operands) > 4 else None
        addend = None if residual is None else channels_last(residual).reshape(-1, o)
        epilogue.apply(acc, out.reshape(-1, o), scratch, residual=addend)
        return out.transpose(0, 3, 1, 2)

    return run
