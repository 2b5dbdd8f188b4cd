"""What to change first: for each change that a report proposes, what it would bring to the BPU and how many crossings it saves."""

from __future__ import annotations

from dataclasses import dataclass

from hqc.errors import InputError
from hqc.ir import Device, Graph, Node, Trait
from hqc.metrics.placement import crossings, placement_report


@dataclass(frozen=True)
class Advice:
    """One change. `operations`: what it brings to the BPU, followers included. `macs`: multiply-accumulates among them.
    `crossings`: values that cross now and would cross afterwards."""

    change: str
    operations: tuple[str, ...]
    macs: int
    crossings: tuple[int, int]

    @property
    def gain(self) -> tuple[int, int, int]:
        """What ranks: MACs first, then crossings saved, then operations."""
        return (self.macs, self.crossings[0] - self.crossings[1], len(self.operations))

    def __str__(self) -> str:
        shown = ", ".join(self.operations[:3]) + (f" and {len(self.operations) - 3} more" if len(self.operations) > 3 else "")
        before, after = self.crossings
        moves = f"crossings {before} -> {after}" if before != after else f"still {before} crossings"
        work = f"{self.macs:,} MACs to the BPU, " if self.macs else ""
        return f"{shown}: {self.change} ({work}{moves})"


def advice(graph: Graph, limit: int = 3) -> list[Advice]:
    """The most useful changes to a partitioned graph, best first; empty where nothing on the CPU could be changed.

    Operations with the same reason count as one change. Those that only follow their neighbours go along with the ones they
    touch. A change that would save nothing (no MACs, not fewer crossings) is left out. The graph is not changed.
    """
    if limit < 1:
        raise InputError(f"limit must be at least 1, got {limit}")
    rows = {row.name: row for row in placement_report(graph).rows}
    nodes = [node for node in graph.nodes if not node.op.has(Trait.BOUNDARY)]
    groups: dict[str, list[Node]] = {}
    for node in nodes:
        if node.device is Device.CPU and not _follows(node) and rows[node.name].change:
            groups.setdefault(rows[node.name].change, []).append(node)
    now = len(crossings(graph))
    found = []
    for change, members in groups.items():
        moved = _with_followers(members)
        names = tuple(dict.fromkeys(f"{rows[node.name].where} ({node.op.name})" for node in nodes if node in moved))
        work = sum(rows[node.name].macs or 0 for node in moved)
        found.append(Advice(change, names, work, (now, len(crossings(graph, moved)))))
    useful = [each for each in found if each.macs or each.crossings[1] < each.crossings[0]]
    return sorted(useful, key=lambda each: each.gain, reverse=True)[:limit]


def _follows(node: Node) -> bool:
    """True when nothing but its neighbours keeps the node on the CPU."""
    reasons = node.support.reasons if node.support is not None else ()
    return bool(reasons) and all(reason.step == "context" for reason in reasons)


def _with_followers(members: list[Node]) -> set[Node]:
    moved, todo = set(members), list(members)
    while todo:
        node = todo.pop()
        for near in (*node.producers, *(user for value in node.results for user in value.users)):
            if near not in moved and near.device is Device.CPU and not near.op.has(Trait.BOUNDARY) and _follows(near):
                moved.add(near)
                todo.append(near)
    return moved
