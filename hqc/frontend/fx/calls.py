"""Ways to call what the model calls, for opaque nodes: frozen modules, methods by name, in-place forms on copies."""

from __future__ import annotations

import operator
from collections.abc import Callable, Hashable
from types import BuiltinFunctionType
from typing import Any

import torch
from torch import fx, nn
from torch.fx import immutable_collections

from hqc.frontend.fx.copying import deep_copy, in_eval_mode
from hqc.frontend.fx.in_place import FIRST_OPERANDS, inplace_position, is_in_place_name
from hqc.frontend.fx.registry import plain_function
from hqc.structures import leaves


class FrozenModule:
    """A call of a module as it is when first called, in eval mode: later training does not change it.

    It runs where its operands are: a model on a GPU is simulated and written by a copy on the CPU.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._frozen: nn.Module | None = None
        self._place: torch.device | None = None  # where it is: asking every parameter in each call would cost more

    @property
    def call_key(self) -> nn.Module:
        """What it computes is what this module computes (see `hqc.workflow.call_keys`)."""
        return self.module if self._frozen is None else self._frozen

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._frozen is None:
            self._frozen = in_eval_mode(deep_copy(self.module)).requires_grad_(False)
        given = next((item for item in leaves((args, kwargs)) if isinstance(item, torch.Tensor)), None)
        if given is not None and given.device != self._place:
            self._frozen.to(given.device)
            self._place = given.device
        return self._frozen(*args, **kwargs)


def call_method(name: str, receiver: Any, *args: Any, **kwargs: Any) -> Any:
    return getattr(receiver, name)(*args, **kwargs)


def call_functional(module: nn.Module, name: str, *args: Any, **kwargs: Any) -> Any:
    return getattr(module, name)(*args, **kwargs)


def out_of_place(call: Callable[..., Any]) -> Callable[..., Any]:
    """An in-place call that leaves its first operand alone."""

    def on_copy(*args: Any, **kwargs: Any) -> Any:
        if args:
            return call(args[0].clone(), *args[1:], **kwargs)
        name = next(name for name in FIRST_OPERANDS if name in kwargs)
        return call(**{**kwargs, name: kwargs[name].clone()})

    return on_copy


def set_item_of_copy(target: torch.Tensor, index: Any, value: Any) -> torch.Tensor:
    copied = target.clone()
    copied[index] = value
    return copied


_UNWRITTEN: dict[Any, Any] = {torch.empty: torch.zeros, torch.empty_like: torch.zeros_like, "new_empty": "new_zeros"}


def with_zeros(target: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A call that leaves memory as it is, as the one that fills it with zeros: what nobody writes is the same in every run."""
    if not isinstance(target, Hashable) or target not in _UNWRITTEN:
        return target, kwargs
    zeros = _UNWRITTEN[target]
    return zeros, {name: value for name, value in kwargs.items() if zeros is not torch.zeros or name != "memory_format"}


def written_out_of_place(node: fx.Node) -> tuple[str, Any, tuple[Any, ...], dict[str, Any]]:
    """`(op, target, args, kwargs)` of the call that gives the value which an in-place call writes, and writes nothing.

    An in-place method that has no other form is called on a clone. A function of the user's that has none comes back as it is: its
    first operand must be cloned before.
    """
    op, target, args, kwargs = node.op, node.target, node.args, dict(node.kwargs)
    if target is operator.setitem:
        return "call_function", set_item_of_copy, args, kwargs
    if kwargs.get("inplace") is True:
        return op, target, args, {**kwargs, "inplace": False}
    if op == "call_function":
        plain = plain_function(target)
        if plain is not None:
            return op, plain, args, kwargs
        at = inplace_position(target)
        if at is not None and at < len(args):
            return op, target, (*args[:at], False, *args[at + 1 :]), kwargs
        name = getattr(target, "__name__", "")
        if not isinstance(target, BuiltinFunctionType) or not hasattr(torch.Tensor, name):
            return op, target, args, kwargs
        op = "call_method"
    else:
        name = str(target)
    if op == "call_method" and is_in_place_name(name):
        if hasattr(torch.Tensor, name[:-1]):
            return op, name[:-1], args, kwargs
        return "call_function", method_on_clone, (name, *args), kwargs
    return op, target, args, kwargs


def method_on_clone(name: str, first: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    return getattr(first.clone(), name)(*args, **kwargs)


class UsersInterpreter(fx.Interpreter):
    """Runs a graph, and calls functions with lists and dicts of Python's own."""

    def fetch_args_kwargs_from_env(self, n: fx.Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
        args, kwargs = as_users_write(super().fetch_args_kwargs_from_env(n))
        return args, kwargs


def as_users_write(arguments: Any) -> Any:
    """Arguments of an FX node with lists and dicts of Python's own: a graph's are not for functions that change what they get."""
    if isinstance(arguments, immutable_collections.immutable_list):
        return [as_users_write(item) for item in arguments]
    if isinstance(arguments, immutable_collections.immutable_dict):
        return {key: as_users_write(item) for key, item in arguments.items()}
    return tuple(map(as_users_write, arguments)) if type(arguments) is tuple else arguments
