"""What a trace knows about its values when it has example inputs: shapes, dtypes and devices of tensors, the values of sizes.

Every node of the graph can be asked for its value: a *fake* tensor (torch's: a shape, a dtype and a device, no memory), a number,
a torch.Size, or a list, tuple or dict of those. Nothing is computed before the first question; then the nodes recorded so far
are evaluated in their order, so that in-place operations and changes of shape have their effect. A node whose value depends on
data is unknown, and so is what is computed from it.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from typing import Any

import torch
from torch import fx, nn

from hqc.errors import FAULTS, first_line
from hqc.frontend.fx.calls import as_users_write
from hqc.frontend.fx.hooks import has_hooks
from hqc.frontend.fx.in_place import writes_first_operand
from hqc.frontend.fx.leaf_modules import is_library_module
from hqc.structures import leaves, map_structure


class _Unknown:
    def __repr__(self) -> str:
        return "unknown"


_OF_ANOTHERS_TYPE = ("new_zeros", "new_ones", "new_full", "new_tensor", "zeros_like", "ones_like", "full_like")
_LARGEST = 1 << 20  # elements of what is computed while tracing
UNKNOWN = _Unknown()
"""The value of a node that depends on data, or of any node of a trace without example inputs."""


class KnownValues:
    """Values of the nodes of one trace. `paused` is true while nodes are evaluated: modules then run as they are. `state`: paths of the
    buffers that forward changes, which are no constants."""

    def __init__(self, root: nn.Module, state: Collection[str] = ()) -> None:
        self.root = root
        self._state = state
        self.paused = False
        self.reasons: dict[fx.Node, str] = {}
        self.writing: set[fx.Node] = set()  # calls that wrote into their first operand when they were evaluated
        self._values: dict[fx.Node, Any] = {}
        self._pending: list[fx.Node] = []
        self._places: dict[fx.Node, int] = {}  # in program order
        self._written: dict[int, list[fx.Node]] = {}  # by memory
        self._unsorted: list[fx.Node] = []  # calls that write, of which it is not known yet into which memory
        self._attributes: dict[fx.Node, Any] = {}  # what a get_attr read: forward may assign another value since
        self._mode: Any = None
        self._active = False

    def give(self, node: fx.Node, example: Any) -> None:
        """Say what the placeholder `node` stands for."""
        self._active = True
        self._values[node] = example

    def record(self, node: fx.Node) -> None:
        """A node was added to the graph."""
        self._places.setdefault(node, len(self._places))
        if self._active and node not in self._values:
            self._pending.append(node)
            if node.op == "get_attr":
                self.note_attribute(node)
            if _writes(node):
                self._unsorted.append(node)

    def note_attribute(self, node: fx.Node) -> None:
        """Remember what `node` reads out of the model, as the model holds it now."""
        paused, self.paused = self.paused, True  # a parameter is a proxy else
        try:
            with suppress(AttributeError):  # said where the value is asked for
                self._attributes[node] = _attribute(self.root, str(node.target))
        finally:
            self.paused = paused

    def of(self, node: fx.Node) -> Any:
        """The value of `node`, or UNKNOWN."""
        if not self._active:
            return UNKNOWN
        if self._pending or self._mode is None:
            self._evaluate()
        return self._values.get(node, UNKNOWN)

    def refusal(self, node: fx.Node) -> BaseException | None:
        """What torch raises for a call on tensors of these shapes; None where it takes them, or nobody knows."""
        if self.of(node) is not UNKNOWN or not self._active:
            return None
        operands = {operand: self.of(operand) for operand in node.all_input_nodes}
        if any(value is UNKNOWN for value in operands.values()):
            return None
        paused, self.paused = self.paused, True
        try:
            with _real_tensors(), torch.no_grad():
                args, kwargs = fx.node.map_arg(
                    (node.args, node.kwargs), lambda operand: map_structure(operands[operand], _zeros_alike)
                )
                self._call(node, args, kwargs)
        except FAULTS as error:
            return error
        finally:
            self.paused = paused
        return None

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
                return self._real(node, len(self._places))
        finally:
            self.paused = paused

    def _real(self, node: fx.Node, at: int) -> Any:
        """What `node` holds just before the call at place `at`: the calls that make it and that write into its memory, done again."""
        program = self._program(node, at)
        if program is None:
            return UNKNOWN
        found: dict[fx.Node, Any] = {}
        copies: dict[int, torch.Tensor] = {}
        for each in sorted(program, key=self._places.__getitem__):
            value = self._values.get(each, UNKNOWN)
            if not is_plain(value) or _writes(each):
                args, kwargs = fx.node.map_arg(
                    (each.args, each.kwargs), lambda node: found[node] if node in found else self._like(node)
                )
                try:
                    value = self._call(each, args, kwargs)
                except FAULTS:  # whatever torch raises: the call is recorded, and lowering says what is wrong with it
                    return UNKNOWN
            if each.op == "get_attr" and isinstance(value, torch.Tensor):
                value = copies.setdefault(id(value), value.clone())  # what the model holds is not written
            found[each] = value
        return found[node]

    def _program(self, node: fx.Node, at: int) -> set[fx.Node] | None:
        """The calls behind the value of `node` at place `at`; None where data, or what varies, has a part in it."""
        program: set[fx.Node] = set()
        pending = [node]
        while pending:
            each = pending.pop()
            if each in program:
                continue
            value = self._values.get(each, UNKNOWN)
            program.add(each)
            if is_plain(value) and not _writes(each):
                self._places.setdefault(each, -1)  # a number among the example inputs
                continue
            if not self._is_repeatable(each, value):
                return None
            pending.extend(operand for operand in each.all_input_nodes if operand is not _example(each))
            pending.extend(writer for writer in self._writers(value) if self._places[writer] < at)
        return program

    def _like(self, node: fx.Node) -> Any:
        """A real tensor of the shape and type of what `node` gives."""
        fake = self._values[node]
        return (
            torch.zeros((), dtype=fake.dtype, device=fake.device).expand(fake.shape) if isinstance(fake, torch.Tensor) else fake
        )

    def _is_repeatable(self, node: fx.Node, fake: Any) -> bool:
        if isinstance(fake, torch.Tensor) and fake.numel() > _LARGEST:
            return False
        if node.op == "get_attr":
            found = self._call(node, (), {})
            kept = isinstance(found, torch.Tensor) and not isinstance(found, nn.Parameter)
            return kept and str(node.target) not in self._state
        return node.op in ("call_function", "call_method") and not _varies(node)

    def _writers(self, fake: Any) -> list[fx.Node]:
        """The calls that write into the memory of a tensor."""
        waiting, self._unsorted = self._unsorted, []
        for node in waiting:
            first = self._values.get(node.all_input_nodes[0], UNKNOWN)
            memory = memory_of(first)
            if memory is not None:
                self._written.setdefault(memory, []).append(node)
            else:
                self._unsorted.append(node)
        memory = memory_of(fake)
        return [] if memory is None else self._written.get(memory, [])

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
                    if not node._erased:
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
        before = _version(args)
        try:
            result = self._call(node, args, kwargs)
            if _version(args) != before:
                self.writing.add(node)
            return result
        except FAULTS as error:  # whatever torch or the user's code raises: lowering says what is wrong with the call
            found = self._of_constants(node)
            if found is not UNKNOWN:
                return found
            self.reasons[node] = f"{node.name} has no shape that is known ({first_line(error)})"
            return UNKNOWN

    def _of_constants(self, node: fx.Node) -> Any:
        """What is computed from constants and could not be from fake ones, and what takes a number that is computed from such."""
        with _real_tensors():
            at = self._places[node]
            found = self._real(node, at)
            numbers = {operand: _number(self._real(operand, at)) for operand in node.all_input_nodes}
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
            return self._attributes[node] if node in self._attributes else _attribute(self.root, str(target))
        if node.op == "call_module":
            module = self.root.get_submodule(target)
            run = (
                module.forward if has_hooks(module) and is_library_module(module) else module
            )  # hooks are called by the tracer
            return run(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], target)(*args[1:], **kwargs)
        if node.op == "call_function":
            return target(*args, **kwargs)
        return UNKNOWN


def _zeros_alike(fake: Any) -> Any:
    """A real tensor of the shape, layout and type of a fake one."""
    if not isinstance(fake, torch.Tensor):
        return fake
    return torch.empty_strided(fake.shape, fake.stride(), dtype=fake.dtype, device=fake.device).zero_()


def _number(value: Any) -> Any:
    """The number in a tensor of one element; None for anything else."""
    return value.item() if isinstance(value, torch.Tensor) and value.numel() == 1 else None


def _version(args: Any) -> int:
    """How often torch has written into the first of the arguments, where it counts that."""
    first = args[0] if args else None
    return first._version if isinstance(first, torch.Tensor) and not first.is_inference() else 0


def _real_tensors() -> Any:
    from torch._subclasses.fake_tensor import unset_fake_temporarily  # slow to import

    return unset_fake_temporarily()


def _example(node: fx.Node) -> fx.Node | None:
    """The operand of which a call reads no more than shape and type, as `x.new_zeros(4)` does."""
    return (
        node.all_input_nodes[0]
        if _name(node) in _OF_ANOTHERS_TYPE and node.args and isinstance(node.args[0], fx.Node)
        else None
    )


def _varies(node: fx.Node) -> bool:
    """True for calls that may give other numbers at every call."""
    return any(word in _name(node) for word in ("rand", "dropout", "normal", "bernoulli", "multinomial", "poisson", "empty"))


def _writes(node: fx.Node) -> bool:
    """True for calls that write into their first operand."""
    called = node.op in ("call_function", "call_method")
    return called and writes_first_operand(node.target) and bool(node.all_input_nodes)


def _name(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")


def _attribute(root: nn.Module, path: str) -> Any:
    found: Any = root
    for part in path.split("."):
        found = getattr(found, part)
    return found


def is_plain(value: Any) -> bool:
    """True for a value that Python code may branch on: no tensor in it, and known."""
    return value is not UNKNOWN and not any(isinstance(leaf, torch.Tensor) for leaf in leaves(value))


def storage_of(value: Any) -> torch.UntypedStorage | None:
    """The memory that tensors may share; None for what is no tensor, and for one without memory of its own (a sparse one)."""
    try:
        return value.untyped_storage() if isinstance(value, torch.Tensor) else None
    except (NotImplementedError, RuntimeError):
        return None


def memory_of(value: Any) -> int | None:
    """What tensors have in common that share memory, fake ones too; None where `storage_of` is."""
    storage = storage_of(value)
    return None if storage is None else storage._cdata
