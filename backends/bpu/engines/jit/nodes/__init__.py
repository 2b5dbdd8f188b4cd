"""Which nodes have native steps, and how each is described to the compiled kernels.

A lowering returns None for what it leaves to the NumPy kernels: other dtypes, other broadcasts.
"""

from __future__ import annotations

import math

from hqc.backends.bpu.engines.jit.layouts import NativeContext
from hqc.backends.bpu.engines.jit.native import NativeStep
from hqc.backends.bpu.engines.jit.nodes import boundaries, elementwise, layout, products, windows  # noqa: F401  each registers its ops
from hqc.backends.bpu.engines.jit.nodes.layout import moved
from hqc.backends.bpu.engines.jit.nodes.registry import NATIVE, ORDERS
from hqc.checked import checked
from hqc.ir import Node, Trait

__all__ = ["NATIVE", "ORDERS", "native_step"]


@checked
def native_step(node: Node, context: NativeContext, kernels: list[str]) -> NativeStep | None:
    """The native form of a node, or None. `kernels`: the dense kernels that may be used, fastest first."""
    lowering = NATIVE.get(node.op.name) or (moved if node.op.has(Trait.LAYOUT_ONLY) else None)
    if lowering is None or any(
        value.shape is None or math.prod(value.shape) == 0 for value in (*node.data_operands, *node.results)
    ):
        return None
    return lowering(node, context, kernels)
