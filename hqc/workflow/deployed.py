"""What every compiled model shows of its deployment, with its torch half (`Compiled`) or without (`LoadedModel`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from hqc.ir import Graph
from hqc.ir.costs import total_cost
from hqc.metrics.placement import PlacementReport, placement_report
from hqc.passes.base import Remark
from hqc.workflow.deployment import Deployment
from hqc.workflow.reported import Reported

Sample = TypeVar("Sample")

# What the runs of a verification may cost in multiply-accumulates before the first sample has to do. A weight counts as eight: the file's
# are made real in each run.
_SMALL_WORK = 1 << 28
_WEIGHT_WORK = 8


def samples_to_verify(graph: Graph, samples: Sequence[Sample]) -> list[Sample]:
    """The first sample, and as many of the others as a small network takes: verification runs a large one once."""
    cost = total_cost(graph.nodes)
    work = (cost.macs or 0) + _WEIGHT_WORK * cost.parameter_bytes
    return list(samples[: max(1, _SMALL_WORK // max(1, work))])


class Deployed(Reported):
    """The graphs that the back ends take, and what the passes said of them. No torch here."""

    deployment: Deployment

    @property
    def graph(self) -> Graph:
        """The scaled IR."""
        return self.deployment.scaled

    @property
    def integer_graph(self) -> Graph:
        """The IR that the simulator runs."""
        return self.deployment.integer

    @property
    def remarks(self) -> list[Remark]:
        """What the passes had to say, in order."""
        return self.deployment.remarks

    @property
    def placement(self) -> PlacementReport:
        """Where every operation runs, and why."""
        return placement_report(self.graph)

    def explain(self) -> str:
        """The placement as text: device, subgraph and reasons per operation, then totals."""
        return str(self.placement)
