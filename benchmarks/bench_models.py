"""Whole networks in the simulator beside PyTorch, onnxruntime and OpenVINO, all in one run.

    python -m benchmarks.bench_models [--models resnet18 mobilenet_v2] [--batches 1 8] [--threads 2] [--engine auto] [--rounds 5]
                                      [--layers] [--json new.json] [--svg folder]

Peers: `eager f32` is the float model in eager PyTorch, `ort f32` the same in onnxruntime (its batch norms folded there), `ort s8s8` and
`ort u8s8` the quantized model in standard operators with int8 or uint8 activations, `openvino f32` and `openvino int8` the float model
and the `u8s8` file in OpenVINO where it is installed. A ratio is the median over rounds of our time by theirs. `--layers` lists our time
per layer with its share of the machine's int8 peak, measured on the spot. Two JSON files are compared by `benchmarks.compare`.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

import hqc
from benchmarks._peers import Call, Timing, inference_session, openvino_call, race, unsigned_activations
from benchmarks.models import build
from benchmarks.plot import layer_chart
from benchmarks.roofline import peaks
from hqc.analysis.doctor import doctor_text
from hqc.backends import bpu
from hqc.backends.bpu.profile import ProfileRow
from hqc.backends.onnx import emit, emit_segment

IMAGES = {"yolov8n_relu_dfl": (416, 416)}  # others have the size of their registry entry
DEFAULT = ["resnet18", "resnet50", "mobilenet_v2", "yolov8n_relu_dfl", "densenet_small", "unet_small", "readme_net"]


class ModelBenchmark:
    """One network at one batch size, compiled once, with its peers."""

    def __init__(self, name: str, march: str, engine: str, *, batch: int = 1, threads: int = 2) -> None:
        self.name, self.batch, self.threads = name, batch, threads
        self.model, self.x = build(name, batch=batch, image=IMAGES.get(name))
        start = time.perf_counter()
        self.compiled = hqc.compile(self.model, (self.x,), march=march, calibration_data=[self.x])
        self.compile_seconds = time.perf_counter() - start
        start = time.perf_counter()
        self.program = self.with_engine(engine)
        self.program_seconds = time.perf_counter() - start
        self.feeds = {self.program.input_names[0]: self.x.numpy()}

    def with_engine(self, engine: str) -> bpu.Program:
        opaque = self.compiled.deployment.opaque
        return bpu.compile(self.compiled.integer_graph, opaque=opaque, engine=engine, threads=self.threads)

    def contenders(self) -> dict[str, Call]:
        """Us first, then every peer that is installed and takes the model."""
        x = self.x.numpy()
        lowered = hqc.lower(self.model, (self.x,))
        float_model = emit_segment(list(lowered.nodes), lowered.inputs, list(lowered.outputs))
        signed = emit(self.compiled.graph, flavour="qdq")
        unsigned = unsigned_activations(signed)

        def session(model: Any) -> Call:
            made = inference_session(model.SerializeToString(), self.threads)
            feeds = {made.get_inputs()[0].name: x}
            return lambda: made.run(None, feeds)

        def eager() -> Any:
            with torch.inference_mode():
                return self.model(self.x)

        found: dict[str, Call | None] = {
            "ours": lambda: self.program.run(self.feeds),
            "eager f32": eager,
            "ort f32": session(float_model),
            "ort s8s8": session(signed),
            "ort u8s8": session(unsigned),
            "openvino f32": openvino_call(float_model, x, self.threads),
            "openvino int8": openvino_call(unsigned, x, self.threads),
        }
        return {name: call for name, call in found.items() if call is not None}

    def race(self, rounds: int, seconds: float = 0.3) -> dict[str, Timing]:
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            return race(self.contenders(), rounds=rounds, seconds=seconds)
        finally:
            torch.set_num_threads(before)

    def layers(self, program: bpu.Program, runs: int = 7) -> list[ProfileRow]:
        """Each step's best time, in order."""
        profiles = [program.profile(self.feeds) for _ in range(runs)]
        return [min((profile[i] for profile in profiles), key=lambda row: row.ms) for i in range(len(profiles[0]))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=DEFAULT)
    parser.add_argument("--batches", nargs="+", type=int, default=[1])
    parser.add_argument("--threads", nargs="+", type=int, default=[2])
    parser.add_argument("--march", default="bayes")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each contender in each round")
    parser.add_argument("--layers", action="store_true")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--svg", type=Path, help="write a chart of time per layer for each engine into this folder")
    options = parser.parse_args()
    machine = doctor_text()
    print(machine)
    records = []
    for name in options.models:
        for batch in options.batches:
            for threads in options.threads:
                benchmark = ModelBenchmark(name, options.march, options.engine, batch=batch, threads=threads)
                records.append(_report(benchmark, options))
    if options.json:
        options.json.write_text(json.dumps({"machine": machine.splitlines(), "records": records}, indent=1) + "\n")


def _report(benchmark: ModelBenchmark, options: argparse.Namespace) -> dict[str, Any]:
    times = benchmark.race(options.rounds, options.seconds)
    ours = times.pop("ours")
    title = f"{benchmark.name} on {options.march}, batch {benchmark.batch}, {benchmark.threads} threads"
    print(
        f"{title}: ours {ours.ms:.2f} ms (engine {benchmark.program.engine}; compile {benchmark.compile_seconds:.1f} s, "
        f"of it the program {benchmark.program_seconds:.1f} s)"
    )
    ratios = {peer: ours.ratio(timing) for peer, timing in times.items()}
    for peer, timing in times.items():
        print(f"  {peer:13s} {timing.ms:7.2f} ms, ratio {ratios[peer]:.2f}")
    rows = benchmark.layers(benchmark.program) if options.layers or options.svg else []
    if options.layers:
        peak = peaks(benchmark.threads)
        print(f"  peak of {benchmark.threads} threads: int8 {peak.int8:.0f}, float32 {peak.float32:.0f} GMAC/s")
        for row in sorted(rows, key=lambda row: -row.ms):
            share = f"{row.gmacs_per_second:7.1f} GMAC/s {100 * row.gmacs_per_second / peak.int8:4.0f} %" if row.macs else ""
            print(f"    {row.node:32s} {row.op:24s} {row.device:4s} {row.ms:7.3f} ms {share}")
    if options.svg:
        charts = {benchmark.program.engine: rows}
        for engine in ("jit", "onednn", "blas"):
            if engine not in charts:
                try:
                    charts[engine] = benchmark.layers(benchmark.with_engine(engine))
                except hqc.HqcError as error:
                    print(f"  no chart of engine {engine}: {error}")
        options.svg.mkdir(parents=True, exist_ok=True)
        path = options.svg / f"{benchmark.name}-b{benchmark.batch}-t{benchmark.threads}.svg"
        path.write_text(layer_chart(title, charts))
        print(f"  wrote {path}")
    return {
        "model": benchmark.name, "march": options.march, "batch": benchmark.batch, "threads": benchmark.threads,
        "engine": benchmark.program.engine, "ms": ours.ms, "peers": {name: timing.ms for name, timing in times.items()},
        "ratios": ratios, "layers": [{"node": row.node, "op": row.op, "ms": row.ms, "macs": row.macs} for row in rows],
    }  # fmt: skip


if __name__ == "__main__":
    main()
