"""A scale for every real value on the BPU."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from hqc import arithmetic
from hqc.errors import QuantizationError
from hqc.ir import Device, DType, Graph, Node, QuantParams, Trait, Value
from hqc.march.spec import MarchSpec
from hqc.passes.base import Pass, PassContext, PassResult, Remark
from hqc.passes.conv_scales import (
    fit_headroom,
    give_weight_scale,
    high_precision_quant,
    moved_quant,
    refresh_high_precision,
)
from hqc.passes.lower_to_integer.registry import lowering_of
from hqc.passes.node_facts import is_conv_like, is_quantize, is_real, on_bpu
from hqc.passes.registry import register_pass


class MissingScaleError(QuantizationError):
    """Values on the BPU have no scale. `names`: all of them."""

    def __init__(self, message: str, names: tuple[str, ...]) -> None:
        super().__init__(message)
        self.names = names


@register_pass
@dataclass(frozen=True)
class PropagateScales(Pass):
    """Carry observed scales to the values that have none: through nodes that keep their operand's scale, both ways.

    Constant weights get per-channel int8 scales. A conv-like result without a scale becomes a high-precision (int32) output
    when only the CPU reads it; any other value without a scale is an error that names it.
    """

    name: ClassVar[str] = "propagate-scales"
    requires: ClassVar[str] = "bounded"
    establishes: ClassVar[str] = "scaled"
    conflict: Literal["error", "requantize"] = field(
        default="requantize",
        metadata={"help": "what to do where a node keeps its operand's scale but its result was observed with another one"},
    )

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        if graph.stage == "integer":
            return PassResult(False)
        state = _Scales(self, graph, context.march)
        state.check_given()
        state.forward()
        state.backward()
        state.forward()
        state.settle_conflicts()
        state.weights()
        state.high_precision()
        state.check_complete()
        if refresh_high_precision(graph):
            state.changed = True
        return PassResult(state.changed, tuple(state.remarks))


class _Scales:
    def __init__(self, owner: PropagateScales, graph: Graph, march: MarchSpec) -> None:
        self.owner, self.graph, self.march = owner, graph, march
        self.changed = False
        self.remarks: list[Remark] = []
        self.usable: set[QuantParams] = set()  # those that check_quant has let pass

    # --- what is given -------------------------------------------------------------------------------------------

    def check_given(self) -> None:
        """Observed scales must be ones that the march can use."""
        for node in self.graph.nodes:
            if not (on_bpu(node) or is_quantize(node)):
                continue
            for value in node.results:
                if value.quant is not None and value.quant.dtype is not DType.INT32:
                    self.check_quant(node, value, value.quant)

    def check_quant(self, node: Node, value: Value, quant: QuantParams) -> None:
        march = self.march
        if quant in self.usable:
            return
        if quant.dtype not in march.activation_dtypes:
            known = ", ".join(dtype.value for dtype in march.activation_dtypes)
            raise QuantizationError(
                f"{node.label}: {value.name} is quantized to {quant.dtype.value}, which {march.name} does not have "
                f"(it has {known}); use another dtype in its qconfig"
            )
        if quant.per_channel:
            raise QuantizationError(
                f"{node.label}: {value.name} has one scale per channel; activations have one scale per tensor "
                "(ch_axis=-1 in the qconfig's activation)"
            )
        if march.power_of_two and not arithmetic.is_power_of_two(quant.scale):
            raise QuantizationError(
                f"{node.label}: the scale {float(quant.scale):.8g} of {value.name} is not a power of two between 2^-14 and "
                f"2^-1, as {march.name} needs; set the march before prepare, or observe the range again"
            )
        self.usable.add(quant)

    # --- sweeps --------------------------------------------------------------------------------------------------

    def give(self, value: Value, quant: QuantParams) -> None:
        value.quant = quant
        self.changed = True

    def forward(self) -> None:
        """Results take what their operands have."""
        for node in self.graph.nodes:
            if not on_bpu(node):
                continue
            quant = self.from_operands(node)
            for value in node.results:
                if quant is not None and value.quant is None and is_real(value):
                    self.give(value, quant)

    def from_operands(self, node: Node) -> QuantParams | None:
        if self.march.keeps_scale(node):
            operand = node.inputs[0]
            return None if operand is None else _observed(operand)
        if node.op.has(Trait.SAME_SCALE):
            return _common([_observed(value) for value in node.data_operands])
        entry = lowering_of(node.op)
        if entry is not None and entry.result_quant is not None and all(_observed(value) for value in node.data_operands):
            return entry.result_quant(node, self.march)
        return None

    def backward(self) -> None:
        """Operands take what the results of scale-keeping nodes have."""
        for node in reversed(list(self.graph.nodes)):
            if not on_bpu(node):
                continue
            if self.march.keeps_scale(node):
                operands = list(node.inputs[:1])
            elif node.op.has(Trait.SAME_SCALE):
                operands = list(node.inputs)
            else:
                continue
            quants = [quant for quant in (_observed(value) for value in node.results) if quant is not None]
            for operand in operands:
                if quants and operand is not None and self.may_take(operand):
                    self.give(operand, quants[0])

    @staticmethod
    def may_take(value: Value) -> bool:
        """True for values without a scale that are the BPU's own or come from a quantize."""
        if value.quant is not None or value.producer is None or not is_real(value):
            return False
        return on_bpu(value.producer) or is_quantize(value.producer)

    # --- conflicts -----------------------------------------------------------------------------------------------

    def settle_conflicts(self) -> None:
        """A scale-keeping node whose result has another scale than its operand gets a requantize before it, or is an error."""
        for node in self.graph.nodes:
            if not (on_bpu(node) and self.march.keeps_scale(node)) or not node.inputs:
                continue
            operand = node.inputs[0]
            quant = None if operand is None else _observed(operand)
            if operand is None or quant is None:
                continue
            others = [value for value in node.results if value.quant is not None and not value.quant.same_grid(quant)]
            if not others:
                continue
            if self.owner.conflict == "error":
                raise QuantizationError(
                    f"{node.label}: {node.op.name} keeps its operand's scale, but {operand.name} has {_text(quant)} and "
                    f"{others[0].name} {_text(others[0].quant)}; share one fake quant, or use conflict=requantize"
                )
            if len(node.results) == 1:
                self.requantize_operand(node, operand, others[0].quant)
            else:
                for value in others:
                    self.requantize_result(node, value, quant)

    def requantize_operand(self, node: Node, operand: Value, quant: QuantParams | None) -> None:
        assert quant is not None
        node.set_input(0, self.requantize(node, operand, quant, before=node))

    def requantize_result(self, node: Node, value: Value, kept: QuantParams) -> None:
        assert value.quant is not None
        users = value.users
        result = self.requantize(node, value, value.quant, after=node)
        value.quant = kept
        self.graph.replace_uses(value, result, only=users)

    def requantize(
        self, node: Node, value: Value, quant: QuantParams, *, before: Node | None = None, after: Node | None = None
    ) -> Value:
        name, attributes = f"{value.name}_requantize", {"dtype": quant.dtype}
        added = self.graph.add_node(
            "requantize", [value], attributes, name=name, loc=node.loc, origin=node.origin, before=before, after=after
        )
        added.device, added.subgraph, added.support = Device.BPU, node.subgraph, node.support
        added.result.quant = quant
        self.changed = True
        message = f"{node.op.name} keeps its operand's scale, so {value.name} is requantized to {_text(quant)}"
        self.remarks.append(self.owner.remark(message, added))
        return added.result

    # --- weights and int32 ---------------------------------------------------------------------------------------

    def weights(self) -> None:
        for node in self.graph.nodes:
            if not is_conv_like(node):
                continue
            if give_weight_scale(node, self.march):
                self.changed = True
            x, residual = node.operand("x"), node.operand("residual")
            if x is None or x.quant is None or (residual is not None and residual.quant is None):
                continue  # check_complete names it
            message = fit_headroom(node, self.march)
            if message:
                self.changed = True
                self.remarks.append(self.owner.remark(message, node, warning=True))

    def high_precision(self) -> None:
        """int32 for conv-like results that were not observed, and through the layout nodes behind them."""
        for node in self.graph.nodes:
            if not on_bpu(node) or len(node.results) != 1 or node.result.quant is not None:
                continue
            if is_conv_like(node) and all(value.quant is not None for value in node.data_operands):
                self.give(node.result, high_precision_quant(node))
            elif self.march.keeps_scale(node) and node.op.has(Trait.LAYOUT_ONLY):
                operand = node.inputs[0]
                moved = moved_quant(node) if operand is not None and _is_int32(operand) else None
                if moved is not None:
                    self.give(node.result, moved)

    def check_complete(self) -> None:
        for node in self.graph.nodes:
            if on_bpu(node):
                self.check_operands(node)
            if on_bpu(node) or is_quantize(node):
                for value in node.results:
                    if value.quant is None and is_real(value):
                        raise self.missing(node, value)

    def check_operands(self, node: Node) -> None:
        for value in node.data_operands:
            if value.producer is None or not _is_int32(value):
                continue
            if not (self.march.keeps_scale(node) and node.op.has(Trait.LAYOUT_ONLY) and _is_int32(node.results[0])):
                maker = value.producer
                raise MissingScaleError(
                    f"{maker.label} has no activation scale, which makes it a high-precision (int32) output, but "
                    f"{node.label} reads it on the BPU; only a layer that ends a BPU segment may be one: give {maker.name} "
                    "an activation qconfig and calibrate it",
                    (value.name,),
                )

    def missing(self, node: Node, value: Value) -> QuantizationError:
        results = (other for item in self.graph.nodes if on_bpu(item) for other in item.results)
        absent = [other.name for other in results if other is not value and other.quant is None and is_real(other)]
        more = ""
        if absent:
            rest = f" and {len(absent) - 5} more" if len(absent) > 5 else ""
            more = f" (nor {'has' if len(absent) == 1 else 'have'} {', '.join(absent[:5])}{rest})"
        return MissingScaleError(
            f"{node.label}: {value.name} ({node.op.name}) has no scale{more}; give it an activation qconfig and calibrate",
            (value.name, *absent),
        )


def _is_int32(value: Value) -> bool:
    return value.quant is not None and value.quant.dtype is DType.INT32


def _observed(value: Value) -> QuantParams | None:
    """The quantization that may travel: not fixed for the value that takes it, and never a high-precision one."""
    quant = value.quant
    if quant is None or quant.dtype is DType.INT32:
        return None
    return quant.replace(fixed=False) if quant.fixed else quant


def _common(quants: list[QuantParams | None]) -> QuantParams | None:
    """The one grid of all, or None."""
    first = quants[0] if quants else None
    return first if first is not None and all(first.same_grid(quant) for quant in quants) else None


def _text(quant: QuantParams | None) -> str:
    return "no scale" if quant is None else f"{quant.dtype.value} scale {float(quant.scale.max()):.6g}"
