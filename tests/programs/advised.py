"""What advice may claim, found the slow way: every operation sent to the other device, alone and two together."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping
from typing import Any

from draft import Program

import hqc
from hqc.analysis.advice import Outcome, Replace, advise, worth
from hqc.analysis.advice.outcome import more_than_the_sum
from hqc.errors import HqcError
from hqc.workflow.explanation import Explanation, explain_graph
from hqc.workflow.options import CompileOptions

Key = tuple[int, int, int]
Entry = tuple[str, Any]
"""A device and what stands under `node_name` there."""


def check(program: Program, march: str) -> None:
    """The advised changes give what they say, by `hqc.explain`, and no change or pair brings more than the best of them."""
    model, inputs = program.build(), program.inputs()
    own = _entries(program, hqc.explain(model, inputs, march=march))
    explanation = hqc.explain(model, inputs, march=march, hybrid_dict=_dict(own))
    report = advise(explanation, limit=50, effort=None)
    assert report.complete
    before = _outcome(explanation)
    for step in report.steps:
        assert step.before == before and worth(before, step.after) == step.gain
        if not any(isinstance(change, Replace) for change in step.changes):
            made = hqc.explain(
                model, inputs, march=march, hybrid_dict=step.hybrid_dict, min_macs=step.min_macs, min_nodes=step.min_nodes
            )
            assert _outcome(made) == step.after, f"{step}\ngives {_outcome(made)}"
    best = max((step.gain for step in report.steps), default=None)
    for key, change in _all_changes(explanation, own, before):
        assert best is not None and key <= best, f"{change} brings {key}, the advice at best {best}:\n{report}"


def _entries(program: Program, explanation: Explanation) -> list[Entry]:
    """For half of the programs, one or two operations that the user holds on the CPU."""
    rng = random.Random(program.seed)
    names = [row.origin[0] for row in explanation.placement.rows if row.device == "bpu" and row.origin]
    return [("cpu", name) for name in rng.sample(names, min(len(names), rng.choice([0, 0, 1, 2])))]


def _all_changes(explanation: Explanation, own: list[Entry], before: Outcome) -> Iterator[tuple[Key, str]]:
    """Every change of the `hybrid_dict` that brings something, and every pair that brings more than both alone."""
    held = {name for _, name in own}
    changes: dict[str, list[Entry]] = {f"without {entry}": [each for each in own if each != entry] for entry in own}
    for row in explanation.placement.rows:
        if row.origin and not held.intersection(row.origin):
            if row.device == "bpu":
                changes[f"{row.name} to the CPU"] = [*own, *(("cpu", name) for name in row.origin)]
            else:
                changes[f"{row.name} to the BPU"] = [*own, *(("bpu", name) for name in row.origin)]
                changes[f"{row.name} to the BPU, int16"] = [*own, *(("bpu", (name, "int16")) for name in row.origin)]
    keys: dict[str, Key | None] = {}
    for name, entries in list(changes.items()):
        made = _planned(explanation, entries)
        if made is None:
            del changes[name]
        else:
            keys[name] = worth(before, made)
            if keys[name] is not None:
                yield keys[name], name
    for a, b in itertools.combinations(changes, 2):
        added = [entry for entry in (*changes[a], *changes[b]) if entry not in own]
        kept = [entry for entry in own if entry in changes[a] and entry in changes[b]]
        made = _planned(explanation, [*kept, *added])
        key = None if made is None else worth(before, made)
        if key is not None and more_than_the_sum(key, (keys[a], keys[b])):
            yield key, f"{a} and {b}"


def _planned(explanation: Explanation, entries: list[Entry]) -> Outcome | None:
    options = CompileOptions.of(explanation.options.march, hybrid_dict=_dict(entries), optimize_graph=True)
    try:
        return _outcome(explain_graph(explanation.float_graph, options))
    except HqcError:
        return None


def _dict(entries: list[Entry]) -> Mapping[str, Any]:
    return {
        device: {"node_name": [name for each, name in entries if each == device]} for device in dict(entries)
    }  # fmt: skip


def _outcome(explanation: Explanation) -> Outcome:
    totals = explanation.placement.totals
    return Outcome(totals.bpu_macs, totals.bpu_macs + totals.cpu_macs, totals.crossings, totals.crossing_bytes)
