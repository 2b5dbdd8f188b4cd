"""Which integers can a value hold? The tighter the answer, the more layers float32 products are exact for.

A ReLU in front of a convolution halves the largest partial sum its accumulator can reach, which is what decides between one
float32 product and a split one (see `proof.py`).
"""

from __future__ import annotations

from hqc.ir import Graph, Node, Trait, Value

Range = tuple[int, int]


def dtype_range(value: Value) -> Range:
    """Bounds of the value's integer type (0..1 for truth values)."""
    dtype = value.type.dtype
    return (0, 1) if dtype.numpy.kind == "b" else (dtype.qmin, dtype.qmax)


class ValueRanges:
    """Lazily computed bounds of the integer values of one graph."""

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
        attributes, op = node.attributes, node.op
        if "clip_min" in attributes:
            return max(low, attributes["clip_min"]), min(high, attributes["clip_max"])
        if op.has(Trait.INTEGER_RESULT) or op.has(Trait.BOUNDARY):
            return low, high
        table = next((v for o, v in zip(op.operands, node.inputs, strict=False) if o.name == "table"), None)
        if table is not None:
            return self.of(table)
        if not (op.has(Trait.PASS_THROUGH) or op.has(Trait.LAYOUT_ONLY)):
            return low, high
        # Ops that move, select or average elements stay inside their operands; a pad adds its own value.
        ranges = [self.of(operand) for operand in (node.operands if op.has(Trait.SAME_SCALE) else node.operands[:1])]
        bounds = min(r[0] for r in ranges), max(r[1] for r in ranges)
        if op.has(Trait.ACTIVATION):
            return self._clamped(node, bounds)
        if attributes.get("mode") == "constant" and "pads" in attributes:
            fill = int(attributes["value"])
            return min(bounds[0], fill), max(bounds[1], fill)
        return bounds

    @staticmethod
    def _clamped(node: Node, bounds: Range) -> Range:
        low, high = node.attributes.get("min", 0), node.attributes.get("max")  # relu has no attributes: max(x, 0)
        result = [bound if low is None else max(bound, int(low)) for bound in bounds]
        result = [bound if high is None else min(bound, int(high)) for bound in result]
        return result[0], result[1]
