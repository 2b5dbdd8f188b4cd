"""Rank operations by what they cost, then change one after another, each time what gains most, until the target is reached."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from hqc.analysis.compare import Comparison, OperationComparison, compare
from hqc.analysis.compare.operations import operations_of
from hqc.analysis.tune.changes import Change, Kind, candidates, tails_of, with_changes
from hqc.analysis.tune.measure import Alone, Fidelity, Measure, Measured, Metric, alone, measured
from hqc.analysis.tune.result import Sensitivity, Step, TuneResult
from hqc.analysis.tune.target import Target
from hqc.checked import checked
from hqc.errors import InputError
from hqc.files import write_file
from hqc.quantization.qconfig import get_default_qconfig
from hqc.quantization.switches import quantizing
from hqc.workflow.calibration import batches_of
from hqc.workflow.runner import arrays_of, as_arrays
from hqc.workflow.workers import in_workers, one_thread

GAIN = 0.05
"""Share of what is missing to the target that a change must bring, or it is not worth its cost."""
KINDS: tuple[Kind, ...] = ("observer", "int32", "int16", "cpu")


@checked
def tune(
    model: nn.Module,
    example_inputs: Any,
    *,
    march: str,
    calibration_data: Any,
    target: str | float,
    data: Any = None,
    metric: Metric | None = None,
    hybrid_dict: Mapping[str, Any] | None = None,
    qconfig_dict: Mapping[str, Any] | None = None,
    allow: Sequence[Kind] = KINDS,
    max_changes: int = 8,
    candidates_per_step: int = 6,
    cpu_macs: float | None = None,
    crossings: int | None = None,
    state: str | os.PathLike[str] | None = None,
    workers: int = 1,
    progress: Callable[[str], None] | None = None,
    **options: Any,
) -> TuneResult:
    """Find the few changes that bring a quantized model to `target`, and apply them.

    `model`, `example_inputs`, `march`, `calibration_data`, `hybrid_dict`, `qconfig_dict`, `options`: as for `hqc.compile`. `target`:
    `"35 dB"`, `"top1>=0.99*float"` or a number; the score is `metric`'s (the name before `>=` is yours to choose), by default the SQNR in
    dB of the simulator's outputs against the float model's on `data` (default: the calibration data).

    Operations are ranked by the score that the model keeps where each alone is quantized. Of the worst, each change that `allow` permits
    is measured by compiling and simulating the whole model: another `observer`; `int32`, what follows the last layer of a BPU segment
    on the CPU, so that the layer leaves at high precision; an `int16` result (bayes and later); the `cpu`. The one that gains most is
    kept, a cheaper one when it gains nearly as much. That repeats until the target is reached, nothing gains, or `max_changes` were
    made. `candidates_per_step`: operations tried each time. `cpu_macs`, `crossings`: how many multiply-accumulates and values crossing
    between the devices the result may have more than the model has now. `state`: a file that measured scores are kept in; an
    interrupted run goes on from it. `workers`: processes that measure; `metric` must then be able to travel (no open files).
    `progress`: gets a line per measurement.

    Deterministic for a deterministic metric, and the same for any number of workers. `InputError` for what cannot be tuned; errors of
    the metric pass through.
    """
    unknown = sorted(set(allow) - set(KINDS))
    if unknown:
        raise InputError(f"allow has the unknown kind {unknown[0]!r}; there are {', '.join(KINDS)}")
    wanted = Target.parse(target)
    batches = list(calibration_data) if isinstance(calibration_data, Iterator) else calibration_data  # read more than once
    base = {"": get_default_qconfig(activation_observer="mse", weight_observer="mse")} if qconfig_dict is None else qconfig_dict
    arguments = {**options, "march": march, "calibration_data": batches}
    search = _Search(
        Measure(model, example_inputs, arguments, hybrid_dict, base, lambda _: 0.0, (), (float("inf"), float("inf"))),
        batches if data is None else data,
        state,
        workers,
        progress,
    )
    search.score_by(metric)
    search.budget(cpu_macs, crossings)
    return search.run(wanted, tuple(allow), max_changes, candidates_per_step)


class _Search:
    def __init__(
        self,
        measure: Measure,
        data: Any,
        state: str | os.PathLike[str] | None,
        workers: int,
        progress: Callable[[str], None] | None,
    ) -> None:
        self.measure, self.data, self.workers, self.progress = measure, data, workers, progress or (lambda line: None)
        self.start = measure.compile(())
        self.batches = list(batches_of(self.start.prepared, data))
        measure.first = self.batches[0]
        self.state = None if state is None else Path(state)
        self._fingerprint = ""
        self.known = self.load()
        self.tried = 0

    def score_by(self, metric: Metric | None) -> None:
        """The user's metric, else the distance from the float model's outputs."""
        self.by_distance = metric is None
        self.measure.metric = metric or Fidelity(self.batches, [arrays_of(self.real(*batch)) for batch in self.batches])

    def budget(self, cpu_macs: float | None, crossings: int | None) -> None:
        totals = self.start.placement.totals
        self.measure.limits = (
            float("inf") if cpu_macs is None else totals.cpu_macs + cpu_macs,
            float("inf") if crossings is None else totals.crossings + crossings,
        )

    # --- measuring ---------------------------------------------------------------------------------------------------

    def real(self, *inputs: Any) -> Any:
        """The float model."""
        with torch.no_grad(), quantizing(self.start.prepared, ()), one_thread():
            return as_arrays(self.start.prepared(*self.start.runner.arguments(inputs)))

    def measurements(self, configurations: Sequence[Sequence[Change]]) -> Iterator[Measured | None]:
        """One after another, in order, those that are known from before included; whoever stops reading measures no more."""
        todo = {_key(changes): changes for changes in configurations if _key(changes) not in self.known}
        spread = self.workers > 1 and len(todo) > 1
        found = in_workers(measured, self.measure, todo.values(), self.workers) if spread else map(self.measure, todo.values())
        for changes in configurations:
            key = _key(changes)
            if key not in self.known:
                self.tried += 1
                self.known[key] = result = next(found)
                self.save()
                if result is not None:
                    self.progress(f"{changes[-1] if changes else 'as it is'}: {result.score:.4g}")
            yield self.known[key]

    # --- the search --------------------------------------------------------------------------------------------------

    def run(self, wanted: Target, allow: Sequence[Kind], max_changes: int, width: int) -> TuneResult:
        with one_thread():
            real = float(self.measure.metric(self.real))
        threshold = wanted.threshold(real)
        (before,) = self.measurements([()])
        if before is None:
            raise InputError("the model as it is cannot be simulated on this data, so there is nothing to tune")
        ranked = self.ranked(compare(self.start, self.data))
        sensitivity = tuple(
            Sensitivity(row.name.where, score, "" if row.own is None else row.own.cause) for row, score in ranked
        )
        kept: list[Change] = []
        steps: list[Step] = []
        best = before
        rows = [row for row, _ in ranked]
        while best.score < threshold and len(kept) < max_changes and rows:
            found = self.best_change(rows[:width], kept, best.score, threshold, allow)
            if found is None:
                if len(rows) <= width:
                    break
                rows = rows[width:]
                continue
            change, after = found
            kept.append(change)
            steps.append(Step(change, best, after))
            best = after
            rows = [row for row in rows if not set(change.nodes) & set(row.name.fx)]
        hybrid, qconfigs = with_changes(self.measure.hybrid_dict, self.measure.qconfig_dict, kept)
        compiled = self.measure.compile(kept) if kept else self.start
        return TuneResult(real, before, best, threshold, tuple(steps), sensitivity, hybrid, qconfigs, compiled, self.tried)

    def ranked(self, comparison: Comparison) -> list[tuple[OperationComparison, float]]:
        """Operations with the score where each alone is quantized, the worst first."""
        rows = comparison.ranked()
        if self.by_distance:
            return [(row, row.own.cost) for row in rows if row.own is not None]
        paths = {id(module): path for path, module in self.start.prepared.named_modules()}
        fake_quants = {
            each.name.name: [
                paths[id(module)] for module in (*each.weights, *([] if each.activation is None else [each.activation]))
            ]
            for each in operations_of(self.start.prepared, self.start.graph)
        }
        given = Alone(self.start, self.measure.metric, fake_quants)
        rows = [row for row in rows if row.name.name in fake_quants]
        names = [row.name.name for row in rows]
        scores = in_workers(alone, given, names, self.workers) if self.workers > 1 else (alone(given, name) for name in names)
        return sorted(zip(rows, scores, strict=True), key=lambda pair: pair[1])  # equal scores stay in the order of their SQNR

    def best_change(
        self, rows: Sequence[OperationComparison], kept: Sequence[Change], best: float, threshold: float, allow: Sequence[Kind]
    ) -> tuple[Change, Measured] | None:
        """The change that gains most; of those that reach the target, or gain nearly as much, the cheapest."""
        march, tails = self.start.options.spec, tails_of(self.start.graph)
        changes = [change for row in rows for change in candidates(row, march, allow, tails)]
        gained = []
        for change, found in zip(changes, self.measurements([[*kept, change] for change in changes]), strict=True):
            if found is not None and found.score > best:
                gained.append((change, found))
                if found.score >= threshold:
                    return change, found  # candidates come cheapest first
        if not gained:
            return None
        top = max(found.score for _, found in gained)
        if top - best < GAIN * (threshold - best):
            return None
        return next(pair for pair in gained if pair[1].score >= best + 0.9 * (top - best))

    # --- state -------------------------------------------------------------------------------------------------------

    def fingerprint(self) -> str:
        """Of what the scores depend on: weights, data, march and settings."""
        if self._fingerprint:
            return self._fingerprint
        settings = (self.measure.arguments["march"], self.measure.hybrid_dict, self.measure.qconfig_dict)
        digest = hashlib.sha256(repr(settings).encode())
        for name, tensor in sorted(self.start.prepared.preparation.float_model.state_dict().items()):
            digest.update(name.encode())
            if isinstance(tensor, torch.Tensor):
                digest.update(tensor.detach().cpu().contiguous().view(-1).numpy().tobytes())
        for batch in self.batches:
            for leaf in pytree.tree_leaves(list(batch)):
                if isinstance(leaf, torch.Tensor):
                    digest.update(leaf.detach().cpu().contiguous().numpy().tobytes())
        self._fingerprint = digest.hexdigest()[:32]
        return self._fingerprint

    def load(self) -> dict[str, Measured | None]:
        if self.state is None or not self.state.exists():
            return {}
        try:
            found = json.loads(self.state.read_text(encoding="utf-8"))
            same = found["fingerprint"] == self.fingerprint()
            scores = {key: None if each is None else Measured(**each) for key, each in found["scores"].items()}
            return scores if same else {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{self.state} is no state of hqc tune: {error}; delete it to begin anew") from None

    def save(self) -> None:
        if self.state is not None:
            scores = {key: None if each is None else asdict(each) for key, each in self.known.items()}
            text = json.dumps({"fingerprint": self.fingerprint(), "scores": scores}, indent=1)
            write_file(self.state, (text + "\n").encode())


def _key(changes: Sequence[Change]) -> str:
    return " | ".join(change.key for change in changes)
