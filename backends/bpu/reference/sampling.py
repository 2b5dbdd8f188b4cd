"""Definition of the fixed-point grid sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hqc.backends.bpu.reference import Array, reference
from hqc.ir import Node


@reference("int_grid_sample")
def int_grid_sample(node: Node, operands: Sequence[Any]) -> Array:
    x, grid, table = operands[0].astype(np.int64), operands[1], operands[2]
    n, c, h, w = x.shape
    bits, bilinear = node.attributes["fraction_bits"], node.attributes["mode"] == "bilinear"
    border, one = node.attributes["padding_mode"] == "border", 1 << node.attributes["fraction_bits"]
    lowest = int(np.iinfo(grid.dtype).min)

    def coordinate(axis: int, q: int, size: int) -> int:
        fixed = q if table is None else int(table[axis, q - lowest])
        return min(max(fixed, 0), (size - 1) * one) if border else fixed

    def pixel(image: int, row: int, column: int) -> Array:
        inside = 0 <= row < h and 0 <= column < w
        return x[image, :, row, column] if inside else np.zeros(c, np.int64)

    out = np.zeros((n, c, *grid.shape[1:3]), np.int64)
    for image, i, j in np.ndindex(grid.shape[:3]):
        across, down = coordinate(0, int(grid[image, i, j, 0]), w), coordinate(1, int(grid[image, i, j, 1]), h)
        if not bilinear:
            out[image, :, i, j] = pixel(image, (down + one // 2) >> bits, (across + one // 2) >> bits)
            continue
        row, column = down >> bits, across >> bits
        below, right = down - row * one, across - column * one
        total = pixel(image, row, column) * (one - below) * (one - right)
        total = total + pixel(image, row, column + 1) * (one - below) * right
        total = total + pixel(image, row + 1, column) * below * (one - right)
        total = total + pixel(image, row + 1, column + 1) * below * right
        out[image, :, i, j] = total >> (2 * bits)
    return out.astype(operands[0].dtype)
