"""Ops that move elements and must copy: here they make channels-last memory, which their cards would not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hqc.backends.bpu.kernels import Array, KernelContext, Run, kernel, shape_of
from hqc.ir import Node


@kernel("cat")
def cat(node: Node, context: KernelContext) -> Run:
    axis, rank = node.attributes["axis"], len(shape_of(node.result))
    if rank != 4:
        return lambda operands: np.concatenate(operands, axis=axis)
    memory_axis = (0, 3, 1, 2)[axis % 4]  # where the axis lies in channels-last memory
    return lambda operands: np.concatenate([x.transpose(0, 2, 3, 1) for x in operands], axis=memory_axis).transpose(0, 3, 1, 2)


@kernel("pad")
def pad(node: Node, context: KernelContext) -> Run:
    pads, rank = node.attributes["pads"], len(shape_of(node.result))
    widths = [(pads[i], pads[rank + i]) for i in range(rank)]
    if node.attributes["mode"] == "constant" and min(pads) < 0:  # a negative pad crops
        return _crop_and_pad(node, widths)
    extra = {"constant_values": int(node.attributes["value"])} if node.attributes["mode"] == "constant" else {}
    mode: Any = node.attributes["mode"]
    if rank != 4:
        return lambda operands: np.pad(operands[0], widths, mode=mode, **extra)
    order = [widths[axis] for axis in (0, 2, 3, 1)]
    return lambda operands: np.pad(operands[0].transpose(0, 2, 3, 1), order, mode=mode, **extra).transpose(0, 3, 1, 2)


def _crop_and_pad(node: Node, widths: list[tuple[int, int]]) -> Run:
    crop = tuple(slice(max(0, -before), -max(0, -after) or None) for before, after in widths)
    grow = [(max(0, before), max(0, after)) for before, after in widths]
    value = int(node.attributes["value"])
    return lambda operands: np.pad(operands[0][crop], grow, constant_values=value)


@kernel("pixel_shuffle")
def pixel_shuffle(node: Node, context: KernelContext) -> Run:
    f = node.attributes["factor"]
    n, c, h, w = shape_of(node.result)

    def run(operands: Sequence[Any]) -> Array:
        blocks = operands[0].reshape(n, c, f, f, h // f, w // f).transpose(0, 4, 2, 5, 3, 1)
        result: Array = np.ascontiguousarray(blocks).reshape(n, h, w, c).transpose(0, 3, 1, 2)
        return result

    return run


@kernel("pixel_unshuffle")
def pixel_unshuffle(node: Node, context: KernelContext) -> Run:
    f = node.attributes["factor"]
    n, c, h, w = shape_of(node.result)

    def run(operands: Sequence[Any]) -> Array:
        blocks = operands[0].reshape(n, c // (f * f), h, f, w, f).transpose(0, 2, 4, 1, 3, 5)
        result: Array = np.ascontiguousarray(blocks).reshape(n, h, w, c).transpose(0, 3, 1, 2)
        return result

    return run
