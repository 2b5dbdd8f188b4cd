"""Definitions of pooling, reductions and resize."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from hqc import arithmetic
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


def _axes(node: Node, x: Array) -> tuple[int, ...]:
    return tuple(axis % x.ndim for axis in node.attributes["axes"]) or tuple(range(x.ndim))


@reference("int_sum")
def int_sum(node: Node, operands: Sequence[Any]) -> Array:
    x = operands[0].astype(np.int64)
    return finish(node, x.sum(axis=_axes(node, x), keepdims=node.attributes["keepdims"]), operands[1])


@reference("reduce_max", "reduce_min")
def reduce_extreme(node: Node, operands: Sequence[Any]) -> Array:
    x = operands[0]
    axes = _axes(node, x)
    kept = [axis for axis in range(x.ndim) if axis not in axes]
    rows = x.transpose(*kept, *axes).reshape(*[x.shape[axis] for axis in kept], -1)
    ordered = np.sort(rows, axis=-1)
    result = ordered[..., -1] if node.op.name == "reduce_max" else ordered[..., 0]
    return result.reshape(node.result.shape)


@reference("argmax", "argmin")
def arg_extreme(node: Node, operands: Sequence[Any]) -> Array:
    moved = np.moveaxis(operands[0].astype(np.int64), node.attributes["axis"], -1)
    out = np.zeros(moved.shape[:-1], np.int64)
    for index in np.ndindex(*out.shape):
        row = moved[index].tolist()
        out[index] = row.index(max(row) if node.op.name == "argmax" else min(row))
    return out.reshape(node.result.shape or ())


@reference("int_resize2d")
def int_resize2d(node: Node, operands: Sequence[Any]) -> Array:
    x = operands[0].astype(np.int64)
    _, _, h, w = x.shape
    bits, mode = node.attributes["fraction_bits"], node.attributes["mode"]
    ho, wo = node.attributes["size"]

    def coordinates(size_in: int, size_out: int) -> list[int]:
        found = arithmetic.resize_coordinates(
            size_in, size_out, fraction_bits=bits, mode=mode, align_corners=node.attributes["align_corners"]
        )
        return [min(max(int(c), 0), (size_in - 1) << bits) for c in found]

    out = np.zeros((*x.shape[:2], ho, wo), np.int64)
    for i, y in enumerate(coordinates(h, ho)):
        for j, z in enumerate(coordinates(w, wo)):
            top, left = y >> bits, z >> bits
            if mode == "nearest":
                out[:, :, i, j] = x[:, :, top, left]
                continue
            bottom, right = min(top + 1, h - 1), min(left + 1, w - 1)
            down, across = (y - (top << bits)) >> (bits - 8), (z - (left << bits)) >> (bits - 8)
            total = x[:, :, top, left] * (256 - down) * (256 - across) + x[:, :, top, right] * (256 - down) * across
            total = total + x[:, :, bottom, left] * down * (256 - across) + x[:, :, bottom, right] * down * across
            out[:, :, i, j] = total >> 16
    return out.astype(operands[0].dtype)
