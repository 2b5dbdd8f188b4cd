"""Whole networks in the simulator beside eager PyTorch and onnxruntime, batch 1, 224x224, all in one run.

    python -m benchmarks.bench_models [--models resnet18 mobilenet_v2] [--march bayes] [--engine auto] [--rounds 4] [--layers]

Prints the best milliseconds of each and ours as a ratio to theirs: `eager f32` is the float model in eager PyTorch, `ort f32` the
same model in onnxruntime (its batch norms folded there), `ort s8s8` the quantized model in standard operators (flavour `qdq`),
which onnxruntime runs with its int8 kernels. `--layers` adds our time per layer, slowest first.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch

import hqc
from benchmarks._peers import inference_session, race
from benchmarks.models import build
from hqc.backends import bpu
from hqc.backends.onnx import emit, emit_segment


class ModelBenchmark:
    """One network, compiled once, with its peers."""

    def __init__(self, name: str, march: str, engine: str) -> None:
        self.name = name
        self.model, self.x = build(name)
        start = time.perf_counter()
        compiled = hqc.compile(self.model, (self.x,), march=march, calibration_data=[self.x])
        self.compile_seconds = time.perf_counter() - start
        start = time.perf_counter()
        self.program = bpu.compile(compiled.integer_graph, opaque=compiled.deployment.opaque, engine=engine)
        self.program_seconds = time.perf_counter() - start
        self.feeds = {self.program.input_names[0]: self.x.numpy()}
        lowered = hqc.lower(self.model, (self.x,))
        self.float_session = inference_session(
            emit_segment(list(lowered.nodes), lowered.inputs, list(lowered.outputs)).SerializeToString()
        )
        self.integer_session = inference_session(emit(compiled.graph, flavour="qdq").SerializeToString())

    def race(self, rounds: int) -> dict[str, float]:
        """Best milliseconds of each contender."""

        def session(session: Any) -> Any:
            feeds = {session.get_inputs()[0].name: self.x.numpy()}
            return lambda: session.run(None, feeds)

        def eager() -> Any:
            with torch.inference_mode():
                return self.model(self.x)

        contenders = {
            "ours": lambda: self.program.run(self.feeds),
            "eager f32": eager,
            "ort f32": session(self.float_session),
            "ort s8s8": session(self.integer_session),
        }
        return {name: timing.ms for name, timing in race(contenders, rounds=rounds, seconds=0.3).items()}

    def layers(self, runs: int = 5) -> list[tuple[float, str]]:
        """Our best time per step, slowest first."""
        profiles = [self.program.profile(self.feeds) for _ in range(runs)]
        best = [min((profile[i] for profile in profiles), key=lambda row: row.ms) for i in range(len(profiles[0]))]
        rows = [
            (row.ms, f"{row.node:32s} {row.op:24s} {row.device:4s} {row.ms:7.2f} ms {row.gmacs_per_second:6.1f} GMAC/s")
            for row in best
        ]
        return sorted(rows, reverse=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["resnet18", "mobilenet_v2"])
    parser.add_argument("--march", default="bayes")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--layers", action="store_true")
    options = parser.parse_args()
    print(f"NumPy {np.__version__}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    for name in options.models:
        benchmark = ModelBenchmark(name, options.march, options.engine)
        times = benchmark.race(options.rounds)
        print(
            f"{name} on {options.march}: ours {times['ours']:.1f} ms (engine {benchmark.program.engine}; "
            f"compile {benchmark.compile_seconds:.1f} s, of it the program {benchmark.program_seconds:.1f} s)"
        )
        for peer, ms in times.items():
            if peer != "ours":
                print(f"  {peer:10s} {ms:7.1f} ms, ratio {times['ours'] / ms:.2f}")
        if options.layers:
            for _, row in benchmark.layers():
                print("   ", row)


if __name__ == "__main__":
    main()
