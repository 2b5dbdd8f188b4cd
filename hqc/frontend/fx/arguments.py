"""The arguments of forward while it is traced: which are proxies, and which constants."""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Collection, Mapping, Sequence
from types import FunctionType
from typing import Any, Protocol

from torch import fx, nn

from hqc.errors import InputError
from hqc.frontend.fx.known import KnownValues

_SPECIALIZED = (bool, int, float, str, type(None))
"""Kinds of defaults that arguments keep as constants."""


class AnyTracer(Protocol):
    """What this takes of a tracer."""

    known: KnownValues

    def assume(self, node: fx.Node, value: Any, *, truth: bool = False, fixed: bool = False) -> None: ...


class RootArguments:
    """`constants`: values of arguments, by name. `symbolic`: those that are proxies in spite of their default. `examples`: example
    inputs by name, or None."""

    def __init__(
        self, constants: Mapping[str, Any], symbolic: Collection[str], examples: Mapping[str, Any] | None, tracer: AnyTracer
    ) -> None:
        self._constants, self._symbolic, self._examples = dict(constants), set(symbolic), examples
        self._tracer = tracer

    def check(self, parameters: Mapping[str, inspect.Parameter], own: Sequence[str]) -> None:
        """`InputError` for a name that forward does not have; `own`: its names without `self`."""
        unknown = sorted((set(self._constants) | self._symbolic) - set(parameters))
        if unknown:
            raise InputError(f"forward has no argument {', '.join(unknown)}; it has {', '.join(own)}")

    def value_of(self, arg: fx.Proxy, parameter: inspect.Parameter) -> Any:
        """What forward gets for an argument: a proxy, or a constant."""
        name, default = parameter.name, parameter.default
        if name in self._constants:
            return self._constants[name]
        if self._examples is not None and name in self._examples:
            example = self._examples[name]
            if isinstance(example, str) and default is inspect.Parameter.empty:
                raise InputError(f"the example input {name} is a str, not a tensor")
            self._tracer.known.give(arg.node, example)
            if example is None or isinstance(example, (bool, int, float, str)):
                self._tracer.assume(arg.node, example, fixed=True)
                return example
            return arg
        if parameter.kind is inspect.Parameter.VAR_KEYWORD and name not in self._symbolic:
            return {}
        if self._examples is not None and name not in self._symbolic:
            if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                return ()
            if default is not inspect.Parameter.empty:
                return default
        specialized = default is not inspect.Parameter.empty and isinstance(default, _SPECIALIZED)
        return default if specialized and name not in self._symbolic else arg

    def settle_placeholders(self, graph: fx.Graph, parameters: Mapping[str, inspect.Parameter]) -> None:
        """Give the placeholders of constants their defaults, and all the order of Python's grammar. They stay in the signature, unused."""
        self._default_constants(graph)
        _order(graph, parameters)
        _let_defaults_stand(graph)

    def _default_constants(self, graph: fx.Graph) -> None:
        """Arguments that are constants need not be given to the traced module, where Python's grammar allows it."""
        for node in reversed(_placeholders(graph)):
            if str(node.target) in self._constants:
                constant = self._constants[str(node.target)]
                node.args = (constant if isinstance(constant, _SPECIALIZED) else None,)  # nobody reads it
            if not node.args and not str(node.target).startswith("*"):
                return


def _placeholders(graph: fx.Graph) -> list[fx.Node]:
    return [node for node in graph.nodes if node.op == "placeholder"]


def _order(graph: fx.Graph, parameters: Mapping[str, inspect.Parameter]) -> None:
    """Arguments by name alone come behind `*args`, as in Python's grammar; stock FX has them before."""
    nodes = _placeholders(graph)
    starred = next((node for node in nodes if str(node.target).startswith("*") and str(node.target)[1] != "*"), None)
    if starred is None:
        return
    for node in reversed(nodes):
        if parameters[str(node.target).lstrip("*")].kind is inspect.Parameter.KEYWORD_ONLY:
            starred.append(node)


def _let_defaults_stand(graph: fx.Graph) -> None:
    """What forward takes by name only may follow arguments with a default; as the positional argument that it becomes it may not, and
    so gets None for one. A caller still has to give it.
    """
    after_default = False
    for node in _placeholders(graph):
        if str(node.target).startswith("*"):
            return
        if after_default and not node.args:
            node.args = (None,)
        after_default = bool(node.args)


def from_placeholder(node: Any) -> bool:
    """True for an argument of forward and for what is taken out of one."""
    while isinstance(node, fx.Node) and node.target in (operator.getitem, getattr) and node.args:
        node = node.args[0]
    return isinstance(node, fx.Node) and node.op == "placeholder"


def forward_of(root: nn.Module) -> tuple[Any, bool]:
    """The function that runs when `root` is called, and whether it takes `root` as its first argument."""
    own = vars(root).get("forward")
    if own is None:
        return type(root).forward, True
    if inspect.ismethod(own) and own.__self__ is root:
        return own.__func__, True
    if isinstance(own, FunctionType):
        return own, False
    raise InputError(
        f"{type(root).__name__}.forward was replaced by a {type(own).__name__}; replace it by a function or a method"
    )


def check_arguments(forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Python's TypeError for arguments that `forward` does not take: containers try `layer(x, lengths)` first, and `layer(x)` then."""
    signature = _signature(getattr(forward, "__func__", forward))
    if signature is not None and hasattr(forward, "__self__"):
        signature.bind(forward.__self__, *args, **kwargs)


@functools.lru_cache(1024)
def _signature(function: Any) -> inspect.Signature | None:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        return None
