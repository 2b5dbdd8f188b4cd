"""Slow, obvious definitions of every integer op in int64: what the kernels are tested equal to, and `engine="reference"`.

A reference is `f(node, operands) -> array or tuple of arrays`. It uses Python loops and `hqc.arithmetic`, no cleverness, and knows
nothing of how the kernels work. Where an op has none, its card is the definition.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hqc import arithmetic
from hqc.backends.bpu.kernels import by_card, runs_on_integers
from hqc.errors import CompileError
from hqc.ir import Node
from hqc.registry import Registry

Array = npt.NDArray[Any]
Reference = Callable[[Node, Sequence[Any]], Any]
REFERENCES: Registry[str, Reference] = Registry("reference", families="hqc.backends.bpu.reference")


def reference(*names: str) -> Callable[[Reference], Reference]:
    """Register the definition of one or several ops."""
    return REFERENCES.register(*names)


def make_reference(node: Node) -> Callable[[Sequence[Any]], Any]:
    """The definition of a node's op as a run function."""
    function = REFERENCES.get(node.op.name)
    if function is None and runs_on_integers(node.op):
        return by_card(node)
    if function is None:
        raise CompileError(f"{node.label}: {node.op.name} has no reference")

    def run(operands: Sequence[Any]) -> Any:
        found = function(node, [*operands, *[None] * (len(node.op.operands) - len(operands))])
        return tuple(found) if isinstance(found, (list, tuple)) else found

    return run


def finish(node: Node, acc: npt.ArrayLike, requant: Array | None, axis: int | None = None) -> Array:
    """Requantize `acc` with rows `[3]`, `[3, C]` (along `axis`) or `[3, H, W]` (last two axes), then clip to the op's bounds."""
    acc = np.asarray(acc, np.int64)
    mode, dtype = node.attributes["mode"], node.attributes["dtype"]
    rows = np.zeros((3,), np.int64) if requant is None else np.asarray(requant, np.int64)
    if rows.ndim == 2:
        assert axis is not None
        rows = rows.reshape(3, *[rows.shape[1] if i == axis % acc.ndim else 1 for i in range(acc.ndim)])
    params = arithmetic.RequantParams(rows[0], rows[1], rows[2], mode)
    y = arithmetic.requantize(acc, params, dtype.bits)
    y = np.clip(y, max(dtype.qmin, node.attributes["clip_min"]), min(dtype.qmax, node.attributes["clip_max"]))
    return y.astype(dtype.numpy)
