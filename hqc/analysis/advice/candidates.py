"""The changes that are tried: entries to drop, operations to ask for or to send away, other operations in their place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hqc.analysis.advice.changes import Change, Drop, DropThresholds, Place, Replace, names_in, replace_node
from hqc.errors import ShapeError
from hqc.ir import Device, DType, Graph, Node, Trait, Value, all_ops, get_op
from hqc.ir.costs import macs
from hqc.march.bindings import BINDINGS
from hqc.march.rules import Checker
from hqc.metrics.placement import crossings
from hqc.workflow.options import CompileOptions

ALIKE = 0.9
"""Cosine over [-4, 4] from which an activation function is a replacement for another: the layer behind it takes up a scale."""


@dataclass(frozen=True)
class Target:
    """Operations of one plan that a change would move. `ways`: the changes that may do it, the least intrusive first."""

    nodes: tuple[str, ...]
    device: Device
    ways: tuple[Change, ...]


def drops(graph: Graph, options: CompileOptions) -> Iterator[Change]:
    """The user's own settings, taken back one by one. `graph`: planned."""
    nodes = [node for node in graph.nodes if not node.op.has(Trait.BOUNDARY)]
    for entry in options.overrides:
        yield Drop(tuple(name for node in nodes if entry.depth(node) for name in names_in(node)), entry)
    demoted = [node for node in nodes if any(reason.step == "cost" for reason in _reasons(node))]
    if demoted:
        yield DropThresholds(tuple(name for node in demoted for name in names_in(node)))


def to_bpu(graph: Graph, float_graph: Graph, options: CompileOptions) -> Iterator[Target]:
    """Operations on the CPU that no entry of the user holds there: all that are there for one reason, then each alone."""
    checker = Checker(options.spec, hybrid=options.hybrid)
    originals: dict[str, list[Node]] = {}
    for node in float_graph.nodes:
        for name in names_in(node):
            originals.setdefault(name, []).append(node)
    groups: dict[tuple[Any, ...], list[Node]] = {}
    for node in graph.nodes:
        if node.device is Device.CPU and not node.op.has(Trait.BOUNDARY):
            reasons = _reasons(node)
            if not any(reason.step == "override" for reason in reasons):
                key = (node.op.name, tuple((reason.rule, reason.limit) for reason in reasons))
                groups.setdefault(key, []).append(node)
    for members in groups.values():
        if len(members) > 1:
            yield _to_bpu(members, originals, checker, options)
        for node in members:
            yield _to_bpu([node], originals, checker, options)


def _to_bpu(members: Sequence[Node], originals: dict[str, list[Node]], checker: Checker, options: CompileOptions) -> Target:
    nodes = tuple(dict.fromkeys(name for node in members for name in names_in(node)))
    first = members[0]
    ways: list[Change] = []
    ids = {reason.id for reason in _reasons(first) if reason.step == "capability"}
    if ids <= {"on-request", "dtype"}:
        dtypes: list[DType | None] = [None]
        if DType.INT16 in options.spec.activation_dtypes:
            dtypes.append(DType.INT16)
        for dtype in dtypes:
            if len(members) > 1:
                ways.append(Place(nodes, Device.BPU, "op", (first.op.name,), dtype))
            ways.append(Place(nodes, Device.BPU, dtype=dtype))
    elif len(nodes) == len(members) and all(len(originals.get(name, ())) == 1 for name in nodes):
        ways += replacements(originals[nodes[0]][0], nodes, checker)
    return Target(nodes, Device.BPU, tuple(ways))


def to_cpu(graph: Graph, small: float) -> Iterator[Target]:
    """What could leave the BPU: whole subgraphs, and operations at a crossing, of at most `small` multiply-accumulates."""
    subgraphs: dict[int | None, list[Node]] = {}
    crossing = {each.value for each in crossings(graph)}
    single = []
    for node in graph.nodes:
        if node.device is not Device.BPU or node.op.has(Trait.BOUNDARY):
            continue
        subgraphs.setdefault(node.subgraph, []).append(node)
        touched = [*node.results, *node.data_operands]
        if any(value.name in crossing for value in (*touched, *map(_before_boundary, touched))):
            single.append([node])
    for members in (*(each for each in subgraphs.values() if len(each) > 1), *single):
        if sum(macs(node) or 0 for node in members) <= small:
            nodes = tuple(dict.fromkeys(name for node in members for name in names_in(node)))
            yield Target(nodes, Device.CPU, (Place(nodes, Device.CPU),))


# --- replacements --------------------------------------------------------------------------------------------------------------


def replacements(node: Node, nodes: tuple[str, ...], checker: Checker) -> list[Replace]:
    """Changes of a float node that the march's tables accept: other settings of the same type, then like activation functions."""
    if len(node.results) != 1 or node.op.has(Trait.OPAQUE):
        return []
    others = [*_other_settings(node), *_smaller_windows(node)]
    found = [
        (node.op.name, attributes, f"{node.op.name} with {what}", window)
        for attributes, what, window in others
        if _runs(node, node.op.name, attributes, checker, window)
    ]
    if node.op.has(Trait.NONLINEARITY):
        found += [(*each, ()) for each in alike(node) if _runs(node, each[0], each[1], checker)]
    return [
        Replace(nodes, op, tuple(attributes.items()), spelled, checker.spec.name, window)
        for op, attributes, spelled, window in found
    ]


Setting = tuple[dict[str, Any], str, tuple[int, ...]]
"""Attributes, what is said of them, and the size of the weight's window where that changes."""


def _other_settings(node: Node) -> Iterator[Setting]:
    """The node's attributes with one switch or choice set otherwise."""
    if node.op.has(Trait.CONV_LIKE):
        return  # its switches and choices are what passes fuse into it
    for attr in node.op.attributes:
        now = node.attributes[attr.name]
        others: tuple[Any, ...] = (not now,) if attr.kind == "bool" else attr.choices
        for other in others:
            if other != now:
                yield {**node.attributes, attr.name: other}, f"{attr.name}={other}", ()


def _smaller_windows(node: Node) -> Iterator[Setting]:
    """The same layer with a smaller window, then with a smaller dilation, and so much less padding that its result keeps its size."""
    given = node.attributes
    weight = node.operand("weight") if node.op.has(Trait.CONV_LIKE) else None
    kernel = given.get("kernel") or (
        weight.shape[2:] if weight is not None and weight.array is not None and weight.shape else ()
    )
    if len(kernel) != 2 or "padding" not in given or "stride" not in given:
        return
    dilation = given.get("dilation", (1, 1))
    for limit in range(max(kernel) - 1, 0, -1):
        smaller = tuple(size if size <= limit else limit - (size - limit) % 2 for size in kernel)
        padding = _less_padding(given["padding"], [(k - s) * d for k, s, d in zip(kernel, smaller, dilation, strict=True)])
        if padding is not None and min(smaller) > 0:
            attributes = {**given, "padding": padding} | ({"kernel": smaller} if "kernel" in given else {})
            yield attributes, f"a {smaller[0]}x{smaller[1]} kernel", () if "kernel" in given else smaller
    for limit in range(max(dilation) - 1, 0, -1):
        less = tuple(min(each, limit) for each in dilation)
        padding = _less_padding(given["padding"], [(k - 1) * (d - e) for k, d, e in zip(kernel, dilation, less, strict=True)])
        if padding is not None:
            yield {**given, "padding": padding, "dilation": less}, f"dilation {limit}", ()


def _less_padding(padding: Sequence[int], less: Sequence[int]) -> tuple[int, ...] | None:
    """Top, left, bottom, right with `less` taken off height and width; None where that is more than there is."""
    begins, ends = (each // 2 for each in less), (each - each // 2 for each in less)
    found = tuple(old - off for old, off in zip(padding, (*begins, *ends), strict=True))
    return found if min(found) >= 0 else None


def _runs(node: Node, op: str, attributes: dict[str, Any], checker: Checker, window: tuple[int, ...] = ()) -> bool:
    """True when the tables accept the replaced node, and its result is of the same type."""
    assert node.graph is not None
    graph = node.graph.clone()
    twin = next(each for each in graph.nodes if each.name == node.name)
    try:
        new = replace_node(graph, twin, op, attributes, window)
    except ShapeError:
        return False
    return new.result.type == node.result.type and checker.check(new).accepted


def alike(node: Node) -> list[tuple[str, dict[str, Any], str]]:
    """Activation functions that can stand in for the one of `node`, the most alike first: op, attributes, name."""
    columns = max((array.size for array in node.operand_arrays if array is not None), default=1)
    x = np.repeat(np.linspace(-4.0, 4.0, 401)[:, None], columns, axis=1)
    constants = [array for array in node.operand_arrays if array is not None]
    wanted = _curve(node.op.name, [x, *constants], node.attributes)
    best: dict[str, tuple[float, dict[str, Any], str]] = {}
    for op, attributes, spelled in _functions():
        curve = _curve(op, [x], attributes)
        if op == node.op.name or wanted is None or curve is None:
            continue
        product = float((wanted * curve).sum() / np.sqrt((wanted**2).sum() * (curve**2).sum()))
        alikeness = round(product, 6)  # beyond that the processor decides
        if alikeness >= ALIKE and alikeness > best.get(op, (0.0, {}, ""))[0]:
            best[op] = alikeness, attributes, spelled
    ordered = sorted(best.items(), key=lambda item: (-item[1][0], item[0]))
    return [(op, attributes, spelled) for op, (_, attributes, spelled) in ordered]


def _curve(op: str, arrays: list[Any], attributes: Any) -> Any:
    compute = get_op(op).compute
    if compute is None:
        return None
    curve = np.asarray(compute(arrays, attributes), np.float64)
    return curve if np.isfinite(curve).all() and np.ptp(curve) > 0 else None


_NUMBERS = (0.05, 0.1, 0.2, 0.25, 0.5, 2.0)
"""Settings of a function with one number that are tried beside its usual one."""


def _functions() -> Iterator[tuple[str, dict[str, Any], str]]:
    """Activation functions that the march tables know as a module of one input: op, attributes, the module."""
    yield "clamp", {"min": 0.0, "max": 6.0}, "ReLU6"  # a clamp without bounds is none
    for definition in all_ops():
        module = next((name for name in BINDINGS[definition.name].torch if name.startswith("torch.nn.")), "")
        plain = len(definition.operands) == 1 and not any(attr.required for attr in definition.attributes)
        if not (definition.has(Trait.NONLINEARITY) and plain and module) or definition.name == "clamp":
            continue
        name = module.rpartition(".")[2]
        yield definition.name, definition.complete_attributes({}), name
        numbers = [attr.name for attr in definition.attributes if attr.kind == "float"]
        if len(definition.attributes) == len(numbers) == 1:
            for number in _NUMBERS:
                yield definition.name, {numbers[0]: number}, f"{name}({number:g})"


def _reasons(node: Node) -> tuple[Any, ...]:
    return node.support.reasons if node.support is not None else ()


def _before_boundary(value: Value) -> Value:
    while value.producer is not None and value.producer.op.has(Trait.BOUNDARY):
        value = value.producer.operands[0]
    return value
