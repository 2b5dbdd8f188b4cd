"""Sampling at computed positions. docs/arithmetic.md section 8."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from hqc import arithmetic, resampling
from hqc.ir import Node, Value
from hqc.ir.graph import constant_array
from hqc.passes.lower_to_integer import acceptance
from hqc.passes.lower_to_integer.context import Lowering
from hqc.passes.lower_to_integer.registry import lowers


@lowers("grid_sample", accepts=acceptance.sampling)
def grid_sample(node: Node, low: Lowering) -> None:
    """Fixed-point coordinates: by table from the integers of a computed grid, or those of a constant one, which is not quantized."""
    image, grid = node.operands
    x = low.on_grid(image, low.result_quant)
    sizes, align = low.shape(x)[2:], node.attributes["align_corners"]
    bits = resampling.grid_fraction_bits(*sizes)

    def coordinates(positions: npt.NDArray[Any], axis: int) -> npt.NDArray[np.int16]:
        return resampling.grid_coordinates(positions, sizes[axis], fraction_bits=bits, align_corners=align)

    attributes = {"mode": node.attributes["mode"], "padding_mode": node.attributes["padding_mode"], "fraction_bits": bits}
    if grid.is_parameter:
        positions = constant_array(grid)
        fixed = np.stack([coordinates(positions[..., 0], 1), coordinates(positions[..., 1], 0)], axis=-1)
        low.become("int_grid_sample", [x, low.parameter("coordinates", fixed)], attributes)
        return
    low.become("int_grid_sample", [x, grid, _table(low, grid, coordinates)], attributes)


def _table(low: Lowering, grid: Value, coordinates: Any) -> Value:
    """The coordinates, along width and height, of every integer that the grid may hold."""
    quant = low.quant(grid)
    positions = arithmetic.dequantize(np.arange(quant.dtype.qmin, quant.dtype.qmax + 1), quant.scale)
    return low.parameter("coordinates", np.stack([coordinates(positions, 1), coordinates(positions, 0)]))
