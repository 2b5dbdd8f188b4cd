"""`python -m benchmarks.bench_accuracy [NAME ...]`: SQNR of quantized outputs on hard networks, beside onnxruntime's static quantizer.

Networks are trained here on scikit-learn's digits, half a minute each, and kept in `--folder`. All quantizers see the same 64 samples;
the figures are on 256 others: dB against the float model's outputs, from the integer simulator, and how well the task is done.
`min-max` is hqc with ranges of the data and without rounding to nearest, what `hqc.compile` did before it had efforts. A network counts
in the mean only if it is hard: if int8 by min-max loses at least 3 dB against int16 on bayes
(weights int8 in both; what bayes has in int8 alone is then on the CPU).

`--qat EPOCHS` trains each network quantized instead: torch's FX QAT, hqc and hqc with learned scales, from the same weights, on the same
batches, at the same rate; `--seeds N` repeats it with other batches, and the spread of that is the noise.
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
from benchmarks.accuracy.qat import TRAINERS, loss, outputs_of
from benchmarks.accuracy.training import quality, task_of, trained
from hqc.ir import Device, DType
from hqc.march import get_spec
from hqc.march.rules import Checker
from hqc.quantization import get_default_qconfig

PLAIN: dict[str, Any] = {
    "qconfig_dict": {"": get_default_qconfig(activation_observer="absolute_min_max")},
    "without": ("nearest",),
}
HARD = 3.0
"""dB that a network must lose between int16 and min-max int8 to count."""
WAYS: dict[str, dict[str, Any]] = {"min-max": PLAIN, "fast": {}, "good": {"effort": "good"}, "best": {"effort": "best"}}


def int16_on(march: str, model: torch.nn.Module, example: torch.Tensor) -> dict[str, Any]:
    """Arguments for min-max int16 activations; what the march has in int8 alone is on the CPU."""
    checker = Checker(get_spec(march))
    nodes = [node for node in hqc.explain(model, example, march=march).graph.nodes if node.device is Device.BPU]
    names = [name for node in nodes if DType.INT16 not in checker.dtypes(node) for name in node.origin]
    qconfig = get_default_qconfig(activation_observer="absolute_min_max", activation_qkwargs={"dtype": "qint16"})
    return {"qconfig_dict": {"": qconfig}, "hybrid_dict": {"node_name": names} if names else None}


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
    print(f"{name}, onnxruntime: {found['onnxruntime'].sqnr:.1f} dB", flush=True)
    rule = {"int16": ("bayes", int16_on("bayes", model, task.calibration[0])), "int8": ("bayes", PLAIN)}
    asked = {f"{march} {way}": (march, WAYS[way]) for march in marches for way in ways}
    for column, (march, options) in (rule | asked).items():
        start = time.perf_counter()
        compiled = hqc.compile(model, task.calibration[0], march=march, calibration_data=task.calibration, **options)
        seconds = time.perf_counter() - start
        outputs = np.concatenate([compiled.simulate(x) for x in task.test.split(64)])
        found[column] = Figure(sqnr(real, outputs), quality(name, outputs), seconds)
        print(f"{name}, {column}: {found[column].sqnr:.1f} dB, {seconds:.0f} s", flush=True)
    return found


def is_hard(figures: dict[str, Figure]) -> bool:
    return figures["int16"].sqnr - figures["int8"].sqnr >= HARD


def table(rows: dict[str, dict[str, Figure]]) -> Table:
    """Networks down, quantizers across: dB (quality)."""
    columns = list(next(iter(rows.values())))
    shown = Table(title="SQNR of the outputs in dB (task: percent right, dB for super-resolution)")
    shown.add_column("network")
    for column in columns:
        shown.add_column(column.replace(" ", "\n"), justify="right")
    for name, figures in rows.items():
        shown.add_row(
            name if is_hard(figures) else f"({name})", *(f"{each.sqnr:.1f} ({each.quality:.1f})" for each in figures.values())
        )
    hard = [figures for figures in rows.values() if is_hard(figures)]
    means = [np.mean([figures[column].sqnr for figures in hard]) if hard else float("nan") for column in columns]
    shown.add_row(f"mean of the {len(hard)} hard ones", *(f"{mean:.1f}" for mean in means), style="bold")
    return shown


def qat_table(names: list[str], epochs: int, seeds: int, folder: Path) -> Table:
    """Networks down, ways to train across: the task's quality and loss, the mean over seeds and how far seeds are apart."""
    shown = Table(title=f"{epochs} epochs of quantized training, {seeds} seeds: quality, loss (mean, spread)")
    shown.add_column("network")
    shown.add_column("float", justify="right")
    for way in TRAINERS:
        shown.add_column(way, justify="right")
    for name in names:
        model = trained(name, folder)
        real = outputs_of(model, task_of(name).test)
        cells = [f"{quality(name, real):.2f}, {loss(name, real):.4g}"]
        for way, trainer in TRAINERS.items():
            outputs = [trainer(model, name, epochs, seed) for seed in range(seeds)]
            found = np.array([[quality(name, each), loss(name, each)] for each in outputs])
            middle, spread = found.mean(0), np.ptp(found, axis=0)
            cells.append(f"{middle[0]:.2f} ±{spread[0] / 2:.2f}, {middle[1]:.4g} ±{spread[1] / 2:.2g}")
            print(f"{name}, {way}: {cells[-1]}", flush=True)
        shown.add_row(name, *cells)
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NETWORKS)}; default: all")
    parser.add_argument("--march", action="append", help="repeatable; default: bayes and bernoulli")
    parser.add_argument("--way", action="append", choices=list(WAYS), help="repeatable; default: all")
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()) / "hqc-accuracy", help="keeps trained networks"
    )
    parser.add_argument("--qat", type=int, metavar="EPOCHS", help="train quantized, instead of quantizing after training")
    parser.add_argument("--seeds", type=int, default=2, help="of --qat")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    if options.qat is not None:
        Console(width=200).print(qat_table(options.names or list(NETWORKS), options.qat, options.seeds, options.folder))
        return
    rows = {}
    for name in options.names or NETWORKS:
        rows[name] = measure(name, options.march or ["bayes", "bernoulli"], options.way or list(WAYS), options.folder)
    Console(width=200).print(table(rows))


if __name__ == "__main__":
    main()
