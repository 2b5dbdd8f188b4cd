"""Colour spaces of camera images, sorting and non-maximum suppression, as torch functions."""

from __future__ import annotations

import torch
from torch import Tensor

from hqc.checked import numeric
from hqc.nn.functional.boxes import batched_nms_with_padding, nms, nms_rotated
from hqc.nn.functional.colours import (
    bgr2centered_gray,
    bgr2centered_yuv,
    bgr2gray,
    bgr2rgb,
    bgr2yuv,
    centered_yuv2bgr,
    centered_yuv2rgb,
    rgb2bgr,
    rgb2centered_gray,
    rgb2centered_yuv,
    rgb2gray,
    rgb2yuv,
)

__all__ = [
    "batched_nms_with_padding",
    "bgr2centered_gray",
    "bgr2centered_yuv",
    "bgr2gray",
    "bgr2rgb",
    "bgr2yuv",
    "centered_yuv2bgr",
    "centered_yuv2rgb",
    "nms",
    "nms_rotated",
    "rgb2bgr",
    "rgb2centered_gray",
    "rgb2centered_yuv",
    "rgb2gray",
    "rgb2yuv",
    "sort",
]


@numeric
def sort(input: Tensor, dim: int = -1, descending: bool = False, stable: bool = False) -> tuple[Tensor, Tensor]:
    """Values and indices, as `torch.sort`; equal values keep their order."""
    del stable
    values, indices = torch.sort(input, dim=dim, descending=descending, stable=True)
    return values, indices
