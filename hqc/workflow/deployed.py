"""What every compiled model shows of its deployment, with its torch half (`Compiled`) or without (`LoadedModel`)."""

from __future__ import annotations

from hqc.ir import Graph
from hqc.metrics.placement import PlacementReport, placement_report
from hqc.passes.base import Remark
from hqc.workflow.deployment import Deployment


class Deployed:
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
