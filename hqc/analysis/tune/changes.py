"""What may be changed about one operation: its dtype, its device, how its range is chosen."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hqc.analysis.compare.comparison import OperationComparison
from hqc.checked import explained
from hqc.ir import Device, DType, Graph, Node, Trait
from hqc.march.spec import MarchSpec
from hqc.quantization.qconfig import QConfig, get_default_qconfig

Kind = Literal["observer", "int32", "int16", "cpu"]
OBSERVERS = ("absolute_min_max", "percentile", "mse")
"""Other ways to choose a range, tried in this order."""
LONGEST_TAIL = 4
"""Operations behind the last layer of a segment that may go to the CPU together."""


@explained
@dataclass(frozen=True)
class Change:
    """One change. `nodes`: traced names of what is placed, or given another dtype. `module`: the operation's path where it is a module's
    own call, else empty. `detail`: the observer, for `observer`; the layer, for `int32`.
    """

    kind: Kind
    where: str
    nodes: tuple[str, ...]
    module: str = ""
    detail: str = ""

    @property
    def key(self) -> str:
        """What a state file calls it."""
        return " ".join(filter(None, (self.kind, self.detail, *self.nodes)))

    def __str__(self) -> str:
        what = {
            "int16": "int16 result",
            "cpu": "on the CPU",
            "observer": f"range by {self.detail}",
            "int32": f"on the CPU, so that {self.detail} leaves the BPU with int32 results",
        }[self.kind]
        return f"{self.where}: {what}"


def candidates(
    row: OperationComparison, march: MarchSpec, kinds: Sequence[Kind], tails: Mapping[str, Tail]
) -> Iterator[Change]:
    """Changes that may help one operation, the cheapest on the chip first. `tails`: of the plan, by value."""
    name = row.name
    own = name.module if name.fx and name.module.replace(".", "_") == name.fx[0].removesuffix("_quant") else ""
    if "observer" in kinds and own and name.device == "bpu":
        for observer in OBSERVERS:
            yield Change("observer", name.where, name.fx, own, observer)
    if "int32" in kinds and name.name in tails:
        tail = tails[name.name]
        yield Change("int32", name.where, tail.nodes, detail=tail.layer)
    if name.device == "bpu":
        if "int16" in kinds and DType.INT16 in march.activation_dtypes and row.dtype == "int8":
            yield Change("int16", name.where, name.fx)
        if "cpu" in kinds:
            yield Change("cpu", name.where, name.fx)


@dataclass(frozen=True)
class Tail:
    """What stands between a layer and the end of its BPU segment. `layer`: the layer's name; `nodes`: traced names of the rest."""

    layer: str
    nodes: tuple[str, ...]


def tails_of(graph: Graph) -> dict[str, Tail]:
    """Of a scaled graph, by the value at the end of a segment: what has to go to the CPU for the layer before it to end the segment,
    and so to leave at high precision (int32)."""
    found = {}
    for node in graph.nodes:
        if node.device is not Device.BPU or len(node.results) != 1 or any(user.device is Device.BPU for user in node.users):
            continue
        behind: list[str] = []
        at: Node | None = node
        while at is not None and not at.op.has(Trait.CONV_LIKE):
            behind = [*at.origin, *behind]
            before = [each for each in at.producers if each.device is Device.BPU]
            alone = len(at.producers) == len(before) == 1 and len(before[0].users) == 1
            at = before[0] if alone and len(behind) < LONGEST_TAIL else None
        if at is not None:
            behind = [*at.origin[1:], *behind]  # what is fused into the layer comes after it
            if behind:
                found[node.name] = Tail(at.loc.module or at.name, tuple(dict.fromkeys(behind)))
    return found


def with_changes(
    hybrid_dict: Mapping[str, Any] | None, qconfig_dict: Mapping[str, Any], changes: Sequence[Change]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The user's dicts with `changes` in them, as copies."""
    hybrid: dict[str, Any] = {key: copy.copy(value) for key, value in (hybrid_dict or {}).items()}
    qconfigs: dict[str, Any] = dict(qconfig_dict)
    for change in changes:
        if change.kind in ("cpu", "int32"):
            cpu = dict(hybrid.get("cpu", {}))
            hybrid["cpu"] = {**cpu, "node_name": [*cpu.get("node_name", ()), *change.nodes]}
        elif change.kind == "int16":
            bpu = dict(hybrid.get("bpu", {}))
            hybrid["bpu"] = {**bpu, "node_name": [*bpu.get("node_name", ()), *((name, "int16") for name in change.nodes)]}
        else:
            entries = qconfigs.get("module_name") or {}
            pairs = list(entries.items()) if isinstance(entries, Mapping) else list(entries)
            kept = {name: value for name, value in pairs if name != change.module}
            qconfigs["module_name"] = {**kept, change.module: qconfig_of(change)}
    return hybrid, qconfigs


def qconfig_of(change: Change) -> QConfig:
    """The qconfig of an `observer` change."""
    return get_default_qconfig(activation_observer=change.detail, weight_observer="mse")
