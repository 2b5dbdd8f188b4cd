"""Deep copies of what users hold in their models: what Python cannot copy is shared by the copy."""

from __future__ import annotations

import copy
import functools
import types
from collections import OrderedDict
from typing import Any, TypeVar

import torch
from torch import nn

_T = TypeVar("_T")
_Model = TypeVar("_Model", bound=nn.Module)


def deep_copy(thing: _T, memo: dict[int, Any] | None = None) -> _T:
    """A deep copy of a model or of parts of one. `memo`: as for `copy.deepcopy`.

    Models hold what `copy.deepcopy` refuses: a dict's keys, a Python module (`self.np = numpy`), a lock, a generator, an open
    file. No tensor or layer is inside such an object, so the copy holds the same one.
    """
    memo = {} if memo is None else memo
    rebound = _functions_over(thing, memo) if isinstance(thing, nn.Module) else []
    memo.update({id(function): copied for function, copied in rebound})
    attempt = dict(memo)  # a copy that breaks off leaves half-made objects in its memo
    try:
        result = copy.deepcopy(thing, attempt)
    except Exception:
        attempt = {**memo, **{id(item): item for item in _not_copied(thing, memo)}}
        result = copy.deepcopy(thing, attempt)
    # What a copy keeps alive is listed under the id of its memo, which another object has as soon as this memo is gone.
    kept = attempt.pop(id(attempt), [])
    memo.update(attempt)
    memo.setdefault(id(memo), []).extend((*kept, rebound))
    for function, copied in rebound:
        _rebind(function, copied, memo)
    return result


def in_eval_mode(model: _Model) -> _Model:
    """The model itself, in eval mode. `model.eval()` is asked for nothing: a `train` of the user's, which keeps a part frozen, as every
    model of MMEngine has it, may return None."""
    model.eval()
    return model


def _functions_over(model: nn.Module, memo: dict[int, Any]) -> list[tuple[types.FunctionType, types.FunctionType]]:
    """The functions that the model holds (hooks, activations) and that know parts of it by their closures, each with a copy of its own:
    `lambda x: self.conv(x)` of a copied model would be about the first one."""
    parts: set[int] = set()
    pending: list[Any] = []
    for module in model.modules():
        parts.add(id(module))
        held = list(vars(module).values())
        parts.update(id(item) for item in held if isinstance(item, (list, dict, set)))
        pending.extend(held)
    found: dict[int, types.FunctionType] = {}
    seen: set[int] = set(memo)
    while pending:
        item = pending.pop()
        if id(item) in seen or isinstance(item, (torch.Tensor, nn.Module)):
            continue
        seen.add(id(item))
        if isinstance(item, dict):
            pending.extend(item.values())
        elif isinstance(item, (list, tuple)):
            pending.extend(item)
        elif isinstance(item, functools.partial):
            pending.extend((item.func, *item.args, *item.keywords.values()))
        elif isinstance(item, types.FunctionType):
            inside = _known_by(item)
            pending.extend(inside)
            if any(id(each) in parts for each in inside):
                found[id(item)] = item
    return [(function, _with_own_cells(function)) for function in found.values()]


def _known_by(function: types.FunctionType) -> list[Any]:
    """What a function has in its closure and as defaults."""
    cells = [cell for cell in function.__closure__ or () if cell != types.CellType()]
    return [*(cell.cell_contents for cell in cells), *(function.__defaults__ or ())]


def _with_own_cells(function: types.FunctionType) -> types.FunctionType:
    cells = tuple(types.CellType() for _ in function.__closure__ or ())
    copied = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, cells or None
    )
    copied.__kwdefaults__, copied.__qualname__ = function.__kwdefaults__, function.__qualname__
    copied.__dict__.update(function.__dict__)
    return copied


def _rebind(function: types.FunctionType, copied: types.FunctionType, memo: dict[int, Any]) -> None:
    """Let `copied` know the copies of what `function` knows."""
    for cell, own in zip(function.__closure__ or (), copied.__closure__ or (), strict=True):
        if cell != types.CellType():  # else a name that was not given a value yet
            own.cell_contents = memo.get(id(cell.cell_contents), cell.cell_contents)
    if function.__defaults__:
        copied.__defaults__ = tuple(memo.get(id(item), item) for item in function.__defaults__)


_CONTAINERS = (dict, list, tuple, set, OrderedDict)


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
        before = len(found)
        for part in inside:
            visit(part)
        # A container of a class of the user's may itself refuse to be filled (a frozen configuration).
        if (
            not isinstance(item, nn.Module)
            and type(item) not in _CONTAINERS
            and len(found) == before
            and not _is_copied(item, memo)
        ):
            found.append(item)

    visit(thing)
    return found


def _is_copied(item: Any, memo: dict[int, Any]) -> bool:
    try:
        copy.deepcopy(item, dict(memo))
    except Exception:  # an object's own __deepcopy__ or __reduce__ may raise anything
        return False
    return True
