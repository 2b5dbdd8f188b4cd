"""Try changes by planning the model again with each, alone and two together, and keep what brings most."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from hqc.analysis.advice.candidates import Target, drops, to_bpu, to_cpu
from hqc.analysis.advice.changes import Change, Place, Replace, hybrid_dict_of, names_in
from hqc.analysis.advice.outcome import EQUAL_MACS, Outcome, more_than_the_sum, worth
from hqc.checked import checked, explained
from hqc.errors import HqcError, InputError
from hqc.ir import Device, Graph, Trait
from hqc.metrics.placement import placement_report
from hqc.workflow.explanation import Explanation
from hqc.workflow.options import CompileOptions
from hqc.workflow.pipelines import explain_pipeline

EFFORT = 20_000
"""Nodes planned by all trials together, unless told otherwise: about two seconds."""
LEAST = 16
"""Trials of networks however large."""


@explained
@dataclass(frozen=True)
class Advice:
    """One change, or two that go together.

    `subjects`: what each change is about; `followers`: what changes its device with them; `to_bpu`: all that goes to the BPU, as
    `where (op)`. `before`, `after`: what the plan costs without and with it. `hybrid_dict`, `min_macs`, `min_nodes`: the settings with
    it, complete; what has to change in the model itself is in `changes`, as `Replace`.
    """

    changes: tuple[Change, ...]
    subjects: tuple[str, ...]
    followers: tuple[str, ...]
    to_bpu: tuple[str, ...]
    before: Outcome
    after: Outcome
    hybrid_dict: dict[str, dict[str, list[Any]]]
    min_macs: float
    min_nodes: int

    @property
    def change(self) -> str:
        """What to do."""
        return "; and ".join(f"{subject}: {change.text}" for subject, change in zip(self.subjects, self.changes, strict=True))

    @property
    def gain(self) -> tuple[int, int, int]:
        """What ranks: see `worth`."""
        found = worth(self.before, self.after)
        assert found is not None
        return found

    def __str__(self) -> str:
        before, after = self.before, self.after
        moved = after.bpu_macs - before.bpu_macs
        work = f"{abs(moved):,} MACs to the {'BPU' if moved > 0 else 'CPU'}, " if moved else ""
        same = before.crossings == after.crossings
        moves = f"still {before.crossings} crossings" if same else f"crossings {before.crossings} -> {after.crossings}"
        size = f"{before.bytes:,} bytes" if before.bytes == after.bytes else f"{before.bytes:,} -> {after.bytes:,} bytes"
        along = f"; {_listed(self.followers)} {'goes' if len(self.followers) == 1 else 'go'} along" if self.followers else ""
        return f"{self.change}{along} ({work}{moves}, {size})"


@explained
@dataclass(frozen=True)
class AdviceReport:
    """The best changes, best first. `singles`, `pairs`: how many changes and pairs of changes were planned. `complete`: all there are
    were."""

    steps: tuple[Advice, ...]
    singles: int
    pairs: int
    complete: bool

    def __str__(self) -> str:
        """The changes in numbered lines; empty where none helps."""
        return "\n".join(f"{number}. {step}" for number, step in enumerate(self.steps, start=1))


@checked
def advise(explanation: Explanation, *, limit: int = 3, effort: int | None = EFFORT) -> AdviceReport:
    """The most useful changes to what `hqc.explain` shows, each with what the plan costs once it is made.

    Tried are: each entry of the `hybrid_dict` and the thresholds, dropped; each operation on the CPU, alone and with all that are there
    for the same reason, asked for (in int8, then int16) or replaced by a like operation that runs; each operation at a crossing and each
    subgraph of little work, sent to the CPU; and pairs of those that are neighbours. Every trial runs the passes that `hqc.compile`
    runs. A pair is shown where it brings more than both alone. `effort`: about how many nodes to plan in all trials; None: no limit.

    `InputError` for a limit below 1.
    """
    if limit < 1:
        raise InputError(f"limit must be at least 1, got {limit}")
    if not explanation.options.hybrid:
        return AdviceReport((), 0, 0, True)  # everything runs on the BPU
    nodes = max(len(explanation.graph), 1)
    return _Search(explanation, None if effort is None else max(effort // nodes, LEAST)).run(limit)


@dataclass(frozen=True)
class _Trial:
    """Changes that could be made, what the plan costs with them, and the device of every traced operation."""

    changes: tuple[Change, ...]
    outcome: Outcome
    devices: dict[str, Device]
    gain: tuple[int, int, int] | None

    @property
    def rank(self) -> tuple[Any, ...]:
        """The most gained first; of equal gains the smaller change: fewer edits, settings before the model, fewer operations."""
        gain = self.gain or (0, 0, 0)
        edits = sum(isinstance(change, Replace) for change in self.changes)
        return (*(-number for number in gain), len(self.changes), edits, sum(len(change.nodes) for change in self.changes))


class _Search:
    def __init__(self, explanation: Explanation, trials: int | None) -> None:
        self.explanation = explanation
        self.graph, self.float_graph = explanation.graph, explanation.float_graph
        self.left = float("inf") if trials is None else trials
        self.complete = True
        self.before = Outcome.of(self.graph)
        self.devices = _devices(self.graph)

    def run(self, limit: int) -> AdviceReport:
        singles = list(self.singles())
        pairs = list(self.pairs(singles))
        useful = [trial for trial in singles if trial.gain is not None]
        by_change = {trial.changes[0]: trial for trial in singles}
        for pair in pairs:
            parts = [by_change[change].gain for change in pair.changes]
            if pair.gain is not None and more_than_the_sum(pair.gain, parts):
                useful.append(pair)
        chosen = self.without_repeats(sorted(useful, key=lambda trial: trial.rank))
        steps = tuple(self.advice(trial) for trial in chosen[:limit])
        return AdviceReport(steps, len(singles), len(pairs), self.complete)

    def without_repeats(self, trials: list[_Trial]) -> list[_Trial]:
        """The best first; without those that concern a part of what a better one does, or more to no more effect."""
        kept: list[tuple[_Trial, set[str]]] = []
        for trial in trials:
            concerned = self.moved(trial).union(*(change.nodes for change in trial.changes))
            if not any(concerned <= better or better <= concerned for _, better in kept):
                kept.append((trial, concerned))
        return [trial for trial, _ in kept]

    def singles(self) -> Iterator[_Trial]:
        options = self.explanation.options
        seen: set[tuple[str, ...]] = set()
        for change in drops(self.graph, options):
            trial = self.plan((change,))
            if trial is not None:
                yield trial
        targets = itertools.chain(
            to_bpu(self.graph, self.float_graph, options), to_cpu(self.graph, EQUAL_MACS * self.before.bpu_macs)
        )
        for target in targets:
            if target.nodes not in seen:
                seen.add(target.nodes)
                trial = self.first(target)
                if trial is not None:
                    yield trial

    def first(self, target: Target) -> _Trial | None:
        """The first way that brings the operations to where they should be."""
        for way in target.ways:
            trial = self.plan((way,))
            if trial is not None and all(trial.devices.get(name, target.device) is target.device for name in target.nodes):
                return trial
        return None

    def pairs(self, singles: list[_Trial]) -> Iterator[_Trial]:
        near = _Neighbours(self.graph)
        reaches = [near.of(self.moved(trial) | set(trial.changes[0].nodes)) for trial in singles]
        for (a, reach_a), (b, reach_b) in itertools.combinations(list(zip(singles, reaches, strict=True)), 2):
            first, second = a.changes[0], b.changes[0]
            apart = not set(first.nodes) & set(second.nodes) or not (isinstance(first, Place) and isinstance(second, Place))
            if apart and reach_a & reach_b:
                trial = self.plan((first, second))
                if trial is not None:
                    yield trial

    def moved(self, trial: _Trial) -> set[str]:
        """The operations that run elsewhere than now."""
        return {name for name, device in self.devices.items() if trial.devices.get(name, device) is not device}

    def plan(self, changes: tuple[Change, ...]) -> _Trial | None:
        """The plan with `changes`; None where they cannot be made, or the effort is spent."""
        if self.left <= 0:
            self.complete = False
            return None
        self.left -= 1
        options = self.options(changes)
        graph = self.float_graph.clone()
        for change in changes:
            graph = change.edited(graph)
        context = replace(self.explanation.context, overrides=options.overrides, remarks=[])
        try:
            explain_pipeline(options, verify=False).run(graph, context)
        except HqcError:
            return None  # an operation that cannot run there, or settings that contradict each other
        outcome = Outcome.of(graph)
        return _Trial(changes, outcome, _devices(graph), worth(self.before, outcome))

    def options(self, changes: Iterable[Change]) -> CompileOptions:
        options = self.explanation.options
        for change in changes:
            options = change.options(options)
        return options

    def advice(self, trial: _Trial) -> Advice:
        options = self.options(trial.changes)
        moved = self.moved(trial)
        rows = placement_report(self.graph).rows
        shown: dict[str, str] = {}
        for row in rows:
            for name in row.origin or (row.name,):
                shown.setdefault(name, f"{row.where} ({row.op})")
        meant = [[shown[name] for name in change.nodes if name in shown] for change in trial.changes]
        others = dict.fromkeys(shown[name] for name in shown if name in moved)
        to_bpu = dict.fromkeys(shown[name] for name in shown if name in moved and self.devices[name] is Device.CPU)
        return Advice(
            trial.changes,
            tuple(map(_listed, meant)),
            tuple(each for each in others if not any(each in names for names in meant)),
            tuple(to_bpu),
            self.before,
            trial.outcome,
            hybrid_dict_of(options.overrides),
            options.min_macs,
            options.min_nodes,
        )


class _Neighbours:
    """Traced operations that share a value on a planned graph, looking through boundaries."""

    def __init__(self, graph: Graph) -> None:
        self.near: dict[str, set[str]] = {}
        self._held: dict[int, set[str]] = {}
        for node in graph.nodes:
            names = names_in(node)
            if node.op.has(Trait.BOUNDARY):
                continue
            for value in (*node.operands, *node.results):
                if value.is_parameter:
                    continue
                while value.producer is not None and value.producer.op.has(Trait.BOUNDARY):
                    value = value.producer.operands[0]
                self._held.setdefault(id(value), set()).update(names)
        for names_of_value in self._held.values():
            for name in names_of_value:
                self.near.setdefault(name, set()).update(names_of_value)

    def of(self, names: set[str]) -> set[str]:
        return names.union(*(self.near.get(name, set()) for name in names))


def _devices(graph: Graph) -> dict[str, Device]:
    found: dict[str, Device] = {}
    for node in graph.nodes:
        if not node.op.has(Trait.BOUNDARY) and node.device is not None:
            for name in names_in(node):
                # Of an operation that is several nodes, one on the CPU is what it has to be brought from.
                found[name] = node.device if found.get(name) is not Device.CPU else Device.CPU
    return found


def _listed(given: Iterable[str]) -> str:
    names = list(dict.fromkeys(given))
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
