"""Quantize and dequantize where values cross between the CPU and the BPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from hqc.errors import QuantizationError
from hqc.ir import Device, Graph, Node, Trait, Value
from hqc.march.spec import MarchSpec
from hqc.passes.base import Pass, PassContext, PassResult, Remark
from hqc.passes.compared_grids import never_equal
from hqc.passes.node_facts import is_dequantize, is_quantize, is_real, on_bpu, on_cpu, on_grid_side
from hqc.passes.registry import register_pass
from hqc.passes.whole_numbers import one_off


@register_pass
@dataclass(frozen=True)
class InsertBoundaries(Pass):
    """Put a quantize or dequantize on every real-valued edge between the devices.

    `form=qat`: where hybrid QAT has a fake quant (after a CPU node with a BPU user) or a dequant stub (before a CPU node's
    operand from the BPU). `form=deployed`: one quantize per value and grid that enters the BPU, one dequantize per value that
    leaves it, nothing else; what only marks the QAT form goes.
    """

    name: ClassVar[str] = "insert-boundaries"
    requires: ClassVar[str] = "partitioned"
    establishes: ClassVar[str] = "bounded"
    form: Literal["qat", "deployed"] = field(
        default="qat", metadata={"help": "qat: fake quants and dequant stubs as in training; deployed: as on the device"}
    )
    auto_stub: bool = field(
        default=False, metadata={"help": "form=qat: quantize graph inputs that BPU nodes read, instead of refusing"}
    )

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        if graph.stage == "integer":
            return PassResult(False)
        if self.form == "qat":
            changed = _QatForm(graph, self.auto_stub).run()
            said = (*never_equal(graph), *one_off(graph))
            return PassResult(changed, tuple(self.remark(message, node, warning=True) for node, message in said))
        form = _DeployedForm(self, graph, context.march)
        return PassResult(form.run(), tuple(form.remarks))


def _crosses(value: Value) -> bool:
    """Only real-valued data crosses through a boundary op; parameters, indices and truth values do not."""
    return not value.is_parameter and is_real(value)


def _first_node(graph: Graph) -> Node | None:
    return next(iter(graph.nodes), None)


def _add_boundary(graph: Graph, op: str, value: Value, name: str, *, like: Node | None, before: Node | None = None) -> Node:
    """A boundary node on the CPU, `before` a node, or else as early as `value` exists."""
    if before is None and value.producer is None:
        before = _first_node(graph)
    after = value.producer if before is None else None
    node = graph.add_node(op, [value], name=name, loc=like.loc if like is not None else None, before=before, after=after)
    node.device = Device.CPU
    return node


# --- the form of hybrid QAT --------------------------------------------------------------------------------------------


class _QatForm:
    """HYBRID QAT: a fake quant after a CPU producer, a dequant stub before a CPU consumer's operand."""

    def __init__(self, graph: Graph, auto_stub: bool) -> None:
        self.graph = graph
        self.auto_stub = auto_stub
        self.changed = False

    def run(self) -> bool:
        for value in list(self.graph.inputs):
            self.quantize_input(value)
        for node in self.graph.nodes:
            if is_dequantize(node):
                self.refuse_dequantized(node)
            elif on_cpu(node):
                for value in node.results:
                    self.quantize_result(value)
                self.dequantize_operands(node)
        return self.changed

    @staticmethod
    def bpu_users(value: Value) -> list[Node]:
        return [user for user in value.users if on_bpu(user)] if _crosses(value) else []

    def quantize_input(self, value: Value) -> None:
        users = self.bpu_users(value)
        if not users:
            return
        if not self.auto_stub:
            raise QuantizationError(
                f"graph input {value.name} is read by {users[0].label}, which runs on the BPU, but nothing quantizes it: "
                f"put a QuantStub between the input {value.name} and {users[0].name}"
            )
        stub = _add_boundary(self.graph, "quantize", value, f"{value.name}_quant", like=None)
        stub.attributes["stub"] = True
        self.graph.replace_uses(value, stub.result, only=users)
        self.changed = True

    def refuse_dequantized(self, node: Node) -> None:
        users = self.bpu_users(node.result)
        if users:
            raise QuantizationError(
                f"{node.label} dequantizes a value that {users[0].label} reads on the BPU: "
                f"remove the DeQuantStub, or put a QuantStub between {node.name} and {users[0].name}"
            )

    def quantize_result(self, value: Value) -> None:
        users = self.bpu_users(value)
        if not users:
            return
        existing = (u for u in value.users if is_quantize(u) and not u.attributes["stub"])
        fake_quant = next(existing, None)
        if fake_quant is None or fake_quant._order > users[0]._order:
            name = f"{value.name}_activation_post_process"
            fake_quant = _add_boundary(self.graph, "quantize", value, name, like=value.producer)
        self.graph.replace_uses(value, fake_quant.result, only=users)
        self.changed = True

    def dequantize_operands(self, node: Node) -> None:
        base = node.origin[-1] if node.origin else node.name
        for index, value in enumerate(node.inputs):
            if value is not None and _crosses(value) and on_grid_side(value):
                name = f"{base}_input_dequant_{index}"
                stub = _add_boundary(self.graph, "dequantize", value, name, like=node, before=node)
                node.set_input(index, stub.result)
                self.changed = True


# --- the form that is deployed -----------------------------------------------------------------------------------------


class _DeployedForm:
    """Rebuild the boundaries from what they mean.

    Before the integer stage a dequantize is the identity on real numbers, so all of them may go; a quantize says that its
    result lies on a grid, which is a property of the value where the value is the BPU's own.
    """

    def __init__(self, owner: InsertBoundaries, graph: Graph, march: MarchSpec) -> None:
        self.owner, self.graph, self.march = owner, graph, march
        self.remarks: list[Remark] = []
        self.changed = False

    def run(self) -> bool:
        self.drop_dequantizes()
        for node in self.graph.nodes:
            if is_quantize(node):
                self.settle_quantize(node)
            elif on_cpu(node):
                self.quantize_marked_results(node)
        for value in [*self.graph.inputs, *self.node_results()]:
            self.enter_bpu(value)
        for value in self.node_results():
            self.leave_bpu(value)
        return self.changed

    def node_results(self) -> Iterator[Value]:
        for node in self.graph.nodes:
            yield from node.results

    def drop_dequantizes(self) -> None:
        """Every user reads the grid value itself; one that will serve as the value's own dequantize stays, unused by others."""
        for node in self.graph.nodes:
            if not is_dequantize(node):
                continue
            (source,) = node.operands
            if self.is_shared_dequantize(node, source):
                continue
            self.graph.replace_uses(node.result, source)
            self.graph.erase(node)
            self.changed = True

    def is_shared_dequantize(self, node: Node, source: Value) -> bool:
        """True when `node` is already the one dequantize of `source`: a user's stub or ours, before every CPU user."""
        if not on_grid_side(source) or not (node.attributes["stub"] or node.name == f"{source.name}_dequantize"):
            return False
        if any(not on_cpu(user) and not (is_quantize(user) and is_quantize(source.producer)) for user in node.result.users):
            return False
        others = [user for user in source.users if is_dequantize(user) or on_cpu(user)]
        return others[0] is node and (node.result.has_uses or self.graph.is_output(node.result))

    # --- quantize nodes ------------------------------------------------------------------------------------------

    def settle_quantize(self, node: Node) -> None:
        """Absorb, turn into a requantize, merge with an equal one, or keep."""
        (source,) = node.operands
        producer = source.producer
        used = node.result.has_uses or self.graph.is_output(node.result)
        if producer is not None and on_bpu(producer) and (used or self.scale_owner(source).quant is None):
            self.settle_behind_bpu(node, source)
        elif not used:
            self.graph.erase(node)
            self.changed = True
        elif is_quantize(producer):
            if node.result.quant is None or node.result.quant.same_grid(source.quant):
                self.replace(node, source)
        else:
            self.merge_equal(node, source)

    def replace(self, node: Node, value: Value) -> None:
        self.graph.replace_uses(node.result, value)
        self.graph.erase(node)
        self.changed = True

    def settle_behind_bpu(self, node: Node, source: Value) -> None:
        wanted = node.result.quant
        owner = self.scale_owner(source)
        if wanted is None or wanted.same_grid(owner.quant):
            if wanted is not None and wanted.fixed:
                owner.quant = wanted
            self.replace(node, source)
        elif owner.quant is None and not self.has_unquantized_use(source, node):
            source.quant = wanted
            self.replace(node, source)
        else:
            self.requantize(node, source)

    def scale_owner(self, value: Value) -> Value:
        """The value whose scale `value` has: itself, or what the scale-keeping nodes above it read."""
        while value.quant is None and value.producer is not None and on_bpu(value.producer):
            if not self.march.keeps_scale(value.producer):
                break
            operand = value.producer.inputs[0]
            if operand is None:
                break
            value = operand
        return value

    def has_unquantized_use(self, value: Value, quantize: Node) -> bool:
        """True when a conv-like result without fake quant (a high-precision output) is also read past `quantize`."""
        assert value.producer is not None
        if not value.producer.op.has(Trait.CONV_LIKE):
            return False
        others = [user for user in value.users if user is not quantize]
        return self.graph.is_output(value) or any(on_cpu(user) or is_dequantize(user) for user in others)

    def requantize(self, node: Node, source: Value) -> None:
        assert source.producer is not None
        assert node.result.quant is not None
        quant, name = node.result.quant, node.name
        twin = self.graph.add_node(
            "requantize",
            [source],
            {"dtype": quant.dtype},
            name=f"{name}_requantize",
            loc=node.loc,
            origin=node.origin,
            before=node,
        )
        twin.device, twin.subgraph, twin.support = Device.BPU, source.producer.subgraph, source.producer.support
        twin.result.quant = quant
        self.replace(node, twin.result)
        self.graph.rename(twin.result, name)
        self.remarks.append(self.owner.remark("requantized on the BPU, because its operand has another scale", twin))

    def merge_equal(self, node: Node, source: Value) -> None:
        """One quantize per value and grid: an earlier equal one takes this one's users."""
        for other in source.users:
            if other is node:
                return
            if is_quantize(other) and _same_grid(other, node):
                self.replace(node, other.result)
                return

    def quantize_marked_results(self, node: Node) -> None:
        """A CPU value with a scale is a fake-quantized one: make its quantize explicit."""
        for value in node.results:
            if value.quant is None:
                continue
            quantize = _add_boundary(self.graph, "quantize", value, f"{value.name}_quantize", like=node)
            quantize.result.quant, value.quant = value.quant, None
            quantize.attributes["dtype"] = quantize.result.quant.dtype
            self.graph.replace_uses(value, quantize.result)
            quantize.set_input(0, value)
            self.changed = True

    # --- crossings -----------------------------------------------------------------------------------------------

    def enter_bpu(self, value: Value) -> None:
        """Route the BPU users of a real CPU value or graph input through one quantize."""
        if not _crosses(value) or on_grid_side(value) or is_dequantize(value.producer):
            return
        users = [user for user in value.users if on_bpu(user)]
        if not users:
            return
        quantize = next((user for user in value.users if is_quantize(user) and user._order < users[0]._order), None)
        if quantize is None:
            quantize = _add_boundary(self.graph, "quantize", value, f"{value.name}_quantize", like=value.producer)
            quantize.result.quant = value.quant
            if value.quant is not None:
                quantize.attributes["dtype"] = value.quant.dtype
        self.graph.replace_uses(value, quantize.result, only=users)
        self.changed = True

    def leave_bpu(self, value: Value) -> None:
        """Give the CPU users and the graph outputs of a grid value one dequantize to share."""
        if not _crosses(value) or not on_grid_side(value):
            return
        users = [user for user in value.users if on_cpu(user) or is_quantize(user)]
        positions = [index for index, output in enumerate(self.graph.outputs) if output is value]
        if not users and not positions:
            return
        dequantize = next((user for user in value.users if is_dequantize(user)), None)
        if dequantize is None:
            dequantize = _add_boundary(self.graph, "dequantize", value, f"{value.name}_dequantize", like=value.producer)
        self.graph.replace_uses(value, dequantize.result, only=users)
        for index in positions:
            self.graph.replace_output(index, dequantize.result)
        self.changed = True


def _same_grid(a: Node, b: Node) -> bool:
    first, second = a.result.quant, b.result.quant
    return second is None if first is None else first.same_grid(second)
