"""Steps in float16 or bfloat16: a plan has float32 in their place, for neither chip nor CPU of a board gains by them.

A model whose tensors are half gets a float32 copy (`models.as_traceable`); a forward that converts on the way gets a float32 graph,
here. What its steps in float32 give is computed by the model itself inside of `Float32Steps`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx
from torch.utils._python_dispatch import TorchDispatchMode

from hqc.structures import leaves, map_structure

REDUCED = (torch.float16, torch.bfloat16)
_METHODS = {"half": torch.float16, "bfloat16": torch.bfloat16}
_TYPES = {
    f"torch.{place}{kind}Tensor": dtype
    for place in ("", "cuda.")
    for kind, dtype in zip(("Half", "BFloat16"), REDUCED, strict=True)
}


def reduced_dtype(target: Any, args: Any, kwargs: Mapping[str, Any]) -> torch.dtype | None:
    """The dtype that a call converts to or computes in, where that is float16 or bfloat16."""
    if isinstance(target, str) and target in _METHODS:
        return _METHODS[target]
    if (
        target == "view" or getattr(target, "__module__", "") == "_operator"
    ):  # other bits of the same memory; `x.dtype == torch.half`
        return None
    return next((dtype for dtype in map(_reduced, leaves((args, dict(kwargs)))) if dtype is not None), None)


def in_float32(target: Any, args: Any, kwargs: Mapping[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
    """The call with float32 in place of float16 and bfloat16."""
    if isinstance(target, str) and target in _METHODS:
        target = "float"
    full = map_structure((tuple(args), dict(kwargs)), lambda item: item if _reduced(item) is None else torch.float32)
    return target, *full


def without_reduced(graph: fx.Graph) -> list[str]:
    """Let the calls of a graph convert to float32 and no less; the sentences about it."""
    found: dict[torch.dtype, None] = {}
    for node in graph.nodes:
        if node.op in ("call_function", "call_method"):
            dtype = reduced_dtype(node.target, node.args, node.kwargs)
            if dtype is not None:
                found[dtype] = None
                node.target, node.args, node.kwargs = in_float32(node.target, node.args, node.kwargs)
    return list(map(said_of, found))


def _reduced(item: Any) -> torch.dtype | None:
    if isinstance(item, str):
        return _TYPES.get(item)
    dtype = item if isinstance(item, torch.dtype) else getattr(item, "dtype", None) if isinstance(item, type) else None
    return dtype if dtype in REDUCED else None


def said_of(dtype: torch.dtype) -> str:
    """The sentence for the user."""
    return f"forward computes in {str(dtype).removeprefix('torch.')} on the way; hqc has these steps in float32"


class Float32Steps(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside, what torch is asked to compute in float16 or bfloat16, by autocast too, it computes in float32. `met`: such dtypes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.met: dict[torch.dtype, None] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is not torch.ops.aten.view.dtype:  # the same bits read as another type
            dtype = reduced_dtype(func, args, kwargs)
            if dtype is not None:
                self.met[dtype] = None
                _, args, kwargs = in_float32(func, args, kwargs)
        return func(*args, **kwargs)
