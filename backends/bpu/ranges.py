"""Which integers can a value hold? The tighter the answer, the more layers float32 products are exact for.

A ReLU in front of a convolution halves the largest partial sum its accumulator can reach, which is what decides between one
float32 product and a split one (see `proof.py`). Every op's card says what its results can hold.
"""

from __future__ import annotations

from hqc.checked import explained
from hqc.ir import Graph, Node, Value
from hqc.ir.op import Range

__all__ = ["Range", "ValueRanges", "dtype_range"]


@explained
def dtype_range(value: Value) -> Range:
    """Bounds of the value's integer type (0..1 for truth values)."""
    dtype = value.type.dtype
    return (0, 1) if dtype.numpy.kind == "b" else (dtype.qmin, dtype.qmax)


@explained
class ValueRanges:
    """Bounds of the integer values of one graph."""

    def __init__(self, graph: Graph) -> None:
        self._known: dict[str, Range] = {}
        for node in graph.nodes:
            for value in node.results:
                if not value.type.dtype.is_float:
                    self._known[value.name] = self._of_result(node, value)

    def of(self, value: Value) -> Range:
        """Smallest and largest integer that `value` can hold."""
        if value.array is not None and value.array.size and value.array.dtype.kind in "iub":
            return int(value.array.min()), int(value.array.max())
        return self._known.get(value.name) or dtype_range(value)

    def _of_result(self, node: Node, value: Value) -> Range:
        low, high = dtype_range(value)
        if node.op.bounds is None:
            return low, high
        integers = [None if x is None or x.type.dtype.is_float else self.of(x) for x in node.inputs]
        found = node.op.bounds(integers, node.attributes)
        return (low, high) if found is None else (min(max(low, found[0]), high), max(min(high, found[1]), low))
