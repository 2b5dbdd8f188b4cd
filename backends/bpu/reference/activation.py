"""Definitions of functions of one tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hqc import arithmetic
from hqc.backends.bpu.reference import Array, reference
from hqc.ir import Node


@reference("relu")
def relu(node: Node, operands: Sequence[Any]) -> Array:
    return np.where(operands[0] > 0, operands[0], 0).astype(operands[0].dtype)


@reference("clamp")
def clamp(node: Node, operands: Sequence[Any]) -> Array:
    x, low, high = operands[0], node.attributes["min"], node.attributes["max"]
    y = x.astype(np.int64)
    y = y if low is None else np.where(y < low, int(low), y)
    y = y if high is None else np.where(y > high, int(high), y)
    dtype = np.iinfo(x.dtype)
    return np.clip(y, dtype.min, dtype.max).astype(x.dtype)


@reference("int_lut")
def int_lut(node: Node, operands: Sequence[Any]) -> Array:
    x, table = operands
    return np.asarray(table[x.astype(np.int64) - np.iinfo(x.dtype).min])


@reference("int_prelu")
def int_prelu(node: Node, operands: Sequence[Any]) -> Array:
    x, weight, positive, negative = operands
    dtype, mode = node.attributes["dtype"], node.attributes["mode"]
    shape = [1, -1] + [1] * (x.ndim - 2)

    def requantized(acc: Array, requant: Array) -> Array:
        rows = np.asarray(requant, np.int64).reshape(3, -1)
        m, p, s = (row.reshape(shape) for row in rows)
        return arithmetic.requantize(acc, arithmetic.RequantParams(m, p, s, mode), dtype.bits)

    total = requantized(np.maximum(x.astype(np.int64), 0), positive)
    total = total + requantized(weight.astype(np.int64).reshape(shape) * np.minimum(x.astype(np.int64), 0), negative)
    low, high = max(dtype.qmin, node.attributes["clip_min"]), min(dtype.qmax, node.attributes["clip_max"])
    return np.clip(total, low, high).astype(dtype.numpy)
