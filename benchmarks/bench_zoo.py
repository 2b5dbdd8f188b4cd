"""`python -m benchmarks.bench_zoo [NAME ...]`: every network of the zoo the whole way on bernoulli2 and bayes, as a table.

With `--speed` the simulator beside eager PyTorch instead, one network after another on one thread or `--threads`: medians of rounds.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import hqc
from benchmarks._peers import race
from benchmarks.zoo import ZOO
from benchmarks.zoo.whole_way import MARCHES, Report, quiet, walk
from hqc.backends import bpu


def run(names: list[str], marches: list[str], device: str) -> list[Report]:
    """One report per network and march, with a line as each is done."""
    reports = []
    for name in names:
        for march in marches:
            with tempfile.TemporaryDirectory() as folder, quiet():
                report = walk(ZOO[name], march, Path(folder), device=device)
            print(f"{name} {march}: {report.failed + ': ' + report.message if report.failed else 'ok'}", flush=True)
            reports.append(report)
    return reports


def speed(names: list[str], marches: list[str], threads: int) -> None:
    """Milliseconds of ours and of eager float32, and their ratio, for one sample."""
    torch.set_num_threads(threads)
    for name in names:
        for march in marches:
            entry = ZOO[name]
            with quiet():
                network, inputs = entry.build(), entry.inputs(1)
                compiled = hqc.compile(network, inputs, march=march, calibration_data=[inputs, entry.inputs(2)])
                deployment = compiled.deployment
                assert deployment is not None
                program = bpu.compile(deployment.integer, opaque=deployment.opaque, threads=threads)
                feeds = [
                    item.numpy().astype(value.type.dtype.numpy)
                    for item, value in zip(inputs, program.graph.inputs, strict=True)
                ]

                def eager(network: torch.nn.Module = network, inputs: tuple[torch.Tensor, ...] = inputs) -> None:
                    with torch.inference_mode():
                        network(*inputs)

                timings = race({"ours": lambda program=program, feeds=feeds: program.run(feeds), "eager": eager}, rounds=7)
            calls = sum(step.device == "cpu" and step.native is None for step in program.steps)
            ours, eagers = timings["ours"], timings["eager"]
            ratio = ours.ratio(eagers)
            print(
                f"{name} {march}: ours {ours.ms:.3f} ms, eager {eagers.ms:.3f} ms, ratio {ratio:.2f}; {calls} CPU segments",
                flush=True,
            )


def table(reports: list[Report]) -> Table:
    """Seconds to compile and in all, likeness of simulator and float model, and what went wrong where."""
    shown = Table(title="The zoo, the whole way")
    for column in ("network", "march", "compile s", "all s", "cosine", "result"):
        shown.add_column(column, justify="right" if column.endswith(("s", "cosine")) and column != "result" else "left")
    for report in reports:
        result = f"{report.failed}: {report.message}" if report.failed else "ok"
        seconds = report.seconds.get("compile")
        cells = (f"{seconds:.2f}" if seconds else "-", f"{sum(report.seconds.values()):.1f}", f"{report.cosine:.4f}", result)
        shown.add_row(report.name, report.march, *cells)
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="networks; default: all")
    parser.add_argument("--march", action="append", help="default: bernoulli2 and bayes")
    parser.add_argument("--speed", action="store_true", help="time of the simulator beside eager PyTorch")
    parser.add_argument("--threads", type=int, default=1, help="with --speed")
    parser.add_argument("--device", default="cpu", help="where the float model and its data live")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.speed:
        speed(options.names or list(ZOO), options.march or ["bayes"], options.threads)
        return
    torch.set_num_threads(2)
    start = time.perf_counter()
    reports = run(options.names or list(ZOO), options.march or list(MARCHES), options.device)
    Console(width=160).print(table(reports))
    good = sum(not report.failed for report in reports)
    print(f"{good} of {len(reports)} went the whole way in {time.perf_counter() - start:.0f} s")
    raise SystemExit(good != len(reports))


if __name__ == "__main__":
    main()
