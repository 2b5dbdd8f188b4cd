"""Torch forms of ops that move elements. Sizes that the IR leaves open (0, -1) stay open, so any batch size works."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from hqc.frontend.fx.forms.registry import Attributes, TorchForm, torch_form_of


def reshape(x: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """ONNX's rule: 0 copies the size at that position (where there is one)."""
    return x.reshape([x.shape[i] if size == 0 and i < x.ndim else size for i, size in enumerate(shape)])


@torch_form_of("reshape")
def _reshape(a: Attributes) -> TorchForm:
    return TorchForm(reshape, shape=a["shape"])


@torch_form_of("transpose")
def _transpose(a: Attributes) -> TorchForm:
    return TorchForm(torch.permute, dims=a["perm"])


def slice_axes(
    x: torch.Tensor, axes: Sequence[int], starts: Sequence[int], ends: Sequence[int], steps: Sequence[int]
) -> torch.Tensor:
    index = [slice(None)] * x.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        index[axis] = slice(start, end, step)
    return x[tuple(index)]


@torch_form_of("slice")
def _slice(a: Attributes) -> TorchForm:
    steps = a["steps"] or (1,) * len(a["axes"])
    return TorchForm(slice_axes, axes=a["axes"], starts=a["starts"], ends=a["ends"], steps=steps)


@torch_form_of("split")
def _split(a: Attributes) -> TorchForm:
    return TorchForm(torch.split, split_size_or_sections=list(a["sizes"]), dim=a["axis"])


def cat(*xs: torch.Tensor, dim: int) -> torch.Tensor:
    return torch.cat(xs, dim)


@torch_form_of("cat")
def _cat(a: Attributes) -> TorchForm:
    return TorchForm(cat, dim=a["axis"])


def pad(x: torch.Tensor, pads: Sequence[int], mode: str, value: float) -> torch.Tensor:
    """All begins, then all ends; a negative amount crops. `mode`: constant, reflect or edge."""
    rank = x.ndim
    if mode == "constant":
        amounts = [amount for axis in reversed(range(rank)) for amount in (pads[axis], pads[rank + axis])]
        return F.pad(x, amounts, value=value if x.is_floating_point() else int(value))
    for axis in range(rank):
        before, after, size = pads[axis], pads[rank + axis], x.shape[axis]
        if before or after:
            position = torch.arange(-before, size + after, device=x.device)
            if mode == "edge":
                position = position.clamp(0, size - 1)
            else:
                position = (size - 1) - ((size - 1) - position.abs()).abs()
            x = x.index_select(axis, position)
    return x


@torch_form_of("pad")
def _pad(a: Attributes) -> TorchForm:
    return TorchForm(pad, pads=a["pads"], mode=a["mode"], value=a["value"])


@torch_form_of("pixel_shuffle")
def _pixel_shuffle(a: Attributes) -> TorchForm:
    return TorchForm(F.pixel_shuffle, upscale_factor=a["factor"])


@torch_form_of("pixel_unshuffle")
def _pixel_unshuffle(a: Attributes) -> TorchForm:
    return TorchForm(F.pixel_unshuffle, downscale_factor=a["factor"])


@torch_form_of("expand")
def _expand(a: Attributes) -> TorchForm:
    return TorchForm(expand, size=a["shape"])


def expand(x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    return x.expand(*size)


@torch_form_of("tile")
def _tile(a: Attributes) -> TorchForm:
    return TorchForm(torch.tile, dims=a["repeats"])


def gather(x: torch.Tensor, indices: torch.Tensor, axis: int) -> torch.Tensor:
    """ONNX Gather; a negative index counts from the end."""
    axis %= x.ndim
    flat = indices.reshape(-1).long()
    flat = torch.where(flat < 0, flat + x.shape[axis], flat)
    return x.index_select(axis, flat).reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


@torch_form_of("gather")
def _gather(a: Attributes) -> TorchForm:
    return TorchForm(gather, axis=a["axis"])
