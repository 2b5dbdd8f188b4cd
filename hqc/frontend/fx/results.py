"""Objects of the user's classes in what a model returns: a cache of keys and values, a distribution. A graph returns tensors, so such
an object becomes a dict of those of its attributes that hold any."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from hqc.structures import children, leaves, map_structure

_CODE = (type, types.ModuleType, types.FunctionType, types.MethodType)
SYMBOLIC = (torch.SymInt, torch.SymFloat, torch.SymBool)
"""Numbers that torch reads out of data while it exports; its own tensors stand behind them."""
_CLOSED = (torch.Tensor, fx.Proxy, nn.Module, *_CODE, *SYMBOLIC)


def with_opened_objects(result: Any, is_tensor: Callable[[Any], bool]) -> Any:
    """`result`, with a dict by attribute in place of every object that holds tensors; `is_tensor` says what counts as one.

    Everything else of such an object (numbers, names, settings) is left out: it is no result of the computation.
    """
    if not any(_held(leaf, is_tensor) is not None for leaf in leaves(result)):
        return result
    return map_structure(result, lambda leaf: leaf if (held := _held(leaf, is_tensor)) is None else held)


def tensors_opened(result: Any) -> Any:
    """As `with_opened_objects`, of what a model returned in a run."""
    return with_opened_objects(result, lambda leaf: isinstance(leaf, torch.Tensor))


def _held(leaf: Any, is_tensor: Callable[[Any], bool], around: tuple[Any, ...] = ()) -> Any:
    """What holds tensors of the attributes of an object, or None; `around`: the objects that hold this one."""
    if isinstance(leaf, _CLOSED) or is_tensor(leaf) or any(leaf is each for each in around):
        return None  # a proxy is not asked: its value would be computed, and the writes into buffers before it be known
    return _parts(getattr(leaf, "__dict__", None), is_tensor, (*around, leaf))


def _parts(structure: Any, is_tensor: Callable[[Any], bool], around: tuple[Any, ...]) -> Any:
    """What holds tensors of a structure, as dicts and lists, or None."""
    parts = children(structure)
    if parts is None:
        return structure if is_tensor(structure) else _held(structure, is_tensor, around)
    kept = {key: part for key, item in parts if (part := _parts(item, is_tensor, around)) is not None}
    if not kept:
        return None
    return list(kept.values()) if isinstance(structure, (list, tuple)) else kept
