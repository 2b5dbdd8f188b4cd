"""Tensors that forward makes of constants and then writes traced values into, such as `out = torch.zeros(16, 6); out[i] = row`.

Python computes them while it is traced, and no graph would see the writes. A second trace notes which line makes which memory; once it
meets the write, a third has what that line makes as nodes, and all that is done with them too.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import fx
from torch.overrides import TorchFunctionMode

from hqc.frontend.fx.known import KnownValues, memory_of
from hqc.frontend.fx.proxies import RECORDED, find_proxy

Record = Callable[[str, Any, tuple[Any, ...], dict[str, Any]], Any]


class Canvases(TorchFunctionMode):
    """Watches the calls on constants. `lines`: those whose tensors become nodes. `where` tells the user's line at present; `record`
    makes a node (as `Tracer.create_proxy`); `asleep` tells that what runs is not the user's code."""

    def __init__(self, lines: Collection[str], where: Callable[[], str], record: Record, asleep: Callable[[], bool]) -> None:
        super().__init__()
        self.lines = frozenset(lines)
        self._where, self._record, self._asleep = where, record, asleep
        self._made: list[tuple[torch.Tensor, str]] = []  # the tensors are kept, so that no memory is given to two

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        if type(result) is not torch.Tensor or self._asleep():
            return result
        memory = memory_of(result)
        given = [memory_of(item) for item in (*args, *kwargs.values()) if isinstance(item, torch.Tensor)]
        if memory is None or memory in given or find_proxy((args, kwargs)) is not None:
            return result
        line = self._where()
        if line in self.lines:
            return self._record(*_call_of(function), args, kwargs)
        self._made.append((result, line))
        return result

    def line_of(self, tensor: torch.Tensor) -> str:
        """The line that made the memory of `tensor`; empty where none was seen."""
        memory = memory_of(tensor)
        return next((line for made, line in reversed(self._made) if memory_of(made) == memory), "")


def _call_of(function: Any) -> tuple[str, Any]:
    """`(op, target)` of the node that calls `function`, which may be a method of tensors."""
    name = getattr(function, "__name__", "")
    if inspect.getattr_static(torch.Tensor, name, None) is function:
        return "call_method", name
    return "call_function", getattr(function, RECORDED, function)


def constant_behind(node: fx.Node, known: KnownValues, paths: Collection[str]) -> str | None:
    """The path, one of `paths`, of the constant in whose memory `node` is, as `canvas.to(x.device)` is in that of `canvas`."""
    chain: list[Any] = [node]
    while isinstance(chain[-1], fx.Node) and chain[-1].op != "get_attr":
        chain.append(next(iter((*chain[-1].args, *chain[-1].kwargs.values())), None))
    if not isinstance(chain[-1], fx.Node) or str(chain[-1].target) not in paths:
        return None
    memories = {memory_of(known.of(each)) for each in chain}
    return str(chain[-1].target) if len(memories) == 1 and None not in memories else None
