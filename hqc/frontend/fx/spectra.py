"""Fourier transforms and arithmetic of complex numbers as functions of real tensors: a real and an imaginary part.

A transform of n points is a product with the matrix of exp(-2 pi i j k / n), cut into its parts, which every runtime has. Each function is
one call of a graph, on the CPU: what is rounded to 8 bits loses the dynamic range of a spectrum.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor


@functools.lru_cache(64)
def _waves(rows: int, columns: int, points: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    turns = np.outer(np.arange(rows), np.arange(columns)) % points  # angles are reduced before they are rounded
    angles = 2 * math.pi / points * turns
    cos, sin = (
        np.where(np.abs(wave) < 1e-12, 0.0, wave) for wave in (np.cos(angles), np.sin(angles))
    )  # an angle asks for the sign of 0
    return cos.astype(np.float32), sin.astype(np.float32)


def _wave(rows: int, columns: int, points: int) -> tuple[Tensor, Tensor]:
    """cos and sin of 2 pi j k / points for j < rows and k < columns. Arrays are kept and not tensors, which may be fake ones."""
    cos, sin = _waves(rows, columns, points)
    return torch.from_numpy(cos), torch.from_numpy(sin)


def _scale(points: int, norm: str | None, inverse: bool) -> float:
    if norm == "ortho":
        return 1 / math.sqrt(points)
    return 1 / points if (norm == "forward") != inverse else 1.0


def _sized(x: Tensor, points: int) -> Tensor:
    """The last axis cut, or filled with zeros, to this size."""
    if x.shape[-1] > points:
        return x[..., :points]
    return F.pad(x, (0, points - x.shape[-1])) if x.shape[-1] < points else x


def transform(re: Tensor, im: Tensor | None, points: int, dim: int, norm: str | None, inverse: bool) -> tuple[Tensor, Tensor]:
    """`torch.fft.fft` and `ifft` of `re + i im` along `dim`, as parts: X[k] = scale * sum over j of x[j] exp(-+2 pi i j k / n)."""
    cos, sin = _wave(points, points, points)
    scale = _scale(points, norm, inverse)
    cos, sin = cos.to(re.device) * scale, sin.to(re.device) * (-scale if inverse else scale)
    re = _sized(re.transpose(dim, -1), points)
    if im is None:
        return (re @ cos).transpose(dim, -1), (re @ -sin).transpose(dim, -1)
    im = _sized(im.transpose(dim, -1), points)
    return (re @ cos + im @ sin).transpose(dim, -1), (im @ cos - re @ sin).transpose(dim, -1)


def half_transform(x: Tensor, points: int, dim: int, norm: str | None) -> tuple[Tensor, Tensor]:
    """`torch.fft.rfft` along `dim`, as parts: the first n // 2 + 1 frequencies of a real signal."""
    cos, sin = _wave(points, points // 2 + 1, points)
    scale = _scale(points, norm, False)
    x = _sized(x.transpose(dim, -1), points)
    return (x @ (cos.to(x.device) * scale)).transpose(dim, -1), (x @ (sin.to(x.device) * -scale + 0.0)).transpose(dim, -1)


def from_half(re: Tensor, im: Tensor, points: int, dim: int, norm: str | None) -> Tensor:
    """`torch.fft.irfft` along `dim`: frequencies but the first, and the middle one of an even n, count twice."""
    cos, sin = _inverse_half(points, _scale(points, norm, True))
    re, im = (_sized(part.transpose(dim, -1), points // 2 + 1) for part in (re, im))
    return (re @ cos.to(re.device) - im @ sin.to(re.device)).transpose(dim, -1)


def _inverse_half(points: int, scale: float) -> tuple[Tensor, Tensor]:
    cos, sin = _wave(points // 2 + 1, points, points)
    counted = torch.full((points // 2 + 1, 1), 2.0 * scale)
    counted[0] = scale
    if points % 2 == 0:
        counted[-1] = scale
    return cos * counted, sin * counted


def short_time(
    x: Tensor, window: Tensor | None, points: int, hop: int, center: bool, pad_mode: str, normalized: bool, onesided: bool
) -> tuple[Tensor, Tensor]:
    """`torch.stft` of real signals [..., samples] as parts [..., frequencies, frames]: a convolution with windowed waves."""
    shape = x.shape
    rows = x.reshape(-1, 1, shape[-1])
    if center:
        rows = F.pad(rows, (points // 2, points // 2), mode=pad_mode)
    count = points // 2 + 1 if onesided else points
    cos, sin = (part.to(x.device).t() for part in _wave(points, count, points))
    kernel = torch.cat([cos, -sin]) * _framed(window, points, x.device) * (1 / math.sqrt(points) if normalized else 1.0)
    found = F.conv1d(rows, kernel.unsqueeze(1), stride=hop).reshape(*shape[:-1], 2, count, -1)
    return found.select(-3, 0), found.select(-3, 1)


def overlapped(
    re: Tensor, im: Tensor, window: Tensor | None, points: int, hop: int, center: bool, normalized: bool, length: int | None
) -> Tensor:
    """`torch.istft` of parts [..., n // 2 + 1, frames]: windowed waves added where frames overlap, over the sum of squared windows."""
    shape = re.shape
    framed = _framed(window, points, re.device)
    cos, sin = _inverse_half(points, 1 / math.sqrt(points) if normalized else 1 / points)
    kernel = torch.cat([cos.to(re.device), -sin.to(re.device)]) * framed
    parts = torch.cat([re, im], -2).reshape(-1, 2 * (points // 2 + 1), shape[-1])
    found = F.conv_transpose1d(parts, kernel.unsqueeze(1), stride=hop)
    weights = F.conv_transpose1d(torch.ones(1, 1, shape[-1], device=re.device), framed.square().reshape(1, 1, -1), stride=hop)
    begin = points // 2 if center else 0
    end = found.shape[-1] - begin if length is None else begin + length
    result = found[..., begin:end] / weights[..., begin:end]
    return _sized(result, length if length is not None else result.shape[-1]).reshape(*shape[:-2], -1)


def _framed(window: Tensor | None, points: int, device: Any) -> Tensor:
    """The window in the middle of a frame."""
    if window is None:
        return torch.ones(points, device=device)
    missing = points - window.shape[0]
    return F.pad(window.to(device), (missing // 2, missing - missing // 2))


def magnitude(re: Tensor, im: Tensor) -> Tensor:
    """|re + i im|, with a gradient of 0 at 0, as torch's."""
    size: Tensor = torch.linalg.vector_norm(torch.stack([re, im], -1), dim=-1)
    return size


def phase(re: Tensor, im: Tensor) -> Tensor:
    """The angle of re + i im."""
    return torch.atan2(im, re)


def product(a: Tensor, b: Tensor | None, c: Any, d: Any) -> tuple[Tensor, Tensor]:
    """(a + i b)(c + i d); None for an imaginary part of 0."""
    if d is None:
        return a * c, b * c
    return (a * c, a * d) if b is None else (a * c - b * d, a * d + b * c)


def quotient(a: Any, b: Tensor | None, c: Any, d: Any) -> tuple[Tensor, Tensor]:
    """(a + i b) / (c + i d); None for an imaginary part of 0."""
    if d is None:
        return a / c, b / c
    size = c * c + d * d
    if b is None:
        return a * c / size, -a * d / size
    return (a * c + b * d) / size, (b * c - a * d) / size


def contracted(equation: str | None, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    """The matrix product, or that of an einsum, of (a + i b) and (c + i d)."""

    def times(left: Tensor, right: Tensor) -> Tensor:
        return left @ right if equation is None else torch.einsum(equation, left, right)

    return times(a, c) - times(b, d), times(a, d) + times(b, c)


def of_polar(size: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """`torch.polar` as parts."""
    return size * torch.cos(angle), size * torch.sin(angle)


def exponential(re: Tensor, im: Tensor) -> tuple[Tensor, Tensor]:
    """exp(re + i im) as parts."""
    return of_polar(torch.exp(re), im)
