"""The tensors that a model holds, found by identity: parameters, buffers and plain attributes."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from hqc.frontend.fx.known import memory_of


class HeldTensors:
    """`root`'s tensors at the beginning of a trace. `state`: paths of the buffers that are traced as parameters are."""

    def __init__(self, root: nn.Module, state: Collection[str] = ()) -> None:
        self._buffers = {name: buffer for name, buffer in root.named_buffers() if name not in state}
        self._buffer_paths = {id(buffer): name for name, buffer in root.named_buffers()}
        self._traced: dict[int, str] = {}
        for name, parameter in root.named_parameters():
            self._traced.setdefault(id(parameter), name)
        for name in state:
            self._traced[id(root.get_buffer(name))] = name

    def traced_path(self, tensor: Any) -> str | None:
        """The path of what reads as a node: a parameter, or a buffer of `state`."""
        return self._traced.get(id(tensor))

    def buffer_path(self, tensor: Any) -> str | None:
        """The path of a buffer, of `state` or not."""
        return self._buffer_paths.get(id(tensor))

    def buffer_behind(self, view: torch.Tensor) -> str | None:
        """The buffer, outside of `state`, whose memory `view` is in."""
        memory = memory_of(view)
        found = (name for name, buffer in self._buffers.items() if memory_of(buffer) == memory)
        return next(found, None) if memory is not None else None


def plain_attributes(root: nn.Module) -> dict[Any, str]:
    """Paths of the tensors that modules keep as plain attributes."""
    found: dict[Any, str] = {}
    for path, module in root.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, (torch.Tensor, torch.ScriptObject)):
                found[value] = f"{path}.{name}" if path else name
    return found
