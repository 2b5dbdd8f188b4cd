"""Script modules on disk, under the reference's path: `torch.jit` with hqc's operation known."""

from __future__ import annotations

from typing import Any

import torch

import hqc.workflow.traced  # noqa: F401  (makes hqc::simulate known before a file that calls it is read)

__all__ = ["load", "save", "to_device"]


def save(model: Any, f: Any, *args: Any, **kwargs: Any) -> None:
    """`torch.jit.save`. `model`: a script module, such as `torch.jit.trace` of a converted model."""
    torch.jit.save(model, f, *args, **kwargs)


def load(f: Any, map_location: Any = None, *args: Any, **kwargs: Any) -> Any:
    """`torch.jit.load`. A converted model's trace runs on the CPU wherever its inputs are."""
    return torch.jit.load(f, map_location, *args, **kwargs)  # type: ignore[no-untyped-call]


def to_device(model: Any, device: Any) -> Any:
    """`model.to(device)`."""
    return model.to(device)
