"""Torch forms of reductions and softmax."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from hqc.frontend.fx.forms.registry import Attributes, TorchForm, torch_form_of


def _reduction(name: str, function: Callable[..., Any]) -> None:
    """No axes: all of them, which torch says with an empty tuple."""
    torch_form_of(name)(lambda a: TorchForm(function, dim=a["axes"], keepdim=a["keepdims"]))


def sum_over(x: torch.Tensor, dim: tuple[int, ...], keepdim: bool) -> torch.Tensor:
    """The sum in the operand's own type: torch would widen integers."""
    return torch.sum(x, dim, keepdim, dtype=x.dtype)


_reduction("mean", torch.mean)
_reduction("sum", sum_over)
_reduction("reduce_max", torch.amax)
_reduction("reduce_min", torch.amin)


def norm_over(x: torch.Tensor, dim: tuple[int, ...], keepdim: bool, ord: int) -> torch.Tensor:
    """The sum of magnitudes, or the root of the sum of squares."""
    norm: torch.Tensor = torch.linalg.vector_norm(x, ord, dim or None, keepdim)
    return norm


def sum_of_squares(x: torch.Tensor, dim: tuple[int, ...], keepdim: bool) -> torch.Tensor:
    return torch.sum(x * x, dim, keepdim, dtype=x.dtype)


def log_of_sum(x: torch.Tensor, dim: tuple[int, ...], keepdim: bool) -> torch.Tensor:
    return torch.log(torch.sum(x, dim, keepdim))


def log_of_exponentials(x: torch.Tensor, dim: tuple[int, ...], keepdim: bool) -> torch.Tensor:
    return torch.logsumexp(x, dim or tuple(range(x.ndim)), keepdim)


torch_form_of("reduce_l1")(lambda a: TorchForm(norm_over, dim=a["axes"], keepdim=a["keepdims"], ord=1))
torch_form_of("reduce_l2")(lambda a: TorchForm(norm_over, dim=a["axes"], keepdim=a["keepdims"], ord=2))
_reduction("reduce_sum_square", sum_of_squares)
_reduction("reduce_log_sum", log_of_sum)
_reduction("reduce_log_sum_exp", log_of_exponentials)


def first_index(x: torch.Tensor, dim: int, keepdim: bool, largest: bool) -> torch.Tensor:
    """Index of the extremum, the lowest of equals; torch promises no order among them."""
    best = torch.amax(x, dim, keepdim=True) if largest else torch.amin(x, dim, keepdim=True)
    positions = torch.arange(x.shape[dim], device=x.device).reshape([-1 if i == dim % x.ndim else 1 for i in range(x.ndim)])
    found = torch.where(x == best, positions, x.shape[dim])
    return torch.amin(found, dim, keepdim=keepdim)


@torch_form_of("argmax")
def _argmax(a: Attributes) -> TorchForm:
    return TorchForm(first_index, dim=a["axis"], keepdim=a["keepdims"], largest=True)


@torch_form_of("argmin")
def _argmin(a: Attributes) -> TorchForm:
    return TorchForm(first_index, dim=a["axis"], keepdim=a["keepdims"], largest=False)


@torch_form_of("softmax")
def _softmax(a: Attributes) -> TorchForm:
    return TorchForm(torch.softmax, dim=a["axis"])


@torch_form_of("log_softmax")
def _log_softmax(a: Attributes) -> TorchForm:
    return TorchForm(torch.log_softmax, dim=a["axis"])
