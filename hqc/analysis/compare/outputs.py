"""Numbers beside each other: simulator against float model, and their times in one run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich import box
from rich.table import Table
from rich.text import Text
from torch.utils import _pytree as pytree

from hqc.checked import BATCHES, SEEDS, check_within, checked, numeric, shown
from hqc.errors import InputError
from hqc.frontend.fx.copying import in_eval_mode
from hqc.workflow.calibration import as_arguments
from hqc.workflow.compile import Compiled
from hqc.workflow.runner import arrays_of, as_arrays

RUNS = 5
"""Times that everything is run for `time_simulator`."""
STYLE: dict[str, Any] = {"title_justify": "left", "box": box.SIMPLE_HEAD, "pad_edge": False}


@numeric
def sqnr(expected: Any, actual: Any) -> float:
    """Signal to quantization noise ratio in dB: `10 log10(sum(e^2) / sum((e - a)^2))`; infinite when equal."""
    expected, actual = np.asarray(expected, np.float64), np.asarray(actual, np.float64)
    return _decibels(float((expected**2).sum()), float(((expected - actual) ** 2).sum()))


@checked
def random_inputs(compiled: Compiled, batch: int, seed: int = 0) -> list[torch.Tensor]:
    """Inputs of the compiled shapes with another batch size: reals uniform in [0, 1), integers 0 or 1, which are valid as indices."""
    check_within("batch", batch, BATCHES)
    check_within("seed", seed, SEEDS)
    generator = torch.Generator().manual_seed(seed)
    found = []
    for value in compiled.graph.inputs:
        sizes = (batch, *(value.shape or (1,))[1:])
        drawn = torch.rand(sizes, generator=generator)
        found.append(
            drawn if value.type.dtype.is_float else torch.from_numpy((drawn > 0.5).numpy().astype(value.type.dtype.numpy))
        )
    return found


@dataclass
class OutputQuality:
    """One output over all samples. `integer_sqnr`, `fake_quant_sqnr`: of simulator and fake-quant model against the float model, in dB,
    infinite where they are equal; `largest_steps`: the largest difference of the two, in quantization steps of the output."""

    name: str
    shape: tuple[int, ...]
    integer_sqnr: float = float("inf")
    fake_quant_sqnr: float = float("inf")
    largest_steps: float = 0.0


@checked
def output_quality(
    compiled: Compiled,
    batches: Iterable[Mapping[str, Any]],
    progress: Callable[[int, int | None], None] | None = None,
    answers: Mapping[str, list[Any]] | None = None,
) -> tuple[list[OutputQuality], int]:
    """Every output over `batches` (arrays by input name), and how many samples there were. `progress`: gets `(batches done, None)`.

    `answers`: a list per output, which gets the simulator's result of each batch.
    """
    model = compiled.prepared.preparation.float_model
    names = compiled.graph.output_names
    found: list[OutputQuality] = []
    signal, noise = np.zeros(len(names)), np.zeros((len(names), 2))
    reach, difference, samples = np.zeros(len(names)), np.zeros(len(names)), 0
    for number, batch in enumerate(batches, start=1):
        if not isinstance(batch, Mapping):
            raise InputError(f"batches holds arrays by input name, got {shown(batch)}")
        arguments = as_arguments(compiled.prepared.preparation.inputs or (), batch)
        floats = _floats(model, arguments)
        integers, fakes = (arrays_of(run(*arguments)) for run in (compiled.simulate, compiled.fake_quant))
        for name, integer in zip(names, integers, strict=True) if answers is not None else ():
            answers[name].append(integer)  # type: ignore[index]
        for index, (real, integer, fake) in enumerate(zip(floats, integers, fakes, strict=True)):
            real, integer, fake = (np.asarray(each, np.float64) for each in (real, integer, fake))
            signal[index] += float((real**2).sum())
            noise[index] += ((real - integer) ** 2).sum(), ((real - fake) ** 2).sum()
            reach[index] = max(reach[index], np.abs(fake).max(initial=0.0))
            difference[index] = max(difference[index], np.abs(integer - fake).max(initial=0.0))
        found = found or [OutputQuality(name, tuple(np.shape(each))) for name, each in zip(names, integers, strict=True)]
        samples += len(next(iter(batch.values())))
        if progress is not None:
            progress(number, None)
    for index, each in enumerate(found):
        each.integer_sqnr, each.fake_quant_sqnr = (_decibels(signal[index], part) for part in noise[index])
        each.largest_steps = float(difference[index] / max(reach[index] / 127.5, 1e-30))
    return found, samples


def _floats(model: torch.nn.Module, arguments: tuple[Any, ...]) -> list[Any]:
    was_training = model.training
    model.eval()
    with torch.no_grad():
        tensors = pytree.tree_map_only(np.ndarray, torch.from_numpy, list(arguments))
        found = arrays_of(as_arrays(model(*tensors)))
    model.train(was_training)
    return found


def _decibels(signal: float, noise: float) -> float:
    return float("inf") if noise == 0 else 10.0 * float(np.log10(max(signal, 1e-300) / noise))


@checked
def compare_outputs(found: Sequence[OutputQuality], title: str) -> Table:
    """The table of `output_quality`."""
    table = Table(title=title, **STYLE)
    table.add_column("output", overflow="fold")
    table.add_column("shape", no_wrap=True)
    for column in ("integer\nSQNR", "fake quant\nSQNR", "largest difference\nof the two, in steps"):
        table.add_column(column, justify="right", no_wrap=True)
    for each in found:
        decibels = [f"{value:.1f} dB" for value in (each.integer_sqnr, each.fake_quant_sqnr)]
        table.add_row(Text(each.name), str(list(each.shape)), *decibels, f"{each.largest_steps:.2f}")
    return table


@dataclass(frozen=True)
class Timing:
    """Milliseconds of the simulator and of eager float32 PyTorch, medians of interleaved runs; `operations`: name, op, device, ms, MACs,
    slowest first."""

    simulator_ms: float
    eager_ms: float
    operations: tuple[tuple[str, str, str, float, int], ...]

    @property
    def ratio(self) -> float:
        return self.simulator_ms / self.eager_ms

    def __str__(self) -> str:
        return f"simulator {self.simulator_ms:.1f} ms, eager float32 PyTorch {self.eager_ms:.1f} ms: ratio {self.ratio:.2f}"

    def table(self, top: int) -> Table:
        """The `top` slowest operations."""
        table = Table(title="Slowest operations", **STYLE)
        table.add_column("operation", overflow="fold")
        for column in ("op", "device", "ms", "MACs"):
            table.add_column(column, justify="right" if column in ("ms", "MACs") else "left", no_wrap=True)
        for name, op, device, ms, macs in self.operations[:top]:
            table.add_row(Text(name), op, device, f"{ms:.2f}", f"{macs:,}")
        return table


@checked
def time_simulator(compiled: Compiled, progress: Callable[[int, int | None], None] | None = None) -> Timing:
    """Simulator and eager float32 PyTorch on random input of the compiled shapes. `progress`: gets `(runs done, all)`."""
    inputs = random_inputs(compiled, compiled.graph.inputs[0].shape[0] if compiled.graph.inputs[0].shape else 1)
    model = in_eval_mode(compiled.prepared.preparation.float_model)
    compiled.simulate(*inputs)
    ours, eager, profiles = [], [], []
    advance = progress or (lambda done, total: None)
    with torch.no_grad():
        model(*inputs)
        for number in range(RUNS):
            ours.append(_timed(lambda: compiled.simulate(*inputs)))
            eager.append(_timed(lambda: model(*inputs)))
            advance(number + 1, 2 * RUNS)
    # The median of a few runs: one that the scheduler interrupts would name the wrong operation.
    for number in range(RUNS):
        profiles.append(compiled.profile(*inputs))
        advance(RUNS + number + 1, 2 * RUNS)
    runs = zip(*profiles, strict=True)
    timed = [(statistics.median(row.ms for row in rows), rows[0]) for rows in runs]
    rows = tuple((row.node, row.op, row.device, ms, row.macs) for ms, row in sorted(timed, key=lambda pair: -pair[0]))
    return Timing(statistics.median(ours) * 1e3, statistics.median(eager) * 1e3, rows)


def _timed(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
