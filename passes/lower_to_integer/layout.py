"""Ops that move or select elements: integers pass through them. docs/arithmetic.md sections 5, 7 and 8."""

from __future__ import annotations

import numpy as np

from hqc import arithmetic, resampling
from hqc.ir import DType, Node, QuantParams, Trait
from hqc.march.spec import MarchSpec
from hqc.passes.conv_scales import tensor_scale
from hqc.passes.lower_to_integer import acceptance
from hqc.passes.lower_to_integer.context import Lowering
from hqc.passes.lower_to_integer.registry import lowers

RESIZE_TOLERANCE = 0.125
"""Largest distance, in input pixels, between fixed-point and real coordinates that goes without a remark."""


def operand_grid(low: Lowering, node: Node) -> QuantParams:
    """The grid a scale-keeping node works on: its result's; a high-precision value stays on its own per-channel grid."""
    quant = low.quant(node.results[0])
    return low.quant(node.operands[0]) if quant.dtype is DType.INT32 else quant


@lowers(Trait.PASS_THROUGH)
def move(node: Node, low: Lowering) -> None:
    """The same op on integers, for all that keep their operand's scale by moving or selecting elements."""
    x, *rest = node.inputs
    assert x is not None
    if not node.results[0].type.dtype.is_float:
        low.keep(node.inputs)
        return
    low.keep([low.on_grid(x, operand_grid(low, node)), *rest])


def _coarsest(node: Node, march: MarchSpec) -> float:
    return max((tensor_scale(value, node) for value in node.data_operands), default=0.0)


@lowers("pad", accumulator_scale=_coarsest, accepts=acceptance.padding)
def pad(node: Node, low: Lowering) -> None:
    """Pad with the quantized value; a result with a scale of its own, which holds the value, is requantized to first."""
    quant = low.result_quant
    value = arithmetic.quantize(np.float32(node.attributes["value"]), quant.scale, quant.dtype.bits, quant.rounding)
    low.keep([low.on_grid(node.operands[0], quant)], {"value": float(value)})


@lowers("cat", accumulator_scale=_coarsest, accepts=acceptance.usable_constants)
def cat(node: Node, low: Lowering) -> None:
    """Every operand on the result's grid."""
    low.keep([low.on_grid(value, low.result_quant) for value in node.operands])


@lowers("resize2d", accepts=acceptance.resize)
def resize2d(node: Node, low: Lowering) -> None:
    """Fixed-point coordinates with the march's number of fraction bits."""
    mode, align = node.attributes["mode"], node.attributes["align_corners"]
    if mode not in ("nearest", "bilinear"):
        raise low.refuse(f"the BPU resizes nearest or bilinear, not {mode}; let it run on the CPU")
    x = low.on_grid(node.operands[0], low.result_quant)
    size_in, size_out = low.shape(x)[2:], low.shape(node.result)[2:]
    bits, named = low.march.resize_fraction_bits, node.attributes["scale_factor"] if node.attributes["size"] is None else ()
    exact = all(resampling.resize_factor(*sizes) is None for sizes in zip(size_in, size_out, named, strict=False))
    factors = () if exact else named
    error = max(
        resampling.resize_error(a, b, fraction_bits=bits, mode=mode, align_corners=align, factor=factor)
        for a, b, factor in zip(size_in, size_out, factors or (None, None), strict=True)
    )
    if error > RESIZE_TOLERANCE:
        low.remark(
            f"resizing {size_in[0]}x{size_in[1]} to {size_out[0]}x{size_out[1]} with {bits} fraction bits is off by up to "
            f"{error:.3g} pixels; results differ from floating point by more than rounding"
        )
    attributes = {"size": size_out, "scale_factor": factors, "mode": mode, "align_corners": align, "fraction_bits": bits}
    low.become("int_resize2d", [x], attributes)
