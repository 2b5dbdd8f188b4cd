"""Average pools as `bernoulli` computes them: `(sum * g) >> 9` at the operand's scale, large windows in several stages.

The BPU cannot divide. `g = int(2^9 / n)` makes the mean of n elements come out `n g / 512` times as large, rounded down to the
operand's grid after every stage (docs/arithmetic.md section 7). Files and training must agree with that.
"""

from __future__ import annotations

from collections.abc import Callable

from hqc import arithmetic
from hqc.backends.onnx.builder import Builder, static_shape
from hqc.backends.onnx.emitters.pooling import avg_pool2d
from hqc.errors import ExportError
from hqc.ir import Device, Node, TensorType
from hqc.march import MarchSpec

OnGrid = Callable[[str, TensorType], str]
"""Rounds a real intermediate (name, type) down to the operand's grid and returns the name to read."""


def pools_by_gain(node: Node, march: MarchSpec) -> bool:
    """True for what the march's BPU averages with a gain: its average pools, and spatial means that no shift divides."""
    if node.device is not Device.BPU:
        return False
    mean = march.power_of_two and node.op.name == "mean"
    return march.pools_by_gain(node) or (mean and _is_spatial(node) and not _divides_by_shifting(node))


def _is_spatial(node: Node) -> bool:
    rank = len(static_shape(node.operands[0]))
    return rank == 4 and sorted(axis % rank for axis in node.attributes["axes"]) == [2, 3]


def _divides_by_shifting(node: Node) -> bool:
    count = _window(node)[0] * _window(node)[1]
    return count & (count - 1) == 0


def _window(node: Node) -> tuple[int, int]:
    given, result = static_shape(node.operands[0]), static_shape(node.results[0])
    if "kernel" in node.attributes:
        height, width = node.attributes["kernel"]
        return int(height), int(width)
    if node.op.name == "mean":
        return given[2], given[3]
    return given[2] // result[2], given[3] // result[3]


def emit_gain_pool(node: Node, b: Builder, on_grid: OnGrid) -> str:
    """The node's real result; stages before the last are on the operand's grid, a mean's last one too."""
    window = _window(node)
    stages = arithmetic.bernoulli_pool_stages(*window)
    if stages is None:
        raise ExportError(
            f"{node.label}: an average over {window[0]}x{window[1]} splits into no windows that the BPU can average "
            "(docs/arithmetic.md section 7); let it run on the CPU"
        )
    x, shape = b.operand(node, 0), static_shape(node.operands[0])
    for number, (height, width) in enumerate(stages):
        count = height * width
        if len(stages) == 1 and node.op.name == "avg_pool2d":
            pooled = avg_pool2d(node, b)
        else:
            pooled = b("AveragePool", x, kernel_shape=[height, width], strides=[height, width])
        shape = (*shape[:2], shape[2] // height, shape[3] // width)
        x = b("Mul", pooled, b.scalar(count * arithmetic.bernoulli_pool_gain(count) / 512.0))
        if number < len(stages) - 1 or node.op.name == "mean":
            x = on_grid(x, TensorType(node.result.type.dtype, shape))
    if node.op.name == "mean" and not node.attributes["keepdims"]:
        x = b("Reshape", x, b.ints(static_shape(node.result), "shape"))
    return x
