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

from hqc.errors import FAULTS, first_line
from hqc.frontend.fx.calls import as_users_write
from hqc.structures import leaves, map_structure


class _Unknown:
    def __repr__(self) -> str:
        return "unknown"


_LARGEST = 1 << 20  # elements of what is computed while tracing
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

    def of_constants(self, node: fx.Node) -> Any:
        """The value of `node`, with real tensors, where it is computed from constants and sizes alone; UNKNOWN where data counts.

        Masks that nobody gave are made so: of ones, by the shape of an input.
        """
        if not self._active:
            return UNKNOWN
        value = self.of(node)
        if is_plain(value):
            return value
        paused, self.paused = self.paused, True
        try:
            with _real_tensors(), torch.no_grad():
                return self._real(node, {})
        finally:
            self.paused = paused

    def _real(self, node: fx.Node, seen: dict[fx.Node, Any]) -> Any:
        if node not in seen:
            seen[node] = UNKNOWN
            value = self._values.get(node, UNKNOWN)
            seen[node] = value if is_plain(value) else self._recomputed(node, seen)
        return seen[node]

    def _recomputed(self, node: fx.Node, seen: dict[fx.Node, Any]) -> Any:
        fake = self._values.get(node, UNKNOWN)
        if isinstance(fake, torch.Tensor) and fake.numel() > _LARGEST:
            return UNKNOWN
        if node.op == "get_attr":
            found = self._call(node, (), {})
            return UNKNOWN if isinstance(found, nn.Parameter) or not isinstance(found, torch.Tensor) else found
        if node.op not in ("call_function", "call_method") or _may_vary(node):
            return UNKNOWN
        operands = {operand: self._real(operand, seen) for operand in node.all_input_nodes}
        if any(value is UNKNOWN for value in operands.values()) or any(map(_is_written, operands)):
            return UNKNOWN
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), operands.__getitem__)
        try:
            return self._call(node, args, kwargs)
        except FAULTS:  # whatever torch raises: the call is recorded, and lowering says what is wrong with it
            return UNKNOWN

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
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), self._values.__getitem__)
        try:
            return self._call(node, args, kwargs)
        except FAULTS as error:  # whatever torch or the user's code raises: lowering says what is wrong with the call
            found = self._of_constants(node)
            if found is not UNKNOWN:
                return found
            self.reasons[node] = f"{node.name} has no shape that is known ({first_line(error)})"
            return UNKNOWN

    def _of_constants(self, node: fx.Node) -> Any:
        """What is computed from constants and could not be from fake ones, and what takes a number that is computed from such."""
        with _real_tensors():
            seen: dict[fx.Node, Any] = {}
            found = self._recomputed(node, seen)
            numbers = {operand: _number(self._real(operand, seen)) for operand in node.all_input_nodes}
        if found is not UNKNOWN:
            return map_structure(found, lambda leaf: self._mode.from_tensor(leaf) if isinstance(leaf, torch.Tensor) else leaf)
        operands = {node: self._values[node] if number is None else number for node, number in numbers.items()}
        if all(number is None for number in numbers.values()):
            return UNKNOWN
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), operands.__getitem__)
        try:
            return self._call(node, args, kwargs)
        except FAULTS:  # as of the call with fake tensors
            return UNKNOWN

    def _call(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        target: Any = node.target
        args, kwargs = as_users_write((args, kwargs))
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


def _number(value: Any) -> Any:
    """The number in a tensor of one element; None for anything else."""
    return value.item() if isinstance(value, torch.Tensor) and value.numel() == 1 else None


def _real_tensors() -> Any:
    from torch._subclasses.fake_tensor import unset_fake_temporarily  # slow to import

    return unset_fake_temporarily()


def _may_vary(node: fx.Node) -> bool:
    """True for calls that write in place, or that may give other numbers at every call."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if name == "setitem" or (name.endswith("_") and getattr(node.target, "__module__", "") != "_operator"):  # and_, not_
        return True
    return any(word in name for word in ("rand", "dropout", "normal", "bernoulli", "multinomial", "poisson", "empty"))


def _is_written(node: fx.Node) -> bool:
    return any(_may_vary(user) for user in node.users if user.all_input_nodes[:1] == [node])


def _along(root: nn.Module, path: str) -> Iterator[Any]:
    found: Any = root
    for part in path.split("."):
        found = getattr(found, part)
        yield found


def is_plain(value: Any) -> bool:
    """True for a value that Python code may branch on: no tensor in it, and known."""
    return value is not UNKNOWN and not any(isinstance(leaf, torch.Tensor) for leaf in leaves(value))
