"""Colour spaces of camera images.

Conversions take `[N,3,H,W]` with values 0..255 (any dtype) and return float32. Luma and chroma are those of ITU-R BT.601;
`swing="studio"` uses Y in 16..235 and U, V in 16..240, `"full"` the whole range. *Centered* values lie around 0: 128 less.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hqc.checked import numeric
from hqc.errors import InputError

_KR, _KB = 0.299, 0.114
"""Weights of red and blue in luma (BT.601)."""
_SWINGS = {"full": (0.0, 1.0, 1.0), "studio": (16.0, 219.0 / 255.0, 224.0 / 255.0)}
"""Offset of Y, and how much of 0..255 luma and chroma use."""


def _matrix(swing: str) -> tuple[Tensor, float]:
    """RGB -> YUV around 0 as `[3,3]`, and the offset of Y."""
    if swing not in _SWINGS:
        raise InputError(f"swing must be one of {', '.join(_SWINGS)}, got {swing!r}")
    offset, luma, chroma = _SWINGS[swing]
    y = torch.tensor([_KR, 1.0 - _KR - _KB, _KB], dtype=torch.float64)
    red, blue = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64), torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    u, v = (blue - y) / (2.0 * (1.0 - _KB)), (red - y) / (2.0 * (1.0 - _KR))
    return torch.stack([y * luma, u * chroma, v * chroma]), offset


def _images(input: Tensor, channels: int = 3) -> Tensor:
    if input.dim() < 3 or input.shape[-3] != channels:
        raise InputError(f"a colour conversion takes images [N,{channels},H,W], got shape {list(input.shape)}")
    return input.float()


def _mix(matrix: Tensor, images: Tensor) -> Tensor:
    """`matrix` times the channels of every pixel."""
    return torch.einsum("oc,...chw->...ohw", matrix.to(images.device, images.dtype), images)


@numeric
def rgb2bgr(input: Tensor) -> Tensor:
    """The channels in the other order; the dtype stays."""
    return input.flip(-3)


@numeric
def bgr2rgb(input: Tensor) -> Tensor:
    """The channels in the other order; the dtype stays."""
    return input.flip(-3)


@numeric
def rgb2yuv(input: Tensor, swing: str = "studio") -> Tensor:
    """YUV444 with U and V around 128."""
    matrix, offset = _matrix(swing)
    return _mix(matrix, _images(input)) + torch.tensor([offset, 128.0, 128.0], device=input.device).view(3, 1, 1)


@numeric
def bgr2yuv(input: Tensor, swing: str = "studio") -> Tensor:
    """YUV444 with U and V around 128."""
    return rgb2yuv(bgr2rgb(input), swing)


@numeric
def rgb2centered_yuv(input: Tensor, swing: str = "studio") -> Tensor:
    """YUV444 around 0: the form in which the BPU takes camera images."""
    return rgb2yuv(input, swing) - 128.0


@numeric
def bgr2centered_yuv(input: Tensor, swing: str = "studio") -> Tensor:
    """YUV444 around 0: the form in which the BPU takes camera images."""
    return rgb2centered_yuv(bgr2rgb(input), swing)


@numeric
def centered_yuv2rgb(
    input: Tensor, swing: str = "studio", mean: object = 128.0, std: object = 128.0, q_scale: object = 1.0
) -> Tensor:
    """The inverse of `rgb2centered_yuv`, then normalized: `(rgb - mean) / std`, rounded to multiples of `q_scale` within int8.

    What a BPU model of RGB images gets from a camera that delivers YUV. `mean`, `std`, `q_scale`: numbers or one per channel;
    mean 0, std 1 and q_scale None give plain RGB.
    """
    matrix, offset = _matrix(swing)
    centre = torch.tensor([offset - 128.0, 0.0, 0.0], device=input.device).view(3, 1, 1)
    rgb = _mix(torch.linalg.inv(matrix), _images(input) - centre).clamp(0.0, 255.0)
    normal = (rgb - _per_channel(mean, rgb)) / _per_channel(std, rgb)
    if q_scale is None:
        return normal
    scale = _per_channel(q_scale, rgb)
    return (normal / scale).round().clamp(-128, 127) * scale


@numeric
def centered_yuv2bgr(
    input: Tensor, swing: str = "studio", mean: object = 128.0, std: object = 128.0, q_scale: object = 1.0
) -> Tensor:
    """As `centered_yuv2rgb` with the channels as BGR; `mean`, `std` and `q_scale` are in that order."""
    swapped = [
        value if value is None else _per_channel(value, input.float()).expand(3, 1, 1).flip(0) for value in (mean, std, q_scale)
    ]
    return centered_yuv2rgb(input, swing, *swapped).flip(-3)


@numeric
def rgb2gray(input: Tensor) -> Tensor:
    """Luma of the full range, `[N,1,H,W]`."""
    return _mix(_matrix("full")[0][:1], _images(input))


@numeric
def bgr2gray(input: Tensor) -> Tensor:
    """Luma of the full range, `[N,1,H,W]`."""
    return rgb2gray(bgr2rgb(input))


@numeric
def rgb2centered_gray(input: Tensor) -> Tensor:
    """Luma around 0, `[N,1,H,W]`."""
    return rgb2gray(input) - 128.0


@numeric
def bgr2centered_gray(input: Tensor) -> Tensor:
    """Luma around 0, `[N,1,H,W]`."""
    return bgr2gray(input) - 128.0


def _per_channel(value: object, like: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=like.dtype, device=like.device).reshape(-1, 1, 1)
