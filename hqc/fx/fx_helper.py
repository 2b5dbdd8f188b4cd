"""Functions that a trace does not open, and torch functions that models call by another implementation."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from hqc.checked import explained
from hqc.errors import InputError
from hqc.frontend.fx.tracing import wrap as _wrap

__all__ = ["replace_torch_op", "wrap"]


@explained
def wrap(skip_compile: bool | Callable[..., Any] = False) -> Any:
    """Decorator, `@wrap()` or `@wrap`: calls of the function on traced tensors become one node, which runs as it is, on the CPU.

    `skip_compile`: accepted and without effect.
    """
    return _wrap(skip_compile) if callable(skip_compile) else _wrap


@explained
def replace_torch_op(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: the function stands in for `torch.<name>` from now on, in eager calls and in traces."""
    original = getattr(torch, name, None)
    if not callable(original):
        raise InputError(f"torch has no function {name!r} to replace")

    def replace(function: Callable[..., Any]) -> Callable[..., Any]:
        wrapped = functools.wraps(original)(function)
        setattr(torch, name, wrapped)
        return wrapped

    return replace
