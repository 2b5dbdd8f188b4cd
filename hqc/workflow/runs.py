"""Running a traced model node by node: every value of one batch, single operations again, and the rest after a change."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from hqc.frontend.fx.calls import UsersInterpreter
from hqc.workflow.arguments import on_device_of


class Run(UsersInterpreter):
    """A batch's values of every node. A call that changes an operand in place gets a copy, so that values stay as they were made."""

    def __init__(self, module: fx.GraphModule, arguments: Sequence[Any]) -> None:
        self._begin(module, arguments)
        with torch.no_grad():
            for node in module.graph.nodes:
                self.step(node)
        self.values: dict[fx.Node, Any] = dict(self.env)
        self._order = {node: index for index, node in enumerate(module.graph.nodes)}
        self.outputs = self.values[node]

    @classmethod
    def stepwise(cls, module: fx.GraphModule, arguments: Sequence[Any]) -> Run:
        """A run that computes nothing yet: call `step` with the graph's nodes, in order; `env` has the values."""
        made = cls.__new__(cls)
        made._begin(module, arguments)
        return made

    def _begin(self, module: fx.GraphModule, arguments: Sequence[Any]) -> None:
        super().__init__(module, garbage_collect_values=False)
        self._in_place: set[fx.Node] = set()
        self.args_iter = iter(on_device_of(module, arguments))

    def step(self, node: fx.Node) -> None:
        """Compute one node whose operands are there."""
        self.env[node] = self.run_node(node)

    def run_node(self, n: fx.Node) -> Any:
        versions = [(self.env[each], self.env[each]._version) for each in n.all_input_nodes if _is_plain_tensor(self.env[each])]
        if n in self._in_place:
            return self._run_on_copies(n)
        result = super().run_node(n)
        if any(tensor._version != version for tensor, version in versions):
            self._in_place.add(n)
        return result

    def _run_on_copies(self, node: fx.Node) -> Any:
        kept = self.env
        copies = {each: kept[each].clone() for each in node.all_input_nodes if isinstance(kept[each], Tensor)}
        self.env = ChainMap(copies, kept)  # type: ignore[assignment]
        try:
            return super().run_node(node)
        finally:
            self.env = kept

    @torch.no_grad()
    def again(self, nodes: Sequence[fx.Node]) -> Any:
        """The last of `nodes`, computed in order from the batch's values, with whatever the model's switches are now."""
        fresh: dict[fx.Node, Any] = {}
        self.env = ChainMap(fresh, self.values)  # type: ignore[assignment]
        for node in nodes:
            fresh[node] = self.run_node(node)
        return fresh[nodes[-1]]

    @torch.no_grad()
    def with_value(self, node: fx.Node, value: Any) -> Any:
        """The model's outputs where `node` gives `value` instead; only what depends on it is computed again."""
        return self.with_values({node: value})

    @torch.no_grad()
    def with_values(self, given: Mapping[fx.Node, Any]) -> Any:
        """As `with_value`, for several nodes."""
        fresh: dict[fx.Node, Any] = dict(given)
        self.env = ChainMap(fresh, self.values)  # type: ignore[assignment]
        nodes = list(self._order)
        for node in nodes[min(self._order[each] for each in given) :]:
            if node not in fresh and any(each in fresh for each in node.all_input_nodes):
                fresh[node] = self.run_node(node)
        return fresh.get(nodes[-1], self.outputs)


def _is_plain_tensor(value: Any) -> bool:
    return isinstance(value, Tensor) and not value.is_inference()
