"""Average pools. docs/arithmetic.md section 7."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from hqc import arithmetic
from hqc.errors import QuantizationError
from hqc.ir import DType, Node, QuantParams, Value
from hqc.passes.lower_to_integer.context import Lowering
from hqc.passes.lower_to_integer.registry import lowers

SUM_ROOM = 2**31 // 128
"""Number of int8 elements whose sum fits an int32 for certain."""


def requant_counts(low: Lowering, x: Value, counts: npt.NDArray[np.int64]) -> tuple[Value, dict[str, Any]]:
    """Requantization of sums over `counts` elements: `[3]` when all counts are equal, else `[3, H, W]`."""
    if low.dtype(x) is DType.INT8 and int(counts.max()) >= SUM_ROOM:
        raise low.refuse(f"a mean over {int(counts.max())} elements does not fit a 32-bit sum; let it run on the CPU")
    distinct: npt.NDArray[Any] = counts if (counts != counts.flat[0]).any() else counts.reshape(-1)[0]
    return low.requant(low.scale(x) / np.asarray(distinct, np.float64))


@lowers("avg_pool2d")
def avg_pool2d(node: Node, low: Lowering) -> None:
    """A window sum with one divisor per output position; on bernoulli a gain at the operand's scale."""
    (x,) = node.operands
    kernel, stride, padding = (tuple(node.attributes[key]) for key in ("kernel", "stride", "padding"))
    size, output = _size(low, x), _size(low, node.result)
    counts = arithmetic.window_counts(
        size, _pair(kernel), _pair(stride), (padding[0], padding[1], padding[2], padding[3]), output,
        count_include_pad=node.attributes["count_include_pad"],
    )  # fmt: skip
    if low.march.keeps_scale(node):
        if (counts != kernel[0] * kernel[1]).any():
            raise QuantizationError(
                f"{node.label}: {low.march.name} divides every window of an average pool by {kernel[0] * kernel[1]}, but "
                f"with ceil_mode={node.attributes['ceil_mode']} and count_include_pad={node.attributes['count_include_pad']} "
                f"some windows hold {int(counts.min())} elements; let it run on the CPU"
            )
        _gain_pool(node, low, x, _pair(kernel), {key: node.attributes[key] for key in ("stride", "padding", "ceil_mode")})
        return
    requant, attributes = requant_counts(low, x, counts)
    low.become("int_avg_pool2d", [x, requant], {**node.attributes, **attributes})


@lowers("adaptive_avg_pool2d")
def adaptive_avg_pool2d(node: Node, low: Lowering) -> None:
    """Sums of adaptive windows; on bernoulli only where all windows have one size."""
    (x,) = node.operands
    size, output = _size(low, x), _size(low, node.result)
    if low.march.keeps_scale(node):
        if size[0] % output[0] or size[1] % output[1]:
            raise QuantizationError(
                f"{node.label}: {low.march.name} pools {size[0]}x{size[1]} to {output[0]}x{output[1]} only with windows of "
                "one size; let it run on the CPU"
            )
        kernel = (size[0] // output[0], size[1] // output[1])
        _gain_pool(node, low, x, kernel, {"stride": kernel})
        return
    requant, attributes = requant_counts(low, x, arithmetic.adaptive_counts(size, output))
    low.become("int_adaptive_avg_pool2d", [x, requant], {"output_size": output, **attributes})


def _gain_pool(node: Node, low: Lowering, x: Value, kernel: tuple[int, int], window: dict[str, Any]) -> None:
    """`(sum * g) >> 9` at the operand's scale, in several stages where one window's gain would lose too much."""
    x = low.on_grid(x, low.result_quant)
    stages = pool_stages(node, low, x, kernel, window)
    for index, stage in enumerate(stages[:-1]):
        x = _stage(low, x, stage, f"{node.name}_stage{index}")
    if len(stages) > 1:
        window = {"stride": stages[-1]}
    low.become("int_avg_pool2d", [x], {**window, **_gain(stages[-1], low.result_quant)})


def _gain(kernel: tuple[int, int], quant: QuantParams) -> dict[str, Any]:
    gain = arithmetic.bernoulli_pool_gain(kernel[0] * kernel[1])
    return {"kernel": kernel, "gain": gain, "mode": "clip", "dtype": quant.dtype}


def _stage(low: Lowering, x: Value, kernel: tuple[int, int], name: str) -> Value:
    quant = low.quant(x)
    plain = QuantParams(quant.scale, quant.dtype)
    return low.insert("int_avg_pool2d", [x], {"stride": kernel, **_gain(kernel, quant)}, name, plain)


def pool_stages(
    node: Node, low: Lowering, x: Value, kernel: tuple[int, int], window: dict[str, Any]
) -> tuple[tuple[int, int], ...]:
    """The windows that make up an average pool on bernoulli; an error says why there are none."""
    stages = arithmetic.bernoulli_pool_stages(*kernel)
    count = kernel[0] * kernel[1]
    gain = arithmetic.bernoulli_pool_gain(count)
    trouble = f"{node.label}: an average over {kernel[0]}x{kernel[1]} has the gain {gain}/512, too far from 1/{count}, and"
    if stages is None:
        raise QuantizationError(f"{trouble} the window does not split into smaller ones; let it run on the CPU")
    size = _size(low, x)
    apart = tuple(window["stride"]) == kernel or kernel == size
    if len(stages) > 1 and (not apart or any(window.get("padding", ()))):
        raise QuantizationError(
            f"{trouble} overlapping or padded windows do not split into smaller ones; let it run on the CPU"
        )
    return stages


def spatial_gain_mean(node: Node, low: Lowering, x: Value) -> Value:
    """Mean over all of H and W on bernoulli, as pools: `[N,C,1,1]` at the operand's scale."""
    size = _size(low, x)
    for index, stage in enumerate(pool_stages(node, low, x, size, {"stride": size})):
        x = _stage(low, x, stage, f"{node.name}_stage{index}")
    return x


def _size(low: Lowering, value: Value) -> tuple[int, int]:
    shape = low.shape(value)
    return shape[2], shape[3]


def _pair(values: tuple[int, ...]) -> tuple[int, int]:
    return values[0], values[1]
