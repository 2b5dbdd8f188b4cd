"""Torch forms of pools and resizes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from hqc.frontend.fx.forms.registry import Attributes, TorchForm, torch_form_of

Pair = Sequence[int]


def _torch_can(kernel: Pair, padding: Pair) -> bool:
    """torch's pools pad both ends alike, by at most half the kernel."""
    top, left, bottom, right = padding
    return (top, left) == (bottom, right) and 2 * top <= kernel[0] and 2 * left <= kernel[1]


def max_pool2d(x: torch.Tensor, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, ceil_mode: bool) -> torch.Tensor:
    """Maximum over windows; padding counts as minus infinity."""
    amounts = tuple(padding[:2])
    if not _torch_can(kernel, padding):
        top, left, bottom, right = padding
        x, amounts = F.pad(x, (left, right, top, bottom), value=float("-inf")), (0, 0)
    return F.max_pool2d(x, tuple(kernel), tuple(stride), amounts, tuple(dilation), ceil_mode)


@torch_form_of("max_pool2d")
def _max_pool2d(a: Attributes) -> TorchForm:
    return TorchForm(max_pool2d, **a)


def avg_pool2d(
    x: torch.Tensor, kernel: Pair, stride: Pair, padding: Pair, ceil_mode: bool, count_include_pad: bool
) -> torch.Tensor:
    """Mean over windows; where torch's own pool does not pad like this, a sum over windows divided by what counts in each."""
    if _torch_can(kernel, padding):
        return F.avg_pool2d(x, tuple(kernel), tuple(stride), tuple(padding[:2]), ceil_mode, count_include_pad)
    top, left, bottom, right = padding
    amounts = (left, right, top, bottom)
    padded = F.pad(x, amounts)
    counted = torch.ones_like(padded[:1, :1]) if count_include_pad else F.pad(torch.ones_like(x[:1, :1]), amounts)
    total, count = (
        F.avg_pool2d(item, tuple(kernel), tuple(stride), 0, ceil_mode, divisor_override=1) for item in (padded, counted)
    )
    return total / count


@torch_form_of("avg_pool2d")
def _avg_pool2d(a: Attributes) -> TorchForm:
    return TorchForm(avg_pool2d, **a)


def gain_pool2d(x: torch.Tensor, kernel: Pair, stride: Pair, padding: Pair, ceil_mode: bool, gain: float) -> torch.Tensor:
    """`sum * gain / 512` over windows, padding counting as 0."""
    top, left, bottom, right = padding
    padded = F.pad(x, (left, right, top, bottom)) if any(padding) else x
    return F.avg_pool2d(padded, tuple(kernel), tuple(stride), 0, ceil_mode, divisor_override=1) * (gain / 512.0)


@torch_form_of("gain_pool2d")
def _gain_pool2d(a: Attributes) -> TorchForm:
    return TorchForm(gain_pool2d, **a)


@torch_form_of("adaptive_avg_pool2d")
def _adaptive_avg_pool2d(a: Attributes) -> TorchForm:
    return TorchForm(F.adaptive_avg_pool2d, output_size=a["output_size"])


@torch_form_of("adaptive_max_pool2d")
def _adaptive_max_pool2d(a: Attributes) -> TorchForm:
    return TorchForm(F.adaptive_max_pool2d, output_size=a["output_size"])


@torch_form_of("resize2d")
def _resize2d(a: Attributes) -> TorchForm:
    """torch takes `align_corners` with the modes that interpolate only."""
    align = a["align_corners"] if a["mode"] != "nearest" else None
    if a["size"] is not None:
        return TorchForm(F.interpolate, size=a["size"], mode=a["mode"], align_corners=align)
    return TorchForm(F.interpolate, scale_factor=a["scale_factor"], mode=a["mode"], align_corners=align)
