"""Tools around prepared and converted models, under the reference's paths."""

from __future__ import annotations

from typing import Any

from hqc.lazy import submodule


def __getattr__(name: str) -> Any:
    return submodule(__name__, name)
