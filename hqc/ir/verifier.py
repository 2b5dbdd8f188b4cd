"""Checks a graph against the rules of its stage. The rules themselves are in `hqc.ir.rules`."""

from __future__ import annotations

from hqc.checked import checked, shown
from hqc.errors import InputError, VerificationError
from hqc.ir import integer_rules  # noqa: F401  (adds its rules)
from hqc.ir.graph import STAGES, Graph
from hqc.ir.rules import RULES, MarchFacts, Rule, Violation

STRUCTURE = frozenset({"names", "uses", "order", "attributes"})  # what every other rule takes for granted
_SHOWN = 5  # violations that one error message spells out


def rules_of(stage: str) -> list[Rule]:
    """The rules that hold in `stage`, in the order they are checked; `VerificationError` for an unknown stage."""
    if stage not in STAGES:
        raise VerificationError(f"there is no stage {stage!r}; stages: {', '.join(STAGES)}")
    return [rule for rule in RULES if rule.holds_in(stage)]


@checked
def check(graph: Graph, *, stage: str | None = None, march: MarchFacts | None = None) -> list[Violation]:
    """Every place where `graph` breaks a rule of `stage` (default: the graph's own).

    All other rules take a sound structure for granted and are left out when `STRUCTURE` is broken. Without a `march`, rules
    that depend on one are checked as far as traits tell.
    """
    if march is not None and not hasattr(march, "keeps_scale"):
        raise InputError(f"march must be facts about a march, such as get_spec('bayes'), or None, got {shown(march)}")
    rules = rules_of(graph.stage if stage is None else stage)
    violations = [found for rule in rules if rule.name in STRUCTURE for found in rule.violations(graph, march)]
    if not violations:
        violations = [found for rule in rules if rule.name not in STRUCTURE for found in rule.violations(graph, march)]
    return violations


def verify_structure(graph: Graph) -> None:
    """`VerificationError` when operands, uses, names or order do not agree: what a graph may break that prints as it did."""
    _refuse(graph, [found for rule in RULES if rule.name in STRUCTURE for found in rule.violations(graph, None)], graph.stage)


def verify_constants(graph: Graph) -> None:
    """`VerificationError` for constants of an integer graph that the arithmetic has no meaning for, whatever else is wrong with it."""
    names = {"requant-rows", "integer-constants"}
    _refuse(graph, [found for rule in RULES if rule.name in names for found in rule.violations(graph, None)], graph.stage)


@checked
def verify(graph: Graph, *, stage: str | None = None, march: MarchFacts | None = None) -> None:
    """`VerificationError` when `graph` breaks a rule of `stage` (default: the graph's own).

    The message has the node, its source line, the actual values and the rule's statement.
    """
    _refuse(graph, check(graph, stage=stage, march=march), stage or graph.stage)


def _refuse(graph: Graph, violations: list[Violation], stage: str) -> None:
    if not violations:
        return
    listed = "\n  ".join(map(str, violations[:_SHOWN]))
    more = f"\n  and {len(violations) - _SHOWN} more" if len(violations) > _SHOWN else ""
    raise VerificationError(f"{graph.name} is not a valid {stage} graph: {listed}{more}")
