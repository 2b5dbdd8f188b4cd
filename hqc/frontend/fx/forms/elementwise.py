"""Torch forms of arithmetic, comparisons and logic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from hqc.frontend.fx.context import to_torch_dtype
from hqc.frontend.fx.forms.registry import Attributes, TorchForm, plain_form, torch_form_of

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "pow": torch.pow,
    "equal": torch.eq,
    "greater": torch.gt,
    "less": torch.lt,
    "greater_equal": torch.ge,
    "less_equal": torch.le,
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
    "logical_not": torch.logical_not,
    "where": torch.where,
}
_WITH_NUMBERS = {torch.add, torch.sub, torch.mul, torch.div, torch.pow, torch.where}
"""What takes a number in every place; a comparison takes one in its second place only, an extremum in none."""
for _name, _function in _FUNCTIONS.items():
    plain_form(_name, _function, numbers=_function in _WITH_NUMBERS)


def cast(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return x.to(dtype)


@torch_form_of("cast")
def _cast(a: Attributes) -> TorchForm:
    return TorchForm(cast, dtype=to_torch_dtype(a["dtype"]))
