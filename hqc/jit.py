"""Script modules on disk, under the reference's path: `torch.jit` with hqc's operation known."""

from __future__ import annotations

from typing import Any

import torch

import hqc.workflow.traced  # noqa: F401  (makes hqc::simulate known before a file that calls it is read)
from hqc.checked import numeric
from hqc.files import opened_or_path

__all__ = ["load", "save", "to_device"]


@numeric
def save(
    model: torch.jit.ScriptModule | torch.jit.ScriptFunction,  # type: ignore[type-arg]
    f: Any,
    *args: Any,
    **kwargs: Any,
) -> None:
    """`torch.jit.save`. `model`: a script module, such as `torch.jit.trace` of a converted model."""
    torch.jit.save(model, opened_or_path(f, "write"), *args, **kwargs)


@numeric
def load(f: Any, map_location: Any = None, *args: Any, **kwargs: Any) -> Any:
    """`torch.jit.load`. A converted model's trace runs on the CPU wherever its inputs are."""
    return torch.jit.load(opened_or_path(f, "read"), map_location, *args, **kwargs)  # type: ignore[no-untyped-call]


@numeric
def to_device(model: torch.nn.Module, device: Any) -> Any:
    """`model.to(device)`."""
    return model.to(device)
