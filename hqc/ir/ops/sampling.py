"""Sampling of images `[N,C,H,W]` at positions that are computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hqc.errors import ShapeError
from hqc.ir.op import Array, Attr, Attributes, OperandTypes, Trait, op
from hqc.ir.ops._shapes import agree, first, present, shown, sizes_of_rank
from hqc.ir.ops.pooling import cubic_weights
from hqc.ir.types import TensorType

SAMPLING = (
    Attr("mode", "str", "bilinear", choices=("bilinear", "nearest", "bicubic")),
    Attr("padding_mode", "str", "zeros", choices=("zeros", "border", "reflection")),
    Attr("align_corners", "bool", False),
)


def sampled(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """Inference: the image's batch and channels, the grid's height and width."""
    x, grid = first(types), present(types, 1)
    n, c, *_ = sizes_of_rank(x, 4)
    batch, height, width, pair = sizes_of_rank(grid, 4, "the grid")
    if not agree((n, 2), (batch, pair)):
        raise ShapeError(f"a grid of {shown((batch, height, width, pair))} does not fit the images {shown((n, c, *_))}")
    return [x.with_shape((n if n is not None else batch, c, height, width))]


def unnormalized(grid: Array, size: int, align_corners: bool) -> Array:
    """Pixel coordinates of positions -1..1 along an axis of `size` pixels, in the grid's float type."""
    number = grid.dtype.type
    if align_corners:
        return np.asarray((grid + number(1)) * number((size - 1) / 2))
    return np.asarray((grid + number(1)) * number(size / 2) - number(0.5))


def _padded(position: Array, size: int, attributes: Attributes) -> Array:
    """Where positions beside the image are read: as they are (zeros), at its border, or mirrored at it."""
    if attributes["padding_mode"] == "zeros":
        return position
    if attributes["padding_mode"] == "reflection":
        low, span = (0.0, size - 1.0) if attributes["align_corners"] else (-0.5, float(size))
        if span == 0:
            return np.zeros_like(position)
        away = np.abs(position - low)
        turns = np.floor(away / span)
        rest = away - turns * span
        position = low + np.where(turns % 2 == 0, rest, span - rest)
    return np.asarray(np.clip(position, 0, size - 1))


def _taps(grid: Array, size: int, attributes: Attributes) -> list[tuple[Array, Array]]:
    """Along one axis: indices within the image with their weights, by torch's formulas."""
    position = unnormalized(grid, size, attributes["align_corners"])
    position = np.clip(position, -(2.0**30), 2.0**30)  # no index is lost, and all are integers
    if attributes["mode"] == "nearest":
        found = [(np.round(_padded(position, size, attributes)), np.ones(position.shape))]
    elif attributes["mode"] == "bilinear":
        position = _padded(position, size, attributes)
        low = np.floor(position)
        found = [(low, 1.0 - (position - low)), (low + 1, position - low)]
    else:
        low = np.floor(position)
        t = (position - low).astype(np.float64)
        weights = cubic_weights(np.stack([t + 1, t, 1 - t, 2 - t]))
        found = [(_padded(low + offset, size, attributes), weights[offset + 1]) for offset in range(-1, 3)]
    return [
        (np.clip(index, 0, size - 1).astype(np.int64), np.where((index >= 0) & (index < size), weight, 0.0).astype(np.float64))
        for index, weight in found
    ]


def _grid_sample(arrays: Sequence[Any], attributes: Attributes) -> Array:
    x, grid = arrays
    images, (n, height, width, _) = x.transpose(0, 2, 3, 1).astype(np.float64), grid.shape
    batch = np.arange(n)[:, None, None]
    result = np.zeros((n, height, width, x.shape[1]))
    columns = _taps(grid[..., 0], x.shape[3], attributes)
    for row, down in _taps(grid[..., 1], x.shape[2], attributes):
        for column, across in columns:
            result += images[batch, row, column] * (down * across)[..., None]
    return np.asarray(result.transpose(0, 3, 1, 2))


@op(
    "grid_sample",
    operands="x, grid",
    attributes=SAMPLING,
    traits={Trait.PASS_THROUGH, Trait.OFF_GRID, Trait.SAMPLES},
    compute=_grid_sample,
)
def grid_sample(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """`torch.nn.functional.grid_sample` in 2-D: images `[N,C,H,W]` at positions `[N,H',W',2]`, (x, y) from -1 to 1."""
    return sampled(types, attributes)
