"""Writes into views, made explicit in the traced graph: who shares the written memory and is read later gets its new value.

`y = x[:, 0]; y.add_(1); return x` becomes `add_ = y.add_(1); x_1 = set_item_of_copy(x, [:, 0], add_); return x_1`: the written value
is put back into the base by the inverse of every view on the way, and views that are read later are taken anew. Only graphs in
which such a read happens change; nodes keep their names. Where a step has no inverse, or nobody knows whether it is a view,
the graph stays as it is, and lowering refuses the write with its line.
"""

from __future__ import annotations

import operator
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from hqc.frontend.fx.assumptions import is_size
from hqc.frontend.fx.calls import set_item_of_copy
from hqc.frontend.fx.in_place import asks_in_place, first_operand, writes_first_operand
from hqc.frontend.fx.known import UNKNOWN, KnownValues, memory_of
from hqc.frontend.fx.locations import MODULE_META, SOURCE_META, TYPES_META
from hqc.frontend.fx.proxies import IN_PLACE_META
from hqc.structures import leaves

FUNCTIONAL_META = "hqc_functional"
"""Key in `graph_module.meta`: True when no read of shared memory after a write is left in the graph, a `SharedWrite` when there is
one for certain, False when nobody knows."""
_RESHAPES = {"view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as", "reshape_as", "ravel"}
_RESHAPE_MODULES = (nn.Flatten, nn.Unflatten)
_SAME = {"contiguous", "to", "float", "type_as", "cpu", "dropout", "detach", "data", "alias_copy", "requires_grad_"}
_SAME_MODULES = (nn.Identity, nn.modules.dropout._DropoutNd)
_MAYBE_COPY = {"reshape", "flatten", "contiguous", "to", "float", "type_as", "reshape_as", "ravel"}
_ALONG = {"hsplit": 1, "vsplit": 0, "dsplit": 2}
_PARTS = {"chunk", "split", "unbind", "tensor_split", "split_with_sizes", *_ALONG}
_OTHER_VIEWS = {
    "expand",
    "expand_as",
    "diagonal",
    "unfold",
    "as_strided",
    "real",
    "imag",
    "movedim",
    "swapaxes",
    "swapdims",
    "narrow",
}
_OTHER_VIEWS |= {"broadcast_to", "view_as_real", "view_as_complex", "H", "mH"}
_VIEWS = _RESHAPES | _SAME | _PARTS | _OTHER_VIEWS | {"transpose", "permute", "t", "T", "mT", "select"}
_RESHAPING_WRITES = {
    "unsqueeze_",
    "squeeze_",
    "transpose_",
    "t_",
    "swapaxes_",
    "resize_",
    "as_strided_",
    "set_",
}


class _NotExpressible(Exception):  # noqa: N818 (signal: the graph stays as it is)
    """`certain`: the memory is shared, and the write cannot be made explicit."""

    def __init__(self, certain: bool = False) -> None:
        super().__init__()
        self.certain = certain


@dataclass(frozen=True)
class SharedWrite:
    """A write in place that a graph cannot express: the names of the writing node, of what it writes, of what shares its memory,
    and of the node that reads that later."""

    write: str
    written: str
    sharer: str
    reader: str


@dataclass(frozen=True)
class _Write:
    tensor: _Tensor
    value: fx.Node
    node: fx.Node
    written: fx.Node


@dataclass(eq=False)
class _Tensor:
    """One tensor of the eager program. `current`: the node of its newest value, right as long as `seen` is the log's length."""

    current: fx.Node
    parent: _Tensor | None = None
    step: fx.Node | None = None
    replaced: bool = False
    seen: int = 0
    log: list[_Write] = field(default_factory=list)
    is_state: bool = False
    has_twins: bool = False  # more nodes than lowering knows are this very tensor

    @property
    def root(self) -> _Tensor:
        tensor = self
        while tensor.parent is not None:
            tensor = tensor.parent
        return tensor


def functionalize(graph: fx.Graph, root: nn.Module, known: KnownValues, kept: Collection[fx.Node] = ()) -> bool | SharedWrite:
    """Make writes through views explicit in `graph`; returns what FUNCTIONAL_META says. Unless True, the graph is as it was.

    `kept`: writes that stay writes, into buffers.
    """
    if not any(written_node(node, root) is not None for node in graph.nodes if node not in kept):
        return True
    trial = _Functionalizer(graph, root, known, kept)
    possible = trial.run()
    return _Functionalizer(graph, root, known, kept, trial).run() if possible is True else possible


class _Functionalizer:
    """One walk over the graph. A dry one, without a `trial`, changes nothing: it finds out whether all of it can be done, and what
    every node shares with its first operand, which is not known of the nodes that a second walk adds.

    `kinds`: of a node, what it shares with its first operand. `twins`: of `x.max(1)[0]` taken again, the first node that took it.
    """

    def __init__(
        self,
        graph: fx.Graph,
        root: nn.Module,
        known: KnownValues,
        kept: Collection[fx.Node],
        trial: _Functionalizer | None = None,
    ) -> None:
        self.graph, self.root, self.known, self.dry = graph, root, known, trial is None
        self.kept = frozenset(kept)
        self.kinds: dict[fx.Node, str] = trial.kinds if trial is not None else {}
        self.twins: dict[fx.Node, fx.Node] = trial.twins if trial is not None else {}
        self._taken: dict[int, fx.Node] = {}  # memory of a result among several -> the node that took it out
        self.tensors: dict[fx.Node, _Tensor] = {}
        self._refused: SharedWrite | None = None
        nodes = list(graph.nodes)
        self.position = {node: index for index, node in enumerate(nodes)}
        self.last_write = max((self.position[node] for node in nodes if self._written(node) is not None), default=-1)

    def run(self) -> bool | SharedWrite:
        try:
            for node in list(self.graph.nodes):
                self._node(node)
        except _NotExpressible as stopped:
            return self._refused if stopped.certain and self._refused is not None else False
        return True

    def _node(self, node: fx.Node) -> None:
        self._read_newest(node)
        written = self._written(node)
        operand = self._tensor(written) if written is not None else None
        if operand is None or written is None:
            self._define(node)
            return
        if operand.root.is_state or _name(node) in _RESHAPING_WRITES:
            raise _NotExpressible
        as_new = bool(node.meta.get(IN_PLACE_META))
        value = written if node.target is operator.setitem else node
        if node.target is not operator.setitem:
            self.tensors[node] = operand
        operand.root.log.append(_Write(operand, value, node, written))
        operand.current, operand.seen = value, len(operand.root.log)
        operand.replaced = operand.replaced or operand.has_twins or as_new

    def _written(self, node: fx.Node) -> fx.Node | None:
        return None if node in self.kept else written_node(node, self.root)

    def _read_newest(self, node: fx.Node) -> None:
        """Let `node` read the newest values of its operands."""
        with self.graph.inserting_before(node):
            newest = {operand: self._newest(operand, node) for operand in node.all_input_nodes}
        if not self.dry:
            for old, new in newest.items():
                if new is not old:
                    node.replace_input_with(old, new)

    def _newest(self, operand: fx.Node, reader: fx.Node) -> fx.Node:
        tensor = self.tensors.get(operand)
        if tensor is None:
            return operand
        missed = tensor.root.log[tensor.seen :]
        if missed:
            self._refused = SharedWrite(missed[-1].node.name, missed[-1].written.name, operand.name, reader.name)
        self._refresh(tensor, reader)
        if not self.dry:
            self.tensors[tensor.current] = tensor
        return tensor.current if tensor.replaced else operand

    def _refresh(self, tensor: _Tensor, reader: fx.Node) -> None:
        """Make `tensor.current` right again after writes to what shares its memory."""
        log, views = tensor.root.log, []
        missed, tensor.seen = log[tensor.seen :], len(log)
        while tensor.parent is not None and any(not _are_disjoint(tensor, write.tensor) for write in missed):
            views.append(tensor)
            tensor = tensor.parent
            missed, tensor.seen = log[tensor.seen :], len(log)
        if tensor.parent is None:
            for write in missed:
                tensor.current = self._put(tensor, write.tensor, write.value, reader)
                tensor.replaced = True
        for view in reversed(views):
            assert view.step is not None and view.parent is not None
            view.current = self._again(view.step, view.parent.current, reader)
            view.replaced = True

    def _put(self, base: _Tensor, written: _Tensor, value: fx.Node, reader: fx.Node) -> fx.Node:
        """The new value of `base`, of which the view `written` has the new value `value`."""
        steps: list[_Tensor] = []
        tensor = written
        while tensor is not base:
            steps.append(tensor)
            assert tensor.parent is not None
            tensor = tensor.parent
        bases = [base.current]
        for taken in reversed(steps[1:]):
            assert taken.step is not None
            bases.append(self._again(taken.step, bases[-1], reader))
        index = 0
        while index < len(steps):
            step, before = steps[index].step, bases[len(steps) - 1 - index]
            assert step is not None
            if step.target is operator.getitem and index + 1 < len(steps) and _name(steps[index + 1].step) in _PARTS:
                parts = steps[index + 1].step
                assert parts is not None
                value = self._joined(parts, step, before, value, reader)
                index += 2
            else:
                value = self._inverse(step, before, value, reader)
                index += 1
        return value

    def _joined(self, parts: fx.Node, item: fx.Node, taken: fx.Node, value: fx.Node, reader: fx.Node) -> fx.Node:
        """The base of `parts` (a chunk, split or unbind) in which part `item` is `value`."""
        count = self._count(parts)
        chosen = item.args[1]
        if count is None or not isinstance(chosen, int):
            raise _NotExpressible(certain=True)
        items = [
            value if index == chosen % count else self._new(reader, "call_function", operator.getitem, (taken, index))
            for index in range(count)
        ]
        dim = _ALONG.get(_name(parts), _argument(parts, {"unbind": 1}.get(_name(parts), 2), "dim", 0))
        if _name(parts) == "hsplit" and self._is_vector(first_operand(parts)):
            dim = 0
        join = torch.stack if _name(parts) == "unbind" else torch.cat
        return self._new(reader, "call_function", join, (items, dim))

    def _is_structure(self, node: fx.Node | None) -> bool:
        return node is not None and isinstance(self.known.of(node), (tuple, list, dict))

    def _is_vector(self, node: fx.Node | None) -> bool:
        value = None if node is None else self.known.of(node)
        return isinstance(value, torch.Tensor) and value.ndim == 1

    def _count(self, parts: fx.Node) -> int | None:
        value = self.known.of(parts)
        if value is not UNKNOWN:
            return len(value)
        pieces = _argument(parts, 1, "chunks" if _name(parts) == "chunk" else "split_size", None)
        if _name(parts) == "chunk" and isinstance(pieces, int):
            return pieces
        return len(pieces) if isinstance(pieces, (list, tuple)) and _name(parts) != "tensor_split" else None

    def _inverse(self, step: fx.Node, base: fx.Node, value: fx.Node, reader: fx.Node) -> fx.Node:
        """`base` with the part that `step` views replaced by `value`."""
        name = _name(step)
        if name in _SAME or (step.op == "call_module" and isinstance(self._module(step), _SAME_MODULES)):
            return value
        if name in _RESHAPES or step.op == "call_module":
            return self._new(reader, "call_method", "reshape_as", (value, base))
        if name in ("transpose", "swapaxes", "swapdims"):
            return self._new(reader, "call_method", "transpose", (value, *step.args[1:]), dict(step.kwargs))
        if name in ("t", "T", "mT"):
            return self._again(step, value, reader)
        if name == "permute":
            dims = step.args[1:] if len(step.args) != 2 or isinstance(step.args[1], int) else step.args[1]
            dims = step.kwargs.get("dims", dims)
            if not isinstance(dims, (tuple, list)) or not all(isinstance(dim, int) for dim in dims):
                raise _NotExpressible(certain=True)
            positive = [dim % len(dims) for dim in dims]
            inverse = tuple(positive.index(axis) for axis in range(len(dims)))
            return self._new(reader, "call_method", "permute", (value, *inverse))
        if name == "movedim":
            there, back = _argument(step, 1, "source", 0), _argument(step, 2, "destination", 0)
            return self._new(reader, "call_method", "movedim", (value, back, there))
        if name == "diagonal":
            return self._new(reader, "call_function", torch.diagonal_scatter, (base, value, *step.args[1:]), dict(step.kwargs))
        index = self._narrowed(step, reader) if name == "narrow" else _index(step)
        if index is None or self._is_structure(first_operand(step)):
            raise _NotExpressible(certain=True)
        return self._new(reader, "call_function", set_item_of_copy, (base, index, value))

    def _narrowed(self, step: fx.Node, reader: fx.Node) -> Any:
        """The index of what `narrow` takes, of which the bounds may be computed from sizes."""
        start, length = _argument(step, 2, "start", 0), _argument(step, 3, "length", 0)
        if not all(isinstance(each, int) or (isinstance(each, fx.Node) and is_size(each)) for each in (start, length)):
            return None
        is_known = isinstance(start, int) and isinstance(length, int)
        end = start + length if is_known else self._new(reader, "call_function", operator.add, (start, length))
        return _along(_argument(step, 1, "dim", 0), slice(start, end))

    def _again(self, step: fx.Node, base: fx.Node, reader: fx.Node) -> fx.Node:
        """The view `step` of another base."""
        first = first_operand(step)
        swap = lambda node: base if node is first else node  # noqa: E731 (one line)
        args, kwargs = fx.node.map_arg((step.args, step.kwargs), swap)
        return self._new(reader, step.op, step.target, args, kwargs)

    def _new(self, reader: fx.Node, kind: str, target: Any, args: Any, kwargs: Any = None) -> fx.Node:
        if self.dry:
            return reader
        node = self.graph.create_node(kind, target, tuple(args), kwargs or {})
        for key in (SOURCE_META, MODULE_META, TYPES_META):
            if key in reader.meta:
                node.meta[key] = reader.meta[key]
        return node

    # --- what a node is ------------------------------------------------------------------------------------------

    def _define(self, node: fx.Node) -> None:
        """Record which memory the result of `node` has."""
        if node.op == "output":
            return
        base = first_operand(node)
        parent = self._tensor(base) if base is not None and node.op not in ("placeholder", "get_attr") else None
        if node not in self.kinds:
            self.kinds[node] = "none" if parent is None or base is None else self._sharing(node, base)
        kind = self.kinds[node]
        if node in self.twins:
            twin = self.tensors[node] = self.tensors[self.twins[node]]
            twin.has_twins = twin.replaced = True
        elif parent is None or kind == "none":
            self.tensors[node] = _Tensor(node, is_state=node.op == "get_attr")
        elif kind == "same":
            self.tensors[node] = parent
            parent.has_twins = True
        else:
            self.tensors[node] = _Tensor(node, parent, node, seen=len(parent.root.log))

    def _sharing(self, node: fx.Node, base: fx.Node) -> str:
        """`none`, `same` or `view`: what the result shares with the first operand."""
        name = _name(node)
        module = self._module(node)
        may_share = name in _RESHAPES | _SAME | _PARTS | _OTHER_VIEWS | {
            "transpose",
            "permute",
            "t",
            "T",
            "mT",
            "select",
            "narrow",
        }
        may_share = may_share or isinstance(module, (*_SAME_MODULES, *_RESHAPE_MODULES))
        if node.target in (operator.getitem, getattr) and self._is_one_of_several(node, base):
            return "none"
        if node.target is operator.getitem:
            may_share = _name(base) in _PARTS or _index(node) is not None
        if self.position[node] > self.last_write:
            return "view" if may_share else "none"  # nothing is written any more, and it does not matter
        if not may_share and _is_torchs(node, module):
            return "none"
        if may_share and name not in _MAYBE_COPY:
            return "same" if isinstance(module, _SAME_MODULES) or name == "dropout" else "view"
        found, before = self.known.of(node), self.known.of(base)
        if isinstance(found, torch.Tensor) and isinstance(before, torch.Tensor):
            memory = memory_of(found)
            if memory is None or memory != memory_of(before):
                return "none"
            return "same" if found is before else "view"
        return self._unknown_sharing() if may_share else "none"

    def _is_one_of_several(self, node: fx.Node, base: fx.Node) -> bool:
        """True where `node` takes a tensor out of results of one call that have memory of their own, as `x.max(1)[0]` does."""
        found = self.known.of(node)
        if not self._is_structure(base) or _name(base) in _VIEWS:
            return False
        call: Any = base
        while call.target is operator.getitem and self._is_structure(call.args[0]):
            call = call.args[0]
        memory = memory_of(found)
        if memory is None:
            return True  # several again, or a number
        together = [each for each in leaves(self.known.of(call)) if each is not found]
        read = [each for operand in call.all_input_nodes for each in leaves(self.known.of(operand))]
        if any(memory_of(each) == memory for each in (*together, *read)):
            return False
        if self._taken.setdefault(memory, node) is not node:
            self.twins[node] = self._taken[memory]
        return True

    def _unknown_sharing(self) -> str:
        raise _NotExpressible

    def _module(self, node: fx.Node) -> nn.Module | None:
        return self.root.get_submodule(str(node.target)) if node.op == "call_module" else None

    def _tensor(self, node: fx.Node | None) -> _Tensor | None:
        return None if node is None else self.tensors.get(node)


def _are_disjoint(one: _Tensor, other: _Tensor) -> bool:
    """True for different parts of one chunk, split or unbind, and for what is taken from them."""
    chain: dict[_Tensor, _Tensor | None] = {}
    below: _Tensor | None = None
    tensor: _Tensor | None = one
    while tensor is not None:
        chain[tensor] = below
        below, tensor = tensor, tensor.parent
    below, tensor = None, other
    while tensor is not None and tensor not in chain:
        below, tensor = tensor, tensor.parent
    if tensor is None or tensor.step is None or _name(tensor.step) not in _PARTS:
        return False
    mine = chain[tensor]
    if mine is None or below is None or mine.step is None or below.step is None:
        return False
    first, second = mine.step.args[1], below.step.args[1]
    return isinstance(first, int) and isinstance(second, int) and first >= 0 and second >= 0 and first != second


def _is_torchs(node: fx.Node, module: nn.Module | None) -> bool:
    """True for calls of torch's own modules, methods and functions, of which the views are known by name."""
    if node.op == "call_method" or node.target is getattr:
        return True
    home = type(module).__module__ if module is not None else getattr(node.target, "__module__", None) or "torch"
    return home.partition(".")[0] in ("torch", "_operator", "builtins", "math")


def _name(node: fx.Node | None) -> str:
    """The bare name of a function or method, or the attribute that is read."""
    if node is None or node.op == "call_module":
        return ""
    if node.target is getattr:
        return str(node.args[1])
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")


def _argument(node: fx.Node, position: int, name: str, default: Any) -> Any:
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def _index(step: fx.Node) -> Any:
    """The index of what `step` takes out of its base, where that is a view; None for what is none or is indexed by tensors."""
    if step.target is operator.getitem:
        index = step.args[1]
    elif _name(step) == "select":
        index = _along(_argument(step, 1, "dim", 0), _argument(step, 2, "index", 0))
    else:
        return None
    entries = index if isinstance(index, tuple) else (index,)
    return index if index is not None and all(map(_is_basic, entries)) else None


def _along(dim: Any, index: Any) -> Any:
    if not isinstance(dim, int):
        return [None]
    return (*(slice(None),) * dim, index) if dim >= 0 else (..., index, *(slice(None),) * (-dim - 1))


def _is_basic(entry: Any) -> bool:
    if isinstance(entry, fx.Node):
        return is_size(entry)
    return entry is None or entry is ... or (isinstance(entry, (slice, int)) and not isinstance(entry, bool))


def written_node(node: fx.Node, root: nn.Module) -> fx.Node | None:
    """The node whose memory `node` writes, if it writes in place."""
    if node.op in ("placeholder", "get_attr", "output"):
        return None
    if node.op == "call_module":
        in_place = getattr(root.get_submodule(str(node.target)), "inplace", False) is True
    else:
        in_place = writes_first_operand(node.target) or bool(node.meta.get(IN_PLACE_META))
        in_place = in_place or (node.op == "call_function" and asks_in_place(node))
    return first_operand(node) if in_place else None


def is_view(node: fx.Node) -> bool:
    """True for a call that may return its first operand, or a part of its memory."""
    if node.op == "call_module":
        return False
    return node.target is operator.getitem or _name(node) in _VIEWS
