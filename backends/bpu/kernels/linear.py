"""Linear layers and products of two activations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from hqc.backends.bpu.engines import ConvSpec
from hqc.backends.bpu.epilogue import Epilogue
from hqc.backends.bpu.kernels import Array, KernelContext, Run, constant, empty_result, flatten, kernel, operand, shape_of
from hqc.backends.bpu.kernels.conv import accumulator_epilogue
from hqc.backends.bpu.proof import FLOAT32_EXACT
from hqc.ir import Node


def linear_problem(node: Node, context: KernelContext) -> tuple[ConvSpec, Epilogue]:
    """What an engine is asked to compute for an `int_linear`: a 1x1 convolution over a column of `M` pixels."""
    weight = constant(node, "weight")
    shape = shape_of(operand(node, 0))
    outputs, inputs = weight.shape
    rows = math.prod(shape[:-1])
    spec = ConvSpec(
        x_shape=(1, rows, 1, inputs),
        out_shape=(1, rows, 1, outputs),
        weight=weight.reshape(outputs, inputs, 1, 1),
        stride=(1, 1),
        padding=(0, 0, 0, 0),
        dilation=(1, 1),
        groups=1,
        x_range=context.ranges.of(operand(node, 0)),
        x_dtype=operand(node, 0).type.dtype,
    )
    return spec, accumulator_epilogue(node, context, weight.T, outputs)


@kernel("int_linear")
def int_linear(node: Node, context: KernelContext) -> Run:
    spec, epilogue = linear_problem(node, context)
    conv = context.engine.conv(spec, epilogue)
    out_shape, dtype = shape_of(node.result), node.result.type.dtype.numpy

    def run(operands: Sequence[Any]) -> Array:
        residual = operands[4] if len(operands) > 4 else None
        out = np.empty(spec.out_shape, dtype)
        addend = None if residual is None else np.ascontiguousarray(residual).reshape(spec.out_shape)
        conv(operands[0].reshape(spec.x_shape), out, addend)
        return out.reshape(out_shape)

    return run


def matmul_problem(node: Node, context: KernelContext) -> Epilogue:
    """What becomes of the sums of an `int_matmul`, with their range."""
    a, b = operand(node, 0), operand(node, 1)
    reduction = shape_of(a)[-1]
    ends = [x * y for x in context.ranges.of(a) for y in context.ranges.of(b)]
    acc_range = reduction * min(0, *ends), reduction * max(0, *ends)
    return Epilogue(constant(node, "requant"), node.attributes, channels=1, acc_range=acc_range)


@kernel("int_matmul")
def int_matmul(node: Node, context: KernelContext) -> Run:
    epilogue = matmul_problem(node, context)
    dtype = np.dtype(np.float32 if max(map(abs, epilogue.acc_range)) <= FLOAT32_EXACT else np.float64)
    out_shape, out_dtype = shape_of(node.result), node.result.type.dtype.numpy
    scratch = context.workers.scratch

    def run(operands: Sequence[Any]) -> Array:
        acc = np.matmul(operands[0].astype(dtype), operands[1].astype(dtype))
        out, flat = empty_result(out_shape, out_dtype)
        epilogue.apply(np.ascontiguousarray(flatten(acc.reshape(out_shape)))[:, None], flat[:, None], scratch)
        return out

    return run
