"""`canonicalize`: one form for what can be written in many ways, and nothing that does nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

from hqc.ir import Graph, Node, Trait
from hqc.passes import (  # noqa: F401  (they register their rules)
    canonical_forms,
    canonical_masks,
    canonical_spellings,
    canonical_structure,
)
from hqc.passes.base import Pass, PassContext, PassResult
from hqc.passes.canonical_rules import Rule, rules_of
from hqc.passes.canonical_structure import Earlier, share_equal
from hqc.passes.constant_folding import fold_constant
from hqc.passes.registry import register_pass


@register_pass
@dataclass(frozen=True)
class Canonicalize(Pass):
    """Drop what does nothing, compute what is constant, and bring the rest to one form.

    Values keep their names; where several nodes become one, the origin lists all of them and the name is the last one's. In
    float32 the results stay bit for bit the same but for the exceptions that the rules name. With `training`, what acts in training
    only (dropout) stays where it is, so that nothing is fused across it.
    """

    name: ClassVar[str] = "canonicalize"
    training: bool = field(default=False, metadata={"help": "keep what acts in training only"})

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        changed = graph.remove_dead_code()
        nodes = list(graph.nodes)
        remembering: dict[Rule, Rule] = {share_equal: partial(share_equal, earlier=Earlier())}
        while nodes:  # each sweep visits what the sweep before it changed, and the users of that
            touched: dict[Node, None] = {}
            bereft: dict[Node, None] = {}  # whose reader is gone: those that are left may be the only ones now
            for node in nodes:
                if node.graph is graph and not self.keeps(node) and _rewrite(graph, node, touched, bereft, remembering):
                    changed = True
            touched.update(dict.fromkeys(user for producer in bereft for user in producer.users))
            nodes = sorted((node for node in touched if node.graph is graph), key=lambda node: node._order)
        changed |= graph.remove_dead_code()
        return PassResult(changed)

    def keeps(self, node: Node) -> bool:
        return self.training and node.op.has(Trait.TRAINING)


def _rewrite(
    graph: Graph, node: Node, touched: dict[Node, None], bereft: dict[Node, None], remembering: Mapping[Rule, Rule]
) -> bool:
    """Apply rules to a node until none changes it; notes the nodes that may have become rewritable, and who lost a reader.

    `remembering`: rules with what they have met in this run of the pass.
    """
    changed = False
    producers = node.producers
    while node.graph is graph:
        uses = [use for value in node.results for use in value._uses.values()]
        if not (fold_constant(graph, node) or any(remembering.get(rule, rule)(graph, node) for rule in rules_of(node.op))):
            break
        changed = True
        touched.update(dict.fromkeys(user for user, _ in uses))
    if changed and node.graph is graph:
        touched.update(dict.fromkeys(node.producers))
    elif changed:
        touched.update(dict.fromkeys(producers))
        bereft.update(dict.fromkeys(producers))
    return changed
