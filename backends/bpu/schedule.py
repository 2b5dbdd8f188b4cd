"""In which order nodes run, and which CPU nodes share one onnxruntime session.

Program order may interleave CPU and BPU nodes that do not depend on each other. Running everything of one kind that is ready before
switching gives the longest CPU segments, so the fewest sessions and copies between the two worlds.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection
from dataclasses import dataclass

from hqc.ir import Device, Graph, Node, Trait

KERNEL, ONNX, OPAQUE = "kernel", "onnx", "opaque"


@dataclass(frozen=True)
class Group:
    """Nodes that run as one step: one node, or a CPU segment."""

    kind: str
    nodes: tuple[Node, ...]


def kind_of(node: Node, written: Collection[Node] = ()) -> str:
    """Who runs a node; `written`: opaque nodes that onnxruntime can run.

    Without a device (a graph that was not partitioned) integer values mean the BPU.
    """
    if node.op.has(Trait.OPAQUE):
        return ONNX if node in written else OPAQUE
    if node.op.has(Trait.BOUNDARY) or node.op.has(Trait.INTEGER) or node.device is Device.BPU:
        return KERNEL
    if node.device is Device.CPU:
        return ONNX
    return ONNX if any(value.type.dtype.is_float for value in (*node.data_operands, *node.results)) else KERNEL


def schedule(graph: Graph, written: Collection[Node] = ()) -> list[Group]:
    """Groups in an executable order; linear in nodes and edges (times the logarithm of the ready set)."""
    nodes = list(graph.nodes)
    position = {node: index for index, node in enumerate(nodes)}
    missing = {node: len(node.producers) for node in nodes}
    ready: dict[str, list[int]] = {KERNEL: [], ONNX: [], OPAQUE: []}

    def release(node: Node) -> None:
        heapq.heappush(ready[kind_of(node, written)], position[node])

    for node in nodes:
        if not missing[node]:
            release(node)
    groups: list[Group] = []
    while any(ready.values()):
        kind = next(k for k in (KERNEL, OPAQUE, ONNX) if ready[k])
        run: list[Node] = []
        while ready[kind]:
            node = nodes[heapq.heappop(ready[kind])]
            run.append(node)
            for user in node.users:
                missing[user] -= 1
                if not missing[user]:
                    release(user)
        if kind == ONNX:
            groups.append(Group(ONNX, tuple(sorted(run, key=position.__getitem__))))
        else:
            groups.extend(Group(kind, (node,)) for node in run)
    return groups
