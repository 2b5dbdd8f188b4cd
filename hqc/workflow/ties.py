"""What torch computes with a definite order of equals, whoever calls it: as simulator and files have it."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hqc.frontend.fx import equals

_aten = torch.ops.aten
_DEFINITE: dict[Any, Any] = {
    _aten.sort.default: equals.sort,
    _aten.sort.stable: equals.sort,
    _aten.topk.default: equals.topk,
    _aten.kthvalue.default: equals.kthvalue,
    _aten.median.dim: equals.median,
    _aten.nanmedian.dim: equals.nanmedian,
    _aten.mode.default: equals.mode,
}


class FirstOfEquals(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside, of equal elements the first one comes first, which is one of torch's answers."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _DEFINITE.get(func, func)(*args, **(kwargs or {}))
