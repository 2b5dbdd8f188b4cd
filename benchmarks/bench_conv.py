"""Convolution kernels of the simulator beside float32 and int8 peers, layer by layer.

    python -m benchmarks.bench_conv [--network resnet18|resnet50|mobilenet_v2] [--engine blas|onednn|jit|auto] [--threads N] [--rounds N]

Prints milliseconds per layer (batch 1, 224x224), our time over each peer's, and the ratios of the sums weighted by how often the
network has the layer. Ours includes bias, requantization and ReLU; the peers' float32 convolutions include the bias only.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np

from benchmarks._peers import eager_conv, geometric_mean, onnxruntime_conv, race
from hqc import arithmetic
from hqc.backends.bpu import compile
from hqc.ir import Device, DType, Graph, TensorType


@dataclass(frozen=True)
class Layer:
    """One distinct convolution and how often the network has it."""

    channels: int
    outputs: int
    kernel: int
    stride: int
    size: int
    groups: int = 1
    times: int = 1

    @property
    def padding(self) -> int:
        return self.kernel // 2

    @property
    def macs(self) -> int:
        side = (self.size + 2 * self.padding - self.kernel) // self.stride + 1
        return side * side * self.outputs * self.channels // self.groups * self.kernel**2

    def __str__(self) -> str:
        kind = "dw" if self.groups > 1 else "  "
        return f"{self.channels:4d} -> {self.outputs:4d} {self.kernel}x{self.kernel}/{self.stride} {kind} @{self.size:3d}"


RESNET18 = [
    Layer(3, 64, 7, 2, 224),
    Layer(64, 64, 3, 1, 56, times=4),
    Layer(64, 128, 3, 2, 56),
    Layer(64, 128, 1, 2, 56),
    Layer(128, 128, 3, 1, 28, times=3),
    Layer(128, 256, 3, 2, 28),
    Layer(128, 256, 1, 2, 28),
    Layer(256, 256, 3, 1, 14, times=3),
    Layer(256, 512, 3, 2, 14),
    Layer(256, 512, 1, 2, 14),
    Layer(512, 512, 3, 1, 7, times=3),
]


def _resnet50() -> list[Layer]:
    """Distinct convolutions of ResNet-50 (He et al., table 1), strides in the 3x3 layers as torchvision has them."""
    count: dict[Layer, int] = {Layer(3, 64, 7, 2, 224): 1}

    def add(layer: Layer) -> None:
        count[layer] = count.get(layer, 0) + 1

    channels, size = 64, 56
    for width, blocks, first_stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(blocks):
            stride = first_stride if block == 0 else 1
            add(Layer(channels, width, 1, 1, size))
            add(Layer(width, width, 3, stride, size))
            if block == 0:
                add(Layer(channels, 4 * width, 1, stride, size))
            size //= stride
            add(Layer(width, 4 * width, 1, 1, size))
            channels = 4 * width
    return [Layer(**{**layer.__dict__, "times": times}) for layer, times in count.items()]


def _mobilenet_v2() -> list[Layer]:
    """Distinct convolutions of MobileNetV2 (Sandler et al., table 2)."""
    count: dict[Layer, int] = {Layer(3, 32, 3, 2, 224): 1}

    def add(layer: Layer) -> None:
        count[layer] = count.get(layer, 0) + 1

    channels, size = 32, 112
    for expand, outputs, repeats, first_stride in (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
    ):  # fmt: skip
        for repeat in range(repeats):
            stride = first_stride if repeat == 0 else 1
            hidden = channels * expand
            if expand > 1:
                add(Layer(channels, hidden, 1, 1, size))
            add(Layer(hidden, hidden, 3, stride, size, groups=hidden))
            size //= stride
            add(Layer(hidden, outputs, 1, 1, size))
            channels = outputs
    add(Layer(channels, 1280, 1, 1, size))
    return [Layer(**{**layer.__dict__, "times": times}) for layer, times in count.items()]


NETWORKS = {"resnet18": lambda: RESNET18, "resnet50": _resnet50, "mobilenet_v2": _mobilenet_v2}


class ConvBenchmark:
    """One layer as a one-node integer program, with peers that compute a layer of the same shape."""

    def __init__(self, layer: Layer, engine: str, threads: int | None) -> None:
        rng = np.random.default_rng(0)
        self.layer = layer
        # Weights as training leaves them: normal, the largest of each channel at 127.
        weight = rng.normal(size=(layer.outputs, layer.channels // layer.groups, layer.kernel, layer.kernel))
        weight = np.rint(weight / np.abs(weight).max(axis=(1, 2, 3), keepdims=True) * 127).astype(np.int8)
        # Behind a ReLU, except the image.
        low = -128 if layer.channels == 3 else 0
        x = rng.integers(low, 128, (1, layer.channels, layer.size, layer.size)).astype(np.int8)
        bias = rng.integers(-5000, 5000, layer.outputs).astype(np.int32)
        self.arrays = (x, weight, bias, layer.stride, layer.padding, layer.groups)
        self.program = compile(self._graph(weight, bias, low), engine=engine, threads=threads)
        self.x = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)  # as a layer before leaves it

    def _graph(self, weight: np.ndarray, bias: np.ndarray, low: int) -> Graph:
        layer, graph = self.layer, Graph("conv", "bayes")
        x = graph.add_input("x", TensorType(DType.INT8, (1, layer.channels, layer.size, layer.size)))
        if low == 0:
            x = graph.add_node("relu", [x], name="positive").result
        spread = np.abs(weight.astype(np.float64)).sum(axis=(1, 2, 3))
        rows = arithmetic.requant_params(127 / (spread * 30)).array
        parameters = [graph.add_parameter(name, array) for name, array in (("w", weight), ("b", bias), ("r", rows))]
        attributes = {
            "stride": (layer.stride,) * 2, "padding": (layer.padding,) * 4, "groups": layer.groups, "clip_min": 0,
        }  # fmt: skip
        graph.add_node("int_conv2d", [x, *parameters], attributes, name="y")
        for node in graph.nodes:
            node.device = Device.BPU
        graph.set_outputs([next(reversed(list(graph.nodes))).result])
        graph.stage = "integer"
        return graph

    def run(self) -> None:
        """The convolution's step alone: inputs are already integers on the chip."""
        step = self.program.steps[-1]
        step.run([self.x, *[value.array for value in step.inputs[1:]]])

    def race(self, rounds: int) -> dict[str, float]:
        """Milliseconds of us and of every peer."""
        from hqc.backends.bpu.workers import exclusive_blas

        def with_blas() -> None:
            with exclusive_blas():
                self.run()

        contenders = {
            "ours": self.run if self.program.steps[-1].native is not None else with_blas,
            "eager f32": eager_conv(*self.arrays),
            "ort f32": onnxruntime_conv(*self.arrays),
            "ort s8s8": onnxruntime_conv(*self.arrays, integer=True),
        }
        return {name: timing.ms for name, timing in race(contenders, rounds=rounds).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=NETWORKS, default="resnet18")
    parser.add_argument("--engine", default="blas")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--rounds", type=int, default=4)
    options = parser.parse_args()
    layers = NETWORKS[options.network]()
    totals: dict[str, float] = {}
    ratios: dict[str, list[float]] = {}
    for index, layer in enumerate(layers):
        times = ConvBenchmark(layer, options.engine, options.threads).race(options.rounds)
        peers = [name for name in times if name != "ours"]
        if index == 0:
            print(
                f"{'layer':28s} {'x':>2s} {'ours ms':>8s} {'GMAC/s':>7s}"
                + "".join(f" {name:>10s} {'ratio':>6s}" for name in peers)
            )
        row = f"{layer!s:28s} {layer.times:2d} {times['ours']:8.2f} {layer.macs / times['ours'] / 1e6:7.1f}"
        for name in times:
            totals[name] = totals.get(name, 0.0) + layer.times * times[name]
        for name in peers:
            ratios.setdefault(name, []).append(times["ours"] / times[name])
            row += f" {times[name]:10.2f} {ratios[name][-1]:6.2f}"
        print(row, flush=True)
    print(f"\n{options.network}, all convolutions: ours {totals['ours']:.1f} ms ({options.engine})")
    for name, values in ratios.items():
        print(
            f"  / {name:10s} {totals[name]:7.1f} ms: sum ratio {totals['ours'] / totals[name]:.2f}, "
            f"geometric mean of layer ratios {geometric_mean(values):.2f}"
        )


if __name__ == "__main__":
    main()
