"""Where lowerings of ONNX operators register, by operator type."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hqc.registry import Registry

if TYPE_CHECKING:
    from hqc.frontend.onnx.context import OnnxContext

Lowering = Callable[["OnnxContext"], Any]
"""Reads the current node through the context and returns its result (a value or an array), or a tuple of its results."""

LOWERINGS: Registry[str, Lowering] = Registry("ONNX lowering", families="hqc.frontend.onnx.ops")


def lowers_onnx(*types: str) -> Callable[[Lowering], Lowering]:
    """Register the decorated function for operator types of the standard domain."""
    return LOWERINGS.register(*types)
