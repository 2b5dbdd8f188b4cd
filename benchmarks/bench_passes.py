"""The passes on synthetic graphs of growing size, and on ResNet-50.

    python -m benchmarks.bench_passes [--sizes 1000,4000,10000,40000] [--rounds N] [--resnet50]

The synthetic graph is a chain of convolutions, activations and additions with a skip edge over 500 nodes at every tenth node and
an op that no chip runs at every hundredth. Prints milliseconds per pass and, for the largest size, the time per node over that of
the smallest: 1.0 is linear. `verify` is the verifier before the first and after every pass.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from hqc.ir import Graph, TensorType, Value
from hqc.ir.types import DType
from hqc.march import get_spec
from hqc.passes import PassContext
from hqc.passes.default import explain_pipeline

SHAPE = (1, 8, 16, 16)
SKIP = 500


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
    """Best time of each pass in seconds, of the verifier, and of the whole run."""
    best: dict[str, float] = {}
    for _ in range(rounds):
        graph = make()
        pipeline = explain_pipeline()
        start = time.perf_counter()
        report = pipeline.run(graph, PassContext(get_spec("bayes")))
        total = time.perf_counter() - start
        times: dict[str, float] = {}
        for timing in report.timings:  # partition runs twice
            times[timing.pass_name] = times.get(timing.pass_name, 0.0) + timing.seconds
        times["verify"] = total - report.seconds
        times["total"] = total
        best = {name: min(seconds, best.get(name, seconds)) for name, seconds in times.items()}
    return best


def resnet50(rounds: int) -> None:
    """Front end left out: from the lowered graph, weights included, to the placement."""
    import torch

    import hqc
    from benchmarks.models.resnet import resnet50 as build

    lowered = hqc.lower(build().eval(), torch.zeros(1, 3, 224, 224))
    times = measure(lowered.clone, rounds)
    print(f"\nResNet-50, {len(lowered)} nodes")
    for name, seconds in times.items():
        print(f"  {name:20s} {seconds * 1e3:9.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="1000,4000,10000,40000")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--resnet50", action="store_true", help="also measure ResNet-50 (needs torch)")
    options = parser.parse_args()
    sizes = [int(size) for size in options.sizes.split(",")]
    rows = {size: measure(lambda size=size: synthetic(size), options.rounds) for size in sizes}  # type: ignore[misc]
    print(f"{'ms':20s}" + "".join(f"{size:>10,}" for size in sizes) + "   per node, largest / smallest")
    for name in rows[sizes[0]]:
        cells = "".join(f"{rows[size][name] * 1e3:10.1f}" for size in sizes)
        ratio = (rows[sizes[-1]][name] / sizes[-1]) / (rows[sizes[0]][name] / sizes[0])
        print(f"{name:20s}{cells}   {ratio:.2f}")
    if options.resnet50:
        resnet50(options.rounds)


if __name__ == "__main__":
    main()
