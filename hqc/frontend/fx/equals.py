"""A definite order of equals for what torch leaves open: `sort`, `argsort`, `topk`, `kthvalue`, and where medians and modes stand.

Scores on a grid are often equal. Of equals torch takes any on the CPU and another on a GPU; simulator and ONNX files take the first one
first, so a model in training has to do the same. Values, shapes, memory layout and gradients are those of torch's own functions.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_ALIASES = {"self": "input", "axis": "dim", "keepdims": "keepdim"}
"""Names by which torch takes arguments beside those that it documents."""
_NARROW = frozenset(
    {torch.float32, torch.float16, torch.bfloat16, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool}
)
_MOST = 0x7FFFFFFF
_Function = Callable[..., Any]
_DEFINITE: dict[_Function, _Function] = {}
_TORCHS: dict[_Function, _Function] = {}


def in_definite_order(op: str, target: Any) -> _Function | None:
    """The function with a definite order of equals, of a function or of the name of a method; None where torch leaves nothing open."""
    function = getattr(torch, target, None) if op == "call_method" else torchs_function(target)
    return _DEFINITE.get(function) if op in ("call_method", "call_function") and callable(function) else None


def torchs_function(function: Any) -> Any:
    """Of a function with a definite order of equals the one of torch's that it stands for; every other function itself."""
    return _TORCHS.get(function, function) if callable(function) else function


def _stands_for(torchs: _Function) -> Callable[[_Function], _Function]:
    def register(function: _Function) -> _Function:
        @functools.wraps(function)
        def named(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **{_ALIASES.get(name, name): value for name, value in kwargs.items()})

        _DEFINITE[torchs] = named
        _TORCHS[named] = torchs
        return named

    return register


@_stands_for(torch.sort)
def sort(input: Tensor, dim: int = -1, descending: bool = False, *, stable: bool | None = True) -> Any:
    """`torch.sort`, always stable."""
    del stable
    return torch.sort(input, dim=dim, descending=descending, stable=True)


@_stands_for(torch.argsort)
def argsort(input: Tensor, dim: int = -1, descending: bool = False, *, stable: bool = True) -> Tensor:
    """`torch.argsort`, always stable."""
    del stable
    return torch.argsort(input, dim=dim, descending=descending, stable=True)


@_stands_for(torch.topk)
def topk(input: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    """`torch.topk`; always sorted, the first of equals first."""
    del sorted
    if input.ndim == 0:
        return torch.topk(input, k, dim, largest)
    keys = _keys(input, dim, falling=largest)
    if keys is None:
        indices = argsort(input, dim, largest).narrow(dim, 0, k).contiguous()
    else:
        indices = _positions(torch.topk(keys, k, dim, largest).values, falling=largest)
    return torch.return_types.topk((input.gather(dim, indices), indices))


@_stands_for(torch.kthvalue)
def kthvalue(input: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> Any:
    """`torch.kthvalue`, with the position that it has in a stable order."""
    if input.ndim == 0:
        return torch.kthvalue(input, k, dim, keepdim)
    return torch.return_types.kthvalue(_picked(input, _kth(input, k, dim), dim, keepdim))


@_stands_for(torch.median)
def median(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """`torch.median`: of values along `dim` with its position in a stable order; of NaN, with that of the first one."""
    if dim is None:
        return torch.median(input)
    if input.ndim == 0:
        return torch.median(input, dim, keepdim)
    indices = _kth(input, (input.shape[dim] + 1) // 2, dim)
    if input.is_floating_point():
        undefined = input.isnan()
        indices = torch.where(undefined.any(dim, keepdim=True), _first(undefined, dim), indices)
    return torch.return_types.median(_picked(input, indices, dim, keepdim))


@_stands_for(torch.nanmedian)
def nanmedian(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """`torch.nanmedian`: as `median`, of what is not NaN."""
    if dim is None:
        return torch.nanmedian(input)
    if input.ndim == 0:
        return torch.nanmedian(input, dim, keepdim)
    count = input.shape[dim] - input.isnan().sum(dim, keepdim=True)
    order = argsort(input, dim)  # NaN come last
    indices = order.gather(dim, ((count - 1) // 2).clamp(min=0))
    return torch.return_types.nanmedian(_picked(input, indices, dim, keepdim))


@_stands_for(torch.mode)
def mode(input: Tensor, dim: int = -1, keepdim: bool = False) -> Any:
    """`torch.mode`, with the first position of the value."""
    if input.ndim == 0:
        return torch.mode(input, dim, keepdim)
    values = torch.mode(input.detach(), dim, keepdim=True).values
    same = input == values
    if input.is_floating_point():
        same |= values.isnan() & input.isnan()
    return torch.return_types.mode(_picked(input, _first(same, dim), dim, keepdim))


def _picked(x: Tensor, indices: Tensor, dim: int, keepdim: bool) -> tuple[Tensor, Tensor]:
    """Values and positions, of which there is one along `dim`."""
    values = x.gather(dim, indices)
    return (values, indices) if keepdim else (values.squeeze(dim), indices.squeeze(dim))


def _first(where: Tensor, dim: int) -> Tensor:
    """The first position that is true."""
    return where.to(torch.uint8).argmax(dim, keepdim=True)


def _kth(x: Tensor, k: int, dim: int) -> Tensor:
    """The position of the k-th smallest in a stable order."""
    keys = _keys(x, dim, falling=False)
    if keys is None:
        order: Tensor = argsort(x, dim)
        return order.narrow(dim, k - 1, 1).contiguous()
    return _positions(torch.kthvalue(keys, k, dim, keepdim=True).values, falling=False)


def _keys(x: Tensor, dim: int, *, falling: bool) -> Tensor | None:
    """Integers in the order of `x` of which no two are equal: the value above, the position below; None for values of 64 bits.

    Selecting among them is much faster than sorting all. `falling`: the first of equals has the largest key, not the smallest.
    """
    if x.dtype not in _NARROW:
        return None
    x = x.detach()
    if x.is_floating_point():
        x = x.float() + 0.0  # there is one zero
        x = torch.where(x.isnan(), torch.nan, x)  # and one NaN, the largest of all
        bits = x.view(torch.int32).long()
        ranks = bits ^ ((bits >> 63) & _MOST)  # of negative numbers the order of the bits is the other way round
    else:
        ranks = x.long()
    position = torch.arange(x.shape[dim], device=x.device)
    position = _MOST - position if falling else position
    return (ranks << 32) + position.reshape([-1 if axis == dim % x.ndim else 1 for axis in range(x.ndim)])


def _positions(keys: Tensor, *, falling: bool) -> Tensor:
    position = keys & _MOST
    return _MOST - position if falling else position
