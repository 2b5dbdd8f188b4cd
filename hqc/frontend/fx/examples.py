"""Example inputs by the argument of `forward` that they are for."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from typing import Any

from torch import nn

from hqc.errors import InputError
from hqc.frontend.fx.tensors import is_data, plain_tensor
from hqc.structures import map_structure

ExampleInputs = Any
"""A tensor, a tuple or list of positional inputs, or a dict of inputs by name; inputs may be nested, arrays are tensors."""


def split_inputs(example_inputs: ExampleInputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and named inputs."""
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if isinstance(example_inputs, (tuple, list)) and not hasattr(example_inputs, "_fields"):
        return tuple(example_inputs), {}
    return (example_inputs,), {}


def positional_inputs(model: nn.Module, example_inputs: ExampleInputs) -> ExampleInputs:
    """Inputs by name as positional ones: arguments before the last one that is given have their defaults. Others as they are.

    Those that forward takes by name only come behind the positional ones, in the order of its signature: the traced model takes them so.
    `InputError` for an argument without a default that is left out, and for one that has no place in the signature (`**kwargs`, or by
    name only behind `*args`).
    """
    if not isinstance(example_inputs, Mapping):
        return example_inputs
    signature = inspect.signature(model.forward)
    own = signature.parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in own.values())
    nothing_else = takes_any and len(own) == 1
    if not _names_arguments(signature, example_inputs) or not (nothing_else or {*example_inputs} & {*own}):
        return example_inputs
    if not takes_any and not {*example_inputs} <= {*own}:
        return example_inputs
    by_name_only = [
        name for name in example_inputs if name not in own or (name in _names_only(signature) and _is_varied(signature))
    ]
    if by_name_only:
        raise InputError(
            f"forward takes {by_name_only[0]} by name only, and a deployed model has its inputs in an order; wrap the model in a module "
            "whose forward has it among its positional arguments"
        )
    last = max(list(own).index(name) for name in example_inputs)
    positional = []
    for name, parameter in list(own.items())[: last + 1]:
        value = example_inputs.get(name, parameter.default)
        if value is parameter.empty:
            raise InputError(f"example inputs lack {name}; the model takes {', '.join(own)}")
        positional.append(value)
    return tuple(positional)


def argument_examples(model: nn.Module, example_inputs: ExampleInputs, optional: Collection[str] = ()) -> dict[str, Any] | None:
    """The example of each argument that is given, by name: a tuple for `*args`, a dict for `**kwargs`. None without examples.

    `optional`: arguments without a default that need no example all the same.
    A dict that names no argument of `forward` is the one positional input. `InputError` when `forward` cannot be called so.
    """
    if example_inputs is None:
        return None
    args, kwargs = split_inputs(example_inputs)
    signature = inspect.signature(model.forward)
    args, kwargs = _as_called(signature, args, kwargs)
    try:
        bound = signature.bind_partial(*args, **kwargs) if optional else None
    except TypeError:
        bound = None
    if kwargs and not args and not _names_arguments(signature, kwargs):
        args, kwargs = (example_inputs,), {}
    try:
        if bound is None or not _is_complete(signature, bound, optional):
            bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise InputError(_binding_error(signature, args, kwargs, error)) from None
    return {name: _tensors(example, f"the example input {name}") for name, example in bound.arguments.items()}


def _tensors(example: Any, what: str) -> Any:
    return map_structure(example, lambda leaf: plain_tensor(leaf, what) if is_data(leaf) else leaf)


def _as_called(
    signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional inputs behind the last positional argument by the names of those that forward takes by name only."""
    places = sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in signature.parameters.values())
    behind, names = args[places:], _names_only(signature)
    if not behind or _is_varied(signature) or len(behind) > len(names) or {*names[: len(behind)]} & {*kwargs}:
        return args, kwargs
    return args[:places], {**kwargs, **dict(zip(names, behind, strict=False))}


def _names_only(signature: inspect.Signature) -> list[str]:
    return [name for name, parameter in signature.parameters.items() if parameter.kind is parameter.KEYWORD_ONLY]


def _is_varied(signature: inspect.Signature) -> bool:
    return any(parameter.kind is parameter.VAR_POSITIONAL for parameter in signature.parameters.values())


def _is_complete(signature: inspect.Signature, bound: inspect.BoundArguments, optional: Collection[str]) -> bool:
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    required = {p.name for p in signature.parameters.values() if p.default is p.empty and p.kind not in kinds}
    return required <= {*bound.arguments, *optional}


def _names_arguments(signature: inspect.Signature, names: Mapping[str, Any]) -> bool:
    parameters = signature.parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return True
    own = {parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_POSITIONAL}
    required = [p for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return bool(own & {str(name) for name in names}) or len(required) != 1


def _binding_error(signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any], error: TypeError) -> str:
    parameters = list(signature.parameters)
    takes = ", ".join(parameters)
    strange = [name for name in kwargs if name not in parameters]
    if strange:
        return f"the model has no input {strange[0]}; it takes {takes}"
    if len(args) > len(parameters):
        return f"the model takes {len(parameters)} input(s) ({takes}), got {len(args)} example inputs"
    given = {*parameters[: len(args)], *kwargs}
    missing = [
        p.name for p in signature.parameters.values() if p.default is p.empty and p.name not in given and p.kind in (0, 1, 3)
    ]
    if missing:
        return f"example inputs lack {', '.join(missing)}; the model takes {takes}"
    return f"forward cannot be called with these example inputs: {error}"
