"""Images: colour, windows of attention, and the positions whose scores pass a threshold."""

from __future__ import annotations

import torch
from torch import Tensor

from hqc.checked import numeric
from hqc.errors import InputError
from hqc.nn.functional.colours import bgr2yuv, rgb2yuv


@numeric
def bgr_to_yuv444(input: Tensor, channel_reversal: bool = False) -> Tensor:
    """BGR (RGB with `channel_reversal`) images 0..255 as YUV444 of studio swing, in 0..255, float32."""
    return rgb2yuv(input) if channel_reversal else bgr2yuv(input)


@numeric
def window_partition(x: Tensor, window_size: int) -> Tensor:
    """`[B,H,W,C]` -> `[B * H/w * W/w, w, w, C]`: the windows row by row."""
    if window_size < 1:
        raise InputError(f"window_size must be at least 1, got {window_size}")
    batch, height, width, channels = x.shape
    x = x.view(batch, height // window_size, window_size, width // window_size, window_size, channels)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, window_size, window_size, channels)


@numeric
def window_reverse(windows: Tensor, window_size: int, height: int, width: int) -> Tensor:
    """The inverse of `window_partition`: `[B,H,W,C]`."""
    if window_size < 1:
        raise InputError(f"window_size must be at least 1, got {window_size}")
    x = windows.view(-1, height // window_size, width // window_size, window_size, window_size, windows.shape[-1])
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, height, width, windows.shape[-1])


@numeric
def filter(*inputs: Tensor, threshold: float, idx_range: tuple[int, int] | None = None) -> list[list[Tensor]]:
    """The positions of `[N,C,H,W]` maps at which the first map's largest channel passes `threshold`.

    `idx_range`: first and last channel (inclusive) that count. Per sample: the largest values `[M]`, their channels `[M]`, the
    positions `[M,2]` (row, column), then the channels of every map there, `[M,C]`.
    """
    if not inputs or any(each.dim() != 4 for each in inputs):
        raise InputError("filter takes maps of shape [N,C,H,W]")
    first, last = idx_range if idx_range is not None else (0, inputs[0].shape[1] - 1)
    values, channels = inputs[0][:, first : last + 1].max(dim=1)
    results = []
    for sample in range(len(values)):
        where = torch.nonzero(values[sample] > threshold)
        rows, columns = where[:, 0], where[:, 1]
        found = [values[sample, rows, columns], channels[sample, rows, columns] + first, where]
        results.append(found + [each[sample, :, rows, columns].t() for each in inputs])
    return results
