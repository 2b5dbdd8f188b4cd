"""Resize in fixed point, docs/arithmetic.md section 8."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hqc import resampling
from hqc.backends.bpu.kernels import Array, KernelContext, Run, kernel, operand, shape_of
from hqc.ir import Node


def source_positions(size_in: int, axis: int, node: Node) -> tuple[Array, Array, Array]:
    """Per output index along height (axis 0) or width (1): the two source indices and the 8-bit weight of the second one."""
    bits, mode, factors = (node.attributes[name] for name in ("fraction_bits", "mode", "scale_factor"))
    coordinates = resampling.resize_coordinates(
        size_in,
        node.attributes["size"][axis],
        fraction_bits=bits,
        mode=mode,
        align_corners=node.attributes["align_corners"],
        factor=factors[axis] if factors else None,
    )
    coordinates = np.clip(coordinates, 0, (size_in - 1) << bits)
    first = coordinates >> bits
    fraction = (coordinates & ((1 << bits) - 1)) >> (bits - 8)
    return first, np.minimum(first + 1, size_in - 1), fraction.astype(np.int32)


@kernel("int_resize2d")
def int_resize2d(node: Node, context: KernelContext) -> Run:
    _, _, height, width = shape_of(operand(node, 0))
    top, bottom, down = source_positions(height, 0, node)
    left, right, across = source_positions(width, 1, node)
    dtype = node.result.type.dtype.numpy

    def nearest(operands: Sequence[Any]) -> Array:
        x = operands[0].transpose(0, 2, 3, 1)
        return np.take(np.take(x, top, axis=1), left, axis=2).transpose(0, 3, 1, 2)

    def bilinear(operands: Sequence[Any]) -> Array:
        """The sum of four products, two by two: |x| * 2^16 fits int32 for int16 operands too."""
        x = operands[0].transpose(0, 2, 3, 1).astype(np.int32)
        weight = across[:, None]
        wide = np.take(x, left, axis=2) * (256 - weight) + np.take(x, right, axis=2) * weight
        weight = down[:, None, None]
        full = np.take(wide, top, axis=1) * (256 - weight) + np.take(wide, bottom, axis=1) * weight
        return np.asarray(full >> 16, dtype).transpose(0, 3, 1, 2)

    return nearest if node.attributes["mode"] == "nearest" else bilinear
