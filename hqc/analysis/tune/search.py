"""Rank operations by what they cost, then change one after another, each time what gains most, until the target is reached."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils import _pytree as pytree

from hqc.analysis.compare import Comparison, OperationComparison, compare
from hqc.analysis.compare.distances import decibels
from hqc.analysis.tune.changes import Change, Kind, candidates, with_changes
from hqc.analysis.tune.result import Sensitivity, Step, TuneResult
from hqc.analysis.tune.target import Target
from hqc.errors import HqcError, InputError
from hqc.files import write_file
from hqc.quantization.qconfig import get_default_qconfig
from hqc.quantization.switches import quantizing
from hqc.workflow.calibration import batches_of
from hqc.workflow.compile import Compiled
from hqc.workflow.compile import compile as compile_model
from hqc.workflow.runner import arrays_of, as_arrays

Model = Callable[..., Any]
Metric = Callable[[Model], float]
"""Gets a model as a function from inputs (tensors or arrays, as for forward) to NumPy outputs, and returns its score; larger is better."""
GAIN = 0.05
"""Share of what is missing to the target that a change must bring, or it is not worth its cost."""
KINDS: tuple[Kind, ...] = ("observer", "int16", "cpu")


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
    progress: Callable[[str], None] | None = None,
    **options: Any,
) -> TuneResult:
    """Find the few changes that bring a quantized model to `target`, and apply them.

    `model`, `example_inputs`, `march`, `calibration_data`, `hybrid_dict`, `qconfig_dict`, `options`: as for `hqc.compile`. `target`:
    `"35 dB"`, `"top1>=0.99*float"` or a number; the score is `metric`'s (the name before `>=` is yours to choose), by default the SQNR in
    dB of the simulator's outputs against the float model's on `data` (default: the calibration data).

    Operations are ranked by the score that the model keeps where each alone is quantized. Of the worst, each change that `allow` permits
    is measured by compiling and simulating the whole model: another `observer`, an `int16` result (bayes and later), the `cpu`; the
    one that gains most is kept, a cheaper one when it gains nearly as much. That repeats until the target is reached, nothing gains, or
    `max_changes` were made. `candidates_per_step`: operations tried each time. `cpu_macs`, `crossings`: how many multiply-accumulates and
    values crossing between the devices the result may have more than the model has now. `state`: a file that measured scores are kept
    in; an interrupted run goes on from it. `progress`: gets a line per measurement.

    Deterministic for a deterministic metric. `InputError` for what cannot be tuned; errors of the metric pass through.
    """
    unknown = sorted(set(allow) - set(KINDS))
    if unknown:
        raise InputError(f"allow has the unknown kind {unknown[0]!r}; there are {', '.join(KINDS)}")
    wanted = Target.parse(target)
    batches = list(calibration_data) if isinstance(calibration_data, Iterator) else calibration_data  # read more than once
    base = {"": get_default_qconfig(activation_observer="mse", weight_observer="mse")} if qconfig_dict is None else qconfig_dict
    arguments = {**options, "march": march, "calibration_data": batches}
    search = _Search(
        model, example_inputs, arguments, hybrid_dict, base, metric, batches if data is None else data, state, progress
    )
    search.budget(cpu_macs, crossings)
    return search.run(wanted, tuple(allow), max_changes, candidates_per_step)


class _Search:
    def __init__(
        self,
        model: nn.Module,
        example_inputs: Any,
        arguments: dict[str, Any],
        hybrid_dict: Mapping[str, Any] | None,
        qconfig_dict: Mapping[str, Any],
        metric: Metric | None,
        data: Any,
        state: str | os.PathLike[str] | None,
        progress: Callable[[str], None] | None,
    ) -> None:
        self.model, self.example_inputs, self.arguments = model, example_inputs, arguments
        self.hybrid_dict, self.qconfig_dict = hybrid_dict, qconfig_dict
        self.data, self.progress = data, progress or (lambda line: None)
        self.start = self.compile(())
        self.batches = list(batches_of(self.start.prepared, data))
        self.metric: Metric = metric or self.fidelity
        self.state = None if state is None else Path(state)
        self.known = self.load()
        self.tried = 0
        self.limits: tuple[float, float] = (float("inf"), float("inf"))

    def budget(self, cpu_macs: float | None, crossings: int | None) -> None:
        totals = self.start.placement.totals
        self.limits = (
            float("inf") if cpu_macs is None else totals.cpu_macs + cpu_macs,
            float("inf") if crossings is None else totals.crossings + crossings,
        )

    # --- measuring ---------------------------------------------------------------------------------------------------

    def compile(self, changes: Sequence[Change]) -> Compiled:
        hybrid, qconfigs = with_changes(self.hybrid_dict, self.qconfig_dict, changes)
        return compile_model(
            self.model, self.example_inputs, hybrid_dict=hybrid or None, qconfig_dict=qconfigs, **self.arguments
        )

    def real(self, *inputs: Any) -> Any:
        """The float model."""
        with torch.no_grad(), quantizing(self.start.prepared, ()):
            return as_arrays(self.start.prepared(*self.start.runner.arguments(inputs)))

    def fidelity(self, model: Model) -> float:
        """SQNR of a model's outputs against the float ones, dB."""
        signal = noise = 0.0
        for batch in self.batches:
            for a, b in zip(arrays_of(self.real(*batch)), arrays_of(model(*batch)), strict=True):
                x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
                signal, noise = signal + float((x**2).sum()), noise + float(((x - y) ** 2).sum())
        return min(decibels(signal, noise), 200.0)  # a score must be a number that can be compared and kept

    def score(self, changes: Sequence[Change]) -> float | None:
        """The score with these changes; None where they cannot be made or break the budget."""
        key = " | ".join(change.key for change in changes)
        if key not in self.known:
            self.known[key] = self.measure(changes)
            self.save()
        return self.known[key]

    def measure(self, changes: Sequence[Change]) -> float | None:
        self.tried += 1
        try:
            compiled = self.compile(changes) if changes else self.start
            totals = compiled.placement.totals
            if totals.cpu_macs > self.limits[0] or totals.crossings > self.limits[1]:
                return None
            compiled.simulate(*self.batches[0])
        except HqcError:
            return None  # this operation cannot have it: its row in the march's table, or its neighbours
        found = float(self.metric(compiled.simulate))
        self.progress(f"{changes[-1] if changes else 'as it is'}: {found:.4g}")
        return found

    # --- the search --------------------------------------------------------------------------------------------------

    def run(self, wanted: Target, allow: Sequence[Kind], max_changes: int, width: int) -> TuneResult:
        real = float(self.metric(self.real))
        threshold = wanted.threshold(real)
        before = self.score(())
        assert before is not None
        comparison = compare(self.start, self.data)
        ranked = self.ranked(comparison)
        sensitivity = tuple(
            Sensitivity(row.name.where, score, "" if row.own is None else row.own.cause) for row, score in ranked
        )
        kept: list[Change] = []
        steps: list[Step] = []
        best = before
        rows = [row for row, _ in ranked]
        while best < threshold and len(kept) < max_changes and rows:
            found = self.best_change(rows[:width], kept, best, threshold, allow)
            if found is None:
                if len(rows) <= width:
                    break
                rows = rows[width:]
                continue
            change, best = found
            kept.append(change)
            steps.append(Step(change, best))
            rows = [row for row in rows if change.nodes != row.name.fx]
        hybrid, qconfigs = with_changes(self.hybrid_dict, self.qconfig_dict, kept)
        compiled = self.compile(kept) if kept else self.start
        return TuneResult(real, before, best, threshold, tuple(steps), sensitivity, hybrid, qconfigs, compiled, self.tried)

    def ranked(self, comparison: Comparison) -> list[tuple[OperationComparison, float]]:
        """Operations with the score where each alone is quantized, the worst first."""
        rows = comparison.ranked()
        if self.metric == self.fidelity:
            return [(row, row.own.cost) for row in rows if row.own is not None]
        from hqc.analysis.compare.operations import operations_of

        fake_quants = {
            each.name.name: [*each.weights, *([] if each.activation is None else [each.activation])]
            for each in operations_of(self.start.prepared, self.start.graph)
        }

        def alone(name: str) -> Model:
            def run(*inputs: Any) -> Any:
                with torch.no_grad(), quantizing(self.start.prepared, fake_quants[name]):
                    return as_arrays(self.start.prepared(*self.start.runner.arguments(inputs)))

            return run

        scored = [(row, float(self.metric(alone(row.name.name)))) for row in rows if row.name.name in fake_quants]
        return sorted(scored, key=lambda pair: pair[1])  # equal scores stay in the order of their SQNR

    def best_change(
        self, rows: Sequence[OperationComparison], kept: Sequence[Change], best: float, threshold: float, allow: Sequence[Kind]
    ) -> tuple[Change, float] | None:
        """The change that gains most; of those that reach the target, or gain nearly as much, the cheapest."""
        march = self.start.options.spec
        measured = []
        for row in rows:
            for change in candidates(row, march, allow):
                score = self.score([*kept, change])
                if score is not None and score > best:
                    measured.append((change, score))
                    if score >= threshold:
                        return change, score  # candidates come cheapest first
        if not measured:
            return None
        top = max(score for _, score in measured)
        if top - best < GAIN * (threshold - best):
            return None
        return next(pair for pair in measured if pair[1] >= best + 0.9 * (top - best))

    # --- state -------------------------------------------------------------------------------------------------------

    def fingerprint(self) -> str:
        """Of what the scores depend on: weights, data, march and settings."""
        digest = hashlib.sha256(repr((self.arguments["march"], self.hybrid_dict, self.qconfig_dict)).encode())
        for name, tensor in sorted(self.start.prepared.preparation.float_model.state_dict().items()):
            digest.update(name.encode())
            if isinstance(tensor, torch.Tensor):
                digest.update(tensor.detach().cpu().contiguous().view(-1).numpy().tobytes())
        for batch in self.batches:
            for leaf in pytree.tree_leaves(list(batch)):
                if isinstance(leaf, torch.Tensor):
                    digest.update(leaf.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:32]

    def load(self) -> dict[str, float | None]:
        if self.state is None or not self.state.exists():
            return {}
        try:
            found = json.loads(self.state.read_text(encoding="utf-8"))
            same = found["fingerprint"] == self.fingerprint()
            return dict(found["scores"]) if same else {}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self.state} is no state of hqc tune: {error}; delete it to begin anew") from None

    def save(self) -> None:
        if self.state is not None:
            text = json.dumps({"fingerprint": self.fingerprint(), "scores": self.known}, indent=1)
            write_file(self.state, (text + "\n").encode())
