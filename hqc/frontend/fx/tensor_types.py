"""Tensors that code of before torch 0.4 makes: `torch.FloatTensor(n, 3)`, `torch.LongTensor([1] * n)`, `x.new(n, 3)`.

Sizes and data are told apart by what is given, and C++ takes no proxies there. Their calls become those of the functions that have
taken their place since. What torch leaves without numbers, until `fill_` and its kin give it some, is zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from hqc.frontend.fx.assumptions import is_size
from hqc.frontend.fx.known import UNKNOWN
from hqc.frontend.fx.proxies import find_proxy, is_shape

_TYPE_OF_TYPES = type(torch.FloatTensor)


def maker_of(function: Any) -> Any:
    """`function`; one that takes proxies too where it is a type of tensors."""
    if function is torch.Tensor:
        return _maker(function, torch.get_default_dtype(), "cpu")
    if isinstance(function, _TYPE_OF_TYPES):
        return _maker(function, function.dtype, "cuda" if function.is_cuda else "cpu")
    return function


def _maker(cls: Any, dtype: torch.dtype, device: str) -> Callable[..., Any]:
    def make(*args: Any, **kwargs: Any) -> Any:
        proxy = find_proxy((args, kwargs))
        options: dict[str, Any] = {"dtype": dtype, **({} if device == "cpu" else {"device": device})}
        given, is_data = _given(args, kwargs)
        if proxy is None:  # a call that is watched, where it has a function
            return torch.zeros(given, **options) if not is_data else cls(*args, **kwargs)
        if isinstance(given, fx.Proxy) and is_data and _is_tensor(given):
            return proxy.tracer.create_proxy("call_method", "to", (given,), options)
        target: Any = torch.tensor if is_data else torch.zeros
        return proxy.tracer.create_proxy("call_function", target, (given,), options)

    return make


def call_of_new(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    """The method, and its arguments, that does what `x.new(...)` does."""
    tensor, *others = args
    given, is_data = _given(tuple(others), kwargs)
    if not is_data:
        return "new_zeros", (tensor, given), {}
    if isinstance(given, fx.Proxy) and _is_tensor(given):
        return "to", (given, tensor), {}
    return "new_tensor", (tensor, given), {}


def _given(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, bool]:
    """The sizes or the data that a type is called with, and whether it is data."""
    named = [kwargs[name] for name in ("size", "data", "other") if name in kwargs]
    if not args and named:
        return named[0], "size" not in kwargs
    if len(args) != 1 or isinstance(args[0], int):
        return args, False
    (only,) = args
    if isinstance(only, torch.Size):
        return only, False
    if not isinstance(only, fx.Proxy):
        return only, True
    value = only.tracer.known.of(only.node)  # type: ignore[attr-defined]
    is_asked = value is UNKNOWN and is_size(only.node)
    if isinstance(value, torch.Size) or (is_asked and is_shape(only.node)):
        return only, False
    if isinstance(value, int) or (is_asked and not _is_list(only.node)):
        return args, False
    return only, True


def _is_list(node: fx.Node) -> bool:
    """True for a list that is made of sizes, as `[1] * n` is."""
    return any(isinstance(each, (list, tuple)) for each in node.args)


def _is_tensor(proxy: fx.Proxy) -> bool:
    value = proxy.tracer.known.of(proxy.node)  # type: ignore[attr-defined]
    return not _is_list(proxy.node) if value is UNKNOWN else isinstance(value, torch.Tensor)
