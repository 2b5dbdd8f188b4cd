"""Definitions of pooling."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from hqc.backends.bpu.reference import Array, finish, reference
from hqc.ir import Node


def _windows(node: Node, x: Array) -> Iterator[tuple[int, int, Array]]:
    """Output row and column with the input elements under the window, padding left out."""
    attributes = node.attributes
    (kh, kw), (th, tw), (top, left) = attributes["kernel"], attributes["stride"], attributes["padding"][:2]
    dh, dw = attributes.get("dilation", (1, 1))
    _, _, ho, wo = node.result.shape or ()
    for row in range(ho):
        for column in range(wo):
            rows = [i for i in range(row * th - top, row * th - top + dh * kh, dh) if 0 <= i < x.shape[2]]
            columns = [j for j in range(column * tw - left, column * tw - left + dw * kw, dw) if 0 <= j < x.shape[3]]
            yield row, column, x[:, :, rows][:, :, :, columns]


def _adaptive(node: Node, x: Array) -> Iterator[tuple[int, int, Array]]:
    ho, wo = node.attributes["output_size"]
    _, _, h, w = x.shape
    for row in range(ho):
        for column in range(wo):
            rows = slice(row * h // ho, -(-(row + 1) * h // ho))
            columns = slice(column * w // wo, -(-(column + 1) * w // wo))
            yield row, column, x[:, :, rows, columns]


def _collect(node: Node, windows: Iterator[tuple[int, int, Array]], function: Callable[..., Any], empty: int) -> Array:
    out = np.full(node.result.shape or (), empty, np.int64)
    for row, column, window in windows:
        if window.size:
            out[:, :, row, column] = function(window, axis=(2, 3))
    return out


@reference("max_pool2d")
def max_pool2d(node: Node, operands: Sequence[Any]) -> Array:
    x = operands[0]
    lowest = int(np.iinfo(x.dtype).min)
    return _collect(node, _windows(node, x.astype(np.int64)), np.max, lowest).astype(x.dtype)


@reference("adaptive_max_pool2d")
def adaptive_max_pool2d(node: Node, operands: Sequence[Any]) -> Array:
    x = operands[0]
    return _collect(node, _adaptive(node, x.astype(np.int64)), np.max, 0).astype(x.dtype)


@reference("int_avg_pool2d")
def int_avg_pool2d(node: Node, operands: Sequence[Any]) -> Array:
    sums = _collect(node, _windows(node, operands[0].astype(np.int64)), np.sum, 0)
    if node.attributes["gain"]:
        dtype = node.attributes["dtype"]
        y = (sums * node.attributes["gain"]) >> 9
        low, high = max(dtype.qmin, node.attributes["clip_min"]), min(dtype.qmax, node.attributes["clip_max"])
        return np.asarray(np.clip(y, low, high), dtype.numpy)
    return finish(node, sums, operands[1])


@reference("int_adaptive_avg_pool2d")
def int_adaptive_avg_pool2d(node: Node, operands: Sequence[Any]) -> Array:
    return finish(node, _collect(node, _adaptive(node, operands[0].astype(np.int64)), np.sum, 0), operands[1])
