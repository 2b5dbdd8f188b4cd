"""How every value is rounded to its grid, and the operations that `bernoulli` computes with a gain."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from hqc import arithmetic
from hqc.ir import Device, DType, Graph, Node, Observation, QuantParams, Reason, Trait, Value
from hqc.march.spec import MarchSpec
from hqc.passes.base import Pass, PassContext, PassResult
from hqc.passes.gain_pools import averaged_window, gain_stages
from hqc.passes.node_facts import is_conv_like, is_quantize, is_real, on_bpu
from hqc.passes.registry import register_pass
from hqc.passes.rewrite import morph


@register_pass
@dataclass(frozen=True)
class SettleRounding(Pass):
    """Write the rounding of every value that the BPU puts on a grid, so that no reader asks the march.

    Observed values, and those with a scale, are rounded as the march's runtime rounds. A result that keeps its operand's scale but
    leaves its grid (a bilinear resize) is marked `observe(policy=operand, rounding=floor)`: no statistics, back on the operand's grid
    rounding down, as the kernels do. On marches that cannot divide, average pools become `gain_pool2d` nodes, one per stage, and so
    do means over height and width that no shift divides, with a requantize to the mean's own scale behind them. On marches whose
    bias is int8, the bias of a node with scales gets its quantization.

    With `nearest`, where the march floors, what is ours to fill is filled so that it rounds to nearest: tables, and the biases of
    convolutions and linear layers, which are marked `half_step` for `add-half-steps`. Training learns with the floor and does without.
    """

    name: ClassVar[str] = "settle-rounding"
    requires: ClassVar[str] = "bounded"
    establishes: ClassVar[str] = "bounded"
    nearest: bool = field(
        default=False,
        metadata={"help": "post-training: tables and biases make results round to nearest where the march floors"},
    )

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        if graph.stage == "integer":
            return PassResult(False)
        settler = _Settler(graph, context.march, nearest=self.nearest and context.march.rounding == "floor")
        for node in graph.nodes:
            if on_bpu(node):
                settler.pool_by_gain(node)
        for node in graph.nodes:
            if on_bpu(node) or is_quantize(node):
                settler.settle_results(node)
            if is_conv_like(node) and context.march.int8_bias:
                settler.quantize_bias(node)
                settler.mark_half_step(node)
        return PassResult(settler.changed)


class _Settler:
    def __init__(self, graph: Graph, march: MarchSpec, *, nearest: bool) -> None:
        self.graph, self.march, self.nearest = graph, march, nearest
        self.dtypes: dict[Value, DType] = {}  # of values on a grid, where something says it
        self.changed = False

    # --- roundings ---------------------------------------------------------------------------------------------------

    def settle_results(self, node: Node) -> None:
        source = node.inputs[0] if node.inputs else None
        keeps = self.march.keeps_scale(node)
        for value in node.results:
            if not is_real(value):
                continue
            observation = value.observation
            if keeps and self.march.leaves_grid(node) and not self.owns_scale(value, source):
                dtype = self.dtypes.get(source, DType.INT8) if source is not None else DType.INT8
                observation = Observation(dtype, rounding="floor", policy="operand")
            elif observation is not None:
                observation = replace(observation, rounding=self.rounding(node))
            quant = value.quant
            if quant is not None and quant.dtype is not DType.INT32:
                quant = quant.replace(rounding=self.rounding(node))
            if (observation, quant) != (value.observation, value.quant):
                value.observation, value.quant, self.changed = observation, quant, True
            if quant is not None or observation is not None:
                self.dtypes[value] = (quant or observation).dtype  # type: ignore[union-attr]
            elif keeps and source in self.dtypes:
                self.dtypes[value] = self.dtypes[source]

    def rounding(self, node: Node) -> str:
        """How the results of `node` that make a scale are rounded."""
        return "half_up" if self.nearest and on_bpu(node) and node.op.has(Trait.LUT) else self.march.rounding

    def mark_half_step(self, node: Node) -> None:
        """An observed result on the BPU, whose requantization is a shift, gets half a step by its bias."""
        observed = node.result.observation is not None and node.result.observation.policy != "operand"
        if self.nearest and observed and on_bpu(node) and not node.attributes["half_step"]:
            node.attributes = {**node.attributes, "half_step": True}
            self.changed = True

    @staticmethod
    def owns_scale(value: Value, source: Value | None) -> bool:
        """True where the result was given a scale, or is observed, apart from its operand."""
        if value.observation is not None and value.observation.policy != "operand":
            return True
        return value.quant is not None and source is not None and not value.quant.same_grid(source.quant)

    def quantize_bias(self, node: Node) -> None:
        """An int8 bias with one power-of-two scale; a bias that the CPU or another layer reads too is copied."""
        bias = node.operand("bias")
        if bias is None or bias.array is None or bias.quant is not None:
            return
        if any(not is_conv_like(user) or index != user.op.operand_index("bias") for user, index in bias.uses):
            bias = self.graph.add_parameter(f"{node.name}_bias", bias.array)
            node.set_input(node.op.operand_index("bias"), bias)
        assert bias.array is not None
        bias.quant = QuantParams(arithmetic.bernoulli_bias_scale(bias.array))
        self.changed = True

    # --- gain pools --------------------------------------------------------------------------------------------------

    def pool_by_gain(self, node: Node) -> None:
        """Replace an average over windows by the stages that the BPU computes; nothing while its sizes are unknown."""
        if not self.march.averages_by_gain(node):
            return
        window, stages = averaged_window(node), gain_stages(node, self.march)
        if window is None or stages is None or isinstance(stages, Reason):
            return  # the lowering says what is wrong with it
        (x,) = node.operands
        attributes = {"kernel": window, "stride": window}
        if "kernel" in node.attributes:
            attributes = {name: node.attributes[name] for name in ("kernel", "stride", "padding", "ceil_mode")}
        if len(stages) > 1:
            for index, stage in enumerate(stages[:-1]):
                x = self.insert(node, x, {"kernel": stage, "stride": stage}, f"{node.name}_stage{index}")
            attributes = {"kernel": stages[-1], "stride": stages[-1]}
        if "axes" in node.attributes:
            self.behind_pool(node, self.insert(node, x, attributes, f"{node.name}_stage{len(stages) - 1}"))
        else:
            morph(node, "gain_pool2d", [x], _gain(attributes))
        self.changed = True

    def behind_pool(self, node: Node, pooled: Value) -> None:
        """The mean itself: the pooled value in the mean's shape, requantized to the mean's own scale."""
        if not node.attributes["keepdims"]:
            pooled = self.insert(node, pooled, {"shape": (0, 0)}, f"{node.name}_flat", op="reshape")
        morph(node, "requantize", [pooled])

    def insert(self, node: Node, x: Value, attributes: dict[str, Any], name: str, *, op: str = "gain_pool2d") -> Value:
        given = _gain(attributes) if op == "gain_pool2d" else attributes
        added = self.graph.add_node(op, [x], given, name=name, loc=node.loc, origin=node.origin, before=node)
        added.device, added.subgraph, added.support = Device.BPU, node.subgraph, node.support
        if x.quant is not None:
            added.result.quant = x.quant.replace(fixed=False)
        return added.result


def _gain(attributes: dict[str, Any]) -> dict[str, Any]:
    height, width = attributes["kernel"]
    return {**attributes, "gain": arithmetic.bernoulli_pool_gain(height * width)}
