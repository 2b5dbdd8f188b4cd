"""Definitions of element-wise arithmetic, comparison and selection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hqc.backends.bpu.reference import Array, finish, reference
from hqc.ir import Node


def _wide(array: Any) -> Array:
    return np.asarray(array).astype(np.int64)


@reference("int_add")
def int_add(node: Node, operands: Sequence[Any]) -> Array:
    a, b, requant = operands
    return finish(node, _wide(a) * node.attributes["k_a"] + _wide(b) * node.attributes["k_b"], requant)


@reference("int_mul")
def int_mul(node: Node, operands: Sequence[Any]) -> Array:
    a, b, requant = operands
    return finish(node, _wide(a) * _wide(b), requant)


@reference("int_div")
def int_div(node: Node, operands: Sequence[Any]) -> Array:
    dtype = node.attributes["dtype"]
    low, high = max(dtype.qmin, node.attributes["clip_min"]), min(dtype.qmax, node.attributes["clip_max"])
    a, b = np.broadcast_arrays(operands[0], operands[1])
    out = np.zeros(a.shape, dtype.numpy)
    for index in np.ndindex(*a.shape):
        numerator, denominator = int(a[index]), int(b[index])
        if denominator:
            real = float(np.floor(np.float64(numerator) / np.float64(denominator) * node.attributes["ratio"] + 0.5))
        else:
            real = 0.0 if not numerator else float("inf") * numerator
        out[index] = min(max(real, low), high)
    return out


@reference("int_requantize")
def int_requantize(node: Node, operands: Sequence[Any]) -> Array:
    return finish(node, operands[0], operands[1])


@reference("maximum")
def maximum(node: Node, operands: Sequence[Any]) -> Array:
    a, b = np.broadcast_arrays(*operands[:2])
    return np.where(a >= b, a, b)


@reference("minimum")
def minimum(node: Node, operands: Sequence[Any]) -> Array:
    a, b = np.broadcast_arrays(*operands[:2])
    return np.where(a <= b, a, b)


@reference("where")
def where(node: Node, operands: Sequence[Any]) -> Array:
    condition, a, b = np.broadcast_arrays(*operands)
    out = np.array(b)
    out[condition.astype(bool)] = a[condition.astype(bool)]
    return out


@reference("equal", "greater", "less", "greater_equal", "less_equal")
def comparison(node: Node, operands: Sequence[Any]) -> Array:
    difference = _wide(operands[0]) - _wide(operands[1])
    sign = np.sign(difference)
    accepted = {"equal": (0,), "greater": (1,), "less": (-1,), "greater_equal": (0, 1), "less_equal": (-1, 0)}
    return np.asarray(np.isin(sign, accepted[node.op.name]))


@reference("logical_and", "logical_or", "logical_not")
def logical(node: Node, operands: Sequence[Any]) -> Array:
    truth = [np.asarray(operand) != 0 for operand in operands if operand is not None]
    if node.op.name == "logical_not":
        return np.asarray(~truth[0])
    return np.asarray(truth[0] & truth[1] if node.op.name == "logical_and" else truth[0] | truth[1])


@reference("cast")
def cast(node: Node, operands: Sequence[Any]) -> Array:
    return np.asarray(operands[0]).astype(node.attributes["dtype"].numpy)
