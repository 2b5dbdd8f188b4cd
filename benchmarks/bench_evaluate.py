"""Evaluation over two processes against one with one thread: `python -m benchmarks.bench_evaluate [--images 2000] [--workers 2]`.

Wall time tells on an idle machine alone. What holds on a loaded one is processor time: the work of one process, and what starting the
others adds to it, divided by the processes (the first works while the others start); so both are printed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from contextlib import nullcontext

import numpy as np
import torch

import hqc
from benchmarks.models.mobilenet import mobilenet_v2
from benchmarks.models.resnet import resnet50
from hqc.analysis.evaluate import evaluate
from hqc.backends.bpu.workers import at_most

MODELS = {"mobilenet_v2": mobilenet_v2, "resnet50": resnet50}


def seconds() -> float:
    """Processor time of this process and of the children that ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def main() -> int:
    """Evaluate twice and print the ratios; the exit status is 1 when a number differs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_evaluate", description=__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--model", choices=sorted(MODELS), default="mobilenet_v2")
    given = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    images = torch.rand(min(given.images, 256), 3, 224, 224)
    model = hqc.compile(MODELS[given.model]().eval(), images[:1], march="bayes", calibration_data=[images[:2]])
    batches = [(images[index % 256 : index % 256 + 1], np.array([index % 1000])) for index in range(given.images)]
    evaluate(model, batches[:2], "top1", variants=["integer"])  # kernels and program are there
    load = os.getloadavg()[0]
    found = {}
    for workers in (1, given.workers):
        wall, cpu = time.perf_counter(), seconds()
        with at_most(1) if workers == 1 else nullcontext():
            values = evaluate(model, batches, "top1", variants=["integer"], workers=workers).values
        took = time.perf_counter() - wall
        if workers > 1:
            from joblib.externals.loky import get_reusable_executor

            get_reusable_executor().shutdown(wait=True)  # their time counts once they ended
        found[workers] = values, took, seconds() - cpu
        print(f"{workers} process(es): {found[workers][1]:.1f} s wall, {found[workers][2]:.1f} s of processors", flush=True)
    (one, wall1, cpu1), (many, wall2, cpu2) = found[1], found[given.workers]
    ideal = cpu2 / given.workers / cpu1
    print(
        f"wall {wall2 / wall1:.2f} of one process with one thread; processor time says {ideal:.2f} on cores of their own; "
        f"equal: {one == many}; load {load:.1f} to {os.getloadavg()[0]:.1f}"
    )
    return int(one != many)


if __name__ == "__main__":
    sys.exit(main())
