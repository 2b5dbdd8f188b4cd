"""Torch forms of convolutions, linear layers, matrix products and normalizations."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional as F

from hqc.frontend.fx.forms.registry import Attributes, TorchForm, plain_form, torch_form_of

Sizes = Sequence[int]


def _finish(y: torch.Tensor, residual: torch.Tensor | None, activation: str) -> torch.Tensor:
    """Add the fused residual, apply the fused activation."""
    if residual is not None:
        y = y + residual
    if activation == "none":
        return y
    return torch.relu(y) if activation == "relu" else F.relu6(y)


def _rows_too(of_images: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """A convolution of images that takes rows `[N,C,L]` as well, with a weight and residual of rows: images of height 1."""

    @functools.wraps(of_images)
    def convolve(
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
        residual: torch.Tensor | None = None,
        **attributes: Any,
    ) -> torch.Tensor:
        if x.ndim != 3:
            return of_images(x, weight, bias, residual, **attributes)
        lifted = None if residual is None else residual.unsqueeze(2)
        return of_images(x.unsqueeze(2), weight.unsqueeze(2), bias, lifted, **attributes).squeeze(2)

    return convolve


@_rows_too
def conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    *,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    groups: int,
    activation: str,
) -> torch.Tensor:
    x, amounts = _padded(x, padding)
    return _finish(F.conv2d(x, weight, bias, tuple(stride), amounts, tuple(dilation), groups), residual, activation)


def _padded(x: torch.Tensor, padding: Sizes) -> tuple[torch.Tensor, tuple[int, ...]]:
    """What torch's convolution takes for padding: the same at both ends; other padding is there already."""
    axes = len(padding) // 2
    begins, ends = tuple(padding[:axes]), tuple(padding[axes:])
    if begins == ends:
        return x, begins
    amounts = [amount for both in zip(begins[::-1], ends[::-1], strict=True) for amount in both]
    return F.pad(x, amounts), (0,) * axes


def conv3d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    groups: int,
) -> torch.Tensor:
    x, amounts = _padded(x, padding)
    return F.conv3d(x, weight, bias, tuple(stride), amounts, tuple(dilation), groups)


@_rows_too
def conv_transpose2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    *,
    stride: Sizes,
    padding: Sizes,
    output_padding: Sizes,
    dilation: Sizes,
    groups: int,
    activation: str,
) -> torch.Tensor:
    y = _transposed(F.conv_transpose2d, x, weight, bias, stride, padding, output_padding, dilation, groups)
    return _finish(y, residual, activation)


def _transposed(
    convolve: Callable[..., torch.Tensor],
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Sizes,
    padding: Sizes,
    output_padding: Sizes,
    dilation: Sizes,
    groups: int,
) -> torch.Tensor:
    """Padding of a transposed convolution crops its result; output padding is more of the result, at its end."""
    axes = len(stride)
    begins, ends = tuple(padding[:axes]), tuple(padding[axes:])
    if begins == ends:
        return convolve(x, weight, bias, tuple(stride), begins, tuple(output_padding), groups, tuple(dilation))
    y = convolve(x, weight, bias, tuple(stride), 0, 0, groups, tuple(dilation))
    if any(output_padding):
        sizes = y.shape[2:]
        y = F.pad(y, [amount for extra in output_padding[::-1] for amount in (0, extra)])
        if bias is not None:
            for axis, size in enumerate(sizes, 2):
                y.narrow(axis, size, y.shape[axis] - size).copy_(bias.reshape(1, -1, *[1] * axes))
    for axis, (begin, end) in enumerate(zip(begins, ends, strict=True), 2):
        y = y.narrow(axis, begin, y.shape[axis] - end - begin)
    return y


def conv_transpose3d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    stride: Sizes,
    padding: Sizes,
    output_padding: Sizes,
    dilation: Sizes,
    groups: int,
) -> torch.Tensor:
    return _transposed(F.conv_transpose3d, x, weight, bias, stride, padding, output_padding, dilation, groups)


def linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    *,
    activation: str,
) -> torch.Tensor:
    return _finish(F.linear(x, weight, bias), residual, activation)


def _computed(a: Attributes) -> dict[str, Any]:
    """The attributes without those that say how the chip rounds."""
    return {name: value for name, value in a.items() if name != "half_step"}


@torch_form_of("conv2d")
def _conv2d(a: Attributes) -> TorchForm:
    return TorchForm(conv2d, **_computed(a))


@torch_form_of("conv_transpose2d")
def _conv_transpose2d(a: Attributes) -> TorchForm:
    return TorchForm(conv_transpose2d, **_computed(a))


@torch_form_of("conv3d")
def _conv3d(a: Attributes) -> TorchForm:
    return TorchForm(conv3d, **a)


@torch_form_of("conv_transpose3d")
def _conv_transpose3d(a: Attributes) -> TorchForm:
    return TorchForm(conv_transpose3d, **a)


@torch_form_of("linear")
def _linear(a: Attributes) -> TorchForm:
    return TorchForm(linear, **_computed(a))


plain_form("matmul", torch.matmul)


@torch_form_of("batch_norm")
def _batch_norm(a: Attributes) -> TorchForm:
    return TorchForm(F.batch_norm, eps=a["eps"])


def layer_norm(
    x: torch.Tensor,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    *,
    normalized_ndim: int,
    eps: float,
) -> torch.Tensor:
    sizes = x.shape[x.ndim - normalized_ndim :]
    weight, bias = (None if each is None else each.expand(sizes) for each in (weight, bias))  # ONNX broadcasts them
    return F.layer_norm(x, sizes, weight, bias, eps)


@torch_form_of("layer_norm")
def _layer_norm(a: Attributes) -> TorchForm:
    return TorchForm(layer_norm, normalized_ndim=a["normalized_ndim"], eps=a["eps"])


def lp_normalize(x: torch.Tensor, *, axes: tuple[int, ...], p: int, eps: float) -> torch.Tensor:
    return torch.div(x, torch.linalg.vector_norm(x, p, axes, keepdim=True).clamp_min(eps))


@torch_form_of("lp_normalize")
def _lp_normalize(a: Attributes) -> TorchForm:
    return TorchForm(lp_normalize, axes=a["axes"], p=a["p"], eps=a["eps"])


def group_norm(
    x: torch.Tensor, weight: torch.Tensor | None = None, bias: torch.Tensor | None = None, *, num_groups: int, eps: float
) -> torch.Tensor:
    return F.group_norm(x, num_groups, weight, bias, eps)


@torch_form_of("group_norm")
def _group_norm(a: Attributes) -> TorchForm:
    return TorchForm(group_norm, num_groups=a["groups"], eps=a["eps"])


def instance_norm(
    x: torch.Tensor, weight: torch.Tensor | None = None, bias: torch.Tensor | None = None, *, eps: float
) -> torch.Tensor:
    """torch refuses one spatial element, whose normalized value is 0."""
    axes = tuple(range(2, x.ndim))
    centred = x - x.mean(axes, keepdim=True)
    y = centred / torch.sqrt(centred.square().mean(axes, keepdim=True) + eps)
    shape = (1, -1) + (1,) * len(axes)
    y = y if weight is None else y * weight.reshape(shape)
    return y if bias is None else y + bias.reshape(shape)


@torch_form_of("instance_norm")
def _instance_norm(a: Attributes) -> TorchForm:
    return TorchForm(instance_norm, eps=a["eps"])
