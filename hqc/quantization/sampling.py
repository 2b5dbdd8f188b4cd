"""Sampling in fixed point, section 8 of the arithmetic, as torch operations: what the BPU makes of `F.grid_sample`."""

from __future__ import annotations

import torch
from torch import Tensor

from hqc import arithmetic, resampling


def fixed_positions(grid: Tensor, size: int, *, fraction_bits: int, align_corners: bool) -> Tensor:
    """`resampling.grid_coordinates` as pixels in float64, with the gradient of the coordinates before they were rounded."""
    position = grid.double()
    pixel = (position + 1.0) * (size - 1) * 0.5 if align_corners else ((position + 1.0) * size - 1.0) * 0.5
    low, high = arithmetic.bounds(16)
    fixed = (pixel.detach() * (1 << fraction_bits) + 0.5).floor().clamp(low, high) / (1 << fraction_bits)
    return fixed + (pixel - pixel.detach())


def _taps(position: Tensor, size: int, mode: str, padding_mode: str) -> list[tuple[Tensor, Tensor]]:
    """`resampling.grid_taps`, with real weights."""
    if padding_mode == "border":
        position = position.clamp(0, size - 1)
    if mode == "nearest":
        low = (position.detach() + 0.5).floor()
        taps = [(low, torch.ones_like(low))]
    else:
        low = position.detach().floor()
        fraction = position - low
        taps = [(low, 1.0 - fraction), (low + 1, fraction)]
    return [
        (index.clamp(0, size - 1).long(), torch.where((index >= 0) & (index < size), weight, torch.zeros_like(weight)))
        for index, weight in taps
    ]


def sample_in_fixed_point(x: Tensor, grid: Tensor, mode: str, padding_mode: str, align_corners: bool) -> Tensor:
    """`F.grid_sample(x, grid, mode, padding_mode, align_corners)` at coordinates rounded as the BPU rounds them.

    `x` `[N,C,H,W]`, `grid` `[N,H',W',2]` -> `[N,C,H',W']` of x's dtype; bilinear or nearest, zeros or border. Weights are exact in
    float32; gradients are those of `F.grid_sample` at the rounded coordinates.
    """
    height, width = x.shape[2:]
    bits = resampling.grid_fraction_bits(height, width)
    axes = []
    for axis, size in enumerate((width, height)):
        position = fixed_positions(grid[..., axis], size, fraction_bits=bits, align_corners=align_corners)
        axes.append(_taps(position, size, mode, padding_mode))
    pixels, shape = x.flatten(2), grid.shape[1:3]
    result = torch.zeros((), dtype=x.dtype, device=x.device)
    for row, down in axes[1]:
        for column, across in axes[0]:
            index = (row * width + column).flatten(1)[:, None].expand(-1, x.shape[1], -1)
            result = result + pixels.gather(2, index).reshape(*x.shape[:2], *shape) * (down * across)[:, None].to(x.dtype)
    return result
