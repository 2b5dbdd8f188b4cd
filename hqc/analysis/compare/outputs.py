"""Numbers beside each other: simulator against float model, and their times in one run."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
import torch
from rich import box
from rich.table import Table
from rich.text import Text
from torch.utils import _pytree as pytree

from hqc.workflow.compile import Compiled

STYLE: dict[str, Any] = {"title_justify": "left", "box": box.SIMPLE_HEAD, "pad_edge": False}


def sqnr(expected: Any, actual: Any) -> float:
    """Signal to quantization noise ratio in dB: `10 log10(sum(e^2) / sum((e - a)^2))`; infinite when equal."""
    expected, actual = np.asarray(expected, np.float64), np.asarray(actual, np.float64)
    noise = float(((expected - actual) ** 2).sum())
    signal = float((expected**2).sum())
    return float("inf") if noise == 0 else 10.0 * float(np.log10(max(signal, 1e-300) / noise))


def random_inputs(compiled: Compiled, batch: int, seed: int = 0) -> list[torch.Tensor]:
    """Uniform [0, 1) inputs of the compiled shapes with another batch size."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand((batch, *(value.shape or (1,))[1:]), generator=generator) for value in compiled.graph.inputs]


def compare_outputs(compiled: Compiled, batch: int) -> Table:
    """SQNR and largest error in steps, per output: simulator and fake-quant model against the float model."""
    inputs = random_inputs(compiled, batch)
    model = compiled.prepared.preparation.float_model
    was_training = model.training
    model.eval()
    with torch.no_grad():
        floats = pytree.tree_leaves(model(*inputs))
    model.train(was_training)
    integers = pytree.tree_leaves(compiled.simulate(*inputs))
    fakes = pytree.tree_leaves(compiled.fake_quant(*inputs))
    table = Table(title=f"Outputs against the float model, {batch} random sample{'s'[: batch != 1]}", **STYLE)
    table.add_column("output", overflow="fold")
    table.add_column("shape", no_wrap=True)
    for column in ("integer\nSQNR", "fake quant\nSQNR", "largest difference\nof the two, in steps"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, real, integer, fake in zip(compiled.graph.output_names, floats, integers, fakes, strict=True):
        step = max(float(np.abs(fake).max()) / 127.5, 1e-30)
        table.add_row(
            Text(name),
            str(list(integer.shape)),
            f"{sqnr(real, integer):.1f} dB",
            f"{sqnr(real, fake):.1f} dB",
            f"{float(np.abs(np.asarray(integer, np.float64) - fake).max()) / step:.2f}",
        )
    return table


def time_simulator(compiled: Compiled, top: int) -> tuple[str, Table]:
    """Simulator and eager float32 PyTorch, interleaved, and the slowest operations of the simulator."""
    inputs = random_inputs(compiled, compiled.graph.inputs[0].shape[0] if compiled.graph.inputs[0].shape else 1)
    model = compiled.prepared.preparation.float_model.eval()
    compiled.simulate(*inputs)
    ours, eager = [], []
    with torch.no_grad():
        model(*inputs)
        for _ in range(5):
            ours.append(_timed(lambda: compiled.simulate(*inputs)))
            eager.append(_timed(lambda: model(*inputs)))
    a, b = statistics.median(ours), statistics.median(eager)
    table = Table(title="Slowest operations", **STYLE)
    table.add_column("operation", overflow="fold")
    for column in ("op", "device", "ms", "MACs"):
        table.add_column(column, justify="right" if column in ("ms", "MACs") else "left", no_wrap=True)
    # The median of a few runs: one that the scheduler interrupts would name the wrong operation.
    runs = zip(*(compiled.profile(*inputs) for _ in range(5)), strict=True)
    timed = [(statistics.median(row.ms for row in rows), rows[0]) for rows in runs]
    for ms, row in sorted(timed, key=lambda pair: -pair[0])[:top]:
        table.add_row(Text(row.node), row.op, row.device, f"{ms:.2f}", f"{row.macs:,}")
    return f"simulator {a * 1e3:.1f} ms, eager float32 PyTorch {b * 1e3:.1f} ms: ratio {a / b:.2f}", table


def _timed(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
