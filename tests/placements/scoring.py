"""Score hqc's placement against public compilation logs, node by node.

A log row is matched with what the model computes: by module path, kind of op and occurrence where the log has paths
(`/model.0/conv/Conv` is the convolution of `model.0.conv`; a SiLU is listed as `<module>/act/Mul`), else by kind and order of
export. Rows that the vendor's tool inserted have no counterpart and are left out. Run as a script, it prints the tables.
"""

from __future__ import annotations

import csv
import importlib
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LOGS = Path(__file__).parent / "logs"
ROOT = Path(__file__).parents[2]
MARCH_OF_PREFIX = {"x3": "bernoulli2", "j5": "bayes", "x5": "bayes-e"}

_INSERTED = re.compile(
    r"^HZ_PREPROCESS_FOR_|_Requantize$|TO_FUSE_SCALE$|TO_FUSE_RELU$|_pad$|_reshape(_|$)|_Reshape_0$|_output_reshape$"
    r"|_reshape_(in|out)put$|_split$"
)
_UNIT_CONV = "UNIT_CONV_FOR_"
_KIND_OF_TYPE = {
    "hzsquantizedconv": "conv",
    "hzquantizedmaxpool": "maxpool",
    "hzsquantizedglobalaveragepool": "globalaveragepool",
    "gemm": "conv",
}
_KIND_OF_OP = {
    "conv2d": "conv",
    "linear": "conv",
    "max_pool2d": "maxpool",
    "avg_pool2d": "averagepool",
    "adaptive_avg_pool2d": "globalaveragepool",
    "resize2d": "resize",
    "cat": "concat",
    "leaky_relu": "leakyrelu",
    "silu": "mul",
}


@dataclass(frozen=True)
class Row:
    """One row of a log that has a counterpart in the model. `order`: position by name in the exported file."""

    name: str
    device: str
    module: str | None
    kind: str
    order: tuple[int, str]


@dataclass(frozen=True)
class Unit:
    """One op of the model as the tool would list it, with hqc's verdict."""

    name: str
    device: str
    module: str
    kind: str
    reason: str


@dataclass(frozen=True)
class Disagreement:
    log: str
    row: str
    vendor: str
    ours: str
    reason: str


@dataclass(frozen=True)
class Score:
    """Counts over matched rows. `found_*`: rows of that device on which hqc agrees."""

    rows: int
    cpu: int
    bpu: int
    found_cpu: int
    found_bpu: int
    unmatched: tuple[str, ...]
    disagreements: tuple[Disagreement, ...]

    def __add__(self, other: Score) -> Score:
        return Score(
            self.rows + other.rows,
            self.cpu + other.cpu,
            self.bpu + other.bpu,
            self.found_cpu + other.found_cpu,
            self.found_bpu + other.found_bpu,
            self.unmatched + other.unmatched,
            self.disagreements + other.disagreements,
        )

    @property
    def agreement(self) -> float:
        return (self.found_cpu + self.found_bpu) / self.rows

    @property
    def all_bpu(self) -> float:
        """The agreement of placing everything on the BPU."""
        return self.bpu / self.rows

    @property
    def cpu_recall(self) -> float:
        return self.found_cpu / self.cpu if self.cpu else 1.0

    @property
    def bpu_recall(self) -> float:
        return self.found_bpu / self.bpu if self.bpu else 1.0


def read_log(log: str) -> list[Row]:
    """The rows of a log that the tool did not insert. A Gemm that was cut in two counts once."""
    rows: list[Row] = []
    seen: set[str] = set()
    with (LOGS / f"{log}.csv").open(encoding="utf-8") as file:
        for record in csv.DictReader(file):
            row = _row(record["node"], record["on"], record["type"])
            if row is not None and row.name not in seen:
                seen.add(row.name)
                rows.append(row)
    return rows


def _row(name: str, device: str, type_: str) -> Row | None:
    if _INSERTED.search(name) or name.startswith("..."):
        return None
    unit = name.startswith(_UNIT_CONV)
    name = re.sub(r"_sub\d+$", "", name.removeprefix(_UNIT_CONV))
    number = re.search(r"(\d+)$", name)
    if name.startswith("/"):
        *scopes, op = name.strip("/").split("/")
        kind = re.sub(r"_\d+$", "", op).lower()
        order = int(number.group(1)) if number and re.search(r"_\d+$", op) else 0
        calls = re.search(r"_(\d+)$", scopes[-1]) if scopes and not scopes[-1].split(".")[-1].isdecimal() else None
        if calls:  # the second call of a module is listed as `<module>_1`
            scopes[-1], order = scopes[-1][: calls.start()], int(calls.group(1))
        return Row(name, device, module_path(scopes), _KIND_OF_TYPE.get(kind, kind), (order, op))
    kind = type_.lower() if name.isdecimal() else re.sub(r"_\d+$", "", name).lower()
    if unit:
        kind = "add"
    return Row(name, device, None, _KIND_OF_TYPE.get(kind, kind), (int(number.group(1)) if number else 0, name))


def module_path(scopes: Iterable[str]) -> str:
    """The dotted path of nested ONNX scopes: a child of a container repeats the container's name (`cv3/cv3.0`)."""
    path: list[str] = []
    for scope in scopes:
        if path and scope.startswith(f"{path[-1]}."):
            path[-1] = scope
        else:
            path.append(scope)
    return ".".join(path)


def units_of(model: str, march: str) -> list[Unit]:
    """hqc's verdict on every op of a network of `benchmarks.models`, after calibration-style analysis."""
    import torch

    models_with_logs()
    from hqc.frontend.fx import lower_graph_module, trace
    from hqc.march import get_spec
    from hqc.passes import PassContext
    from hqc.passes.pipeline_text import parse_passes

    # Placement looks at shapes only: no need for settled statistics or real images.
    network, shape = network_of(model)
    graph = lower_graph_module(trace(network), (torch.zeros(1, *shape),)).graph
    locations = {name: node.loc.module for node in graph.nodes for name in (node.origin or (node.name,))}
    context = PassContext(get_spec(march))
    for item in parse_passes("canonicalize,apply-overrides,fold-batch-norm,fuse-conv,analyze-support"):
        item.run(graph, context)
    return [unit for node in graph.nodes for unit in _units(node, locations)]


def _units(node: object, locations: dict[str, str]) -> Iterator[Unit]:
    from hqc.ir import Node

    assert isinstance(node, Node)
    if node.support is None:
        return
    device = "BPU" if node.support.accepted else "CPU"
    reason = "; ".join(map(str, node.support.reasons)) or "within the limits of the march"
    kind = _KIND_OF_OP.get(node.op.name, node.op.name.replace("_", ""))
    first = node.origin[0] if node.origin else node.name
    # torch exports a slice along several axes as one ONNX Slice an axis.
    listed = max(1, len(node.attributes["axes"])) if node.op.name == "slice" else 1
    for _ in range(listed):
        yield Unit(node.name, device, locations.get(first, node.loc.module), kind, reason)
    if kind == "conv" and node.operand("residual") is not None:
        added = node.origin[-2] if node.attributes["activation"] != "none" else node.origin[-1]
        yield Unit(added, device, locations.get(added, node.loc.module), "add", reason)


def score(log: str, model: str) -> Score:
    """Match a log with a model and count."""
    march = MARCH_OF_PREFIX[log.partition("_")[0]]
    rows, units = read_log(log), units_of(model, march)
    by_path = any(row.module is not None for row in rows)
    keyed: dict[tuple[str, str], list[Unit]] = defaultdict(list)
    for unit in units:
        keyed[unit.module if by_path else "", unit.kind].append(unit)
    listed: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        listed[row.module or "", row.kind].append(row)
    matched: list[tuple[Row, Unit]] = []
    unmatched: list[str] = []
    for key, group in listed.items():
        group.sort(key=lambda row: row.order)
        candidates = keyed.get(key, [])
        matched += zip(group, candidates, strict=False)
        unmatched += [row.name for row in group[len(candidates) :]]
    disagreements = tuple(
        Disagreement(log, row.name, row.device, unit.device, unit.reason) for row, unit in matched if row.device != unit.device
    )
    return Score(
        len(matched),
        sum(row.device == "CPU" for row, _ in matched),
        sum(row.device == "BPU" for row, _ in matched),
        sum(row.device == unit.device == "CPU" for row, unit in matched),
        sum(row.device == unit.device == "BPU" for row, unit in matched),
        tuple(unmatched),
        disagreements,
    )


OWN_NETWORKS = {"x3_yolov5s_focus_reshape": "yolov5_focus"}
"""Logs whose network is only of interest here."""


def _zoo() -> Any:
    """The registry of `benchmarks.models`, filled."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    return importlib.import_module("benchmarks.models")


def network_of(model: str) -> tuple[Any, tuple[int, ...]]:
    """The network called `model` in eval mode, and the shape `[C, H, W]` of its input."""
    if model in OWN_NETWORKS.values():
        module = importlib.import_module(model)
        return module.YoloV5Focus().eval(), module.IMAGE
    entry = _zoo().MODELS[model]
    return entry.factory().eval(), entry.input_shape[-3:]


def models_with_logs() -> dict[str, str]:
    """Log -> name of the network that mirrors it."""
    return {**{entry.log: entry.name for entry in _zoo().MODELS.values() if entry.log}, **OWN_NETWORKS}


def report() -> str:
    """One line a log, one line a march, and every disagreement with its reason."""
    pooled: dict[str, Score] = {}
    lines = [f"{'log':28}{'rows':>6}{'agree':>9}{'CPU found':>12}{'BPU found':>12}{'all on BPU':>12}  unmatched"]
    for log, model in sorted(models_with_logs().items()):
        result = score(log, model)
        march = MARCH_OF_PREFIX[log.partition("_")[0]]
        pooled[march] = pooled[march] + result if march in pooled else result
        lines.append(_line(log, result))
    lines += [_line(f"pooled {march}", result) for march, result in pooled.items()]
    for result in pooled.values():
        lines += [f"  {d.log} {d.row}: log {d.vendor}, hqc {d.ours}: {d.reason}" for d in result.disagreements]
    return "\n".join(lines)


def _line(name: str, result: Score) -> str:
    return (
        f"{name:28}{result.rows:6}{result.agreement:9.2%}{f'{result.found_cpu}/{result.cpu}':>12}"
        f"{f'{result.found_bpu}/{result.bpu}':>12}{result.all_bpu:12.2%}  {', '.join(result.unmatched)}"
    )


if __name__ == "__main__":
    sys.stdout.write(report() + "\n")
