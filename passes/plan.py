"""The placement of a prepared model as plain data, so that it can travel with the model.

A plan names FX nodes, because those survive: the prepared model is lowered again and its nodes come from the same FX names.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from hqc.checked import explained
from hqc.errors import PassError
from hqc.ir import Device, DType, Graph, Reason, Request, Support, Trait
from hqc.passes.steps import divided

FORMAT = 1
"""Version of the plain-data form; a plan of another version is refused."""


@dataclass(frozen=True)
class Placement:
    """Where the FX nodes `names` run. Several names are the members of one fused operation, in program order; the name of a step is
    that of its own FX node, where an operation is divided between the devices and written step by step.

    `device`: `cpu` or `bpu`. `reasons`: why, as the support analysis said it. `request`: the user's wish, if any.
    """

    names: tuple[str, ...]
    device: str
    op: str
    reasons: tuple[Reason, ...] = ()
    request: Request | None = None

    @property
    def support(self) -> Support:
        """The verdict behind the placement."""
        return Support(self.device == Device.BPU.value, self.reasons)


@dataclass(frozen=True)
class PlanChange:
    """An FX node whose device differs between two plans; `reasons` are those of the new plan."""

    name: str
    before: str
    after: str
    reasons: tuple[Reason, ...] = ()

    def __str__(self) -> str:
        why = "; ".join(map(str, self.reasons))
        return f"{self.name}: {self.before} -> {self.after}" + (f" ({why})" if why else "")


@explained
@dataclass(frozen=True)
class Plan:
    """Devices decided at prepare time: frozen, picklable, comparable, and free of graphs and tensors.

    `march`: name of the march. `hybrid`: CPU fallback was allowed. `options`: pipeline options that shaped the plan, as plain
    values. `version`: of hqc.
    """

    march: str
    placements: tuple[Placement, ...]
    hybrid: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)
    version: str = ""

    def __post_init__(self) -> None:
        index = {name: placement for placement in self.placements for name in placement.names}
        object.__setattr__(self, "_index", index)

    @classmethod
    def from_graph(cls, graph: Graph, *, hybrid: bool = True, options: Mapping[str, Any] | None = None) -> Plan:
        """The plan of a partitioned graph.

        `PassError` when a node has no device, or one FX node two though it cannot be written step by step.
        """
        placements: dict[tuple[str, ...], Placement] = {}
        for node in graph.nodes:
            if node.device is None and not node.op.has(Trait.BOUNDARY):
                raise PassError(f"{node.label} has no device; run the partition pass before making a plan")
        steps = divided(graph)
        for node in graph.nodes:
            if node.op.has(Trait.BOUNDARY) or node.device is None:
                continue
            names = (node.name,) if not steps.isdisjoint(node.origin) else node.origin or (node.name,)
            reasons = node.support.reasons if node.support is not None else ()
            merged = placements.get(names)
            if merged is not None:
                reasons = tuple(dict.fromkeys((*merged.reasons, *reasons)))
            placements[names] = Placement(names, node.device.value, node.op.name, reasons, node.request)
        return cls(graph.march or "", tuple(placements.values()), hybrid, dict(options or {}), _version())

    # --- reading -------------------------------------------------------------------------------------------------

    @property
    def devices(self) -> dict[str, Device]:
        """Device of every FX node that the plan knows, in program order."""
        return {name: Device(placement.device) for placement in self.placements for name in placement.names}

    def placement(self, name: str) -> Placement | None:
        """The placement of one FX node, or None."""
        index: dict[str, Placement] = self.__dict__["_index"]
        return index.get(name)

    def lookup(self, names: Iterable[str]) -> list[Placement]:
        """The placements of those of `names` that the plan knows, each once."""
        found = [self.placement(name) for name in names]
        return list(dict.fromkeys(placement for placement in found if placement is not None))

    def changes(self, new: Plan) -> list[PlanChange]:
        """FX nodes known to both plans that run elsewhere in `new`, in the order of this plan."""
        result = []
        for name, device in self.devices.items():
            other = new.placement(name)
            if other is not None and other.device != device.value:
                result.append(PlanChange(name, device.value, other.device, other.reasons))
        return result

    # --- plain data ----------------------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        return self.to_dict()

    def __setstate__(self, state: dict[str, Any]) -> None:
        other = Plan.from_dict(state)
        for name, value in other.__dict__.items():
            object.__setattr__(self, name, value)

    def to_dict(self) -> dict[str, Any]:
        """Lists, dictionaries, strings and booleans only (JSON)."""
        return {
            "format": FORMAT,
            "march": self.march,
            "hybrid": self.hybrid,
            "version": self.version,
            "options": dict(self.options),
            "placements": [_placement_to_dict(placement) for placement in self.placements],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        """The plan of `to_dict`'s data; `PassError` for data of another format."""
        if data.get("format") != FORMAT:
            raise PassError(f"this plan has format {data.get('format')!r}, this version of hqc reads {FORMAT}; prepare again")
        placements = tuple(_placement_from_dict(item) for item in data["placements"])
        return cls(data["march"], placements, data["hybrid"], dict(data["options"]), data["version"])


def _placement_to_dict(placement: Placement) -> dict[str, Any]:
    request = placement.request
    return {
        "names": list(placement.names),
        "device": placement.device,
        "op": placement.op,
        "reasons": [asdict(reason) for reason in placement.reasons],
        "request": None
        if request is None
        else {
            "device": request.device.value,
            "source": request.source,
            "dtype": None if request.dtype is None else request.dtype.value,
        },
    }


def _placement_from_dict(data: Mapping[str, Any]) -> Placement:
    request = data["request"]
    return Placement(
        names=tuple(data["names"]),
        device=data["device"],
        op=data["op"],
        reasons=tuple(Reason(**reason) for reason in data["reasons"]),
        request=None
        if request is None
        else Request(
            Device(request["device"]), request["source"], None if request["dtype"] is None else DType(request["dtype"])
        ),
    )


def _version() -> str:
    # Importing the root package here would count as importing all that it offers, torch included.
    return str(getattr(sys.modules["hqc"], "__version__", ""))
