"""Write the user's placement wishes onto the nodes they match."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from hqc.errors import OverrideError
from hqc.ir import Device, Graph, Node, Request, Trait
from hqc.near_names import suggest
from hqc.passes.base import Pass, PassContext, PassResult, Remark
from hqc.passes.overrides import KINDS, Override, names_of
from hqc.passes.registry import register_pass

_WHAT = {"module_name": "module", "module_type": "module type", "node_name": "node", "op": "op"}


@register_pass
@dataclass(frozen=True)
class ApplyOverrides(Pass):
    """Attach every override to the nodes it matches, as their `request`.

    A module covers everything inside it; of several entries the stronger kind wins (op < module_type < module_name <
    node_name), then the nearest ancestor, then the later entry. An entry that matches nothing is an error with near names.
    Warns where wishes split values that share one scale, or a convolution from the add or activation fused into it.
    """

    name: ClassVar[str] = "apply-overrides"

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Set `request` of every non-boundary node; wishes of an earlier run are replaced."""
        matched: set[Override] = set()
        changed = False
        for node in graph.nodes:
            winner: Override | None = None
            if not node.op.has(Trait.BOUNDARY):
                winner = _strongest(node, context.overrides, matched)
            request = None if winner is None else Request(winner.device, winner.source, winner.dtype)
            changed |= request != node.request
            node.request = request
        for override in context.overrides:
            if override not in matched:
                raise OverrideError(_no_match(override, graph))
        remarks = (*self._split_scales(graph, context), *self._split_fusions(graph))
        return PassResult(changed, remarks)

    def _split_scales(self, graph: Graph, context: PassContext) -> Iterable[Remark]:
        if context.march.requantize_at_cat:
            return
        for node in graph.nodes:
            if not node.op.has(Trait.SAME_SCALE):
                continue
            members = [node, *node.producers]
            on_cpu = [member for member in members if _wants_cpu(member)]
            if on_cpu and len(on_cpu) < len(members):
                names = ", ".join(member.name for member in on_cpu)
                yield self.remark(
                    f"placing {names} on the CPU splits the values that share one scale at this {node.op.name}: each crossing "
                    f"is quantized to the group's scale; place {', '.join(m.name for m in members)} together",
                    node,
                    warning=True,
                )

    def _split_fusions(self, graph: Graph) -> Iterable[Remark]:
        for node in graph.nodes:
            joins = node.op.has(Trait.ACTIVATION) or node.op.has(Trait.SUM) or node.op.name == "batch_norm"
            if not joins:
                continue
            for producer in node.producers:
                fuses = producer.op.has(Trait.CONV_LIKE) and len(producer.users) == 1
                if fuses and _wants_cpu(producer) != _wants_cpu(node):
                    yield self.remark(
                        f"an override splits {producer.name} from {node.name}, which would run fused with it on the BPU",
                        node,
                        warning=True,
                    )


def _wants_cpu(node: Node) -> bool:
    return node.request is not None and node.request.device is Device.CPU


def _strongest(node: Node, overrides: Iterable[Override], matched: set[Override]) -> Override | None:
    """The override that decides about `node`; every one that matches is added to `matched`."""
    best: tuple[int, int] = (-1, 0)
    winner: Override | None = None
    for override in overrides:
        depth = override.depth(node)
        if depth == 0:
            continue
        matched.add(override)
        rank = (KINDS.index(override.kind), depth)
        if rank >= best:
            best, winner = rank, override
    return winner


def _known_names(override: Override, graph: Graph) -> set[str]:
    names: set[str] = set()
    for node in graph.nodes:
        if override.kind == "module_name":
            parts = node.loc.module.split(".")
            names |= {".".join(parts[:level]) for level in range(1, len(parts) + 1)} - {""}
        elif override.kind == "module_type":
            names |= set(node.loc.module_type)
        elif override.kind == "node_name":
            names |= set(names_of(node))
        else:
            names.add(node.op.name)
    return names


def _no_match(override: Override, graph: Graph) -> str:
    what = _WHAT[override.kind]
    pattern = override.value.removeprefix("re:")
    hint = suggest(pattern, _known_names(override, graph))
    problem = "matches no" if override.is_regex else "names no"
    return f"hybrid_dict: {override.kind} {override.value!r} {problem} {what} of the model that computes anything{hint}"
