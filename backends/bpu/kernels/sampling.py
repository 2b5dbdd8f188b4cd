"""Sampling in fixed point, docs/arithmetic.md section 8."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hqc import resampling
from hqc.backends.bpu.kernels import Array, KernelContext, Run, kernel, operand, shape_of
from hqc.ir import Node

_BLOCK = 1 << 18
"""Elements of the result that are computed at a time: the sums of a block stay in the cache."""


@kernel("int_grid_sample")
def int_grid_sample(node: Node, context: KernelContext) -> Run:
    batch, channels, height, width = shape_of(operand(node, 0))
    attributes = node.attributes
    options = {name: attributes[name] for name in ("mode", "padding_mode", "fraction_bits")}
    dtype, shift = node.result.type.dtype.numpy, 2 * attributes["fraction_bits"]
    lowest = operand(node, 1).type.dtype.qmin
    bilinear = attributes["mode"] == "bilinear"
    positions = max(1, _BLOCK // channels)

    def run(operands: Sequence[Any]) -> Array:
        x, grid = operands[:2]
        table = operands[2] if len(operands) > 2 else None
        pixels = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).reshape(-1, channels)
        axes = []
        for axis, size in enumerate((width, height)):
            fixed = grid[..., axis] if table is None else table[axis][grid[..., axis].astype(np.int32) - lowest]
            axes.append(resampling.grid_taps(fixed, size, **options))
        first = (np.arange(batch) * (height * width))[:, None, None]
        taps = [
            ((first + row * width + column).reshape(-1), (down * across).astype(np.int32).reshape(-1, 1))
            for row, down in axes[1]
            for column, across in axes[0]
        ]
        result = np.empty((grid.shape[0] * grid.shape[1] * grid.shape[2], channels), dtype)
        for start in range(0, len(result), positions):
            block = slice(start, start + positions)
            total = sum(pixels[index[block]] * weight[block] for index, weight in taps)  # |x| * 2^16 fits int32
            result[block] = total >> shift if bilinear else total
        return result.reshape(*grid.shape[:3], channels).transpose(0, 3, 1, 2)

    return run
