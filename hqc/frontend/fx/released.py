"""Calls that let a tensor's memory go: `x.set_()` empties `x` itself, and writes into nothing that `x` shared its memory with.

Reversible networks release what they can compute again in the backward pass. A graph keeps values as long as they are read, so that
such a call is no operation of it.
"""

from __future__ import annotations

from torch import fx

_ITSELF = frozenset({"contiguous", "to", "float", "type_as", "cpu"})
"""Methods that return the tensor itself where there is nothing to change."""


def drop_releases(graph: fx.Graph) -> None:
    """Remove `x.set_()` where nobody reads `x` afterwards; where somebody does, it stays: what is read is empty then."""
    position = {node: index for index, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        if node.op != "call_method" or node.target != "set_" or len(node.args) != 1 or node.kwargs or node.users:
            continue
        names = _names_of(node.args[0])
        if names and all(position[reader] <= position[node] for name in names for reader in name.users):
            graph.erase_node(node)
            if not names[0].users and names[0].args[1:] == ("data",):
                graph.erase_node(names[0])


def _names_of(released: fx.node.Argument) -> list[fx.Node]:
    """The nodes that may be the very tensor `released`; none for what belongs to the model or to the caller."""
    names: list[fx.Node] = []
    while isinstance(released, fx.Node):
        if released.op in ("placeholder", "get_attr"):
            return []
        names.append(released)
        if released.op != "call_method" or released.target not in _ITSELF:
            return names
        released = released.args[0]
    return names
