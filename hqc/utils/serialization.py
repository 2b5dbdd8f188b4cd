"""Checkpoints that say which version wrote them."""

from __future__ import annotations

from typing import Any

import torch

import hqc
from hqc.checked import checked
from hqc.files import opened_or_path

VERSION_KEY = "hqc_version"


@checked
def save_with_version(obj: Any, f: Any, *args: Any, **kwargs: Any) -> None:
    """`torch.save`; a dict gets an entry `hqc_version` (unless it is a state dict, whose keys are parameters)."""
    plain = isinstance(obj, dict) and not all(isinstance(value, torch.Tensor) for value in obj.values())
    torch.save({**obj, VERSION_KEY: hqc.__version__} if plain else obj, opened_or_path(f, "write"), *args, **kwargs)
