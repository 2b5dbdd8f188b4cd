"""Who shares memory with whom in the traced program, so that in-place writes can be turned into new values.

A write to `x` gives a new value to `x` and to every name of the same tensor. A tensor that shares only part of `x`'s memory (a
view, or the base of one) would change too, which renaming cannot express: if it is read after the write, the write is refused.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import fx

from hqc.frontend.fx.registry import Alias


class Aliases:
    """Groups of FX nodes that share memory, and in them those that are one tensor."""

    def __init__(self, graph: fx.Graph) -> None:
        self._order = {node: index for index, node in enumerate(graph.nodes)}
        self._storage: dict[fx.Node, set[fx.Node]] = {}
        self._tensor: dict[fx.Node, set[fx.Node]] = {}
        self._constant: set[fx.Node] = set()

    def add(self, node: fx.Node, base: fx.Node | None = None, alias: Alias = Alias.NONE) -> None:
        """Record what `node` shares with `base`."""
        if base is None or alias is Alias.NONE:
            self._storage[node] = {node}
            self._tensor[node] = {node}
            return
        self._storage[node] = self._storage[base]
        self._storage[node].add(node)
        if alias is Alias.SAME:
            self._tensor[node] = self._tensor[base]
            self._tensor[node].add(node)
        else:
            self._tensor[node] = {node}
        if base in self._constant:
            self._constant.add(node)

    def mark_state(self, node: fx.Node) -> None:
        """`node` reads a parameter or buffer of the model, which nothing may write."""
        self._constant.add(node)

    def is_state(self, node: fx.Node) -> bool:
        return node in self._constant

    def names_of(self, node: fx.Node) -> set[fx.Node]:
        """All nodes that are the same tensor as `node`."""
        return self._tensor[node]

    def read_after_write(self, written: fx.Node, write: fx.Node, *, renamed: bool) -> Iterator[tuple[fx.Node, fx.Node]]:
        """`(sharer, reader)` for tensors that share memory with `written` and are read after `write`.

        `renamed`: names of the same tensor have the new value already, and only views and bases count.
        """
        after = self._order[write]
        sharers = self._storage[written] - (self._tensor[written] if renamed else {write})
        for sharer in sorted(sharers, key=self._order.__getitem__):
            for reader in sharer.users:
                if self._order[reader] > after:
                    yield sharer, reader
