"""A definite order of equals for what torch leaves open (`sort` without `stable`, `topk`, `kthvalue`): ONNX has the first one first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten
_Pair = tuple[Tensor, Tensor]


def _sort(x: Tensor, dim: int = -1, descending: bool = False) -> _Pair:
    return torch.sort(x, dim=dim, descending=descending, stable=True)


def _topk(x: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> _Pair:
    if x.ndim == 0:
        return torch.topk(x, k, dim, largest, sorted)
    values, indices = _sort(x, dim, largest)
    return values.narrow(dim, 0, k).contiguous(), indices.narrow(dim, 0, k).contiguous()  # `view` takes torch's own results


def _kthvalue(x: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> _Pair:
    if x.ndim == 0:
        return torch.kthvalue(x, k, dim, keepdim)
    values, indices = (each.narrow(dim, k - 1, 1).contiguous() for each in _sort(x, dim))
    return (values, indices) if keepdim else (values.squeeze(dim), indices.squeeze(dim))


_DEFINITE: dict[Any, Callable[..., _Pair]] = {
    _aten.sort.default: _sort,
    _aten.topk.default: _topk,
    _aten.kthvalue.default: _kthvalue,
}


class FirstOfEquals(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside, of equal elements the first one comes first, which is one of torch's answers."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _DEFINITE.get(func, func)(*args, **(kwargs or {}))
