"""Ways to call what the model calls, for opaque nodes: frozen modules, methods by name, in-place forms on copies."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class FrozenModule:
    """A call of a module as it is when first called, in eval mode: later training does not change it."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._frozen: nn.Module | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._frozen is None:
            self._frozen = copy.deepcopy(self._module).eval().requires_grad_(False)
        return self._frozen(*args, **kwargs)


def call_method(name: str, receiver: Any, *args: Any, **kwargs: Any) -> Any:
    return getattr(receiver, name)(*args, **kwargs)


def call_functional(module: nn.Module, name: str, *args: Any, **kwargs: Any) -> Any:
    return getattr(module, name)(*args, **kwargs)


def out_of_place(call: Callable[..., Any]) -> Callable[..., Any]:
    """An in-place call that leaves its first operand alone."""

    def on_copy(first: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return call(first.clone(), *args, **kwargs)

    return on_copy


def set_item_of_copy(target: torch.Tensor, index: Any, value: Any) -> torch.Tensor:
    copied = target.clone()
    copied[index] = value
    return copied
