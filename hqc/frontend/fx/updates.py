"""Buffers that `forward` changes, such as counters, running averages and queues.

They change in training, as they do in the float model: the calls that change them, and those that compute nothing else, stay in the
traced graph and in the emitted one, outside of what is quantized. A deployed graph has no state and keeps the value that a buffer
has then.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from hqc.frontend.fx.in_place import is_set_item, writes_first_operand
from hqc.frontend.fx.locations import MODULE_META, SOURCE_META, TYPES_META
from hqc.frontend.fx.views import is_view, written_node

TRAINING_ONLY_META = "hqc_training_only"
"""Key in `node.meta` of what stands under `if self.training:`: the line of that branch."""
FROZEN_META = "hqc_frozen_buffers"
"""Key in `graph_module.meta`: buffers that forward changes in a way that no graph holds, each with what it says."""


@dataclass(frozen=True)
class BufferUpdates:
    """`nodes`: those that only serve updates; `written`: call that writes into a buffer -> the node whose value it has afterwards,
    to who reads it in inference; `buffers`: call -> path of the buffer; `state`: what holds a buffer or a part
    of one -> its path."""

    nodes: frozenset[fx.Node] = frozenset()
    written: Mapping[fx.Node, fx.Node] = field(default_factory=dict)
    buffers: Mapping[fx.Node, str] = field(default_factory=dict)
    state: Mapping[fx.Node, str] = field(default_factory=dict)

    def skipped(self) -> frozenset[fx.Node]:
        """The nodes that inference does not need."""
        needed: set[fx.Node] = set()
        for write in self.written:
            node = write if any(user not in self.nodes for user in write.users) else None
            while node is not None and node.op != "get_attr":
                needed.add(node)
                node = self.written.get(node, _first(node))
        return frozenset(node for node in self.nodes if node not in needed and node.op != "get_attr")

    def sentences(self) -> Iterator[str]:
        """One for every buffer that changes in eval mode too: where, and what a deployed graph has."""
        always = {node: path for node, path in self.buffers.items() if TRAINING_ONLY_META not in node.meta}
        for path in dict.fromkeys(always.values()):
            line = next(str(node.meta.get(SOURCE_META, "")) for node, name in always.items() if name == path)
            where = f"{line}: " if line else ""
            yield (
                f"{where}forward changes the buffer {path} at every call; a deployed graph keeps the value it has then: take it as an "
                "input of forward and return its new value where it must go on changing"
            )


def buffer_updates(graph: fx.Graph, root: nn.Module) -> BufferUpdates:
    """What of `graph`, whose get_attr nodes read from `root`, changes buffers."""
    buffers = {name for name, _ in root.named_buffers(remove_duplicate=False)}
    state: dict[fx.Node, str] = {}
    written: dict[fx.Node, fx.Node] = {}
    paths: dict[fx.Node, str] = {}
    for node in graph.nodes:
        if node.op == "get_attr":
            if str(node.target) in buffers:
                state[node] = str(node.target)
            continue
        base = node.args[2] if node.target is update_in_training else written_node(node, root)
        if isinstance(base, fx.Node) and base in state:
            written[node], paths[node] = base, state[base]
            if not _is_set_item(node):  # which returns nothing
                state[node] = state[base]
        elif is_view(node) and _first(node) in state:
            state[node] = state[_first(node)]  # type: ignore[index]
    nodes: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if node.op in ("placeholder", "output"):
            continue
        if node in written or (node.users and all(user in nodes for user in node.users)):
            nodes.add(node)
    return BufferUpdates(frozenset(nodes), written, paths, state)


def write_copies(graph: fx.Graph, root: nn.Module) -> None:
    """Let `graph` write copies of the buffers that inference writes and then reads, and put each back at its end.

    What is read is then computed like everything else; only the state that is left behind is an update.
    """
    updates = buffer_updates(graph, root)
    position = {node: index for index, node in enumerate(graph.nodes)}
    trained = {path for node, path in updates.buffers.items() if TRAINING_ONLY_META in node.meta}
    for path in sorted(set(updates.buffers.values()) - trained):
        writes = [node for node, written in updates.buffers.items() if written == path]
        begin = min(map(position.__getitem__, writes))
        held = [node for node, other in updates.state.items() if other == path]
        if any(position[user] > begin and user not in updates.nodes for node in held for user in node.users):
            _write_copy(graph, path, writes[-1])


def _write_copy(graph: fx.Graph, path: str, last: fx.Node) -> None:
    reads = [node for node in graph.nodes if node.op == "get_attr" and node.target == path]
    with graph.inserting_after(reads[0]):
        copied = graph.call_method("clone", (reads[0],))
    for read in reads:
        read.replace_all_uses_with(copied, delete_user_cb=lambda user: user is not copied)
    with graph.inserting_before(next(node for node in graph.nodes if node.op == "output")):
        buffer = graph.get_attr(path)
        put_back = graph.call_method("copy_", (buffer, copied))
    for node in (copied, put_back, buffer):
        node.meta = {key: last.meta[key] for key in (SOURCE_META, MODULE_META, TYPES_META) if key in last.meta}


def _first(node: fx.Node) -> fx.Node | None:
    return next((item for item in node.args if isinstance(item, fx.Node)), None)


@contextlib.contextmanager
def unchanged_buffers(model: nn.Module, names: Iterable[str]) -> Iterator[None]:
    """Buffers have their values again afterwards: a run that only looks at data is no step of the training."""
    kept = {name: model.get_buffer(name).detach().clone() for name in names}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, value in kept.items():
                model.get_buffer(name).copy_(value)


def detach_tensors(value: Any) -> Any:
    """`value` without gradients, where it is a tensor: what a buffer takes in belongs to no step of the training."""
    return value.detach() if isinstance(value, torch.Tensor) else value


def update_in_training(training: bool, method: str, tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    """Call `method`, which writes into `tensor`, if `training`; `tensor` otherwise."""
    return getattr(tensor, method)(*args, **kwargs) if training else tensor


def writing_method(node: fx.Node) -> str | None:
    """The method of tensors that does what `node` does, if that is to write into its first operand."""
    if is_set_item(node.target):
        return "__setitem__"
    return str(node.target) if node.op == "call_method" and writes_first_operand(node.target) else None


def _is_set_item(node: fx.Node) -> bool:
    return is_set_item(node.args[1] if node.target is update_in_training else node.target)
