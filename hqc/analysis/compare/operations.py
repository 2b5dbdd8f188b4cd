"""The operations of a prepared model: one name in every view, and the nodes and fake quants that belong to each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from operator import attrgetter

from torch import fx, nn

from hqc.checked import explained
from hqc.ir import Device, DType, Graph, Node, QuantParams, Trait
from hqc.nn.stubs import DeQuantStub
from hqc.quantization.fake_quantize import BoundaryFakeQuantize, FakeQuantizeBase, fake_quant_of
from hqc.quantization.off_grid import OffGridFakeQuantize
from hqc.workflow.prepared import ObservedGraphModule


@explained
@dataclass(frozen=True)
class OperationName:
    """What an operation is called. `name`: of its value in the IR, and of its last node in an exported file. `module`: path of the
    module that holds it. `fx`: the traced nodes it stands for, fused ones included. `source`: `file.py:line`, or empty."""

    name: str
    op: str
    device: str
    module: str
    fx: tuple[str, ...]
    source: str

    @property
    def where(self) -> str:
        """The module path with the operation, or the traced name outside of modules."""
        return f"{self.module} ({self.op})" if self.module and self.fx[-1:] != (self.name,) else self.module or self.name

    def is_called(self, name: str) -> bool:
        """True when `name` is the module path, a traced name or the IR's name."""
        return name in (self.module, self.name, *self.fx)


@dataclass
class Operation:
    """An operation of the emitted model. `nodes`: what computes it, in order, its fake quants and those of its weights included.

    `value`: the node whose result it is. `float_names`: nodes of a plain trace, the last one present has the float result. `ir_value`,
    `quant`: its value in the IR. `unfinished`: the IR gives the result a scale, and only a later node is observed.
    """

    name: OperationName
    nodes: list[fx.Node]
    value: fx.Node
    float_names: tuple[str, ...]
    ir_value: str
    quant: QuantParams | None
    weights: list[FakeQuantizeBase] = field(default_factory=list)
    activation: FakeQuantizeBase | None = None
    followed: FakeQuantizeBase | None = None
    unfinished: bool = False

    @property
    def on_result(self) -> FakeQuantizeBase | None:
        """The fake quant whose grid the result is put on: its own, or that of the operand whose grid it would leave."""
        return self.activation or self.followed


def operations_of(prepared: ObservedGraphModule, graph: Graph) -> list[Operation]:
    """The operations of a prepared model in program order; `graph`: its scaled IR."""
    return list(_Finder(prepared, graph).operations())


class _Finder:
    def __init__(self, prepared: ObservedGraphModule, graph: Graph) -> None:
        self.prepared, self.march = prepared, prepared.preparation.options.spec
        self.ir: dict[str, list[Node]] = {}
        for node in graph.nodes:
            for name in node.origin:
                self.ir.setdefault(name, []).append(node)
        self.constant: set[fx.Node] = set()  # depends on parameters alone
        self.found: dict[fx.Node, list[fx.Node]] = {}  # FX node -> the nodes of its operation
        self.groups: list[list[fx.Node]] = []

    def operations(self) -> Iterator[Operation]:
        for node in self.prepared.graph.nodes:
            self.place(node)
        waiting: dict[fx.Node, Operation] = {}  # unfinished operations by their one reader
        for nodes in self.groups:
            made = self.operation(nodes)
            if made is None:
                continue
            before = next((waiting.pop(node) for node in nodes if node in waiting), None)
            if before is not None:
                made = _joined(before, made)
            if made.unfinished and len(made.value.users) == 1:
                waiting[next(iter(made.value.users))] = made
            else:
                yield made
        yield from waiting.values()

    # --- which nodes belong together ---------------------------------------------------------------------------------

    def place(self, node: fx.Node) -> None:
        if node.op in ("placeholder", "output"):
            return
        inputs = node.all_input_nodes
        if node.op == "get_attr" or (inputs and all(each in self.constant for each in inputs)):
            self.constant.add(node)
            return
        module = self.module(node)
        if isinstance(module, DeQuantStub) or not inputs:
            return
        if _is_fake_quant(module):
            group = self.found.get(node.all_input_nodes[0])
            if group is None:
                return
        else:
            if node.name not in self.ir:
                return
            group = self.group_of(node)
        group += [each for each in self.computed_constants(node) if each not in group]
        group.append(node)
        self.found[node] = group

    def group_of(self, node: fx.Node) -> list[fx.Node]:
        """The nodes that were lowered to one IR node with `node` so far."""
        members = {name for ir in self.ir[node.name] for name in ir.origin}
        for each in reversed(self.groups):
            if any(known.name in members for known in each):
                return each
        group: list[fx.Node] = []
        self.groups.append(group)
        return group

    def computed_constants(self, node: fx.Node) -> list[fx.Node]:
        """The calls on parameters alone (weight fake quants) that `node` reads, in program order."""
        found: dict[fx.Node, None] = {}
        todo = [each for each in node.all_input_nodes if each in self.constant and each.op != "get_attr"]
        while todo:
            each = todo.pop()
            found[each] = None
            todo += [known for known in each.all_input_nodes if known in self.constant and known.op != "get_attr"]
        return list(reversed(found))

    def module(self, node: fx.Node) -> nn.Module | None:
        """The module that computes `node`: the one it calls, or the one whose method it calls (a layer in a FloatFunctional's place)."""
        if node.op == "call_method" and isinstance(node.args[0], fx.Node) and node.args[0].op == "get_attr":
            owner = attrgetter(str(node.args[0].target))(self.prepared)
            return owner if isinstance(owner, nn.Module) else None
        return self.prepared.get_submodule(str(node.target)) if node.op == "call_module" else None

    # --- one operation -----------------------------------------------------------------------------------------------

    def operation(self, nodes: list[fx.Node]) -> Operation | None:
        calls = [node for node in nodes if node not in self.constant and not _is_fake_quant(self.module(node))]
        lowered = self.lowered(nodes[-1]) or self.lowered(calls[-1])
        node = self.lowered(calls[-1])
        if lowered is None or node is None or len(lowered.results) != 1 or not lowered.result.type.dtype.is_float:
            return None
        names = tuple(
            dict.fromkeys([name for each in self.ir[calls[-1].name] for name in each.origin] + [n.name for n in calls])
        )
        stub = node.op.has(Trait.BOUNDARY)
        float_names = (*(each.name for each in calls[0].all_input_nodes), *names) if stub else names
        name = OperationName(
            lowered.result.name,
            node.op.name,
            "cpu" if node.device is None else node.device.value,
            node.loc.module,
            names,
            node.loc.source,
        )
        found = Operation(name, nodes, nodes[-1], float_names, lowered.result.name, lowered.result.quant)
        for each in nodes:
            self.take_fake_quants(found, each)
        makes = node.device is Device.BPU and self.march.makes_scale(node)
        integer = found.quant is not None and found.quant.dtype is not DType.INT32
        found.unfinished = makes and integer and found.on_result is None
        return found

    def lowered(self, node: fx.Node) -> Node | None:
        """The last IR node that `node` was lowered to."""
        return self.ir[node.name][-1] if node.name in self.ir else None

    def take_fake_quants(self, operation: Operation, node: fx.Node) -> None:
        module = self.module(node)
        if isinstance(module, OffGridFakeQuantize):
            operation.followed = module.source
        elif node in self.constant:
            operation.weights += [each for each in (module.modules() if module else ()) if isinstance(each, FakeQuantizeBase)]
        elif module is not None:
            weight = fake_quant_of(getattr(module, "weight_fake_quant", None))
            operation.weights += [] if weight is None else [weight]
            activation = fake_quant_of(module) or fake_quant_of(getattr(module, "activation_post_process", None))
            operation.activation = activation or operation.activation


def _joined(first: Operation, second: Operation) -> Operation:
    """Two operations as one: a convolution and the activation behind it that is observed in its place."""
    name = replace(first.name, name=second.name.name, fx=(*first.name.fx, *second.name.fx))
    return replace(
        second,
        name=name,
        nodes=[*first.nodes, *second.nodes],
        float_names=(*first.float_names, *second.float_names),
        weights=[*first.weights, *second.weights],
    )


def _is_fake_quant(module: nn.Module | None) -> bool:
    return isinstance(module, (FakeQuantizeBase, BoundaryFakeQuantize, OffGridFakeQuantize))
