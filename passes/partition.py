"""`partition`: a device for every node, and convex subgraphs of the BPU nodes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from hqc.errors import PassError
from hqc.ir import Device, Graph, Node, Reason, Support, Trait
from hqc.ir.costs import macs
from hqc.passes.base import Pass, PassContext, PassResult, Remark
from hqc.passes.registry import register_pass
from hqc.passes.subgraphs import convex_subgraphs

THRESHOLDS: tuple[tuple[float, int], ...] = ((0, 0), (0, 2), (0, 4), (1e5, 0), (1e6, 0), (1e7, 0), (1e8, 0))
"""`(min_macs, min_nodes)` pairs that the option `compare` reports on."""


@register_pass
@dataclass(frozen=True)
class Partition(Pass):
    """Turn support into devices, and group the BPU nodes into as few convex subgraphs as the graph allows.

    A node runs on the BPU when its support is accepted; boundary ops count as CPU. `level(n) = max over operands p of
    level(p) + (p on BPU and n on CPU)`: the BPU nodes of one level never depend on each other through the CPU. Their connected
    components are subgraphs (with `horizontal-merge` the whole level is one); adjacent ones of different levels merge where
    no path through the CPU joins them. Subgraphs are numbered in execution order.

    With `min-macs` or `min-nodes`, subgraphs below either limit go to the CPU, again and again until none is left; their nodes
    get a reason of step `cost`. A subgraph with a node that the user asked to have on the BPU, or with unknown
    multiply-accumulates, stays.
    """

    name: ClassVar[str] = "partition"
    requires: ClassVar[str] = "supported"
    establishes: ClassVar[str] = "partitioned"

    horizontal_merge: bool = field(default=False, metadata={"help": "one subgraph per level, connected or not"})
    min_macs: float = field(default=0.0, metadata={"help": "smallest subgraph, in multiply-accumulates"})
    min_nodes: int = field(default=0, metadata={"help": "smallest subgraph, in nodes"})
    compare: bool = field(default=False, metadata={"help": "add a remark on what each of several other thresholds would give"})

    def __post_init__(self) -> None:
        if self.min_macs < 0 or self.min_nodes < 0:
            raise PassError("min-macs and min-nodes must not be negative")

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        if (self.min_macs or self.min_nodes) and not context.hybrid:
            raise PassError("min-macs and min-nodes send nodes to the CPU; that needs hybrid=True")
        nodes = list(graph.nodes)
        split = _split(nodes, self)
        others = partition_summary(graph, THRESHOLDS, horizontal_merge=self.horizontal_merge) if self.compare else []
        changed = False
        for node, number in zip(nodes, split.subgraphs, strict=True):
            device = Device.CPU if number is None else Device.BPU
            support = split.demoted.get(node, node.support)
            changed |= (node.device, node.subgraph, node.support) != (device, number, support)
            node.device, node.subgraph, node.support = device, number, support
        remarks = [self.remark(str(support.reasons[-1]), node) for node, support in split.demoted.items()]
        return PassResult(changed, (*remarks, self._total(split), *(self.remark(str(other)) for other in others)))

    def _total(self, split: _Split) -> Remark:
        count = sum(1 for number in split.subgraphs if number is not None)
        on_cpu = plural(len(split.subgraphs) - count, "node")
        return self.remark(f"{plural(count, 'node')} on the BPU in {plural(split.count, 'subgraph')}, {on_cpu} on the CPU")


@dataclass(frozen=True)
class PartitionSummary:
    """What one choice of thresholds gives. MACs are None while shapes are unknown; `demoted`: nodes that go to the CPU."""

    min_macs: float
    min_nodes: int
    subgraphs: int
    bpu_nodes: int
    cpu_nodes: int
    bpu_macs: int | None
    cpu_macs: int | None
    crossings: int
    demoted: tuple[str, ...]

    def __str__(self) -> str:
        share = "" if self.bpu_macs is None else f" with {format_macs(self.bpu_macs)}"
        return (
            f"min-macs={self.min_macs:g}, min-nodes={self.min_nodes}: {plural(self.bpu_nodes, 'node')} on the BPU{share} in "
            f"{plural(self.subgraphs, 'subgraph')}, {plural(self.cpu_nodes, 'node')} on the CPU, "
            f"{plural(self.crossings, 'crossing')}, {len(self.demoted)} demoted"
        )


def partition_summary(
    graph: Graph, thresholds: Iterable[tuple[float, int]], *, horizontal_merge: bool = False
) -> list[PartitionSummary]:
    """What `(min_macs, min_nodes)` pairs would give on a graph with support, which is left as it is.

    `crossings`: values that pass from one device to the other, counted once per direction; what the model takes and returns is
    the CPU's.
    """
    return [
        _summary(graph, Partition(horizontal_merge=horizontal_merge, min_macs=min_macs, min_nodes=min_nodes))
        for min_macs, min_nodes in thresholds
    ]


def _summary(graph: Graph, settings: Partition) -> PartitionSummary:
    nodes = list(graph.nodes)
    split = _split(nodes, settings)
    on_bpu = {node for node, number in zip(nodes, split.subgraphs, strict=True) if number is not None}
    crossings = sum(any(user in on_bpu for user in value.users) for value in graph.inputs)
    for node in nodes:
        here = node in on_bpu
        for value in node.results:
            crossings += (here and graph.is_output(value)) or any((user in on_bpu) != here for user in value.users)
    computing = [node for node in nodes if not node.op.has(Trait.BOUNDARY)]
    return PartitionSummary(
        settings.min_macs,
        settings.min_nodes,
        split.count,
        len(on_bpu),
        len(computing) - len(on_bpu),
        _total_macs(on_bpu),
        _total_macs(node for node in computing if node not in on_bpu),
        crossings,
        tuple(node.name for node in split.demoted),
    )


@dataclass(frozen=True)
class _Split:
    """Subgraph number per node (None: CPU), and the new support of demoted nodes, in program order."""

    subgraphs: list[int | None]
    demoted: dict[Node, Support]

    @property
    def count(self) -> int:
        return len({number for number in self.subgraphs if number is not None})


def _split(nodes: Sequence[Node], settings: Partition) -> _Split:
    index = {node: position for position, node in enumerate(nodes)}
    predecessors = [[index[p] for p in node.producers] for node in nodes]
    names = [node.name for node in nodes]
    inside = [_wants_bpu(node) for node in nodes]
    demoted: dict[int, Reason] = {}
    while True:
        numbers = convex_subgraphs(predecessors, inside, names, horizontal=settings.horizontal_merge)
        small = _too_small(nodes, numbers, settings)
        if not small:
            break
        for position, reason in small.items():
            inside[position] = False
            demoted[position] = reason
    return _Split(numbers, {nodes[i]: _demote(nodes[i], demoted[i]) for i in sorted(demoted)})


def _wants_bpu(node: Node) -> bool:
    if node.op.has(Trait.BOUNDARY):
        return False
    if node.support is None:
        raise PassError(f"{node.label} has no verdict; run analyze-support before partition")
    return node.support.accepted


def _demote(node: Node, reason: Reason) -> Support:
    kept = () if node.support is None else node.support.reasons
    return Support(False, (*kept, reason))


def _too_small(nodes: Sequence[Node], numbers: Sequence[int | None], settings: Partition) -> dict[int, Reason]:
    """Positions of nodes in subgraphs below a limit, and of the BPU nodes that share an FX node with them."""
    if not (settings.min_macs or settings.min_nodes):
        return {}
    members: dict[int, list[int]] = {}
    for position, number in enumerate(numbers):
        if number is not None:
            members.setdefault(number, []).append(position)
    result: dict[int, Reason] = {}
    for group in members.values():
        reason = _verdict([nodes[position] for position in group], settings)
        if reason is not None:
            result.update(dict.fromkeys(group, reason))
    by_origin = {name: reason for position, reason in result.items() for name in nodes[position].origin}
    for position, number in enumerate(numbers):
        if number is not None and position not in result:
            for name in nodes[position].origin:
                if name in by_origin:
                    result[position] = by_origin[name]
                    break
    return result


def _verdict(group: Sequence[Node], settings: Partition) -> Reason | None:
    """Why a subgraph goes to the CPU, or None when it stays."""
    if any(node.request is not None and node.request.device is Device.BPU for node in group):
        return None
    work = _total_macs(group)
    size = plural(len(group), "op")
    if work is not None:
        size += f", {format_macs(work)}"
    hint = "lower min-macs or min-nodes, or ask for the BPU by name"
    if len(group) < settings.min_nodes:
        return Reason("block too small", size, plural(settings.min_nodes, "op"), hint, "cost", "min-nodes")
    if work is not None and work < settings.min_macs:
        return Reason("block too small", size, format_macs(settings.min_macs), hint, "cost", "min-macs")
    return None


def _total_macs(nodes: Iterable[Node]) -> int | None:
    total = 0
    for node in nodes:
        work = macs(node)
        if work is None:
            return None
        total += work
    return total


def format_macs(count: float) -> str:
    """Multiply-accumulates in MMAC, with as many digits as small counts need."""
    return f"{count / 1e6:.3g} MMAC"


def plural(count: int, word: str) -> str:
    """`1 node`, `2 nodes`."""
    return f"{count} {word}{'' if count == 1 else 's'}"
