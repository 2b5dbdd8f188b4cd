"""Ops that move elements. Most are views; what must copy keeps or makes channels-last memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hqc.backends.bpu.kernels import Array, KernelContext, Run, kernel, shape_of
from hqc.ir import Node


@kernel("identity", "dropout")
def identity(node: Node, context: KernelContext) -> Run:
    return lambda operands: operands[0]


@kernel("reshape")
def reshape(node: Node, context: KernelContext) -> Run:
    shape = shape_of(node.result)
    return lambda operands: operands[0].reshape(shape)


@kernel("transpose")
def transpose(node: Node, context: KernelContext) -> Run:
    perm = node.attributes["perm"]
    return lambda operands: operands[0].transpose(perm)


@kernel("slice")
def slice_(node: Node, context: KernelContext) -> Run:
    axes, starts, ends = (node.attributes[name] for name in ("axes", "starts", "ends"))
    steps = node.attributes["steps"] or (1,) * len(axes)
    index = [slice(None)] * len(shape_of(node.result))
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        index[axis] = slice(start, end, step)
    where = tuple(index)
    return lambda operands: operands[0][where]


@kernel("split")
def split(node: Node, context: KernelContext) -> Run:
    axis = node.attributes["axis"]
    cuts = np.cumsum(node.attributes["sizes"])[:-1].tolist()
    return lambda operands: tuple(np.split(operands[0], cuts, axis=axis))


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


@kernel("expand")
def expand(node: Node, context: KernelContext) -> Run:
    shape = shape_of(node.result)
    return lambda operands: np.broadcast_to(operands[0], shape)


@kernel("tile")
def tile(node: Node, context: KernelContext) -> Run:
    repeats = node.attributes["repeats"]
    return lambda operands: np.tile(operands[0], repeats)


@kernel("gather")
def gather(node: Node, context: KernelContext) -> Run:
    axis = node.attributes["axis"]
    return lambda operands: np.take(operands[0], operands[1], axis=axis)
