"""Nested tuples, lists, dicts, dataclasses and slices, as models pass and return them. No torch here: saved models have them
too."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

_T = TypeVar("_T")


def map_structure(structure: Any, function: Callable[[Any], Any]) -> Any:
    """The same structure with `function` applied to every leaf."""
    if isinstance(structure, tuple) and hasattr(structure, "_fields"):
        return type(structure)(*(map_structure(item, function) for item in structure))
    if isinstance(structure, tuple):  # torch.Size and torch.return_types become plain tuples
        return tuple(map_structure(item, function) for item in structure)
    if isinstance(structure, list):
        return [map_structure(item, function) for item in structure]
    if is_dataclass(structure):
        return with_fields(structure, {name: map_structure(item, function) for name, item in fields_of(structure).items()})
    if isinstance(structure, dict):
        return {key: map_structure(item, function) for key, item in structure.items()}
    if isinstance(structure, slice):
        return slice(*(map_structure(item, function) for item in (structure.start, structure.stop, structure.step)))
    return function(structure)


def children(structure: Any) -> list[tuple[Any, Any]] | None:
    """The parts of a structure by key, in the order in which `map_structure` maps them; None for a leaf."""
    if isinstance(structure, (tuple, list)):
        return list(enumerate(structure))
    if is_dataclass(structure):
        return list(fields_of(structure).items())
    if isinstance(structure, dict):
        return list(structure.items())
    if isinstance(structure, slice):
        return [("start", structure.start), ("stop", structure.stop), ("step", structure.step)]
    return None


def leaves(structure: Any) -> Iterator[Any]:
    """The leaves, from left to right."""
    parts = children(structure)
    if parts is None:
        yield structure
        return
    for _, item in parts:
        yield from leaves(item)


def keys_of(structure: Any) -> Iterator[Any]:
    """The keys of all dicts in a structure."""
    for key, item in children(structure) or ():
        if isinstance(structure, dict):
            yield key
        yield from keys_of(item)


def named_leaves(structure: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Leaves with a name for each: `name`, `name_0`, `name_key`, ..."""
    parts = children(structure)
    if parts is None:
        yield name, structure
        return
    for key, item in parts:
        yield from named_leaves(item, f"{name}_{key}")


def is_dataclass(structure: Any) -> bool:
    """True for an instance of a dataclass of the user's; hqc's own are leaves."""
    cls = type(structure)
    return dataclasses.is_dataclass(cls) and not cls.__module__.startswith("hqc.")


def fields_of(structure: Any) -> dict[str, Any]:
    """Fields of a dataclass by name."""
    return {item.name: getattr(structure, item.name) for item in dataclasses.fields(structure) if hasattr(structure, item.name)}


def with_fields(structure: Any, values: dict[str, Any]) -> Any:
    """A copy of a dataclass with other values, made without running its constructor."""
    result = copy.copy(structure)
    for name, value in values.items():
        object.__setattr__(result, name, value)
        if isinstance(result, dict) and name in result:
            dict.__setitem__(result, name, value)
    return result


def reached(start: _T, onward: Callable[[_T], Iterable[_T]]) -> Iterator[_T]:
    """`start` and all that `onward` leads to from it, each once, depth first. Models are deeper than Python's stack, and where ways part
    and meet again a walk by recursion takes each of them.

    `onward` is asked after its item was taken: who knows enough by then stops.
    """
    pending, seen = [start], {start}
    while pending:
        item = pending.pop()
        yield item
        further = [each for each in dict.fromkeys(onward(item)) if each not in seen]
        seen.update(further)
        pending.extend(reversed(further))
