"""`python -m benchmarks.bench_accuracy [NAME ...]`: SQNR of quantized outputs on hard networks, beside onnxruntime's static quantizer.

Networks are trained here on scikit-learn's digits, half a minute each, and kept in `--folder`. All quantizers see the same 64 samples;
the figures are on 256 others: dB against the float model's outputs, from the integer simulator, and how well the task is done.
`min-max` is hqc with ranges of the data and without rounding to nearest, what `hqc.compile` did before it had efforts.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import hqc
from benchmarks.accuracy.networks import NETWORKS
from benchmarks.accuracy.peers import onnxruntime_outputs
from benchmarks.accuracy.training import quality, task_of, trained
from hqc.quantization import get_default_qconfig

PLAIN: dict[str, Any] = {
    "qconfig_dict": {"": get_default_qconfig(activation_observer="absolute_min_max")},
    "without": ("nearest",),
}
WAYS: dict[str, dict[str, Any]] = {"min-max": PLAIN, "fast": {}, "good": {"effort": "good"}, "best": {"effort": "best"}}


@dataclass(frozen=True)
class Figure:
    """`sqnr`: dB. `quality`: percent right, or PSNR for super-resolution. `seconds`: to quantize and compile."""

    sqnr: float
    quality: float
    seconds: float


def sqnr(real: np.ndarray, found: np.ndarray) -> float:
    return float(10 * np.log10((real**2).sum() / ((real - found) ** 2).sum()))


def measure(name: str, marches: list[str], ways: list[str], folder: Path) -> dict[str, Figure]:
    """One network, every way: `onnxruntime`, and `march way`."""
    model, task = trained(name, folder), task_of(name)
    with torch.no_grad():
        real = model(task.test).numpy()
    found = {"float": Figure(float("inf"), quality(name, real), 0.0)}
    start = time.perf_counter()
    outputs = onnxruntime_outputs(model, task.calibration, task.test)
    found["onnxruntime"] = Figure(sqnr(real, outputs), quality(name, outputs), time.perf_counter() - start)
    for march in marches:
        for way in ways:
            start = time.perf_counter()
            compiled = hqc.compile(model, task.calibration[0], march=march, calibration_data=task.calibration, **WAYS[way])
            seconds = time.perf_counter() - start
            outputs = np.concatenate([compiled.simulate(x) for x in task.test.split(64)])
            found[f"{march} {way}"] = Figure(sqnr(real, outputs), quality(name, outputs), seconds)
    return found


def table(rows: dict[str, dict[str, Figure]]) -> Table:
    """Networks down, quantizers across: dB (quality)."""
    columns = list(next(iter(rows.values())))
    shown = Table(title="SQNR of the outputs in dB (task: percent right, dB for super-resolution)")
    shown.add_column("network")
    for column in columns:
        shown.add_column(column.replace(" ", "\n"), justify="right")
    for name, figures in rows.items():
        shown.add_row(name, *(f"{each.sqnr:.1f} ({each.quality:.1f})" for each in figures.values()))
    means = [np.mean([figures[column].sqnr for figures in rows.values()]) for column in columns]
    shown.add_row("mean", *(f"{mean:.1f}" for mean in means), style="bold")
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NETWORKS)}; default: all")
    parser.add_argument("--march", action="append", help="repeatable; default: bayes and bernoulli")
    parser.add_argument("--way", action="append", choices=list(WAYS), help="repeatable; default: all")
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()) / "hqc-accuracy", help="keeps trained networks"
    )
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    rows = {}
    for name in options.names or NETWORKS:
        rows[name] = measure(name, options.march or ["bayes", "bernoulli"], options.way or list(WAYS), options.folder)
        print(name, ", ".join(f"{way} {each.sqnr:.1f} dB {each.seconds:.0f} s" for way, each in rows[name].items()), flush=True)
    Console(width=200).print(table(rows))


if __name__ == "__main__":
    main()
