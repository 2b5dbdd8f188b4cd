"""Deep copies of what users hold in their models: what Python cannot copy is shared by the copy."""

from __future__ import annotations

import copy
import types
from typing import Any, TypeVar

import torch
from torch import nn

_T = TypeVar("_T")


def deep_copy(thing: _T, memo: dict[int, Any] | None = None) -> _T:
    """A deep copy of a model or of parts of one. `memo`: as for `copy.deepcopy`.

    Models hold what `copy.deepcopy` refuses: a dict's keys, a Python module (`self.np = numpy`), a lock, a generator, an open
    file. No tensor or layer is inside such an object, so the copy holds the same one.
    """
    memo = {} if memo is None else memo
    attempt = dict(memo)  # a copy that breaks off leaves half-made objects in its memo
    try:
        result = copy.deepcopy(thing, attempt)
    except Exception:
        attempt = {**memo, **{id(item): item for item in _not_copied(thing, memo)}}
        result = copy.deepcopy(thing, attempt)
    # What a copy keeps alive is listed under the id of its memo, which another object has as soon as this memo is gone.
    kept = attempt.pop(id(attempt), [])
    memo.update(attempt)
    memo.setdefault(id(memo), []).extend(kept)
    return result


def _not_copied(thing: Any, memo: dict[int, Any]) -> list[Any]:
    """The smallest objects inside `thing` that cannot be copied, in the order they are held."""
    found: list[Any] = []
    seen: set[int] = set(memo)

    def visit(item: Any) -> None:
        if id(item) in seen or isinstance(item, torch.Tensor):
            return
        seen.add(id(item))
        if isinstance(item, dict):
            inside = [*item.values()]
        elif isinstance(item, (list, tuple, set)):
            inside = [*item]
        elif isinstance(item, nn.Module):
            inside = [*vars(item).values()]
        elif _is_copied(item, memo):
            return
        else:
            before = len(found)
            for part in () if isinstance(item, types.ModuleType) else getattr(item, "__dict__", {}).values():
                visit(part)
            if len(found) == before:
                found.append(item)
            return
        for part in inside:
            visit(part)

    visit(thing)
    return found


def _is_copied(item: Any, memo: dict[int, Any]) -> bool:
    try:
        copy.deepcopy(item, dict(memo))
    except Exception:  # an object's own __deepcopy__ or __reduce__ may raise anything
        return False
    return True
