"""Decide for every node whether the BPU runs it, with reasons."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import hqc.passes.divisor_lengths  # noqa: F401  # registers its rules
from hqc.errors import OverrideError, SupportError
from hqc.ir import STAGES, Device, Graph, Node, Reason, Support
from hqc.march.rules import ADVISED, Checker
from hqc.passes.base import Pass, PassContext, PassResult, Remark
from hqc.passes.fuse_conv import is_fused, is_one_operation, split_activation, unfuse
from hqc.passes.lower_to_integer import accepts
from hqc.passes.lower_to_integer.acceptance import SATURATES
from hqc.passes.registry import register_pass
from hqc.passes.stand_ins import beside_infinity
from hqc.passes.support_context import (
    Placement,
    absorbed_reason,
    float_regions,
    is_stub,
    tail_reason,
)


@register_pass
@dataclass(frozen=True)
class AnalyzeSupport(Pass):
    """Write `support` onto every node but boundaries: accepted, or every reason why not.

    Step *capability*: the march's rule table, shapes and dtypes, node by node, and what the integer
    stage can express. Step *context*: what the neighbours say (`support_context`). Step *override*: the user's wishes come first;
    `cpu` always holds, `bpu` is an error where the march cannot. A fused node whose convolution is refused is taken apart, and so is
    one whose activation the tail rule splits off.

    With `hybrid=False` in the context the torch table decides alone, and `SupportError` lists everything that it refuses.
    """

    name: ClassVar[str] = "analyze-support"
    establishes: ClassVar[str] = "supported"

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Linear in the number of nodes; repeated runs change nothing."""
        before = {node: node.support for node in graph.nodes}
        if STAGES.index(graph.stage) >= STAGES.index("bounded") and all(map(_is_judged, before)):
            return PassResult(False)  # boundaries stand where the verdicts put them, and hide neighbours from each other
        checker = Checker(context.march, hybrid=context.hybrid)
        placement = Placement(graph, checker, context)
        placement.float_region = float_regions(graph)
        placement.beside_infinity = beside_infinity(graph)
        remarks = self._capability(graph, placement, context)
        if context.hybrid:
            placement.settle()
            remarks += self._split_tails(graph, placement, context)
            remarks += [
                self.remark(f"on the BPU by request, although {reason}", node) for node, reason in placement.overridden()
            ]
        else:
            _require_all(placement)
        remarks += [self.remark(str(reason), node) for node, reason in _advice(placement)]
        changed = False
        for node in graph.nodes:
            node.support = placement.support.get(node)
            changed |= node not in before or before[node] != node.support
        graph.march = context.march.name
        if graph.stage == "lowered":
            graph.stage, changed = "supported", True
        return PassResult(changed, tuple(remarks))

    def _capability(self, graph: Graph, placement: Placement, context: PassContext) -> list[Remark]:
        remarks = []
        impossible: list[str] = []
        for node in graph.nodes:
            if is_stub(node):
                continue
            verdict = _judge(node, placement, context)
            members = [node]
            if not verdict.accepted and context.hybrid and is_fused(node) and not _wants(node, Device.CPU):
                members = unfuse(graph, node)
                names = ", ".join(member.name for member in members)
                remarks.append(self.remark(f"taken apart into {names}: {verdict.reasons[0]}", members[-1]))
            for member in members:
                support = verdict if len(members) == 1 else _judge(member, placement, context)
                placement.support[member] = support
                if any(reason.id.startswith(SATURATES) for reason in support.reasons):
                    remarks.append(self.remark(f"runs on the CPU: {support.reasons[0]}", member, warning=True))
                if not support.accepted and _wants(member, Device.BPU):
                    reasons = "; ".join(map(str, support.reasons))
                    assert member.request is not None
                    impossible.append(f"{member.label} cannot run on the BPU as {member.request.source} asks: {reasons}")
        if impossible:
            raise OverrideError("; ".join(impossible))
        return remarks

    def _split_tails(self, graph: Graph, placement: Placement, context: PassContext) -> list[Remark]:
        """The tail rule for activations inside a convolution."""
        remarks = []
        for node, support in list(placement.support.items()):
            if not support.accepted or node.attributes.get("activation", "none") == "none":
                continue
            if _wants(node, Device.BPU) or not context.leaves_high_precision(node) or not placement.ends_bpu_run(node):
                continue
            conv, *cpu = unfuse(graph, node) if is_one_operation(node) else split_activation(graph, node)
            reason = tail_reason(conv)
            placement.support[conv] = support
            for member in cpu:
                placement.support[member] = Support(False, (reason,))
            remarks.append(self.remark(str(reason), cpu[-1]))
        return remarks


def _advice(placement: Placement) -> Iterator[tuple[Node, Reason]]:
    """What nodes on the BPU had better keep to."""
    for node, support in placement.support.items():
        if support.accepted:
            yield from ((node, reason) for reason in support.reasons if reason.id.startswith(ADVISED))


def _is_judged(node: Node) -> bool:
    return node.support is not None or is_stub(node)


def _wants(node: Node, device: Device) -> bool:
    return node.request is not None and node.request.device is device


def _judge(node: Node, placement: Placement, context: PassContext) -> Support:
    """Capability and the user's wish for one node."""
    if _wants(node, Device.CPU):
        assert node.request is not None
        return Support(False, (Reason("placed on the CPU by request", node.request.source, step="override"),))
    verdict = placement.checker.check(node)
    if verdict.accepted:
        reason = accepts(node, context.march)
        verdict = verdict if reason is None else Support(False, (reason,))
    absorbed = absorbed_reason(placement, node) if context.hybrid else None
    if absorbed is not None:
        return Support(True, (absorbed,))
    if verdict.accepted and context.hybrid and node.results[0].shape is None:
        verdict = Support(True, (*verdict.reasons, *_conditions(placement, node)))
    if verdict.accepted and _wants(node, Device.BPU):
        assert node.request is not None
        asked = Reason("placed on the BPU by request", node.request.source, step="override")
        return Support(True, (*verdict.reasons, asked))
    return verdict


def _conditions(placement: Placement, node: Node) -> tuple[Reason, ...]:
    """What the march's rules beyond the tables ask of shapes that are not known yet."""
    verdict = placement.checker.observe(node)
    return verdict.reasons if verdict.accepted else ()


def _require_all(placement: Placement) -> None:
    """`SupportError` that lists every refused node that is not outside the user's stubs; those outside go to the CPU."""
    refused = []
    for node, support in placement.support.items():
        where = placement.float_region.get(node)
        if where is not None:
            rule = "operations before a QuantStub or behind a DeQuantStub are float"
            placement.support[node] = Support(False, (Reason(rule, where, step="context"),))
        elif not support.accepted:
            refused.append(f"  {node.label} ({node.op.name}): {'; '.join(map(str, support.reasons))}")
    if refused:
        count = f"{len(refused)} operation{'s' if len(refused) > 1 else ''}"
        raise SupportError(
            f"{count} cannot run on the BPU of {placement.spec.name}; pass hybrid=True to run them on the CPU:\n"
            + "\n".join(refused)
        )
