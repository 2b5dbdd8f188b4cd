"""Kernels, strides, pads and dilations of ONNX windows, in one to three dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hqc.frontend.onnx.context import OnnxContext


@dataclass(frozen=True)
class Window:
    """A window of two or three axes; `padding`: all begins (top, left), then all ends. A 1-D one has a height of 1."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    def attributes(self, *names: str) -> dict[str, Any]:
        return {name: getattr(self, name) for name in names}


def axes_of(values: Sequence[int], rest: int) -> tuple[int, ...]:
    """At least two entries; `rest` for the height of a 1-D window."""
    return (rest, int(values[0])) if len(values) == 1 else tuple(map(int, values))


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
    begins, ends = axes_of(pads[:count], 0), axes_of(pads[count:], 0)
    return Window(axes_of(kernel, 1), axes_of(stride, 1), (*begins, *ends), axes_of(dilation, 1))
