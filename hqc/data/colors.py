"""RGB, YUV 4:4:4, NV12 and grey, as cameras and hb_mapper know them. All images are uint8.

Formulas: ITU-R BT.601. `video`: luma in 16..235 and chroma in 16..240, what hb_mapper calls `bt601_video`; otherwise both in
0..255 (`regular`, as in JPEG).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]

_LUMA = np.array([0.299, 0.587, 0.114])
_TO_YUV = np.array(
    [_LUMA, (np.array([0, 0, 1]) - _LUMA) / (2 * (1 - 0.114)), (np.array([1, 0, 0]) - _LUMA) / (2 * (1 - 0.299))]
)
_FROM_YUV = np.linalg.inv(_TO_YUV)
_VIDEO_GAIN = np.array([219.0, 224.0, 224.0]) / 255.0
_VIDEO_OFFSET = np.array([16.0, 128.0, 128.0])
_FULL_OFFSET = np.array([0.0, 128.0, 128.0])


def _rounded(values: npt.NDArray[Any]) -> Image:
    return np.clip(np.floor(values + 0.5), 0, 255).astype(np.uint8)


def rgb_to_yuv444(rgb: Image, *, video: bool = False) -> Image:
    """`[H,W,3]` RGB -> `[H,W,3]` YUV."""
    yuv = rgb.astype(np.float64) @ _TO_YUV.T
    return _rounded(yuv * _VIDEO_GAIN + _VIDEO_OFFSET if video else yuv + _FULL_OFFSET)


def yuv444_to_rgb(yuv: Image, *, video: bool = False) -> Image:
    """`[H,W,3]` YUV -> `[H,W,3]` RGB."""
    values = yuv.astype(np.float64)
    centred = (values - _VIDEO_OFFSET) / _VIDEO_GAIN if video else values - _FULL_OFFSET
    return _rounded(centred @ _FROM_YUV.T)


def yuv444_to_nv12(yuv: Image) -> Image:
    """`[H,W,3]`, both even -> `[H*3/2,W]`: the luma plane, then pairs of U and V, each the mean of 2x2 pixels."""
    height, width, _ = yuv.shape
    chroma = yuv[..., 1:].astype(np.float64).reshape(height // 2, 2, width // 2, 2, 2).mean(axis=(1, 3))
    return np.concatenate([yuv[..., 0], _rounded(chroma).reshape(height // 2, width)])


def nv12_to_yuv444(nv12: Image) -> Image:
    """`[H*3/2,W]` -> `[H,W,3]`; each pair of chroma serves its 2x2 pixels."""
    height, width = nv12.shape[0] * 2 // 3, nv12.shape[1]
    chroma = nv12[height:].reshape(height // 2, width // 2, 2).repeat(2, axis=0).repeat(2, axis=1)
    return np.concatenate([nv12[:height, :, None], chroma], axis=2)


def rgb_to_gray(rgb: Image) -> Image:
    """`[H,W,3]` -> `[H,W,1]`: the luma of BT.601."""
    return _rounded(rgb.astype(np.float64) @ _LUMA)[..., None]
