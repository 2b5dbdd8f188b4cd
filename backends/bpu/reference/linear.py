"""Definitions of linear layers and of products of two activations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hqc.backends.bpu.reference import Array, finish, reference
from hqc.backends.bpu.reference.conv import complete
from hqc.ir import Node


@reference("int_linear")
def int_linear(node: Node, operands: Sequence[Any]) -> Array:
    x, weight = operands[0].astype(np.int64), operands[1].astype(np.int64)
    acc = np.zeros((*x.shape[:-1], len(weight)), np.int64)
    for channel, row in enumerate(weight):
        acc[..., channel] = (x * row).sum(axis=-1)
    return complete(node, acc, operands, -1)


@reference("int_matmul")
def int_matmul(node: Node, operands: Sequence[Any]) -> Array:
    acc = np.matmul(operands[0].astype(np.int64), operands[1].astype(np.int64))  # NumPy's integer loop, no BLAS
    return finish(node, acc, operands[2])
