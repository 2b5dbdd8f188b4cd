"""One configuration measured: compiled, simulated, scored; here or in worker processes, with equal results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hqc.analysis.compare.distances import decibels
from hqc.analysis.tune.changes import Change, with_changes
from hqc.checked import explained
from hqc.errors import HqcError
from hqc.quantization.switches import quantizing
from hqc.workflow.compile import Compiled
from hqc.workflow.compile import compile as compile_model
from hqc.workflow.runner import arrays_of, as_arrays
from hqc.workflow.workers import one_thread

Model = Callable[..., Any]
Metric = Callable[[Model], float]
"""Gets a model as a function from inputs (tensors or arrays, as for forward) to NumPy outputs, and returns its score; larger is better."""


@explained
@dataclass(frozen=True)
class Measured:
    """The score of a configuration, and what it costs: multiply-accumulates on the CPU, values that cross between the devices and
    their bytes."""

    score: float
    cpu_macs: int
    crossings: int
    crossing_bytes: int


@dataclass
class Fidelity:
    """The score by default: SQNR of a model's outputs against the float ones, dB. `real`: what float makes of `batches`."""

    batches: list[tuple[Any, ...]]
    real: list[list[Any]]

    def __call__(self, model: Model) -> float:
        signal = noise = 0.0
        for batch, outputs in zip(self.batches, self.real, strict=True):
            for a, b in zip(outputs, arrays_of(model(*batch)), strict=True):
                x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
                signal, noise = signal + float((x**2).sum()), noise + float(((x - y) ** 2).sum())
        return min(decibels(signal, noise), 200.0)  # a score must be a number that can be compared and kept


@dataclass
class Measure:
    """Measures configurations of one model. `arguments`: of `hqc.compile`; `limits`: CPU multiply-accumulates and crossings at most."""

    model: Any
    example_inputs: Any
    arguments: dict[str, Any]
    hybrid_dict: Mapping[str, Any] | None
    qconfig_dict: Mapping[str, Any]
    metric: Metric
    first: tuple[Any, ...]
    limits: tuple[float, float]

    def compile(self, changes: Sequence[Change]) -> Compiled:
        """The model with these changes."""
        hybrid, qconfigs = with_changes(self.hybrid_dict, self.qconfig_dict, changes)
        with one_thread():
            return compile_model(
                self.model, self.example_inputs, hybrid_dict=hybrid or None, qconfig_dict=qconfigs, **self.arguments
            )

    def __call__(self, changes: Sequence[Change]) -> Measured | None:
        """None where the changes cannot be made, or break the limits."""
        try:
            compiled = self.compile(changes)
            totals = compiled.placement.totals
            if totals.cpu_macs > self.limits[0] or totals.crossings > self.limits[1]:
                return None
            compiled.simulate(*self.first)
        except HqcError:
            return None  # this operation cannot have it: its row in the march's table, or its neighbours
        with one_thread():
            score = float(self.metric(compiled.simulate))
        return Measured(score, totals.cpu_macs, totals.crossings, totals.crossing_bytes)


def measured(measure: Measure, changes: Sequence[Change]) -> Measured | None:
    """For workers, which take functions of what travels once and of one item."""
    return measure(changes)


@dataclass
class Alone:
    """Scores a fake-quantized model of which one operation alone is quantized. `fake_quants`: paths of its modules by operation."""

    compiled: Compiled
    metric: Metric
    fake_quants: dict[str, list[str]]


def alone(given: Alone, name: str) -> float:
    """The score where the operation called `name` alone is quantized."""
    prepared, runner = given.compiled.prepared, given.compiled.runner
    chosen = [prepared.get_submodule(path) for path in given.fake_quants[name]]

    def run(*inputs: Any) -> Any:
        with torch.no_grad(), quantizing(prepared, chosen):  # type: ignore[arg-type]  # they are what was put in
            return as_arrays(prepared(*runner.arguments(inputs)))

    with one_thread():
        return float(given.metric(run))
