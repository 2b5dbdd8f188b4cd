"""Nested tuples, lists, dicts and slices, as torch models pass and return them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any


def map_structure(structure: Any, function: Callable[[Any], Any]) -> Any:
    """The same structure with `function` applied to every leaf."""
    if isinstance(structure, tuple) and hasattr(structure, "_fields"):
        return type(structure)(*(map_structure(item, function) for item in structure))
    if isinstance(structure, tuple):  # torch.Size and torch.return_types become plain tuples
        return tuple(map_structure(item, function) for item in structure)
    if isinstance(structure, list):
        return [map_structure(item, function) for item in structure]
    if isinstance(structure, dict):
        return {key: map_structure(item, function) for key, item in structure.items()}
    if isinstance(structure, slice):
        return slice(*(map_structure(item, function) for item in (structure.start, structure.stop, structure.step)))
    return function(structure)


def leaves(structure: Any) -> Iterator[Any]:
    """The leaves, from left to right."""
    if isinstance(structure, dict):
        structure = list(structure.values())
    elif isinstance(structure, slice):
        structure = (structure.start, structure.stop, structure.step)
    if isinstance(structure, (tuple, list)):
        for item in structure:
            yield from leaves(item)
    else:
        yield structure


def named_leaves(structure: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Leaves with a name for each: `name`, `name_0`, `name_key`, ..."""
    if isinstance(structure, dict):
        items = list(structure.items())
    elif isinstance(structure, (tuple, list)):
        items = list(enumerate(structure))
    else:
        yield name, structure
        return
    for key, item in items:
        yield from named_leaves(item, f"{name}_{key}")
