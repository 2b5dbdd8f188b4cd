"""Resizing, sampling and normalization as modules. They are opened when a model is traced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hqc.checked import numeric
from hqc.errors import InputError


@numeric
class Interpolate(nn.Module):
    """`F.interpolate` with these arguments."""

    def __init__(
        self,
        size: Any = None,
        scale_factor: Any = None,
        mode: str = "bilinear",
        align_corners: bool | None = None,
        recompute_scale_factor: bool | None = None,
    ) -> None:
        super().__init__()
        self.size, self.scale_factor, self.mode = size, scale_factor, mode
        self.align_corners, self.recompute_scale_factor = align_corners, recompute_scale_factor

    def forward(self, input: Tensor) -> Tensor:
        return F.interpolate(
            input,
            size=self.size,
            scale_factor=self.scale_factor,
            mode=self.mode,
            align_corners=self.align_corners,
            recompute_scale_factor=self.recompute_scale_factor,
        )

    def extra_repr(self) -> str:
        return f"size={self.size}, scale_factor={self.scale_factor}, mode={self.mode}, align_corners={self.align_corners}"


@numeric
class GridSample(nn.Module):
    """`F.grid_sample` with these arguments: `[N,C,H,W]` and a grid `[N,H',W',2]` in -1..1 -> `[N,C,H',W']`."""

    def __init__(self, mode: str = "bilinear", padding_mode: str = "zeros", align_corners: bool | None = False) -> None:
        super().__init__()
        self.mode, self.padding_mode, self.align_corners = mode, padding_mode, align_corners

    def forward(self, input: Tensor, grid: Tensor) -> Tensor:
        return F.grid_sample(input, grid, self.mode, self.padding_mode, self.align_corners)

    def extra_repr(self) -> str:
        return f"mode={self.mode}, padding_mode={self.padding_mode}, align_corners={self.align_corners}"


@numeric
class LayerNorm(nn.Module):
    """`nn.LayerNorm`; with `dim` over that one axis instead of the last ones, e.g. `dim=1` for the channels of an image.

    With `dim` the parameters have the shape of `normalized_shape`, which broadcasts: `[C, 1, 1]` for the channels of an image.
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        device: Any = None,
        dtype: Any = None,
        dim: int | None = None,
    ) -> None:
        super().__init__()
        self.normalized_shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.eps, self.elementwise_affine, self.dim = eps, elementwise_affine, dim
        shape = self.normalized_shape
        self.weight = nn.Parameter(torch.ones(shape, device=device, dtype=dtype)) if elementwise_affine else None
        self.bias = nn.Parameter(torch.zeros(shape, device=device, dtype=dtype)) if elementwise_affine else None

    def forward(self, input: Tensor) -> Tensor:
        if self.dim is None:
            return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)
        mean = input.mean(self.dim, keepdim=True)
        centred = input - mean
        variance = (centred * centred).mean(self.dim, keepdim=True)
        result = centred * torch.rsqrt(variance + self.eps)
        return result if self.weight is None or self.bias is None else result * self.weight + self.bias

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}, dim={self.dim}"


@numeric
class RMSNorm(nn.Module):
    """Division by the root of the mean of squares over the last axes, `normalized_shape`, times a weight."""

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.normalized_shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.eps = torch.finfo(torch.float32).eps if eps is None else eps
        shape = self.normalized_shape
        self.weight = nn.Parameter(torch.ones(shape, device=device, dtype=dtype)) if elementwise_affine else None

    def forward(self, input: Tensor) -> Tensor:
        axes = tuple(range(-len(self.normalized_shape), 0))
        result = input * torch.rsqrt((input * input).mean(axes, keepdim=True) + self.eps)
        return result if self.weight is None else result * self.weight

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}"


@numeric
class BgrToYuv444(nn.Module):
    """BGR images (RGB with `channel_reversal`) as YUV444 of studio swing."""

    def __init__(self, channel_reversal: bool = False) -> None:
        super().__init__()
        self.channel_reversal = channel_reversal

    def forward(self, input: Tensor) -> Tensor:
        from hqc.nn.functional.images import bgr_to_yuv444

        return bgr_to_yuv444(input, self.channel_reversal)


@numeric
class Correlation(nn.Module):
    """Correlation of patches of two feature maps (Fischer et al., "FlowNet", ICCV 2015).

    `[N,C,H,W]` twice -> `[N, D*D, H', W']`, D = 2 * (max_displacement // stride2) + 1: the mean over channels and a `kernel_size`
    square patch of the products (of the absolute differences, with `is_multiply` False) with the second map shifted by multiples of
    `stride2`, row by row. H' = ceil((H + 2 pad_size - 2 (max_displacement + kernel_size // 2)) / stride1).
    """

    def __init__(
        self,
        kernel_size: int = 1,
        max_displacement: int = 1,
        stride1: int = 1,
        stride2: int = 1,
        pad_size: int = 0,
        is_multiply: bool = True,
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise InputError(f"Correlation: kernel_size must be odd, got {kernel_size}")
        self.kernel_size, self.max_displacement, self.stride1, self.stride2 = kernel_size, max_displacement, stride1, stride2
        self.pad_size, self.is_multiply = pad_size, is_multiply

    def forward(self, data1: Tensor, data2: Tensor) -> Tensor:
        padded = [F.pad(each, [self.pad_size] * 4) for each in (data1, data2)]
        height, width = padded[0].shape[2:]
        reach, radius = self.max_displacement, self.kernel_size // 2
        steps = [step * self.stride2 for step in range(-(reach // self.stride2), reach // self.stride2 + 1)]
        rows, columns = slice(reach, height - reach), slice(reach, width - reach)
        first = padded[0][:, :, rows, columns]
        maps = []
        for dy in steps:
            for dx in steps:
                second = padded[1][:, :, reach + dy : height - reach + dy, reach + dx : width - reach + dx]
                product = first * second if self.is_multiply else (first - second).abs()
                mean = product.mean(1, keepdim=True)
                maps.append(F.avg_pool2d(mean, self.kernel_size, 1) if radius else mean)
        return torch.cat(maps, 1)[:, :, :: self.stride1, :: self.stride1]
