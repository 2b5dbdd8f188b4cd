"""Where a program's time goes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from hqc.ir import Node, Value
from hqc.ir.costs import macs


@dataclass(frozen=True)
class ProfileRow:
    """One step of one run. `node`: name of the node, or first and last of a CPU segment. `bytes`: operands and results."""

    node: str
    op: str
    device: str
    ms: float
    macs: int
    bytes: int

    @property
    def gmacs_per_second(self) -> float:
        return self.macs / self.ms / 1e6 if self.ms else 0.0


@dataclass
class Timer:
    """Collects the rows of one run."""

    rows: list[ProfileRow] = field(default_factory=list)

    def start(self) -> float:
        return time.perf_counter()

    def stop(
        self,
        start: float,
        nodes: Sequence[Node],
        device: str,
        inputs: Sequence[Value | None],
        results: Sequence[Value],
    ) -> None:
        elapsed = time.perf_counter() - start
        name = nodes[0].name if len(nodes) == 1 else f"{nodes[0].name}..{nodes[-1].name}"
        op = nodes[0].op.name if len(nodes) == 1 else f"{len(nodes)} ops"
        moved = sum(value.type.nbytes or 0 for value in (*inputs, *results) if value is not None)
        self.rows.append(ProfileRow(name, op, device, elapsed * 1e3, sum(macs(node) or 0 for node in nodes), moved))
