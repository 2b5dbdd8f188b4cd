"""Torch forms of functions of one tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from hqc.frontend.fx.forms.registry import Attributes, TorchForm, plain_form, torch_form_of

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "silu": F.silu,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "selu": torch.selu,
    "mish": F.mish,
    "softsign": F.softsign,
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "reciprocal": torch.reciprocal,
    "sin": torch.sin,
    "cos": torch.cos,
    "tan": torch.tan,
    "atan": torch.atan,
    "erf": torch.erf,
    "abs": torch.abs,
    "neg": torch.neg,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "round": torch.round,
    "sign": torch.sign,
    "prelu": F.prelu,
    "trunc": torch.trunc,
    "exp2": torch.exp2,
    "expm1": torch.expm1,
    "log2": torch.log2,
    "log10": torch.log10,
    "log1p": torch.log1p,
    "sinh": torch.sinh,
    "cosh": torch.cosh,
    "asin": torch.asin,
    "acos": torch.acos,
    "asinh": torch.asinh,
    "acosh": torch.acosh,
    "atanh": torch.atanh,
    "log_sigmoid": F.logsigmoid,
    "tanhshrink": F.tanhshrink,
}
for _name, _function in _FUNCTIONS.items():
    plain_form(_name, _function)


def identity(x: torch.Tensor) -> torch.Tensor:
    return x


plain_form("identity", identity)


@torch_form_of("dropout")
def _dropout(a: Attributes) -> TorchForm:
    """The IR is that of inference."""
    return TorchForm(identity)


@torch_form_of("clamp")
def _clamp(a: Attributes) -> TorchForm:
    if a["min"] is None and a["max"] is None:
        return TorchForm(identity)
    return TorchForm(clamp, min=a["min"], max=a["max"])


def clamp(x: torch.Tensor, min: float | None, max: float | None) -> torch.Tensor:
    """`x` within whole bounds keeps an integer type."""
    if not x.is_floating_point():
        min, max = (None if bound is None else int(bound) for bound in (min, max))
    return torch.clamp(x, min, max)


@torch_form_of("leaky_relu")
def _leaky_relu(a: Attributes) -> TorchForm:
    return TorchForm(F.leaky_relu, negative_slope=a["slope"])


@torch_form_of("elu")
def _elu(a: Attributes) -> TorchForm:
    return TorchForm(F.elu, alpha=a["alpha"])


@torch_form_of("celu")
def _celu(a: Attributes) -> TorchForm:
    return TorchForm(F.celu, alpha=a["alpha"])


@torch_form_of("hardshrink")
def _hardshrink(a: Attributes) -> TorchForm:
    return TorchForm(F.hardshrink, lambd=a["bound"])


@torch_form_of("softshrink")
def _softshrink(a: Attributes) -> TorchForm:
    return TorchForm(F.softshrink, lambd=a["bound"])


@torch_form_of("threshold")
def _threshold(a: Attributes) -> TorchForm:
    return TorchForm(F.threshold, threshold=a["bound"], value=a["value"])


@torch_form_of("gelu")
def _gelu(a: Attributes) -> TorchForm:
    return TorchForm(F.gelu, approximate=a["approximate"])


@torch_form_of("softplus")
def _softplus(a: Attributes) -> TorchForm:
    return TorchForm(F.softplus, beta=a["beta"])


@torch_form_of("pow_scalar")
def _pow_scalar(a: Attributes) -> TorchForm:
    return TorchForm(torch.pow, exponent=a["exponent"])
