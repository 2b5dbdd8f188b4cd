"""Python state of a model that its forward may change: remembered before a trace, put back after it.

Beside attributes, buffers and parameters of modules, these are the containers and plain objects that modules hold, such as caches
keyed by shape: a trace would leave proxies in them.
"""

from __future__ import annotations

import contextlib
import operator
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hqc.frontend.fx.hooks import held_by_hooks

_ATOMS = (torch.Tensor, nn.Module, str, bytes, int, float, complex, type(None), torch.dtype, torch.device, type)
_LIMIT = 20_000
"""Objects looked at in all; what a model holds beyond is data, not state of its forward."""


@contextlib.contextmanager
def restored(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Put back the attributes of modules and the contents of what they hold, whatever happens inside."""
    undo: list[Callable[[], None]] = []
    pending: list[Any] = []
    for module in modules:
        undo.append(_dict_again(module.__dict__))
        for name in ("_parameters", "_buffers", "_modules"):
            if isinstance(module.__dict__[name], dict):  # a scripted module keeps its own in C++
                undo.append(_dict_again(module.__dict__[name]))
        pending.extend(held_by_hooks(module))
        pending.extend(value for name, value in module.__dict__.items() if not name.startswith("_") or name not in _OWN)
    undo.extend(_remember(pending))
    try:
        yield
    finally:
        for step in reversed(undo):
            step()


def remembered(items: Iterable[Any]) -> Callable[[], None]:
    """What puts back the contents of `items`, and of the containers in them."""
    undo = list(_remember(list(items)))

    def again() -> None:
        for step in reversed(undo):
            step()

    return again


_OWN = frozenset(nn.Module().__dict__)


def _remember(pending: list[Any]) -> Iterator[Callable[[], None]]:
    """Steps that put back the contents of containers and plain objects, and of those in them."""
    seen: set[int] = set()
    while pending and len(seen) < _LIMIT:
        item = pending.pop()
        if isinstance(item, _ATOMS) or id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, dict):
            pending.extend(item.values())
            yield _dict_again(item)
        elif isinstance(item, (list, deque)):
            pending.extend(item)
            yield _list_again(item)
        elif isinstance(item, set):
            yield _set_again(item)
        elif isinstance(item, tuple):
            pending.extend(item)
        elif _is_plain_object(item):
            pending.append(item.__dict__)


@dataclass(frozen=True)
class Slot:
    """A place where a model holds something: `holder[key]`. `path`: of the module attribute that it is in, and of the place inside it."""

    path: str
    holder: Any
    key: Any

    @property
    def value(self) -> Any:
        """What is held there."""
        return self.holder[self.key]

    def put(self, value: Any) -> None:
        """Hold `value` there."""
        self.holder[self.key] = value


def slots(root: nn.Module) -> Iterator[Slot]:
    """The attributes of modules, and what the containers and plain objects in them hold; those of nn.Module itself left out."""
    pending: list[Slot] = []
    seen: set[int] = set()
    for path, module in root.named_modules():
        prefix = f"{path}." if path else ""
        own = vars(module)
        pending.extend(Slot(f"{prefix}{name}", own, name) for name in own if name not in _OWN and name != "training")
        buffers = own["_buffers"] if isinstance(own["_buffers"], dict) else {}
        made = [name for name, buffer in buffers.items() if not isinstance(buffer, (torch.Tensor, type(None)))]
        pending.extend(Slot(f"{prefix}{name}", buffers, name) for name in made)  # by a trace: proxies
    pending.reverse()
    while pending and len(seen) < _LIMIT:
        slot = pending.pop()
        yield slot
        item = slot.value
        if isinstance(item, _ATOMS) or id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, dict):
            pending.extend(Slot(f"{slot.path}[{key!r:.40}]", item, key) for key in item)
        elif isinstance(item, (list, deque)):
            pending.extend(Slot(f"{slot.path}[{index}]", item, index) for index in range(len(item)))
        elif _is_plain_object(item):
            pending.extend(Slot(f"{slot.path}.{name}", item.__dict__, name) for name in item.__dict__)


def _is_plain_object(item: Any) -> bool:
    module = type(item).__module__.partition(".")[0]
    return hasattr(item, "__dict__") and module not in ("torch", "numpy", "builtins", "logging", "hqc") and not callable(item)


def _dict_again(table: dict[Any, Any]) -> Callable[[], None]:
    # As the built-in type has it: a class of the user's may refuse changes (a frozen configuration) or do more than storing.
    base: Any = OrderedDict if isinstance(table, OrderedDict) else dict
    entries = list(base.items(table))

    def again() -> None:
        now = base.items(table)
        if len(now) == len(entries) and all(
            key is old_key and value is old for (key, value), (old_key, old) in zip(now, entries, strict=True)
        ):
            return
        base.clear(table)
        for key, value in entries:
            base.__setitem__(table, key, value)

    return again


def _list_again(items: Any) -> Callable[[], None]:
    base: Any = deque if isinstance(items, deque) else list
    entries = list(base.__iter__(items))

    def again() -> None:
        if len(entries) == base.__len__(items) and all(map(operator.is_, base.__iter__(items), entries)):
            return
        base.clear(items)
        base.extend(items, entries)

    return again


def _set_again(items: set[Any]) -> Callable[[], None]:
    entries = set(items)

    def again() -> None:
        if set.symmetric_difference(items, entries):
            set.clear(items)
            set.update(items, entries)

    return again


@contextlib.contextmanager
def unchanged_in_eval(model: nn.Module) -> Iterator[Callable[[], list[str]]]:
    """Put the model into eval mode, and everything about it back afterwards. Yields a question: which buffers have changed so far."""
    modules = list(model.modules())
    buffers = [(name, buffer, buffer._version, buffer.detach().clone()) for name, buffer in model.named_buffers()]

    def changed() -> list[str]:
        now = dict(model.named_buffers())
        return [name for name, buffer, version, _ in buffers if buffer._version != version or now.get(name) is not buffer]

    with restored(modules):
        for module in modules:
            module.training = False
        try:
            yield changed
        finally:
            for _, buffer, version, copied in buffers:
                if buffer._version != version:
                    with torch.no_grad():
                        buffer.copy_(copied)
