"""What a plan costs, and when one is better than another."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hqc.checked import checked, explained
from hqc.ir import Device, Graph, Trait
from hqc.ir.costs import macs
from hqc.metrics.placement import crossings

EQUAL_MACS = 0.01
"""Share of the BPU's multiply-accumulates below which moving them does not count: neither as a gain nor as a loss."""


@explained
@dataclass(frozen=True)
class Outcome:
    """`bpu_macs`, `macs`: multiply-accumulates on the BPU and in all, those of unknown shape left out. `crossings`, `bytes`: what moves
    between the devices."""

    bpu_macs: int
    macs: int
    crossings: int
    bytes: int

    @classmethod
    def of(cls, graph: Graph) -> Outcome:
        """Of a planned graph."""
        work = [(node.device, macs(node) or 0) for node in graph.nodes if not node.op.has(Trait.BOUNDARY)]
        moved = crossings(graph)
        return cls(
            sum(count for device, count in work if device is Device.BPU),
            sum(count for _, count in work),
            len(moved),
            sum(each.bytes or 0 for each in moved),
        )


@checked
def worth(before: Outcome, after: Outcome) -> tuple[int, int, int] | None:
    """What a change brings, as a key that ranks (larger is better): multiply-accumulates to the BPU, crossings and bytes saved.

    None where it brings nothing: more multiply-accumulates on the BPU is a gain, and so are fewer crossings without fewer of them,
    where less than `EQUAL_MACS` of those there count as none. A BPU that has nothing left to multiply is no gain.
    """
    moved, saved = after.bpu_macs - before.bpu_macs, before.crossings - after.crossings
    small = EQUAL_MACS * before.bpu_macs
    if before.bpu_macs and not after.bpu_macs:
        return None
    if abs(moved) > small:
        return (moved, saved, before.bytes - after.bytes) if moved > 0 else None
    if saved > 0 or (saved == 0 and moved > 0):
        return (0, saved, before.bytes - after.bytes)
    return None


def more_than_the_sum(key: tuple[int, int, int], parts: Iterable[tuple[int, int, int] | None]) -> bool:
    """True where two changes together bring more than both bring alone."""
    alone = [part or (0, 0, 0) for part in parts]
    return key[0] > sum(part[0] for part in alone) or (
        key[0] == sum(part[0] for part in alone) and key[1] > sum(max(part[1], 0) for part in alone)
    )
