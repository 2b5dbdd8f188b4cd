"""One scale for the values that a cat ties together, and scales that hardware which only shifts right can reach."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np

from hqc.errors import QuantizationError
from hqc.ir import DType, Graph, Node, QuantParams, Trait, Value
from hqc.ir.rules import CAT_SCALES_UNIFIED
from hqc.march.spec import MarchSpec
from hqc.passes.base import Pass, PassContext, PassResult, Remark
from hqc.passes.conv_scales import refresh_high_precision
from hqc.passes.lower_to_integer.registry import lowering_of
from hqc.passes.node_facts import on_bpu
from hqc.passes.registry import register_pass
from hqc.passes.scale_groups import ScaleGroup, scale_groups, shares_scale

LARGEST_SCALE = 0.5
"""The largest power-of-two scale, 2^-1."""
WARN_RATIO = 2.0
"""Operand scales of a cat that differ by more get a warning where the march requantizes."""


@register_pass
@dataclass(frozen=True)
class UnifyCatScales(Pass):
    """Give all values that a cat ties together one scale, on marches that cannot requantize at a cat.

    Groups reach through nodes that keep their operand's scale and through other cats, in one fixed point. On marches that only
    shift right, every group's scale is also raised to what its producers' accumulators need. Elsewhere the pass only warns
    where operands of a cat have scales that differ more than twofold.
    """

    name: ClassVar[str] = "unify-cat-scales"
    requires: ClassVar[str] = "scaled"
    establishes: ClassVar[str] = "scaled"
    policy: Literal["output", "largest"] = field(
        default="output", metadata={"help": "output: the scale of the group's last cat; largest: the largest scale of a member"}
    )
    optimized: bool = field(
        default=False, metadata={"help": "the model was prepared with optimize_graph=True: members were trained with one scale"}
    )

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        if graph.stage == "integer":
            return PassResult(False)
        march = context.march
        if march.requantize_at_cat and not march.power_of_two:
            return PassResult(False, tuple(self.compare_operands(graph)))
        unifier = _Unifier(self, graph, march)
        changed = unifier.run() or CAT_SCALES_UNIFIED not in graph.properties
        graph.properties.add(CAT_SCALES_UNIFIED)
        return PassResult(changed, tuple(unifier.remarks))

    def compare_operands(self, graph: Graph) -> list[Remark]:
        """Warnings about cats that requantize operands of very different scales."""
        remarks = []
        for node in graph.nodes:
            if not (on_bpu(node) and node.op.has(Trait.SAME_SCALE)):
                continue
            scales = [(_scale(value), value) for value in node.data_operands if _has_tensor_scale(value)]
            if len(scales) < 2:
                continue
            low, high = min(scales, key=_by_scale), max(scales, key=_by_scale)
            if high[0] > WARN_RATIO * low[0]:
                bits = math.log2(high[0] / low[0])
                remarks.append(
                    self.remark(
                        f"operands have scales that differ {high[0] / low[0]:.3g}x ({low[1].name} {low[0]:.6g}, {high[1].name} "
                        f"{high[0]:.6g}): {low[1].name} loses up to {bits:.1f} bits here",
                        node,
                        warning=True,
                    )
                )
        return remarks


def _by_scale(item: tuple[float, Value]) -> float:
    return item[0]


def _has_tensor_scale(value: Value) -> bool:
    return value.quant is not None and not value.quant.per_channel


def estimated_sqnr(old: float, new: float, bits: int = 8) -> float:
    """Signal to quantization noise in dB of a value uniform over the range of scale `old`, stored with scale `new`.

    The noise is `new^2 / 12` inside the new range, plus what is clipped outside it.
    """
    reach = (1 << (bits - 1)) - 0.5
    limit, kept = reach * old, reach * min(old, new)
    noise = new**2 / 12 * (kept / limit) + (limit - kept) ** 3 / (3 * limit)
    return 10 * math.log10(limit**2 / 3 / noise)


class _Unifier:
    def __init__(self, owner: UnifyCatScales, graph: Graph, march: MarchSpec) -> None:
        self.owner, self.graph, self.march = owner, graph, march
        self.remarks: list[Remark] = []
        self.groups = [group for group in scale_groups(graph, march) if _quantized(group)]
        self.before = {id(value): value.quant for group in self.groups for value in group.values}
        self.raised: dict[int, str] = {}

    def run(self) -> bool:
        fixed = [self.fixed_member(group) for group in self.groups]
        for group, holder in zip(self.groups, fixed, strict=True):
            if group.demanded_by:
                self.assign(group, self.choose(group, holder))
        if self.march.power_of_two:
            self.raise_to_bounds(fixed)
        for index, group in enumerate(self.groups):
            self.report(index, group)
        changed = any(self.changed_members(group) for group in self.groups)
        return refresh_high_precision(self.graph) or changed

    def changed_members(self, group: ScaleGroup) -> list[tuple[Value, QuantParams]]:
        """Members whose scale is another now, with the old one."""
        pairs = [(value, self.before[id(value)]) for value in group.values]
        return [(value, old) for value, old in pairs if old is not None and not old.same_grid(value.quant)]

    # --- choosing ------------------------------------------------------------------------------------------------

    def fixed_member(self, group: ScaleGroup) -> Value | None:
        """The member whose scale nothing may change; an error names two that disagree."""
        fixed = [v for v in group.values if v.quant is not None and (v.quant.fixed or v.is_parameter)]
        for other in fixed[1:]:
            if not other.quant.same_grid(fixed[0].quant):  # type: ignore[union-attr]
                cats = ", ".join(node.label for node in group.demanded_by) or "the nodes between them"
                raise QuantizationError(
                    f"{fixed[0].name} is fixed to the scale {_scale(fixed[0]):.8g} and {other.name} to {_scale(other):.8g}, but "
                    f"{cats} ties them to one scale on {self.march.name}; fix both to the same scale"
                )
        return fixed[0] if fixed else None

    def choose(self, group: ScaleGroup, fixed: Value | None) -> np.float32:
        if fixed is not None:
            return np.float32(_scale(fixed))
        if self.owner.policy == "output":
            return np.float32(_scale(group.demanded_by[-1].result))
        return np.float32(max(_scale(value) for value in group.values))

    @staticmethod
    def assign(group: ScaleGroup, scale: np.float32) -> None:
        for value in group.values:
            old = value.quant
            if old is None:
                value.quant = QuantParams(scale)
            elif old.scale != scale:
                value.quant = old.replace(scale=scale)

    # --- lower bounds --------------------------------------------------------------------------------------------

    def raise_to_bounds(self, fixed: list[Value | None]) -> None:
        """Raise scales until every requantization is a right shift. A raise can make others necessary: repeat until none is.

        Scales are bounded powers of two and only grow, so this ends.
        """
        again = True
        while again:
            again = False
            for index, group in enumerate(self.groups):
                current = _scale(group.values[0])
                for node, _ in group.producers:
                    bound = self.bound(node)
                    if bound <= current:
                        continue
                    holder = fixed[index]
                    if holder is not None:
                        raise QuantizationError(
                            f"{node.label}: its accumulator has the scale {bound:.8g} and {holder.name} is fixed to "
                            f"{current:.8g}, but {self.march.name} only shifts right; fix a scale of at least {bound:.8g}"
                        )
                    current = self.reachable(node, bound)
                    self.raised[index] = f"{node.name}, whose accumulator has the scale {bound:.6g}"
                    self.assign(group, np.float32(current))
                    again = True

    def bound(self, node: Node) -> float:
        """The scale of what `node` shifts right into its result, 0 where it does not requantize."""
        if not on_bpu(node) or self.march.keeps_scale(node) or shares_scale(node, self.march):
            return 0.0
        entry = lowering_of(node.op)
        if entry is None or entry.accumulator_scale is None:
            return 0.0
        return entry.accumulator_scale(node, self.march)

    def reachable(self, node: Node, bound: float) -> float:
        mantissa, exponent = math.frexp(bound)
        scale = math.ldexp(1.0, exponent - 1 if mantissa == 0.5 else exponent)
        if scale > LARGEST_SCALE:
            raise QuantizationError(
                f"{node.label}: its accumulator has the scale {bound:.6g}, and the largest scale on {self.march.name} is 0.5; "
                "scale its input or weights down, or let it run on the CPU"
            )
        return scale

    # --- reporting -----------------------------------------------------------------------------------------------

    def report(self, index: int, group: ScaleGroup) -> None:
        changed = self.changed_members(group)
        if not changed:
            return
        scale = _scale(group.values[0])
        costs = [self.cost(group, value, old, scale) for value, old in changed]
        why = []
        if group.demanded_by:
            why.append("demanded by " + ", ".join(node.label for node in group.demanded_by))
        if index in self.raised:
            why.append(f"raised for {self.raised[index]} ({self.march.name} only shifts right)")
        count = f"{len(group)} value{'s' if len(group) > 1 else ''}"
        message = f"{count} at the scale {scale:.6g}, {'; '.join(why)}: {'; '.join(costs)}"
        warn = bool(group.demanded_by) and not self.owner.optimized
        if warn:
            message += "; prepare with optimize_graph=True to train with one scale"
        node = group.demanded_by[-1] if group.demanded_by else group.values[0].producer
        self.remarks.append(self.owner.remark(message, node, warning=warn))

    def cost(self, group: ScaleGroup, value: Value, old: QuantParams, scale: float) -> str:
        before, bits = float(old.scale), old.dtype.bits
        text = (
            f"{value.name} {before:.6g} -> {scale:.6g} (estimated SQNR {estimated_sqnr(before, before, bits):.1f} -> "
            f"{estimated_sqnr(before, scale, bits):.1f} dB"
        )
        inside = {id(node) for node in group.demanded_by}
        others = [user.name for user in value.users if id(user) not in inside and not self.march.keeps_scale(user)]
        return text + (f", also for {', '.join(others)})" if others else ")")


def _quantized(group: ScaleGroup) -> bool:
    """Groups of observed values; high-precision values have the scale of their accumulator."""
    return all(value.quant is not None and value.quant.dtype is not DType.INT32 for value in group.values)


def _scale(value: Value) -> float:
    assert value.quant is not None, value
    return float(value.quant.scale)
