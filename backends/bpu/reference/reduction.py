"""Definitions of reductions and softmax."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hqc.backends.bpu.reference import Array, finish, reference
from hqc.ir import Node


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


@reference("int_softmax")
def int_softmax(node: Node, operands: Sequence[Any]) -> Array:
    x, table, requant = operands
    moved = np.moveaxis(x.astype(np.int64), node.attributes["axis"], -1)
    probability = np.zeros(moved.shape, np.int64)
    for index in np.ndindex(*moved.shape[:-1]):
        exponentials = [int(table[int(moved[index].max() - value)]) for value in moved[index]]
        probability[index] = [(e << 31) // sum(exponentials) for e in exponentials]
    return finish(node, np.moveaxis(probability, -1, node.attributes["axis"]), requant)
