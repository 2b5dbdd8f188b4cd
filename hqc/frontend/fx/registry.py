"""The registry of lowerings: which function turns a torch module, function or method into IR nodes.

A lowering has the signature of what it lowers, behind a `LoweringContext`::

    @lower_module(nn.Softmax)
    def softmax_module(ctx, module, x): ...

    @lower_function(torch.softmax, F.softmax)   # Tensor.softmax too: methods fall back on torch functions of their name
    def softmax(ctx, x, dim, dtype=None): ...

Arguments are IR values, constants (torch tensors) or plain Python objects. It returns a value, a tuple or dict of them, or a
Python object, and raises `ctx.cannot(reason)` for arguments that the IR cannot express: the call then becomes an opaque node.
In-place forms (`relu_`, `x += y`, `inplace=True`) need no lowering of their own.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn import functional

from hqc.checked import explained
from hqc.frontend.fx.in_place import PLAIN_OPERATORS, is_in_place_name, writes_first_operand
from hqc.registry import Registry

Handler = Callable[..., Any]
_H = TypeVar("_H", bound=Handler)


class Alias(enum.Enum):
    """How a result shares memory with the first operand in torch; decides what a later in-place write may do."""

    NONE = "its own memory"
    SAME = "the same tensor"
    VIEW = "a view"


@dataclass(frozen=True)
class Lowering:
    """One entry: the handler and how its result aliases the first operand."""

    handler: Handler
    alias: Alias = Alias.NONE


_FAMILIES = "hqc.frontend.fx.lowerings"
_MODULES: Registry[type, Lowering] = Registry("lowering of a module", families=_FAMILIES)
_FUNCTIONS: Registry[Any, Lowering] = Registry("lowering of a function", families=_FAMILIES)
_METHODS: Registry[str, Lowering] = Registry("lowering of a tensor method", families=_FAMILIES)
_FUNCTIONALS: Registry[tuple[type | None, str], Lowering] = Registry("lowering of a functional module", families=_FAMILIES)


@explained
def lower_module(*classes: type[nn.Module], alias: Alias = Alias.NONE) -> Callable[[_H], _H]:
    """Register `handler(ctx, module, *args)` for module classes, and subclasses that keep their forward."""
    return _register(_MODULES, classes, alias)


@explained
def lower_function(*functions: Callable[..., Any], alias: Alias = Alias.NONE) -> Callable[[_H], _H]:
    """Register `handler(ctx, *args)` for functions (`torch.x`, `F.x`, `operator.x`)."""
    return _register(_FUNCTIONS, functions, alias)


@explained
def lower_method(*names: str, alias: Alias = Alias.NONE) -> Callable[[_H], _H]:
    """Register `handler(ctx, tensor, *args)` for tensor methods."""
    return _register(_METHODS, names, alias)


@explained
def lower_functional(*names: str, cls: type[nn.Module] | None = None) -> Callable[[_H], _H]:
    """Register `handler(ctx, module, *args)` for methods of FloatFunctional modules; of every class, or of `cls` alone."""
    return _register(_FUNCTIONALS, [(cls, name) for name in names], Alias.NONE)


def _register(table: Registry[Any, Lowering], keys: Any, alias: Alias) -> Callable[[_H], _H]:
    return table.register(*keys, make=lambda handler: Lowering(handler, alias))


def find_module(module: nn.Module) -> Lowering | None:
    """The lowering of the module's class, or of the nearest base class whose `forward` it keeps."""
    for base in type(module).__mro__:
        if base in _MODULES:
            kept = getattr(type(module), "forward", None) is getattr(base, "forward", None)
            return _MODULES[base] if kept else None
    return None


def find_function(function: Any) -> tuple[Lowering | None, bool]:
    """The lowering of a function, or of what it is an in-place form of; and whether the function writes into its first operand."""
    name = getattr(function, "__name__", "")
    if function not in _FUNCTIONS and function == getattr(torch._C._VariableFunctions, name, None):
        function = getattr(torch, name, function)  # what torch's own Python code calls
    plain = function if function in _FUNCTIONS else plain_function(function)
    return _FUNCTIONS.get(plain), writes_first_operand(function)


def plain_function(function: Any) -> Any:
    """The function that an in-place function (`operator.iadd`, `torch.relu_`) is a form of; None for others."""
    if function in PLAIN_OPERATORS:
        return PLAIN_OPERATORS[function]
    name = getattr(function, "__name__", "")
    if name.endswith("_") and not name.startswith("_"):
        for home in (torch, functional):
            plain = getattr(home, name[:-1], None)
            if plain in _FUNCTIONS:
                return plain
    return None


def find_method(name: str) -> tuple[Lowering | None, bool]:
    """The lowering of a tensor method, by its name or by the torch function of that name; and whether it is in place."""
    found = _METHODS.get(name) or _FUNCTIONS.get(getattr(torch, name, None))
    if found is not None or not is_in_place_name(name):
        return found, writes_first_operand(name)
    plain = name[:-1]
    return _METHODS.get(plain) or _FUNCTIONS.get(getattr(torch, plain, None)), True


def find_functional(module: nn.Module, name: str) -> Lowering | None:
    """The lowering of a FloatFunctional's method."""
    for base in type(module).__mro__:
        if (base, name) in _FUNCTIONALS:
            return _FUNCTIONALS[base, name]
    return _FUNCTIONALS.get((None, name))


def registered() -> dict[str, list[str]]:
    """Names of everything with a lowering, for the op matrix and the documentation."""
    return {
        "modules": sorted(f"{cls.__module__}.{cls.__qualname__}" for cls in _MODULES),
        "functions": sorted({str(getattr(f, "__name__", f)) for f in _FUNCTIONS}),
        "methods": sorted(_METHODS),
        "functionals": sorted({name for _, name in _FUNCTIONALS}),
    }
