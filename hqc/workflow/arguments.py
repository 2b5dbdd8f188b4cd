"""Inputs as users give them (tensors, arrays, nested, by name) as the positional arguments of a model's forward."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from hqc.errors import FAULTS, HqcError, InputError, first_line
from hqc.frontend.fx.examples import positional_inputs
from hqc.frontend.fx.locations import NAME_META
from hqc.frontend.fx.tensors import is_data, plain_tensor
from hqc.structures import leaves
from hqc.workflow.binding import as_numpy, bind_structure, by_name, like_sequence

CONSTANTS = (bool, int, float, str, type(None))


@contextmanager
def given_to(arguments: Any) -> Iterator[None]:
    """Inside, a model runs on `arguments`: what it raises is an `InputError` with their shapes."""
    try:
        with torch.no_grad():
            yield
    except HqcError:
        raise
    except FAULTS as error:
        shapes = [list(tensor.shape) for tensor in tensors_of(arguments)]
        raise InputError(f"the model cannot take inputs of the shapes {shapes}: {first_line(error)}") from error


def as_tuple(inputs: Any) -> tuple[Any, ...] | None:
    """Example inputs as the positional arguments of forward."""
    if inputs is None:
        return None
    return tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)


def as_float32(value: Any) -> Any:
    """float32 for floating tensors and arrays, other numbers as tensors, anything else unchanged; `InputError` for no numbers."""
    if not is_data(value):
        return value
    tensor = plain_tensor(value, "an example input")
    return tensor.float() if tensor.is_floating_point() else tensor


def as_float32_inputs(model: nn.Module, inputs: Any) -> tuple[Any, ...] | None:
    """Example inputs, which may be a dict by name, as the positional arguments of a float32 model's forward."""
    given = as_tuple(positional_inputs(model, inputs))
    return None if given is None else tuple(pytree.tree_map(as_float32, list(given)))


def to_meta(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """The structure of `inputs` with every tensor replaced by an empty one on the meta device: shapes and dtypes only."""
    return tuple(pytree.tree_map_only(torch.Tensor, lambda x: torch.empty_like(x, device="meta"), list(inputs)))


def from_meta(inputs: tuple[Any, ...], device: torch.device | str = "cpu") -> tuple[Any, ...]:
    """Zero tensors of the shapes and dtypes of `inputs`."""
    return tuple(pytree.tree_map_only(torch.Tensor, lambda x: torch.zeros(x.shape, dtype=x.dtype, device=device), list(inputs)))


def on_device_of(model: nn.Module, arguments: Sequence[Any]) -> tuple[Any, ...]:
    """Arguments of forward where the model's parameters and buffers are."""
    device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    return tuple(pytree.tree_map_only(torch.Tensor, lambda tensor: tensor.to(device), list(arguments)))


def input_names(traced: fx.GraphModule) -> list[str]:
    """Names of forward's arguments, in order: the user's own where Python cannot spell them."""
    placeholders = [node for node in traced.graph.nodes if node.op == "placeholder"]
    return [str(node.meta.get(NAME_META, node.target)).lstrip("*") for node in placeholders]


def tensors_of(structure: Any) -> list[Any]:
    """The tensors and arrays of nested arguments, in the order of the graph's inputs."""
    return [leaf for leaf in leaves(structure) if isinstance(leaf, (torch.Tensor, np.ndarray))]


def bind(args: Sequence[Any], planned: tuple[Any, ...] | None, names: Sequence[str]) -> tuple[Any, ...]:
    """`args` as float32 (or integer) tensors in the structure of `planned`, the inputs that the model was planned for.

    `InputError` names the input that is missing, too much, or of another kind.
    """
    given = by_name(args, names)
    if planned is None:
        return tuple(_tensor(arg, name) for arg, name in zip(given, (*names, *names), strict=False))
    return bind_structure(given, planned, names, torch.Tensor, _bound)


def _bound(given: Any, like: torch.Tensor, name: str) -> torch.Tensor:
    tensor = _tensor(given, name)
    if not isinstance(tensor, torch.Tensor):
        raise InputError(f"input {name} must be a tensor or an array, got {type(given).__name__}")
    if like.is_floating_point():
        return tensor.float()
    if tensor.is_floating_point():
        raise InputError(f"input {name} takes {str(like.dtype).removeprefix('torch.')}, got {str(tensor.dtype)[6:]}")
    return tensor.to(like.dtype)


def _tensor(value: Any, name: str) -> Any:
    """Arrays and lists of numbers as tensors, floats as float32; structures and constants keep their form."""
    if is_data(value):
        tensor = plain_tensor(value, f"input {name}").detach().cpu()
        return tensor.float() if tensor.is_floating_point() else tensor
    if isinstance(value, Mapping):
        return {key: _tensor(item, f"{name}[{key!r}]") for key, item in value.items()}
    if isinstance(value, CONSTANTS):
        return value
    return as_tensor(value, name)


def as_tensor(value: Any, name: str) -> Any:
    """An array, a list of numbers or a list of tensors; `InputError` for what has no numbers in it."""
    if isinstance(value, (tuple, list)) and any(isinstance(leaf, (torch.Tensor, np.ndarray)) for leaf in leaves(value)):
        return like_sequence(value, (_tensor(item, f"{name}[{index}]") for index, item in enumerate(value)))
    tensor = plain_tensor(as_numpy(value, name), f"input {name}")
    return tensor.float() if tensor.is_floating_point() else tensor
