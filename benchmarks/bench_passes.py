"""The passes on synthetic graphs of growing size, and on ResNet-50.

    python -m benchmarks.bench_passes [--sizes 1000,4000,10000,40000] [--rounds N] [--resnet50]

The synthetic graph is a chain of convolutions, activations and additions with a skip edge over 500 nodes at every tenth node and
an op that no chip runs at every hundredth. Prints milliseconds of every pass of the placement pipeline and, in CPU time, of
`analyze-support, partition, insert-boundaries` alone on the graph as it is (no fusion before them), of the verifier once, of
printing and parsing, and of lower-to-integer. Behind each row: time per node of the largest size over that of the smallest (1.0
is linear), and the bar for 40,000 nodes where there is one. `verify` in the pipeline is all of its verifications together.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from hqc.ir import Graph, QuantParams, TensorType, Value, parse
from hqc.ir.types import DType
from hqc.ir.verifier import verify
from hqc.march import get_spec
from hqc.passes import PassContext, parse_pipeline
from hqc.passes.pipeline import PassPipeline
from hqc.workflow.pipelines import explain_pipeline

SHAPE = (1, 8, 16, 16)
SKIP = 500
MARCH = "bayes"
CORE = "analyze-support,partition,insert-boundaries"
BARS = {
    "core passes": 3000,
    "core, verified": 10000,
    "placement pipeline": 10000,
    "verifier": 1000,
    "print": 2000,
    "parse": 2000,
}
"""Milliseconds for 40,000 nodes on a 2-core machine."""
RESNET_BARS = {"total": 3000, "total without weights": 500}


def synthetic(size: int, *, unsupported_every: int = 100, skip_every: int = 10) -> Graph:
    """A chain of `size` nodes: convolution, relu, addition of the value `SKIP` nodes before, sigmoid, ..."""
    graph = Graph("synthetic")
    x = graph.add_input("x", TensorType(DType.FLOAT32, SHAPE))
    value = graph.add_node("quantize", [x], {"stub": True}, name="stub", origin=("stub",)).result
    weights = graph.add_parameter("weights", np.ones((8, 8, 1, 1), np.float32))
    earlier: list[Value] = []
    for index in range(size):
        name = f"n{index}"
        if index % unsupported_every == unsupported_every - 1:
            node = graph.add_node("selu", [value], name=name, origin=(name,))
        elif index % skip_every == 0 and index >= SKIP:
            node = graph.add_node("add", [value, earlier[index - SKIP]], name=name, origin=(name,))
        elif index % 2:
            node = graph.add_node("relu", [value], name=name, origin=(name,))
        else:
            node = graph.add_node("conv2d", [value, weights], name=name, origin=(name,))
        value = node.result
        earlier.append(value)
    graph.set_outputs([value])
    return graph


def measure(make: Callable[[], Graph], rounds: int) -> dict[str, float]:
    """Best times of the placement pipeline over some runs, in seconds."""
    return best_of(rounds, lambda: _placement(make()))


def best_of(rounds: int, once: Callable[[], dict[str, float]]) -> dict[str, float]:
    best: dict[str, float] = {}
    for _ in range(rounds):
        best = {name: min(seconds, best.get(name, seconds)) for name, seconds in once().items()}
    return best


def _placement(graph: Graph) -> dict[str, float]:
    """Seconds of the placement pipeline: passes and `verify` by the pipeline's own (wall) clock, the total in CPU time."""
    start, wall = time.process_time(), time.perf_counter()
    report = explain_pipeline().run(graph, PassContext(get_spec(MARCH)))
    total, wall = time.process_time() - start, time.perf_counter() - wall
    times: dict[str, float] = {}
    for timing in report.timings:  # partition runs twice
        times[timing.pass_name] = times.get(timing.pass_name, 0.0) + timing.seconds
    return {**times, "verify": wall - report.seconds, "total": total}


def _seconds(function: Callable[[], object]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def _run(pipeline: PassPipeline, graph: Graph) -> float:
    return _seconds(lambda: pipeline.run(graph, PassContext(get_spec(MARCH))))


def synthetic_times(size: int) -> dict[str, float]:
    """Seconds of everything that is measured on the synthetic graph of `size` nodes."""
    times = _placement(synthetic(size))
    times["placement pipeline"] = times.pop("total")
    times["core passes"] = _run(parse_pipeline(CORE, verify=False), synthetic(size))
    times["core, verified"] = _run(parse_pipeline(CORE), synthetic(size))
    graph = synthetic(size)
    text = str(graph)
    times["verifier"] = _seconds(lambda: verify(graph))
    times["print"] = _seconds(lambda: str(graph))
    times["parse"] = _seconds(lambda: parse(text))
    times["lower-to-integer"] = _run(parse_pipeline("lower-to-integer", verify=False), scaled(graph))
    return times


def scaled(graph: Graph) -> Graph:
    """`graph` placed, with a scale on every value and the weight's scales per channel."""
    context = PassContext(get_spec(MARCH))
    explain_pipeline(verify=False).run(graph, context)
    for value in graph.values.values():
        value.quant = QuantParams([0.01] * 8, DType.INT8, 0) if value.is_parameter else QuantParams(0.05)
    parse_pipeline("propagate-scales,unify-cat-scales", verify=False).run(graph, context)
    return graph


def resnet50(rounds: int) -> None:
    """Front end left out: from the lowered graph, weights included, to the placement."""
    import torch

    import hqc
    from benchmarks.models.resnet import resnet50 as build

    lowered = hqc.lower(build().eval(), torch.zeros(1, 3, 224, 224))
    times = measure(lowered.clone, rounds)
    wall = sum(seconds for name, seconds in times.items() if name != "total")
    times["total without weights"] = wall - times["fold-batch-norm"]
    print(f"\nResNet-50, {len(lowered)} nodes, ms")
    for name, seconds in times.items():
        print(f"{name:24s}{seconds * 1e3:10.1f}{_bar(RESNET_BARS.get(name), seconds)}")


def _bar(limit: int | None, seconds: float) -> str:
    return "" if limit is None else f"   bar {limit:,} ms: {'met' if seconds * 1e3 <= limit else 'MISSED'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="1000,4000,10000,40000")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--resnet50", action="store_true", help="also measure ResNet-50 (needs torch)")
    options = parser.parse_args()
    sizes = [int(size) for size in options.sizes.split(",")]
    rows = {size: best_of(options.rounds, lambda size=size: synthetic_times(size)) for size in sizes}  # type: ignore[misc]
    print(f"{'ms':20s}" + "".join(f"{size:>10,}" for size in sizes) + "   per node, largest / smallest")
    for name in rows[sizes[0]]:
        cells = "".join(f"{rows[size][name] * 1e3:10.1f}" for size in sizes)
        ratio = (rows[sizes[-1]][name] / sizes[-1]) / max(rows[sizes[0]][name] / sizes[0], 1e-12)
        bar = _bar(BARS.get(name), rows[40000][name]) if 40000 in rows else ""
        print(f"{name:20s}{cells}   {ratio:4.2f}{bar}")
    if options.resnet50:
        resnet50(options.rounds)


if __name__ == "__main__":
    main()
