"""What a pass is: a frozen dataclass with options as fields, and what it reports.

@dataclass(frozen=True)
class MyPass(Pass):
    "One-line description, shown in help and docs."
    name: ClassVar[str] = "my-pass"
    requires: ClassVar[str] = "partitioned"
    establishes: ClassVar[str] = "partitioned"
    threshold: int = 3

    def run(self, graph: Graph, context: PassContext) -> PassResult: ...
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from hqc.checked import explained
from hqc.errors import printable
from hqc.ir import Graph, Node

if TYPE_CHECKING:
    from hqc.march.spec import MarchSpec
    from hqc.passes.overrides import Override
    from hqc.passes.plan import Plan
    from hqc.passes.qconfigs import QConfigTable


@explained
@dataclass(frozen=True)
class Remark:
    """Something the user may want to know: what a pass did to which node, and why."""

    pass_name: str
    message: str
    node: str = ""
    severity: Literal["note", "warning"] = "note"

    def __str__(self) -> str:
        where = f"{self.node}: " if self.node else ""
        return printable(f"[{self.pass_name}] {where}{self.message}")


@explained
@dataclass(frozen=True)
class PassResult:
    """`changed`: the graph differs from before. `remarks`: in program order."""

    changed: bool
    remarks: tuple[Remark, ...] = ()


@explained
@dataclass
class PassContext:
    """What every pass may read.

    `hybrid=False`: the whole model must run on the BPU. `plan`: devices decided at prepare time. `high_precision`: FX names of
    operations whose result carries no fake quant (a qconfig without activation); None means post-training quantization, where
    every conv-like operation that ends a BPU segment emits int32 (the tail rule). `qconfigs`: who is quantized how; None means
    int8 everywhere.
    """

    march: MarchSpec
    hybrid: bool = True
    overrides: tuple[Override, ...] = ()
    plan: Plan | None = None
    high_precision: frozenset[str] | None = None
    qconfigs: QConfigTable | None = None
    remarks: list[Remark] = field(default_factory=list)

    @property
    def calibrated_only(self) -> bool:
        """Post-training quantization: the model has no fake quants of its own, the tool decides what to calibrate."""
        return self.high_precision is None

    def leaves_high_precision(self, node: Node) -> bool:
        """True when the result of `node` carries no fake quant, so that a convolution there emits int32 if it ends a BPU segment."""
        if self.high_precision is None:
            return True
        if self.qconfigs is None:
            return any(name in self.high_precision for name in node.origin)
        config = self.qconfigs.of(node)
        return config is not None and config.activation_dtype is None


@explained
@dataclass(frozen=True)
class Pass(ABC):
    """Base of all passes. `requires`: the stage a graph must have reached; `establishes`: the stage it has afterwards."""

    name: ClassVar[str]
    requires: ClassVar[str] = "lowered"
    establishes: ClassVar[str] = ""

    @abstractmethod
    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Change `graph` in place."""

    def remark(self, message: str, node: Node | None = None, *, warning: bool = False) -> Remark:
        return Remark(self.name, message, node.name if node else "", "warning" if warning else "note")
