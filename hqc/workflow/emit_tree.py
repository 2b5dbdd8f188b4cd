"""The module tree of an emitted model: the user's own, with layers in their modules' places and inserted modules at the end."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import torch
from torch import fx, nn


class ModuleTree:
    """`root`: the tree that is changed. `traced`: the traced model, which shares it and holds the tensors that the trace made.

    `floats`: the modules as they were, by path.
    """

    def __init__(self, root: nn.Module, traced: fx.GraphModule) -> None:
        self.root = root
        self.floats = dict(root.named_modules(remove_duplicate=False))
        reads = [str(node.target) for node in traced.graph.nodes if node.op == "get_attr" and node.users]
        found = {path: _attribute(traced, path) for path in reads}
        self._tensors = {path: tensor for path, tensor in found.items() if isinstance(tensor, torch.Tensor)}
        self.read = {id(tensor) for tensor in self._tensors.values()}
        self._placed: set[str] = set()
        self._absorbed: dict[str, None] = {}
        self._inserted: dict[str, tuple[int, int, nn.Module]] = {}
        self._calls: Counter[str] = Counter()  # the last number that `_fresh` gave, by the path it was asked for
        self.device = next((t.device for t in (*root.parameters(), *root.buffers())), torch.device("cpu"))

    def place(self, path: str, module: nn.Module) -> str:
        """Put `module` in the place of a module of the user; a second call of the same one gets a path of its own. Returns it."""
        if path in self._placed:
            path = self._fresh(path)
        self._placed.add(path)
        self._assign(path, module)
        return path

    def insert(self, position: int, order: int, name: str, module: nn.Module) -> str:
        """List `module` after the user's modules, by `position` of the operation it belongs to, then `order`; once per name.

        Returns its path: `name` as Python spells it.
        """
        name = re.sub(r"\W", "_", name)
        if name not in self._inserted:
            module.train(self.root.training)
            self._inserted[name] = position, order, module
        return name

    def absorb(self, path: str) -> None:
        """The module at `path` became part of another one."""
        self._absorbed[path] = None

    def constant(self, name: str, tensor: torch.Tensor) -> str:
        """A path at which the model keeps a tensor that is neither parameter nor buffer of the user."""
        name = re.sub(r"\W", "_", name)
        while hasattr(self.root, name):
            name += "_"
        self.root.register_buffer(name, tensor.detach().to(self.device), persistent=False)
        return name

    def reads(self, path: str) -> None:
        """The emitted model reads the tensor at `path`, which the traced model does not, wherever it will be in the end."""
        tensor = _attribute(self.root, path)
        if path not in self._tensors and isinstance(tensor, torch.Tensor):
            self._tensors[path] = tensor

    def write_out_of_place(self, path: str) -> None:
        """A module that writes into its operand leaves it alone from now on."""
        self.floats[path].inplace = False

    def finish(self, graph: fx.Graph, plain_calls: list[fx.Node]) -> None:
        """List the inserted modules, clear the places of absorbed ones, and let nodes find their modules and tensors.

        `plain_calls`: calls of the user's modules as they are; another call of the same module may have become a layer.
        """
        kept: dict[str, str] = {}
        for node in plain_calls:
            path = str(node.target)
            if not node._erased and path in self._placed:
                if path not in kept:
                    kept[path] = self._fresh(path)
                    self._assign(kept[path], self.floats[path])
                node.target = kept[path]
        for name, (_, _, module) in sorted(self._inserted.items(), key=lambda item: (*item[1][:2], item[0])):
            self.root.add_module(name, module)
        called = {str(node.target) for node in graph.nodes if node.op == "call_module"}
        for path in self._absorbed:
            if path not in called and path not in self._placed:
                self._assign(path, nn.Identity())  # the tree keeps its names
        homes = {id(tensor): path for path, tensor in reversed(_tensors(self.root))}
        for node in graph.nodes:
            path = str(node.target)
            tensor = self._tensors.get(path) if node.op == "get_attr" else None
            if tensor is not None and _attribute(self.root, path) is not tensor:
                if id(tensor) not in homes:
                    homes[id(tensor)] = self.constant(path, tensor)
                node.target = homes[id(tensor)]

    def _assign(self, path: str, module: nn.Module) -> None:
        parent, _, name = path.rpartition(".")
        owner = self.root.get_submodule(parent) if parent else self.root
        module.train(owner.training)
        owner.add_module(name, module)

    def _fresh(self, path: str) -> str:
        index = self._calls[path] + 1  # what was taken stays taken
        while _attribute(self.root, f"{path}_{index}") is not None:
            index += 1
        self._calls[path] = index
        return f"{path}_{index}"


def _tensors(root: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*root.named_parameters(remove_duplicate=False), *root.named_buffers(remove_duplicate=False)]


def _attribute(root: Any, path: str) -> Any:
    for part in path.split("."):
        root = getattr(root, part, None)
    return root
