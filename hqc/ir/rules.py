"""The rules of the IR, one function each. The docstring's first line is the statement that errors and docs/ir.md show.

A rule holds from the stage it is declared with. It yields a `Violation` per broken place: the node (or None) and the actual
values. Rules read the graph only; each is linear in its size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from hqc.errors import ShapeError
from hqc.ir.analysis import quotient_cycle
from hqc.ir.graph import STAGES, Graph
from hqc.ir.nodes import Node, Value
from hqc.ir.op import Trait
from hqc.ir.ops.boundary import quantize
from hqc.ir.types import Device, QuantParams, TensorType

CAT_SCALES_UNIFIED = "cat-scales-unified"  # a graph property: from here on, cats share scales where the march demands it


class MarchFacts(Protocol):
    """What the rules ask a march. `hqc.march.MarchSpec` has it; the IR does not depend on marches."""

    @property
    def requantize_at_cat(self) -> bool: ...

    @property
    def power_of_two(self) -> bool: ...

    def keeps_scale(self, node: Node) -> bool:
        """True when the node's result takes its first operand's quantization."""
        ...


@dataclass(frozen=True)
class Violation:
    """One broken place. `message`: the actual values; `node`: where, None when it is about the graph as a whole."""

    rule: str
    statement: str
    message: str
    node: Node | None

    def __str__(self) -> str:
        where = "" if self.node is None else f"{self.node.label}: "
        return f"{where}{self.message} (rule {self.rule}: {self.statement})"


Finding = tuple["Node | None", str]
RuleFunction = Callable[[Graph, "MarchFacts | None"], Iterator[Finding]]


@dataclass(frozen=True)
class Rule:
    """A rule of the table. `since`: the first stage in which it holds."""

    name: str
    since: str
    statement: str
    check: RuleFunction

    def holds_in(self, stage: str) -> bool:
        return STAGES.index(self.since) <= STAGES.index(stage)

    def violations(self, graph: Graph, march: MarchFacts | None) -> Iterator[Violation]:
        for node, message in self.check(graph, march):
            yield Violation(self.name, self.statement, message, node)


RULES: list[Rule] = []


def rule(name: str, *, since: str) -> Callable[[RuleFunction], RuleFunction]:
    """Add the decorated function to the table."""

    def register(check: RuleFunction) -> RuleFunction:
        statement = (check.__doc__ or "").strip().splitlines()[0].rstrip(".")
        RULES.append(Rule(name, since, statement, check))
        return check

    return register


def is_boundary(node: Node) -> bool:
    return node.op.has(Trait.BOUNDARY)


def on_bpu(node: Node) -> bool:
    return node.device is Device.BPU


def is_real(value: Value) -> bool:
    """True for values that stand for real numbers: float ones, and integer ones that carry a scale."""
    return value.type.dtype.is_float or value.quant is not None


# --- every stage: structure ------------------------------------------------------------------------------------------------


@rule("names", since="lowered")
def names(graph: Graph, march: MarchFacts | None) -> Iterator[Finding]:
    """Every value is registered in its graph under its own name."""
    known = graph.values
    for value in graph.inputs:
        if known.get(value.name) is not value:
            yield None, f"the input {value.name} is not the value that the graph knows by this name"
    for name, value in known.items():
        if value.name != name:
            yield value.producer, f"the value registered as {name} calls itself {value.name}"
    for node in graph.nodes:
        if not node.results:
            yield node, "it has no result, so nothing can use it"
        for value in node.results:
            if known.get(value.name) is not value:
                yield node, f"its result {value.name} is not the value that the graph knows by this name"


@rule("uses", since="lowered")
def uses(graph: Graph, march: MarchFacts | None) -> Iterator[Finding]:
    """Operands and uses agree: a value lists exactly the nodes that read it, and names the node that produces it."""
    for node in graph.nodes:
        key = id(node)
        for index, value in enumerate(node._inputs):
            if value is not None and value._uses.get((key, index)) != (node, index):
                yield node, f"{value.name} does not list it as a user of operand {index}"
        for value in node.results:
            if value.producer is not node:
                yield node, f"its result {value.name} says it comes from {value.producer}"
    for value in graph.values.values():
        for user, index in value._uses.values():
            operands = user._inputs
            if user.graph is not graph or index >= len(operands) or operands[index] is not value:
                yield value.producer, f"{value.name} lists {user.name} as a user, which does not read it"


@rule("order", since="lowered")
def order(graph: Graph, march: MarchFacts | None) -> Iterator[Finding]:
    """A node reads only inputs, parameters and results of nodes before it."""
    defined = {id(value) for value in graph.inputs}
    defined.update(id(value) for value in graph.parameters.values())
    for node in graph.nodes:
        for value in node.operands:
            if id(value) not in defined:
                yield node, f"it reads {value.name}, which is not defined before it"
        for value in node.results:
            defined.add(id(value))
    for value in graph.outputs:
        if id(value) not in defined:
            yield None, f"the output {value.name} is not a value of the graph"


@rule("outputs", since="lowered")
def outputs(graph: Graph, march: MarchFacts | None) -> Iterator[Finding]:
    """Every output has a name of its own."""
    count = len(graph.outputs)
    if count != len(graph.output_names):
        yield None, f"there are {count} outputs and {len(graph.output_names)} names"
    for name in sorted(name for name, times in Counter(graph.output_names).items() if times > 1):
        yield None, f"two outputs are called {name}"


@rule("attributes", since="lowered")
def attributes(graph: Graph, march: MarchFacts | None) -> Iterator[Finding]:
    """Attributes are those that the op declares, complete, and of the declared kind."""
    for node in graph.nodes:
        try:
            node.op.check_operand_count(len(node._inputs))
            complete = node.op.complete_attributes(node.attributes)
        except ShapeError as error:
            yield node, str(error)
            continue
        for name, value in complete.items():
            given = node.attributes.get(name, _MISSING)
            if given is not value and type(given) is not type(value):
                shown = "is missing" if given is _MISSING else f"is {given!r} ({type(given).__name__})"
                yield node, f"attribute {name} {shown}, must be like {value!r} ({type(value).__name__})"


_MISSING = object()


@rule("types", since="lowered")
def types(graph: Graph, march: MarchFacts | None) -> Iterator[Finding]:
    """The type of every result follows from the operands' types."""
    for value in graph.parameters.values():
        assert value.array is not None
        if value.type.dtype.numpy != value.array.dtype or value.shape != value.array.shape:
            yield None, f"parameter {value.name} is {value.type}, its array {value.array.dtype} {list(value.array.shape)}"
    for node in graph.nodes:
        if node.op.has(Trait.OPAQUE):
            continue
        try:
            inferred = node.op.infer(node.operand_types, node.attributes, node.operand_arrays)
        except ShapeError as error:
            yield node, str(error)
            continue
        if len(inferred) != len(node.results):
            yield node, f"it has {len(node.results)} results, {node.op.name} makes {len(inferred)}"
            continue
        for value, type in zip(node.results, inferred, strict=True):
            if value.type is not type and value.type != type and not _may_be(node, value.type, type):
                yield node, f"{value.name} is {value.type}, by its operands it is {type}"


def _may_be(node: Node, actual: TensorType, inferred: TensorType) -> bool:
    """Sizes may be known on either side only; boundary and integer ops choose their dtype."""
    free_dtype = is_boundary(node) or node.op.has(Trait.INTEGER)
    return actual.agrees(inferred.with_dtype(actual.dtype) if free_dtype else inferred)


@rule("scales", since="lowered")
def scales(graph: Graph, march: MarchFacts | None) -> Iterator[Finding]:
    """A per-channel scale has one entry per channel of its value."""
    for value in graph.values.values():
        quant = value.quant
        if quant is None or quant.axis is None or value.shape is None:
            continue
        rank = len(value.shape)
        if not -rank <= quant.axis < rank or value.shape[quant.axis] != quant.scale.size:
            yield value.producer, f"{value.name} is {value.type} with {quant.scale.size} scales along axis {quant.axis}"


# --- placement -------------------------------------------------------------------------------------------------------------


@rule("support", since="supported")
def support(graph: Graph, march: MarchFacts | None) -> Iterator[Finding]:
    """Every node but boundary ops has a verdict of the support analysis."""
    for node in graph.nodes:
        if node.support is None and not is_boundary(node):
            yield node, "nobody has said whether the BPU can run it"


@rule("device", since="partitioned")
def device(graph: Graph, march: MarchFacts | None) -> Iterator[Finding]:
    """Every node has a device; the BPU gets only nodes it accepts, and boundary ops run on the CPU."""
    for node in graph.nodes:
        if node.device is None:
            yield node, "it has no device"
        elif on_bpu(node) and is_boundary(node):
            yield node, f"{node.op.name} is a boundary op on the BPU"
        elif on_bpu(node) and node.support is not None and not node.support.accepted:
            reasons = "; ".join(map(str, node.support.reasons)) or "no reason given"
            yield node, f"it is on the BPU, which refuses it: {reasons}"


@rule("subgraph", since="partitioned")
def subgraph(graph: Graph, march: MarchFacts | None) -> Iterator[Finding]:
    """BPU nodes, and no others, belong to a subgraph."""
    for node in graph.nodes:
        if on_bpu(node) and node.subgraph is None:
            yield node, "it is on the BPU and belongs to no subgraph"
        elif not on_bpu(node) and node.subgraph is not None:
            yield node, f"it is not on the BPU and belongs to subgraph {node.subgraph}"


@rule("acyclic", since="partitioned")
def acyclic(graph: Graph, march: MarchFacts | None) -> Iterator[Finding]:
    """Subgraphs can run one after another: contracting each to a point leaves no cycle."""
    cycle = quotient_cycle(graph, lambda node: node.subgraph if on_bpu(node) else None)
    if cycle:
        steps = " -> ".join(f"{node.name} ({_place(node)})" for node in [*cycle, cycle[0]])
        yield cycle[0], f"no order of execution exists: {steps}"


def _place(node: Node) -> str:
    if node.subgraph is not None:
        return f"subgraph {node.subgraph}"
    return "no device" if node.device is None else node.device.value


@rule("boundary", since="bounded")
def boundary(graph: Graph, march: MarchFacts | None) -> Iterator[Finding]:
    """A real value enters the BPU through a quantize and leaves it through a boundary op."""
    for node in graph.nodes:
        inside = on_bpu(node)
        for value in node.data_operands:
            source = value.producer
            from_bpu = source is not None and on_bpu(source)
            if inside is from_bpu or not is_real(value):
                continue
            if inside and (source is None or source.op is not quantize):
                origin = "the graph's input" if source is None else f"the CPU's {source.op.name}"
                yield node, f"it runs on the BPU and reads {value.name} of {origin} without a quantize between"
            elif source is not None and from_bpu and not is_boundary(node):
                yield node, f"it runs on the CPU and reads {value.name} of the BPU's {source.op.name} without a dequantize"


# --- scales ----------------------------------------------------------------------------------------------------------------


@rule("scaled", since="scaled")
def scaled(graph: Graph, march: MarchFacts | None) -> Iterator[Finding]:
    """Every real value that the BPU reads or makes has a scale."""
    for node in graph.nodes:
        if not on_bpu(node):
            continue
        for value in (*node.data_operands, *node.results):
            if value.quant is None and value.type.dtype.is_float:
                yield node, f"{value.name} has no scale"


@rule("weight-scale", since="scaled")
def weight_scale(graph: Graph, march: MarchFacts | None) -> Iterator[Finding]:
    """Constant weights of conv-like ops on the BPU have scales."""
    for node in graph.nodes:
        if on_bpu(node) and node.op.has(Trait.CONV_LIKE):
            weight = node.operand("weight")
            if weight is not None and weight.is_parameter and weight.quant is None:
                yield node, f"its weight {weight.name} has no scale"


@rule("same-grid", since="scaled")
def same_grid(graph: Graph, march: MarchFacts | None) -> Iterator[Finding]:
    """On the BPU, a result that keeps its operand's quantization has the operand's scale."""
    for node in graph.nodes:
        if not on_bpu(node) or not _keeps_scale(node, march):
            continue
        operand = node.operands[0] if node.operands else None
        if operand is None or operand.quant is None:
            continue
        for value in node.results:
            if value.quant is not None and not _same_scales(value.quant, operand.quant):
                yield node, f"{value.name} has {value.quant}, its operand {operand.name} has {operand.quant}"


def _same_scales(a: QuantParams, b: QuantParams) -> bool:
    """Equal up to the axis of per-channel scales, which moves with the elements of a high-precision value."""
    return a.dtype is b.dtype and a.per_channel == b.per_channel and a.scale.tobytes() == b.scale.tobytes()


def _keeps_scale(node: Node, march: MarchFacts | None) -> bool:
    return node.keeps_scale if march is None else march.keeps_scale(node)


@rule("cat-scale", since="scaled")
def cat_scale(graph: Graph, march: MarchFacts | None) -> Iterator[Finding]:
    """Where the march cannot requantize at a cat, operands and result share one scale (once they are unified)."""
    if march is None or march.requantize_at_cat:
        return
    if graph.stage != "integer" and CAT_SCALES_UNIFIED not in graph.properties:
        return
    for node in graph.nodes:
        if not on_bpu(node) or not node.op.has(Trait.SAME_SCALE):
            continue
        members = [value for value in (*node.operands, *node.results) if value.quant is not None]
        for value in members[1:]:
            if not value.quant.same_grid(members[0].quant):  # type: ignore[union-attr]
                yield node, f"{members[0].name} has {members[0].quant}, {value.name} has {value.quant}"


# --- integers ----------------------------------------------------------------------------------------------------------------


@rule("integer-ops", since="integer")
def integer_ops(graph: Graph, march: MarchFacts | None) -> Iterator[Finding]:
    """BPU nodes compute on integers, with integer ops."""
    for node in graph.nodes:
        if not on_bpu(node):
            continue
        if node.op.traits & _FLOAT_ARITHMETIC:
            yield node, f"{node.op.name} computes on real numbers"
        for value in (*node.operands, *node.results):
            if value.type.dtype.is_float:
                yield node, f"{value.name} is {value.type}"


_FLOAT_ARITHMETIC = frozenset({Trait.WEIGHTED, Trait.LUT, Trait.SUM, Trait.OPAQUE})


@rule("integer-types", since="integer")
def integer_types(graph: Graph, march: MarchFacts | None) -> Iterator[Finding]:
    """A value on the BPU has the integer type that its scale says."""
    for node in graph.nodes:
        if not on_bpu(node) and node.op is not quantize:
            continue
        for value in node.results:
            if value.quant is not None and value.type.dtype is not value.quant.dtype:
                yield node, f"{value.name} is {value.type}, its quantization says {value.quant.dtype.value}"


@rule("real-outputs", since="integer")
def real_outputs(graph: Graph, march: MarchFacts | None) -> Iterator[Finding]:
    """Quantized values leave the graph dequantized."""
    for value, name in zip(graph.outputs, graph.output_names, strict=True):
        if value.quant is not None and not value.type.dtype.is_float and not value.is_parameter:
            yield value.producer, f"the output {name} is {value.type} with a scale: put a dequantize behind {value.name}"
