"""What a trace knows about its values when it has example inputs: shapes, dtypes and devices of tensors, the values of sizes.

Every node of the graph can be asked for its value: a *fake* tensor (torch's: a shape, a dtype and a device, no memory), a number,
a torch.Size, or a list, tuple or dict of those. Nothing is computed before the first question; then the nodes recorded so far
are evaluated in their order, so that in-place operations and changes of shape have their effect. A node whose value depends on
data is unknown, and so is what is computed from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx, nn

from hqc.frontend.fx.structures import leaves, map_structure


class _Unknown:
    def __repr__(self) -> str:
        return "unknown"


UNKNOWN = _Unknown()
"""The value of a node that depends on data, or of any node of a trace without example inputs."""


class KnownValues:
    """Values of the nodes of one trace. `paused` is true while nodes are evaluated: modules then run as they are."""

    def __init__(self, root: nn.Module) -> None:
        self.root = root
        self.paused = False
        self.reasons: dict[fx.Node, str] = {}
        self._values: dict[fx.Node, Any] = {}
        self._pending: list[fx.Node] = []
        self._mode: Any = None
        self._active = False

    def give(self, node: fx.Node, example: Any) -> None:
        """Say what the placeholder `node` stands for."""
        self._active = True
        self._values[node] = example

    def record(self, node: fx.Node) -> None:
        """A node was added to the graph."""
        if self._active and node not in self._values:
            self._pending.append(node)

    def of(self, node: fx.Node) -> Any:
        """The value of `node`, or UNKNOWN."""
        if not self._active:
            return UNKNOWN
        if self._pending or self._mode is None:
            self._evaluate()
        return self._values.get(node, UNKNOWN)

    def early(self, node: fx.Node) -> Any:
        """The value of `node` if it takes no evaluation to know it, else UNKNOWN."""
        return self._values.get(node, UNKNOWN)

    def _evaluate(self) -> None:
        if self._mode is None:
            from torch._subclasses.fake_tensor import FakeTensorMode  # slow to import, and many traces need no value

            self._mode = FakeTensorMode(allow_non_fake_inputs=True)
            device = next((tensor.device for tensor in self.root.parameters()), None)
            for node, example in self._values.items():
                self._values[node] = map_structure(example, lambda leaf: self._fake(leaf, device))
        pending, self._pending = self._pending, []
        self.paused = True
        try:
            with self._mode, torch.no_grad(), torch._C._DisableAutocast():
                for node in pending:
                    self._values[node] = self._value(node)
        finally:
            self.paused = False

    def _fake(self, leaf: Any, device: torch.device | None) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        with self._mode:
            return torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype, device=device or leaf.device)

    def _value(self, node: fx.Node) -> Any:
        unknown = next((operand for operand in node.all_input_nodes if self._values.get(operand, UNKNOWN) is UNKNOWN), None)
        if unknown is not None:
            self.reasons[node] = self.reasons.get(unknown, "")
            return UNKNOWN
        args = fx.node.map_arg(node.args, self._values.__getitem__)
        kwargs = fx.node.map_arg(node.kwargs, self._values.__getitem__)
        try:
            return self._call(node, args, kwargs)
        except Exception as error:  # whatever torch or the user's code raises: lowering says what is wrong with the call
            text = str(error).strip().splitlines()
            self.reasons[node] = f"{node.name} has no shape that is known ({text[0] if text else type(error).__name__})"
            return UNKNOWN

    def _call(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        target: Any = node.target
        if node.op == "get_attr":
            for found in _along(self.root, str(target)):
                target = found
            return target
        if node.op == "call_module":
            return self.root.get_submodule(target)(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], target)(*args[1:], **kwargs)
        if node.op == "call_function":
            return target(*args, **kwargs)
        return UNKNOWN


def _along(root: nn.Module, path: str) -> Iterator[Any]:
    found: Any = root
    for part in path.split("."):
        found = getattr(found, part)
        yield found


def is_plain(value: Any) -> bool:
    """True for a value that Python code may branch on: no tensor in it, and known."""
    return value is not UNKNOWN and not any(isinstance(leaf, torch.Tensor) for leaf in leaves(value))
