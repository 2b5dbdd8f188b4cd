"""Average pools. docs/arithmetic.md section 7."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from hqc import resampling
from hqc.ir import DType, Node, Reason, Value
from hqc.passes.gain_pools import gain_stages
from hqc.passes.lower_to_integer import acceptance
from hqc.passes.lower_to_integer.context import Lowering
from hqc.passes.lower_to_integer.registry import lowers


def requant_counts(low: Lowering, x: Value, counts: npt.NDArray[np.int64]) -> tuple[Value, dict[str, Any]]:
    """Requantization of sums over `counts` elements: `[3]` when all counts are equal, else `[3, H, W]`."""
    if low.dtype(x) is DType.INT8 and int(counts.max()) >= acceptance.SUM_ROOM:
        raise low.refuse(f"a mean over {int(counts.max())} elements does not fit a 32-bit sum; let it run on the CPU")
    distinct: npt.NDArray[Any] = counts if (counts != counts.flat[0]).any() else counts.reshape(-1)[0]
    return low.requant(low.scale(x) / np.asarray(distinct, np.float64))


@lowers("avg_pool2d", accepts=acceptance.average)
def avg_pool2d(node: Node, low: Lowering) -> None:
    """A window sum with one divisor per output position."""
    (x,) = node.operands
    _require_divider(node, low)
    kernel, stride, padding = (tuple(node.attributes[key]) for key in ("kernel", "stride", "padding"))
    counts = resampling.window_counts(
        _size(low, x), _pair(kernel), _pair(stride), (padding[0], padding[1], padding[2], padding[3]), _size(low, node.result),
        count_include_pad=node.attributes["count_include_pad"],
    )  # fmt: skip
    requant, attributes = requant_counts(low, x, counts)
    low.become("int_avg_pool2d", [x, requant], {**node.attributes, **attributes})


@lowers("adaptive_avg_pool2d", accepts=acceptance.average)
def adaptive_avg_pool2d(node: Node, low: Lowering) -> None:
    """Sums of adaptive windows."""
    (x,) = node.operands
    _require_divider(node, low)
    output = _size(low, node.result)
    requant, attributes = requant_counts(low, x, resampling.adaptive_counts(_size(low, x), output))
    low.become("int_adaptive_avg_pool2d", [x, requant], {"output_size": output, **attributes})


def _require_divider(node: Node, low: Lowering) -> None:
    if low.march.averages_by_gain(node):
        found = gain_stages(node, low.march)
        why = str(found) if isinstance(found, Reason) else "run settle-rounding, which makes it a gain_pool2d"
        raise low.refuse(f"{low.march.name} cannot divide by the size of a window: {why}")


@lowers("gain_pool2d")
def gain_pool2d(node: Node, low: Lowering) -> None:
    """`(sum * g) >> 9` at the operand's scale."""
    x = low.on_grid(node.operands[0], low.result_quant)
    low.become("int_avg_pool2d", [x], {**node.attributes, "mode": "clip", "dtype": low.result_quant.dtype})


def _size(low: Lowering, value: Value) -> tuple[int, int]:
    shape = low.shape(value)
    return shape[2], shape[3]


def _pair(values: tuple[int, ...]) -> tuple[int, int]:
    return values[0], values[1]
