"""Definitions of ops that move elements: every result element is looked up by its index."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hqc.backends.bpu.reference import Array, reference
from hqc.ir import Node

Index = tuple[int, ...]


def _by_index(x: Array, shape: Sequence[int], source: Callable[[Index], Index]) -> Array:
    """The array of `shape` whose element at every index is `x[source(index)]`."""
    out = np.zeros(tuple(shape), x.dtype)
    for index in np.ndindex(*out.shape):
        out[index] = x[source(index)]
    return out


@reference("identity", "dropout")
def identity(node: Node, operands: Sequence[Any]) -> Array:
    return np.array(operands[0])


@reference("reshape")
def reshape(node: Node, operands: Sequence[Any]) -> Array:
    return np.array([operands[0][index] for index in np.ndindex(*operands[0].shape)], operands[0].dtype).reshape(
        node.result.shape
    )


@reference("transpose")
def transpose(node: Node, operands: Sequence[Any]) -> Array:
    perm = node.attributes["perm"]

    def source(index: Index) -> Index:
        at = [0] * len(index)
        for result_axis, axis in enumerate(perm):
            at[axis] = index[result_axis]
        return tuple(at)

    return _by_index(operands[0], node.result.shape or (), source)


@reference("slice")
def slice_(node: Node, operands: Sequence[Any]) -> Array:
    x = operands[0]
    attributes = node.attributes
    steps = attributes["steps"] or (1,) * len(attributes["axes"])
    taken = [list(range(size)) for size in x.shape]
    for axis, start, end, step in zip(attributes["axes"], attributes["starts"], attributes["ends"], steps, strict=True):
        taken[axis] = taken[axis][start:end:step]
    return np.asarray(x[np.ix_(*taken)])


@reference("split")
def split(node: Node, operands: Sequence[Any]) -> list[Array]:
    x, axis = operands[0], node.attributes["axis"] % operands[0].ndim
    parts, start = [], 0
    for size in node.attributes["sizes"]:
        parts.append(np.take(x, range(start, start + size), axis=axis))
        start += size
    return parts


@reference("cat")
def cat(node: Node, operands: Sequence[Any]) -> Array:
    axis = node.attributes["axis"] % operands[0].ndim
    out = np.zeros(node.result.shape or (), operands[0].dtype)
    start = 0
    for x in operands:
        for index in np.ndindex(*x.shape):
            out[(*index[:axis], index[axis] + start, *index[axis + 1 :])] = x[index]
        start += x.shape[axis]
    return out


@reference("pad")
def pad(node: Node, operands: Sequence[Any]) -> Array:
    x, pads, mode = operands[0], node.attributes["pads"], node.attributes["mode"]
    out = np.full(node.result.shape or (), int(node.attributes["value"]), x.dtype)
    for index in np.ndindex(*out.shape):
        at = [i - before for i, before in zip(index, pads[: x.ndim], strict=True)]
        if mode == "edge":
            at = [min(max(i, 0), size - 1) for i, size in zip(at, x.shape, strict=True)]
        if mode == "reflect":
            at = [abs(i) if i < size else 2 * (size - 1) - i for i, size in zip(at, x.shape, strict=True)]
        if all(0 <= i < size for i, size in zip(at, x.shape, strict=True)):
            out[index] = x[tuple(at)]
    return out


@reference("pixel_shuffle")
def pixel_shuffle(node: Node, operands: Sequence[Any]) -> Array:
    f = node.attributes["factor"]
    return _by_index(
        operands[0],
        node.result.shape or (),
        lambda at: (at[0], at[1] * f * f + at[2] % f * f + at[3] % f, at[2] // f, at[3] // f),
    )


@reference("pixel_unshuffle")
def pixel_unshuffle(node: Node, operands: Sequence[Any]) -> Array:
    f = node.attributes["factor"]
    return _by_index(
        operands[0],
        node.result.shape or (),
        lambda at: (at[0], at[1] // (f * f), at[2] * f + at[1] // f % f, at[3] * f + at[1] % f),
    )


@reference("expand")
def expand(node: Node, operands: Sequence[Any]) -> Array:
    x = operands[0]
    return _by_index(
        x,
        node.result.shape or (),
        lambda at: tuple(i if size > 1 else 0 for i, size in zip(at[len(at) - x.ndim :], x.shape, strict=True)),
    )


@reference("tile")
def tile(node: Node, operands: Sequence[Any]) -> Array:
    x = operands[0]
    return _by_index(x, node.result.shape or (), lambda at: tuple(i % size for i, size in zip(at, x.shape, strict=True)))


@reference("gather")
def gather(node: Node, operands: Sequence[Any]) -> Array:
    x, indices = operands
    axis = node.attributes["axis"] % x.ndim
    rank = np.ndim(indices)
    return _by_index(
        x,
        node.result.shape or (),
        lambda at: (*at[:axis], int(indices[at[axis : axis + rank]]), *at[axis + rank :]),
    )
