"""A batch through an emitted model without its quantization, and single operations of it with theirs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import fx

from hqc.analysis.compare.operations import Operation
from hqc.quantization.fake_quantize import FakeQuantizeBase
from hqc.quantization.switches import quantizing
from hqc.workflow.runs import Run


class FloatRun(Run):
    """The values of every node with all fake quants off."""

    module: fx.GraphModule

    def __init__(self, module: fx.GraphModule, arguments: Sequence[Any]) -> None:
        with quantizing(module, ()):
            super().__init__(module, arguments)

    def again_with(self, operation: Operation, chosen: Sequence[FakeQuantizeBase]) -> Any:
        """The result of `operation` fed with float inputs, `chosen` of its fake quants on."""
        with quantizing(self.module, chosen):
            return self.again(operation.nodes)

    def with_values(self, given: Mapping[fx.Node, Any]) -> Any:
        with quantizing(self.module, ()):
            return super().with_values(given)
