"""Calls that draw random numbers. A graph of inference has none, but code may draw before it asks whether it trains (layer drop)."""

from __future__ import annotations

from torch import fx, nn

from hqc.frontend.fx.views import written_node

_NAMES = {"rand", "randn", "randint", "randperm", "bernoulli", "normal", "multinomial", "poisson", "rand_like", "randn_like"}
_NAMES |= {
    "randint_like",
    "uniform_",
    "normal_",
    "bernoulli_",
    "random_",
    "exponential_",
    "cauchy_",
    "geometric_",
    "log_normal_",
}


def is_draw(name: str) -> bool:
    """True for torch's functions and methods that draw random numbers."""
    return name in _NAMES


def unread_draws(graph: fx.Graph, root: nn.Module) -> frozenset[fx.Node]:
    """The draws on which no output of `graph` depends, and what is computed from them."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        if node.op in ("call_function", "call_method") and is_draw(name) and node not in found:
            found |= _unread(node, root)
    return frozenset(found)


def _unread(draw: fx.Node, root: nn.Module) -> set[fx.Node]:
    """`draw` and all that depends on it; nothing where an output does, or memory that other calls read."""
    found: set[fx.Node] = set()
    pending = [draw]
    while pending:
        node = pending.pop()
        written = written_node(node, root)
        if node.op == "output" or (written is not None and written not in found):
            return set()
        if node not in found:
            found.add(node)
            pending.extend(node.users)
    return found
