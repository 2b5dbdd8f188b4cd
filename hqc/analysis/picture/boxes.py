"""What a picture shows of a planned graph, before anybody lays it out. IR only: no torch, no drawing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from hqc.checked import checked, explained
from hqc.errors import InputError
from hqc.ir import Device, Graph, Node, Trait, Value
from hqc.ir.costs import stored_bytes
from hqc.metrics.placement import placement_report

COMFORTABLE = 150
"""Boxes that a reader takes in at once: a picture of a larger network starts with its modules folded."""


@explained
@dataclass(frozen=True)
class Box:
    """One box of the picture. `kind`: `bpu`, `cpu`, `boundary`, `input` or `output`. `name`: of the IR node or value.

    `groups`: numbers of the groups it folds into, the outermost first.
    """

    name: str
    kind: str
    title: str
    detail: str
    module: str = ""
    subgraph: int | None = None
    groups: tuple[int, ...] = ()


@explained
@dataclass(frozen=True)
class Group:
    """The operations of one module that run on one device in one subgraph: what a folded module shows as one box.

    A module whose operations run in several places folds into several boxes, so that those on the CPU stay in sight.
    """

    module: str
    kind: str
    subgraph: int | None
    size: int

    @property
    def title(self) -> str:
        return self.module

    @property
    def detail(self) -> str:
        return f"{self.size} operations"


@explained
@dataclass(frozen=True)
class Picture:
    """`edges`: pairs of indices into `boxes`, from producer to user, in program order, each with the type that travels."""

    name: str
    march: str
    boxes: tuple[Box, ...]
    groups: tuple[Group, ...]
    edges: tuple[tuple[int, int, str], ...]

    @property
    def modules(self) -> tuple[str, ...]:
        """Modules that can fold, in program order."""
        return tuple(dict.fromkeys(group.module for group in self.groups))

    def folded_at(self, depth: int | None) -> frozenset[str]:
        """The modules that are folded where names of more than `depth` parts are not told apart; None: nothing is folded."""
        if depth is None:
            return frozenset()
        if depth < 1:
            raise InputError(f"the depth of a picture is at least 1, got {depth}")
        return frozenset(module for module in self.modules if module.count(".") + 1 == depth)

    def owners(self, folded: Iterable[str]) -> list[str]:
        """The key of what each box is shown as: `b<index>`, itself, or `g<index>`, the outermost group whose module is folded."""
        closed = set(folded)
        return [
            next((f"g{group}" for group in box.groups if self.groups[group].module in closed), f"b{index}")
            for index, box in enumerate(self.boxes)
        ]

    def shown(self, key: str) -> Box | Group:
        """What a key of `owners` stands for."""
        index = int(key[1:])
        return self.groups[index] if key.startswith("g") else self.boxes[index]

    def comfortable(self) -> frozenset[str]:
        """The modules to fold at first: as few as leave a picture that can be read."""
        deepest = max((module.count(".") + 1 for module in self.modules), default=0)
        for depth in (None, *range(deepest, 0, -1)):
            folded = self.folded_at(depth)
            if len(set(self.owners(folded))) <= COMFORTABLE:
                return folded
        return self.folded_at(1) if deepest else frozenset()


@checked
def picture_of(graph: Graph) -> Picture:
    """The picture of a partitioned graph. `InputError` while its nodes have no devices."""
    modules = {row.name: row.module for row in placement_report(graph).rows}
    boxes: list[Box] = []
    edges: list[tuple[int, int, str]] = []
    index_of: dict[Value, int] = {}
    for value in graph.inputs:
        index_of[value] = len(boxes)
        boxes.append(Box(value.name, "input", value.name, str(value.type)))
    for node in graph.nodes:
        here = len(boxes)
        boxes.append(_box(node, modules.get(node.name, "")))
        index_of |= dict.fromkeys(node.results, here)
        edges += [(index_of[value], here, str(value.type)) for value in dict.fromkeys(node.data_operands)]
    for value, name in zip(graph.outputs, graph.output_names, strict=True):
        if value in index_of:  # a constant that is returned has no producer
            edges.append((index_of[value], len(boxes), str(value.type)))
        boxes.append(Box(name, "output", name, str(value.type)))
    return _grouped(graph, boxes, edges)


def _box(node: Node, module: str) -> Box:
    if node.op.has(Trait.BOUNDARY):
        return Box(node.name, "boundary", node.op.name, _boundary_detail(node))
    kind = "bpu" if node.device is Device.BPU else "cpu"
    result = node.results[0]
    sizes = "×".join("?" if size is None else str(size) for size in (result.sizes or ())[1:])
    dtype = result.quant.dtype if result.quant is not None else result.type.dtype
    detail = " ".join(filter(None, (node.op.name, sizes, dtype.value)))
    return Box(node.name, kind, _short(module or node.name), detail, _dotted(module), node.subgraph)


def _dotted(module: str) -> str:
    """A module path with dots; names of ONNX nodes have slashes (`/layer1/layer1.0/conv1/Conv`)."""
    return module.strip("/").replace("/", ".")


def _short(path: str) -> str:
    """The end of a long module path, which tells more than its start."""
    parts = path.split(".")
    while len(parts) > 1 and len(".".join(parts)) > 24:
        parts = parts[1:]
    return ".".join(parts) if len(parts) == path.count(".") + 1 else "…" + ".".join(parts)


def _boundary_detail(node: Node) -> str:
    """Scale and bytes of what crosses, as far as they are known."""
    quantized = next((value for value in (*node.results, *node.data_operands) if value.quant is not None), None)
    moved = stored_bytes(quantized if quantized is not None else node.results[0])
    parts = []
    if quantized is not None and quantized.quant is not None:
        parts.append(f"scale {float(np.max(quantized.quant.scale)):.4g}")
    if moved is not None and quantized is not None:
        parts.append(f"{moved:,} bytes")
    return " · ".join(parts)


def _grouped(graph: Graph, boxes: list[Box], edges: list[tuple[int, int, str]]) -> Picture:
    visits = _visits(boxes, edges)
    members: dict[tuple[str, str, int | None, int], list[int]] = {}
    for index, box in enumerate(boxes):
        place = 0 if box.kind == "bpu" else visits[index]
        for module in _enclosing(box.module):
            members.setdefault((module, box.kind, box.subgraph, place), []).append(index)
    groups: list[Group] = []
    belongs: dict[int, list[int]] = {}
    for (module, kind, subgraph, _), inside in members.items():
        if len(inside) > 1:  # a single operation says more than its module
            for index in inside:
                belongs.setdefault(index, []).append(len(groups))
            groups.append(Group(module, kind, subgraph, len(inside)))
    placed = []
    for index, box in enumerate(boxes):
        mine = sorted(belongs.get(index, ()), key=lambda each: groups[each].module.count("."))
        placed.append(Box(box.name, box.kind, box.title, box.detail, box.module, box.subgraph, tuple(mine)))
    return Picture(graph.name, graph.march or "", tuple(placed), tuple(groups), tuple(edges))


def _visits(boxes: list[Box], edges: list[tuple[int, int, str]]) -> list[int]:
    """How often a path from the inputs has come back from the BPU: what of a module runs on the CPU before a subgraph and what runs
    after it must not fold into one box, which would be before and after it at once."""
    found = [0] * len(boxes)
    for source, target, _ in edges:  # in program order
        back = boxes[source].kind == "bpu" and boxes[target].kind != "bpu"
        found[target] = max(found[target], found[source] + back)
    return found


def _enclosing(module: str) -> list[str]:
    """`a.b.c` -> `a`, `a.b`, `a.b.c`."""
    parts = module.split(".") if module else []
    return [".".join(parts[: count + 1]) for count in range(len(parts))]
