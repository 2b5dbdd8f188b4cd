"""Where every operation of a partitioned graph runs, why, what would change it, and what crosses between the devices.

Pure functions of the IR: no torch, no model. `placement_report` reads one graph, `MarchComparison` holds the reports of several
chips.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hqc.checked import explained
from hqc.errors import InputError, printable
from hqc.ir import Device, DType, Graph, Node, Reason, Trait, Value
from hqc.ir.costs import macs
from hqc.language import said
from hqc.near_names import suggest
from hqc.passes.partition import plural


@dataclass(frozen=True)
class NodePlacement:
    """One operation. `reasons`: why it is where it is, never empty. `change`: what would have to change for the BPU to run
    it, empty on the BPU. `macs` is None while shapes are unknown. `members`: module paths of all that was fused into it; `labels`: what
    the user's file calls those operations, where it names them."""

    name: str
    op: str
    device: str
    subgraph: int | None
    reasons: tuple[Reason, ...]
    change: str
    macs: int | None
    module: str
    source: str
    origin: tuple[str, ...]
    members: tuple[str, ...]
    labels: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        """The name in the user's file, else the module path, or the traced name outside of modules."""
        return printable(next(iter(self.labels), "") or self.module or self.name, lines=False)


@dataclass(frozen=True)
class Crossing:
    """One value that moves between the devices, once however many read it. Bytes are those that move: of the type that the value
    has, or will be observed in; one byte an element before either is known. None while shapes are unknown."""

    value: str
    to: str
    bytes: int | None


@dataclass(frozen=True)
class Totals:
    """Sums over a report. MACs and bytes count what is known; `complete` is False when some shape was not."""

    bpu_nodes: int
    cpu_nodes: int
    bpu_macs: int
    cpu_macs: int
    subgraphs: int
    crossings: int
    crossing_bytes: int
    complete: bool

    @property
    def bpu_share(self) -> float:
        """Share of the multiply-accumulates on the BPU, 1.0 where there are none."""
        total = self.bpu_macs + self.cpu_macs
        return self.bpu_macs / total if total else 1.0


@explained
@dataclass(frozen=True)
class PlacementReport:
    """Placement of one graph on one march, in program order. `unwritable`: a sentence for each operation that no file can hold."""

    march: str
    rows: tuple[NodePlacement, ...]
    crossings: tuple[Crossing, ...]
    unwritable: tuple[str, ...] = ()

    @property
    def totals(self) -> Totals:
        on_bpu = [row for row in self.rows if row.device == "bpu"]
        on_cpu = [row for row in self.rows if row.device == "cpu"]
        return Totals(
            len(on_bpu),
            len(on_cpu),
            sum(row.macs or 0 for row in on_bpu),
            sum(row.macs or 0 for row in on_cpu),
            len({row.subgraph for row in on_bpu if row.subgraph is not None}),
            len(self.crossings),
            sum(crossing.bytes or 0 for crossing in self.crossings),
            all(row.macs is not None for row in self.rows) and all(each.bytes is not None for each in self.crossings),
        )

    def device_of(self, name: str) -> str:
        """`bpu`, `cpu`, or `mixed` for a module path (everything inside it), a traced node or a value.

        `InputError` with near names when nothing is called so.
        """
        devices = {row.device for row in self.rows if _is_called(row, name)}
        if not devices:
            known = {row.module for row in self.rows} | {
                each for row in self.rows for each in (row.name, *row.origin, *row.labels)
            }
            raise InputError(f"no operation of the model is called {name!r}{suggest(name, known - {''})}")
        return devices.pop() if len(devices) == 1 else "mixed"

    def table(self, *, everything: bool = False) -> Table:
        """Operations on the CPU with their reasons and what would change them; `everything`: those on the BPU too."""
        rest = "" if everything or self.totals.cpu_nodes else ": everything runs on the BPU"
        table = Table(title=f"Placement on {self.march}{rest}", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for column in ("operation", "op", "device"):
            table.add_column(column, no_wrap=True)
        table.add_column("why, and what would change it", overflow="fold", min_width=20)
        for row in self.rows:
            if everything or row.device == "cpu":
                style = "bold" if row.device == "cpu" else ""
                table.add_row(_operation_cell(row), row.op, Text(_device(row), style=style), self._why_cell(row))
        return table

    def why(self, row: NodePlacement) -> list[str]:
        """The reasons of a row, without the march's name that all rows share and without what `change` says again."""
        reasons = [replace(reason, hint="") if row.change else reason for reason in row.reasons]
        return [str(reason).replace(f" on {self.march}", "").replace(f" of {self.march}", "") for reason in reasons]

    def _why_cell(self, row: NodePlacement) -> Text:
        text = Text("\n".join(self.why(row)))
        return text.append(f"\n> {row.change}", style="green") if row.change else text

    def summary(self) -> str:
        """One paragraph of numbers, and a line for each operation that no file can hold."""
        totals = self.totals
        known = "" if totals.complete else " (shapes are not all known: lower bounds)"
        moves = f"{plural(totals.crossings, 'value')} cross{'es' if totals.crossings == 1 else ''} between the devices"
        numbers = (
            f"{self.march}: {plural(totals.bpu_nodes, 'operation')} on the BPU in {plural(totals.subgraphs, 'subgraph')}, "
            f"{totals.cpu_nodes} on the CPU; "
            f"{totals.bpu_macs:,} of {totals.bpu_macs + totals.cpu_macs:,} multiply-accumulates on the BPU "
            f"({100 * totals.bpu_share:.1f} %); {moves}, {totals.crossing_bytes:,} bytes{known}"
        )
        return "\n".join([numbers, *self.unwritable])

    def __str__(self) -> str:
        """A line per operation (where, op, device, source line, reasons), then the summary, in the language in force."""
        cells = [(row.where, row.op, _device(row), row.source) for row in self.rows]
        widths = [max((len(each[column]) for each in cells), default=0) for column in range(4)]
        lines = []
        for row, each in zip(self.rows, cells, strict=True):
            start = "  ".join(text.ljust(width) for text, width in zip(each, widths, strict=True))
            lines.append(f"{start}  {said('; '.join(map(str, row.reasons)).replace(f' on {self.march}', ''))}")
        return printable("\n".join([*lines, said(self.summary())]))


def _device(row: NodePlacement) -> str:
    return row.device if row.subgraph is None else f"{row.device}.{row.subgraph}"


_NAME_WIDTH = 28  # of the table's first column; longer module paths break at their dots


def _operation_cell(row: NodePlacement) -> Text:
    """Module path, broken at dots where it is long, and under it the user's source line."""
    lines = [""]
    for part in row.where.replace(".", ".\0").replace("/", "/\0").split("\0"):
        if lines[-1] and len(lines[-1]) + len(part) > _NAME_WIDTH:
            lines.append("  ")
        lines[-1] += part
    text = Text("\n".join(lines))
    return text.append(f"\n{row.source}", style="dim") if row.source and not row.labels else text


def _is_called(row: NodePlacement, name: str) -> bool:
    inside = any(module == name or module.startswith(f"{name}.") for module in row.members)
    return inside or name == row.name or name in row.origin or name in row.labels


def placement_report(graph: Graph) -> PlacementReport:
    """The report of a graph whose nodes have devices (stage `partitioned` or later); boundary ops have no row.

    `InputError` for a graph that is not partitioned yet.
    """
    rows = []
    for node in graph.nodes:
        if node.op.has(Trait.BOUNDARY):
            continue
        if node.device is None:
            raise InputError(f"{node.name} has no device yet; run the partition pass before asking for a report")
        rows.append(_row(node, graph))
    refused = (str(node.attributes["unwritable"]) for node in graph.nodes if node.op.has(Trait.OPAQUE))
    return PlacementReport(graph.march or "", tuple(rows), crossings(graph), tuple(filter(None, refused)))


def _row(node: Node, graph: Graph) -> NodePlacement:
    assert node.device is not None
    reasons = node.support.reasons if node.support is not None else ()
    if not reasons:
        within = f"within the limits of {graph.march}" if graph.march else "accepted"
        reasons = (Reason(within if node.device is Device.BPU else "not on the BPU"),)
    # A fused node is called after its first member, the convolution; users may ask for any member.
    members = [graph.locations.get(name, node.loc) for name in node.origin] or [node.loc]
    return NodePlacement(
        node.name,
        node.op.name,
        node.device.value,
        node.subgraph,
        reasons,
        "" if node.device is Device.BPU else what_to_change(reasons, graph.march or ""),
        macs(node),
        members[0].module,
        members[0].source,
        node.origin,
        tuple(dict.fromkeys(loc.module for loc in members)),
        tuple(dict.fromkeys(loc.label for loc in members if loc.label)),
    )


def what_to_change(reasons: Iterable[Reason], march: str = "") -> str:
    """What would have to change for the BPU to run a node that is on the CPU for `reasons`; hints come last, once."""
    changes: list[str] = []
    hints: list[str] = []
    for reason in reasons:
        rule = reason.rule.replace(f" on {march}", "") if march else reason.rule
        if reason.step == "override":
            changes.append(f"drop the entry {reason.actual}")
        elif reason.step == "cost":
            changes.append("lower the thresholds of the partition pass")
        elif reason.limit or (reason.step == "capability" and reason.actual):
            changes.append(f"keep to: {rule}")
        elif reason.step == "context":
            changes.append(f"follows its neighbours ({reason.actual})" if reason.actual else "follows its neighbours")
        elif "ask for it" not in reason.hint:
            changes.append("use another op here")
        if reason.hint:
            hints.append(reason.hint)
    return "; ".join(dict.fromkeys((*changes, *hints)))


# --- crossings -------------------------------------------------------------------------------------------------------------


def crossings(graph: Graph) -> tuple[Crossing, ...]:
    """Values that move between the devices, looking through boundary ops."""
    return tuple(_crossings(graph))


def _crossings(graph: Graph) -> Iterator[Crossing]:
    seen: set[tuple[int, str]] = set()
    for node in graph.nodes:
        if node.op.has(Trait.BOUNDARY):
            continue
        for value in node.data_operands:
            source = _real_source(value)
            here, there = _side(source), _device_of(node)
            if here != there and (id(source), there) not in seen:
                seen.add((id(source), there))
                yield Crossing(source.name, there, _moved_bytes(source, source if there == "cpu" else value))
    for value in graph.outputs:
        source = _real_source(value)
        if _side(source) == "bpu" and (id(source), "cpu") not in seen:
            seen.add((id(source), "cpu"))
            yield Crossing(source.name, "cpu", _moved_bytes(source, source))


def _real_source(value: Value) -> Value:
    while value.producer is not None and value.producer.op.has(Trait.BOUNDARY):
        value = value.producer.operands[0]
    return value


def _device_of(node: Node) -> str:
    return "bpu" if node.device is Device.BPU else "cpu"


def _side(value: Value) -> str:
    return "cpu" if value.producer is None else _device_of(value.producer)


def _moved_bytes(source: Value, on_bpu: Value) -> int | None:
    """Bytes of the quantized form. `on_bpu`: the value as the BPU has it."""
    size = source.type.size
    if size is None:
        return None
    if not source.type.dtype.is_float:
        return size * source.type.dtype.numpy.itemsize
    dtype = _grid_of(on_bpu)
    return size * (1 if dtype is None else dtype.numpy.itemsize)


def _grid_of(value: Value) -> DType | None:
    """The integer type that a value has on the BPU, as far as the plan says."""
    while value.quant is None and value.observation is None:
        producer = value.producer
        if producer is None:
            return None
        if not producer.keeps_scale:
            # What calibration does not observe leaves a layer as it is accumulated.
            high_precision = producer.op.has(Trait.CONV_LIKE) and producer.device is Device.BPU
            planned = producer.graph is not None and producer.graph.stage == "bounded"
            return DType.INT32 if high_precision and planned else None
        value = producer.operands[0]
    return value.quant.dtype if value.quant is not None else value.observation.dtype if value.observation is not None else None


# --- four marches ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MarchComparison:
    """Reports of one model by march. `differences`: operations that do not run on the same device everywhere."""

    reports: tuple[PlacementReport, ...]

    @property
    def differences(self) -> list[tuple[str, tuple[str, ...]]]:
        """`(operation, device per march)` in program order of the first report; `-` where a march fused it away."""
        devices = [_devices(report) for report in self.reports]
        names = dict.fromkeys(name for each in devices for name in each)
        rows = [(name, tuple(each.get(name, "-") for each in devices)) for name in names]
        return [(name, row) for name, row in rows if len(set(row)) > 1]

    def table(self) -> Table:
        """One row per march."""
        table = Table(title="The same model on every march", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        titles = ("march", "BPU\nops", "CPU\nops", "BPU\nMACs", "CPU\nMACs", "sub-\ngraphs", "cross-\nings", "bytes\nacross")
        for column in titles:
            table.add_column(column, justify="left" if column == "march" else "right", no_wrap=True)
        for report in self.reports:
            totals = report.totals
            nodes = (totals.bpu_nodes, totals.cpu_nodes, totals.bpu_macs, totals.cpu_macs)
            moves = (totals.subgraphs, totals.crossings, totals.crossing_bytes)
            table.add_row(report.march, *(f"{number:,}" for number in (*nodes, *moves)))
        return table

    def difference_table(self) -> Table:
        """One row per operation whose device depends on the march."""
        table = Table(title="Operations that the march decides", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("operation", overflow="fold")
        for report in self.reports:
            table.add_column(report.march, no_wrap=True)
        for name, devices in self.differences:
            table.add_row(Text(name), *devices)
        return table

    def __str__(self) -> str:
        console = Console(width=120)
        with console.capture() as capture:
            console.print(self.table())
        return capture.get()


def _devices(report: PlacementReport) -> dict[str, str]:
    return {name: row.device for row in report.rows for name in (row.origin or (row.name,))}
