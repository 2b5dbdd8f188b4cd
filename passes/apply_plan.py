"""`apply-plan`: the devices decided at prepare time, on a prepared model that was lowered again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from hqc.errors import PassError, PlanError, SupportError
from hqc.ir import Device, Graph, Node, Trait, get_op
from hqc.march.rules import check_node
from hqc.passes.base import Pass, PassContext, PassResult
from hqc.passes.node_facts import is_quantize
from hqc.passes.plan import Placement, Plan
from hqc.passes.registry import register_pass


@register_pass
@dataclass(frozen=True)
class ApplyPlan(Pass):
    """Set support, device and request of every node from the plan that travels with a prepared model.

    The plan names FX nodes. Errors, each listing the nodes: a node the plan does not know or knows on two devices, a planned
    operation that the model no longer has, and a node that the march accepted on a condition which the shapes now break.
    """

    name: ClassVar[str] = "apply-plan"
    establishes: ClassVar[str] = "supported"

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        plan = context.plan
        if plan is None:
            raise PassError(
                "apply-plan needs the plan of a prepared model; call prepare_qat_fx or prepare_calibration_fx first"
            )
        if plan.march != context.march.name:
            raise PassError(
                f"the model was prepared for {plan.march} and cannot be converted for {context.march.name}; prepare it again"
            )
        placements = _match(graph, plan)
        _check_vanished(graph, plan)
        changed = False
        for node in graph.nodes:
            changed |= _assign(node, placements.get(node))
        _check_conditions(graph, context)
        return PassResult(changed)


def _match(graph: Graph, plan: Plan) -> dict[Node, Placement]:
    """The placement of every node that is not a boundary; `PlanError` lists the nodes without exactly one device."""
    found: dict[Node, Placement] = {}
    unknown: dict[Node, str] = {}
    for node in graph.nodes:
        if node.op.has(Trait.BOUNDARY):
            continue
        placements = plan.lookup(node.origin or (node.name,))
        devices = {placement.device for placement in placements}
        if len(devices) == 1:
            found[node] = placements[-1]
        elif devices:
            places = ", ".join(f"{name} on {device.value}" for name, device in plan.devices.items() if name in node.origin)
            unknown[node] = f"{node.label} joins operations planned apart ({places})"
        else:
            unknown[node] = node.label
    moves = [node for node in unknown if node.op.has(Trait.LAYOUT_ONLY) and not plan.lookup(node.origin or (node.name,))]
    for node in (*moves, *reversed(moves)):
        beside = _beside(node, found)
        if beside is not None:
            found[node] = beside
            unknown.pop(node, None)
    if unknown:
        raise PlanError(f"it does not place {_shorten(list(unknown.values()))}")
    return found


def _beside(move: Node, found: Mapping[Node, Placement]) -> Placement | None:
    """Where an operation that only moves its operand runs: on the BPU where it stands between operations there.

    Moves come and go with the sizes: with a batch of one there is nothing to do for `x.reshape(1, -1, h, w)`, with two there is, and
    `x.squeeze()` is the other way round. They keep numbers and grid, so that no observer and no other node depends on them.
    """
    devices = {found[each].device for each in (*move.producers, *_readers(move)) if each in found}
    if any(map(is_quantize, move.producers)):
        devices = {Device.BPU.value}
    if not devices:
        return None
    device = Device.BPU if devices == {Device.BPU.value} else Device.CPU
    return Placement((move.name,), device.value, move.op.name)


def _readers(node: Node) -> Iterator[Node]:
    """What reads the results of `node`, behind boundaries at most."""
    for result in node.results:
        for user in result.users:
            yield from _readers(user) if user.op.has(Trait.BOUNDARY) else (user,)


def _check_vanished(graph: Graph, plan: Plan) -> None:
    """A planned operation none of whose FX nodes is left was removed from the model after prepare, if it did more than move its operand."""
    present = {name for node in graph.nodes for name in (node.origin or (node.name,))}
    planned = [each for each in plan.placements if not get_op(each.op).has(Trait.LAYOUT_ONLY)]
    gone = [placement.names[-1] for placement in planned if present.isdisjoint(placement.names)]
    if gone:
        raise PlanError(f"it places {_shorten(gone)}, which the model no longer has")


def _assign(node: Node, placement: Placement | None) -> bool:
    """Write a placement (None: a boundary op, which runs on the CPU side) to a node; True when that changes it."""
    before = (node.device, node.support, node.request)
    if placement is None:
        node.device = Device.CPU
    else:
        node.device, node.support, node.request = Device(placement.device), placement.support, placement.request
    return before != (node.device, node.support, node.request)


def _check_conditions(graph: Graph, context: PassContext) -> None:
    """What the march accepted on a condition, because shapes were unknown at prepare time, is judged again with shapes."""
    assert context.plan is not None
    conditions = {node.name: found for node in graph.nodes if node.device is Device.BPU and (found := _conditions(node))}
    if not conditions:
        return
    refused = []
    for node in _without_boundaries(graph).nodes:
        if node.name in conditions:
            verdict = check_node(context.march, node, hybrid=context.plan.hybrid)
            broken = [reason for reason in verdict.reasons if reason.id in conditions[node.name]]
            if not verdict.accepted and broken:
                refused.append(f"{node.label}: {'; '.join(map(str, broken))}")
    if refused:
        raise SupportError(
            f"with the shapes now known {context.march.name} cannot run on the BPU what the plan places there: "
            f"{_shorten(refused, '; ')}; prepare again with example_inputs"
        )


def _without_boundaries(graph: Graph) -> Graph:
    """A copy as the march judged it at prepare time: operations read each other's results, not fake quants of them."""
    copy = graph.clone()
    for node in copy.nodes:
        source = node.inputs[0] if node.op.has(Trait.BOUNDARY) else None
        if source is not None:
            copy.replace_uses(node.result, source)
            copy.erase(node)
    return copy


def _conditions(node: Node) -> frozenset[str]:
    """Rules on which the node was accepted, by id."""
    reasons = () if node.support is None else node.support.reasons
    return frozenset(reason.id for reason in reasons if reason.condition)


def _shorten(items: list[str], separator: str = ", ", limit: int = 8) -> str:
    more = f"{separator}and {len(items) - limit} more" if len(items) > limit else ""
    return separator.join(items[:limit]) + more
