"""Kernels, strides, pads and dilations of ONNX windows, in one or two dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hqc.frontend.onnx.context import OnnxContext


@dataclass(frozen=True)
class Window:
    """A 2-D window; `padding` is top, left, bottom, right. A 1-D one has a height of 1."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]

    def attributes(self, *names: str) -> dict[str, Any]:
        return {name: getattr(self, name) for name in names}


def one_axis(values: Sequence[int], rest: int) -> tuple[int, int]:
    """Two entries; `rest` for the height of a 1-D window."""
    return (rest, int(values[0])) if len(values) == 1 else (int(values[0]), int(values[1]))


def window(ctx: OnnxContext, kernel: Sequence[int], size: Sequence[int], *, transposed: bool = False) -> Window:
    """The window of the current node. `kernel` and `size` (of the operand) per image axis."""
    count = len(kernel)
    stride = ctx.ints("strides") or [1] * count
    dilation = ctx.ints("dilations") or [1] * count
    automatic = ctx.attribute("auto_pad", "NOTSET")
    pads = ctx.ints("pads") or [0] * (2 * count)
    if automatic in ("SAME_UPPER", "SAME_LOWER") and not transposed:
        begin, end = [], []
        for axis in range(count):
            out = -(-size[axis] // stride[axis])
            total = max(0, (out - 1) * stride[axis] + (kernel[axis] - 1) * dilation[axis] + 1 - size[axis])
            first = total // 2 if automatic == "SAME_UPPER" else total - total // 2
            begin.append(first)
            end.append(total - first)
        pads = [*begin, *end]
    elif automatic == "VALID":
        pads = [0] * (2 * count)
    begins, ends = one_axis(pads[:count], 0), one_axis(pads[count:], 0)
    return Window(one_axis(kernel, 1), one_axis(stride, 1), (*begins, *ends), one_axis(dilation, 1))
