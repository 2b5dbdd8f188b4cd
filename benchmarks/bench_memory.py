"""Peak memory of compile, simulate and export, above what importing the same packages takes.

    python -m benchmarks.bench_memory [--hidden 4096] [--batch 1] [--engine auto] [--product NAME] [--json new.json]

The network is a VGG-like head: a few convolutions, then `Linear(25088, hidden)` and `Linear(hidden, 1000)` (408 MiB of float weights by
default). Each way is a process of its own, so that no peak hides behind another's leftovers; the peak is the kernel's own mark of
resident memory (`VmHWM`, Linux). Ways: `eager` is building the model and one forward; `compile` is building, calibrating and compiling;
`simulate` goes on from there, the float model deleted, its mark set back before the program is made; `export` the same without verifying,
`verified` with. Bars, as ratios to the weights: compile 3, export 4; simulate 1.5 of eager.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

MIB = 1 << 20
WAYS = ("eager", "compile", "simulate", "export", "verified", "load")


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {key}")


def set_mark_back() -> None:
    """Let the mark of peak memory start at what is resident now."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")


def head(hidden: int) -> Any:
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(64, 512, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(512 * 7 * 7, hidden), nn.ReLU(), nn.Linear(hidden, 1000),
    ).eval()  # fmt: skip


def measure(way: str, hidden: int, batch: int, engine: str, product: str | None) -> dict[str, float]:
    """One way in this process: peak and seconds."""
    import onnx
    import onnxruntime
    import torch

    import hqc
    from hqc.backends import bpu
    from hqc.backends.bpu.engines.jit import library

    if product is not None:
        library.products = lambda: [product]

    # Everything that a first use imports or starts, on a small model.
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        small = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()).eval()
        x = torch.randn(1, 3, 8, 8)
        compiled = hqc.compile(small, (x,), march="bayes", calibration_data=[x])
        compiled.simulate(x)
        compiled.export(Path(folder) / "small.onnx")
        del compiled, small, onnx, onnxruntime
        set_mark_back()
        imported = _status("VmRSS")
        start = time.perf_counter()
        model, x = head(hidden), torch.randn(batch, 3, 28, 28)
        weights = sum(p.numel() * p.element_size() for p in model.parameters())
        if way == "eager":
            with torch.no_grad():
                model(x)
        else:
            compiled = hqc.compile(model, (x,), march="bayes", calibration_data=[x])
        if way in ("simulate", "export", "verified"):
            del model
            set_mark_back()
            start = time.perf_counter()
            if way == "simulate":
                program = bpu.compile(compiled.integer_graph, engine=engine)
                program.run([x.numpy()])
            else:
                compiled.export(Path(folder) / "head.onnx", verify=way == "verified")
    return {
        "weights": weights / MIB, "peak": (_status("VmHWM") - imported) / MIB, "kept": (_status("VmRSS") - imported) / MIB,
        "seconds": time.perf_counter() - start,
    }  # fmt: skip


def in_a_process(way: str, options: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.bench_memory", "--way", way, "--engine", options.engine]
    command += ["--hidden", str(options.hidden), "--batch", str(options.batch)]
    command += ["--product", options.product] if options.product else []
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    if done.returncode:
        raise SystemExit(f"{way}: exit {done.returncode}\n{done.stderr}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--ways", nargs="+", default=["eager", "compile", "simulate", "export", "verified"])
    parser.add_argument("--way", choices=WAYS, help="measure one way in this process and print JSON")
    parser.add_argument("--engine", default="auto", help="of the way simulate")
    parser.add_argument("--product", help="the one dense product that jit may use: dense_float256 as where there is no VNNI")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(measure(options.way, options.hidden, options.batch, options.engine, options.product)))
        return
    table = {}
    print(f"{'way':<10}{'peak MiB':>10}{'kept MiB':>10}{'x weights':>11}{'x eager':>9}{'seconds':>9}")
    for way in options.ways:
        row = table[way] = in_a_process(way, options)
        eager = row["peak"] / table["eager"]["peak"] if "eager" in table else float("nan")
        print(
            f"{way:<10}{row['peak']:>10.0f}{row['kept']:>10.0f}{row['peak'] / row['weights']:>11.2f}{eager:>9.2f}{row['seconds']:>9.1f}"
        )
    if options.json:
        options.json.write_text(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
