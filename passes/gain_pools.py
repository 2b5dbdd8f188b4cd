"""Averages on BPUs that cannot divide: the windows, one after another, that `(sum * g) >> 9` averages (docs/arithmetic.md section 7)."""

from __future__ import annotations

from hqc import arithmetic
from hqc.ir import Node, Reason
from hqc.march.spec import MarchSpec

Pair = tuple[int, int]
Stages = tuple[Pair, ...]


def averaged_window(node: Node) -> Pair | None:
    """The window that an average over height and width takes in; None while it depends on an unknown shape."""
    if "kernel" in node.attributes:
        height, width = node.attributes["kernel"]
        return height, width
    shape = node.operands[0].shape
    if shape is None or len(shape) != 4:
        return None
    if "axes" in node.attributes:
        return shape[2], shape[3]
    height, width = node.attributes["output_size"]
    return shape[2] // height, shape[3] // width


def gain_stages(node: Node, march: MarchSpec) -> Stages | Reason | None:
    """The windows that make up the average `node`; a reason where there are none, None while shapes are unknown."""
    window, shape = averaged_window(node), node.operands[0].shape
    if window is None:
        return None
    size = None if shape is None else (shape[2], shape[3])
    if "output_size" in node.attributes:
        assert size is not None
        output = node.attributes["output_size"]
        if size[0] % output[0] or size[1] % output[1]:
            what = f"{size[0]}x{size[1]} to {output[0]}x{output[1]}"
            return Reason(f"{march.name} pools with windows of one size", what, id="pool-windows")
    elif "kernel" in node.attributes:
        found = _unequal_windows(node, march, size)
        if found is not None:
            return found
    stages = arithmetic.bernoulli_pool_stages(*window)
    count = window[0] * window[1]
    share = f"{window[0]}x{window[1]} gives {count * arithmetic.bernoulli_pool_gain(count) / 512:.3f}"
    rule = f"an average over n elements on {march.name} has n * int(512 / n) / 512 of at least {arithmetic.POOL_ACCEPTANCE}"
    if stages is None:
        return Reason(f"{rule}, or splits into such windows", share, f"{arithmetic.POOL_ACCEPTANCE}", id="pool-gain")
    if len(stages) > 1 and "kernel" in node.attributes:
        apart = tuple(node.attributes["stride"]) == window or size == window
        if not apart or any(node.attributes["padding"]):
            rule += "; windows that overlap or are padded do not split"
            return Reason(rule, share, f"{arithmetic.POOL_ACCEPTANCE}", id="pool-gain")
    return stages


def _unequal_windows(node: Node, march: MarchSpec, size: Pair | None) -> Reason | None:
    """A window that holds fewer elements than the kernel, where torch divides by what it holds."""
    attributes = node.attributes
    rule = f"{march.name} divides every window of an average pool by the kernel's size"
    if any(attributes["padding"]) and not attributes["count_include_pad"]:
        return Reason(rule, "count_include_pad=False", id="pool-windows")
    result = node.results[0].shape
    if not attributes["ceil_mode"] or size is None or result is None:
        return None
    top, left, bottom, right = attributes["padding"]
    for given, ends, out, kernel, stride in zip(
        size, ((top, bottom), (left, right)), result[2:], attributes["kernel"], attributes["stride"], strict=True
    ):
        if (out - 1) * stride + kernel > given + sum(ends):
            return Reason(rule, "ceil_mode=True leaves a window over the edge", id="pool-windows")
    return None
