"""The machine's peaks, measured on the spot: products that stay in the first-level cache, on every thread at once.

python -m benchmarks.roofline [--threads 2]
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import numpy as np

from hqc.backends.bpu.engines import jit
from hqc.backends.bpu.engines.blas import BlasEngine
from hqc.backends.bpu.workers import Workers, exclusive_blas, shared_workers
from hqc.ir import DType


@dataclass(frozen=True)
class Peaks:
    """GMAC/s of all threads together."""

    int8: float
    float32: float


def peaks(threads: int) -> Peaks:
    """int8: a 1x1 layer of the `jit` engine (of float32 BLAS where it does not work); float32: BLAS."""
    single = _float_rate(shared_workers(threads))
    return Peaks(_integer_rate(threads) or single, single)


def _best(call: object, runs: int = 20) -> float:
    assert callable(call)
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def _float_rate(workers: Workers) -> float:
    parts = [
        tuple(np.ones(shape, np.float32) for shape in ((192, 256), (256, 256), (192, 256))) for _ in range(workers.threads)
    ]

    def multiply(part: tuple[np.ndarray, ...]) -> None:
        for _ in range(8):
            np.matmul(part[0], part[1], out=part[2])

    with exclusive_blas():
        seconds = _best(lambda: workers.map(multiply, parts))
    return 8 * workers.threads * 192 * 256 * 256 / seconds / 1e9


def _integer_rate(threads: int) -> float:
    """A layer of 256 inputs and outputs, a tile of pixels for each thread; 0 where the engine does not work."""
    engine = jit.probe(BlasEngine(shared_workers(threads)))
    if engine is None:
        return 0.0
    from hqc.backends.bpu import compile
    from hqc.ir import Graph, TensorType

    graph = Graph("peak", "bayes")
    x = graph.add_input("x", TensorType(DType.INT8, (1, 256, 64, 96 * threads)))
    weight = graph.add_parameter("w", np.ones((256, 256, 1, 1), np.int8))
    rows = graph.add_parameter("r", np.array([16384, 4, 24]))
    graph.set_outputs([graph.add_node("int_conv2d", [x, weight, None, rows], name="y").result])
    graph.stage = "integer"
    program = compile(graph, engine="jit", threads=threads)
    pixels = np.zeros((1, 64, 96 * threads, 256), np.int8).transpose(0, 3, 1, 2)
    step = program.steps[0]
    seconds = _best(lambda: step.run([pixels, None, None, None]))
    return 64 * 96 * threads * 256 * 256 / seconds / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    for threads in parser.parse_args().threads:
        found = peaks(threads)
        print(f"{threads} threads: int8 {found.int8:.0f} GMAC/s, float32 {found.float32:.0f} GMAC/s")


if __name__ == "__main__":
    main()
