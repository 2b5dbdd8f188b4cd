"""Inputs as users give them (tensors, arrays, nested, by name) as the positional arguments of a model's forward."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.utils import _pytree as pytree

from hqc.errors import InputError
from hqc.frontend.fx.structures import leaves

CONSTANTS = (bool, int, float, str, type(None))


def as_tuple(inputs: Any) -> tuple[Any, ...] | None:
    """Example inputs as the positional arguments of forward."""
    if inputs is None:
        return None
    return tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)


def to_meta(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """The structure of `inputs` with every tensor replaced by an empty one on the meta device: shapes and dtypes only."""
    return tuple(pytree.tree_map_only(torch.Tensor, lambda x: torch.empty_like(x, device="meta"), list(inputs)))


def from_meta(inputs: tuple[Any, ...], device: torch.device | str = "cpu") -> tuple[Any, ...]:
    """Zero tensors of the shapes and dtypes of `inputs`."""
    return tuple(pytree.tree_map_only(torch.Tensor, lambda x: torch.zeros(x.shape, dtype=x.dtype, device=device), list(inputs)))


def input_names(traced: fx.GraphModule) -> list[str]:
    """Names of forward's arguments, in order."""
    return [str(node.target).lstrip("*") for node in traced.graph.nodes if node.op == "placeholder"]


def tensors_of(structure: Any) -> list[Any]:
    """The tensors and arrays of nested arguments, in the order of the graph's inputs."""
    return [leaf for leaf in leaves(structure) if isinstance(leaf, (torch.Tensor, np.ndarray))]


def by_name(args: Sequence[Any], names: Sequence[str]) -> tuple[Any, ...]:
    """`args`, or where they are one dict whose keys are names of inputs, its entries in their order; None for one left out."""
    if len(args) == 1 and isinstance(args[0], Mapping) and args[0] and set(args[0]) <= set(names):
        given = args[0]
        last = max(index for index, name in enumerate(names) if name in given)
        return tuple(given.get(name) for name in names[: last + 1])
    return tuple(args)


def bind(args: Sequence[Any], planned: tuple[Any, ...] | None, names: Sequence[str]) -> tuple[Any, ...]:
    """`args` as float32 (or integer) tensors in the structure of `planned`, the inputs that the model was planned for.

    `InputError` names the input that is missing, too much, or of another kind.
    """
    given = by_name(args, names)
    if planned is None:
        return tuple(_tensor(arg, name) for arg, name in zip(given, (*names, *names), strict=False))
    wanted = planned
    while wanted and wanted[-1] is None and len(wanted) > len(given):
        wanted = wanted[:-1]
    while given and given[-1] is None and len(given) > len(wanted):
        given = given[:-1]
    if len(given) != len(wanted):
        raise InputError(f"the model takes {len(wanted)} input(s) ({', '.join(names[: len(wanted)])}), got {len(given)}")
    return tuple(_bound(arg, like, name) for arg, like, name in zip(given, wanted, names, strict=False))


def _bound(given: Any, like: Any, name: str) -> Any:
    if isinstance(like, torch.Tensor):
        tensor = _tensor(given, name)
        if not isinstance(tensor, torch.Tensor):
            raise InputError(f"input {name} must be a tensor or an array, got {type(given).__name__}")
        if like.is_floating_point():
            return tensor.float()
        if tensor.is_floating_point():
            raise InputError(f"input {name} takes {str(like.dtype).removeprefix('torch.')}, got {str(tensor.dtype)[6:]}")
        return tensor.to(like.dtype)
    if isinstance(like, Mapping):
        missing = [key for key in like if not isinstance(given, Mapping) or key not in given]
        if missing:
            raise InputError(
                f"input {name} is a dict with {', '.join(map(str, like))}; it lacks {', '.join(map(str, missing))}"
            )
        return {key: _bound(given[key], item, f"{name}[{key!r}]") for key, item in like.items()}
    if isinstance(like, (tuple, list)):
        if not isinstance(given, (tuple, list)) or len(given) != len(like):
            raise InputError(f"input {name} takes {len(like)} entries, got {_size(given)}")
        return _like(like, (_bound(a, b, f"{name}[{i}]") for i, (a, b) in enumerate(zip(given, like, strict=True))))
    if given is not None and given != like:
        raise InputError(f"input {name} was {like!r} when the model was planned and is a constant of it, got {given!r}")
    return like


def _like(sequence: Any, items: Iterable[Any]) -> Any:
    """`items` as a tuple, list or named tuple of the kind of `sequence`."""
    return type(sequence)(*items) if hasattr(sequence, "_fields") else type(sequence)(items)


def _size(given: Any) -> str:
    return str(len(given)) if isinstance(given, (tuple, list)) else f"a {type(given).__name__}"


def _tensor(value: Any, name: str) -> Any:
    """Arrays and lists of numbers as tensors, floats as float32; structures and constants keep their form."""
    if isinstance(value, torch.Tensor):
        tensor = value.detach().cpu()
        return tensor.float() if tensor.dtype in (torch.float64, torch.float16, torch.bfloat16) else tensor
    if isinstance(value, Mapping):
        return {key: _tensor(item, f"{name}[{key!r}]") for key, item in value.items()}
    if isinstance(value, CONSTANTS):
        return value
    return as_tensor(value, name)


def as_tensor(value: Any, name: str) -> Any:
    """An array, a list of numbers or a list of tensors; `InputError` for what has no numbers in it."""
    if isinstance(value, (tuple, list)) and any(isinstance(leaf, (torch.Tensor, np.ndarray)) for leaf in leaves(value)):
        return _like(value, (_tensor(item, f"{name}[{index}]") for index, item in enumerate(value)))
    array = as_numpy(value, name)
    if array.dtype.kind not in "fiub":
        raise InputError(f"input {name} must hold numbers, got {array.dtype}")
    return torch.from_numpy(np.asarray(array, dtype=np.float32 if array.dtype.kind == "f" else array.dtype, order="C"))


def as_numpy(value: Any, name: str) -> np.ndarray[Any, Any]:
    """A tensor or array-like as a NumPy array; `InputError` names the input it cannot convert."""
    if hasattr(value, "detach"):
        return np.asarray(value.detach().cpu().numpy())
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise InputError(f"input {name} is not a rectangular array: {error}") from None
    if array.dtype == object:
        raise InputError(f"input {name} must be a tensor or an array, got {type(value).__name__}")
    return array
