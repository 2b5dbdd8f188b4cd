"""Between the real and the quantized world."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hqc import arithmetic
from hqc.backends.bpu.kernels import (
    Array,
    KernelContext,
    Run,
    cannot_quantize,
    empty_result,
    flatten,
    in_blocks,
    kernel,
    operand,
    shape_of,
)
from hqc.errors import CompileError
from hqc.ir import Node, QuantParams, Value


def _quant(node: Node, value: Value) -> QuantParams:
    if value.quant is None or value.type.dtype.is_float:
        raise CompileError(f"{node.label}: {value.name} has no scale or is not an integer; run lower-to-integer first")
    return value.quant


@kernel("quantize")
def quantize(node: Node, context: KernelContext) -> Run:
    quant, dtype = _quant(node, node.result), node.result.type.dtype
    rounding, shape = node.attributes["rounding"], shape_of(node.result)
    scale, axis = quant.scale, quant.axis
    scratch = context.workers.scratch

    def run_per_channel(operands: Sequence[Any]) -> Array:
        return arithmetic.quantize(operands[0], scale, dtype.bits, rounding, axis).astype(dtype.numpy)

    def run(operands: Sequence[Any]) -> Array:
        source = flatten(np.asarray(operands[0], np.float32))
        out, flat = empty_result(shape, dtype.numpy)

        def block(where: slice) -> None:
            ratio = scratch.take("ratio", (where.stop - where.start,), np.float32)
            with np.errstate(over="ignore", invalid="ignore"):
                np.divide(source[where], scale, out=ratio)
            if np.isnan(ratio.min()):  # a minimum over NaN is NaN
                raise cannot_quantize(node)
            if rounding == "half_even":
                np.rint(ratio, out=ratio)
            else:
                with np.errstate(invalid="ignore"):  # infinities saturate
                    ratio = arithmetic.round_to_int(ratio, rounding)
            np.clip(ratio, dtype.qmin, dtype.qmax, out=ratio)
            np.copyto(flat[where], ratio, casting="unsafe")

        in_blocks(context.workers, flat.size, block)
        return out

    return run if axis is None else run_per_channel


@kernel("dequantize")
def dequantize(node: Node, context: KernelContext) -> Run:
    quant = _quant(node, operand(node, 0))

    def run(operands: Sequence[Any]) -> Array:
        return arithmetic.dequantize(operands[0], quant.scale, quant.axis)

    return run
