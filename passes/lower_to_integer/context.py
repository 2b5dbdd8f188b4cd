"""What a lowering function works with: the node being lowered, and the ways to add integer parameters and nodes for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hqc import arithmetic
from hqc.arithmetic import RequantParams
from hqc.errors import CompileError, QuantizationError
from hqc.ir import Device, DType, Graph, Node, QuantParams, Trait, Value, get_op
from hqc.ir.graph import constant_array
from hqc.march.spec import MarchSpec
from hqc.passes.conv_scales import constant_scale, tensor_scale


class Lowering:
    """State of one run of lower-to-integer. `node` is the node being lowered; its operands are integers already."""

    def __init__(self, graph: Graph, march: MarchSpec) -> None:
        self.graph, self.march = graph, march
        self.messages: list[tuple[Node, str]] = []
        self._node: Node | None = None
        self._on_grid: dict[tuple[int, QuantParams], Value] = {}
        self._weights: dict[tuple[int, QuantParams], Value] = {}

    def start(self, node: Node) -> None:
        """Make `node` the one that is lowered."""
        self._node = node

    @property
    def node(self) -> Node:
        assert self._node is not None
        return self._node

    # --- questions -----------------------------------------------------------------------------------------------

    def scale(self, value: Value) -> float:
        return tensor_scale(value, self.node)

    def quant(self, value: Value) -> QuantParams:
        if value.quant is None:
            raise QuantizationError(f"{self.node.label}: {value.name} has no scale; run propagate-scales first")
        return value.quant

    def dtype(self, value: Value) -> DType:
        return self.quant(value).dtype

    @property
    def result_quant(self) -> QuantParams:
        return self.quant(self.node.results[0])

    def shape(self, value: Value) -> tuple[int, ...]:
        """The shape of a value, which must be known here."""
        if value.shape is None:
            raise self.refuse(f"the shape of {value.name} is not known; lower the model with example inputs")
        return value.shape

    def refuse(self, message: str) -> CompileError:
        return CompileError(f"{self.node.label}: {message}")

    def remark(self, message: str) -> None:
        self.messages.append((self.node, message))

    # --- parameters ----------------------------------------------------------------------------------------------

    def parameter(self, what: str, array: npt.NDArray[Any], quant: QuantParams | None = None) -> Value:
        """An integer parameter of the node, called `<node>_<what>`."""
        return self.graph.add_parameter(f"{self.node.name}_{what}", array, quant)

    def constant_scale(self, value: Value) -> float:
        """Scale of a constant operand, a power of two where the march wants that."""
        return constant_scale(value, self.node, self.march)

    def constant(self, value: Value) -> tuple[Value, float]:
        """A constant operand as an integer parameter (int8 unless it has a quantization of its own), and its scale."""
        scale = self.constant_scale(value)
        dtype = DType.INT8 if value.quant is None else value.quant.dtype
        q = arithmetic.quantize(constant_array(value), scale, dtype.bits).astype(dtype.numpy)
        return self.parameter(f"{value.name}_int{dtype.bits}", q, QuantParams(scale, dtype)), scale

    def factor(self, value: Value) -> tuple[Value, float]:
        """An operand of a product as integers, and its scale: an activation, or an int8 constant."""
        return self.constant(value) if value.is_parameter else (value, self.scale(value))

    def weight(self, value: Value, *, rows: bool = False) -> Value:
        """The int8 form of a weight, with a height of 1 for `rows`; layers that share a weight and its scales share this too."""
        quant = self.quant(value)
        if not value.is_parameter:
            return self.image(value) if rows else value
        key = id(value), quant
        if key not in self._weights:
            array = arithmetic.quantize_weight(constant_array(value), quant.scale, quant.axis)
            array = array[:, :, None] if rows else array
            self._weights[key] = self.graph.add_parameter(f"{value.name}_int8", array, quant)
        return self._weights[key]

    # --- requantization ------------------------------------------------------------------------------------------

    def requant_params(self, acc_scale: npt.ArrayLike, result: QuantParams | None = None) -> RequantParams:
        """M, p, S from an accumulator's scale to the result's (or `result`'s) scale, by the march's rule."""
        result = self.result_quant if result is None else result
        ratio = np.asarray(acc_scale, np.float64) / np.float64(result.scale)
        if self.march.power_of_two:
            return arithmetic.shift_params(ratio, what=self.node.label)
        return arithmetic.requant_params(ratio, result.dtype.bits, what=self.node.label)

    def requant(self, acc_scale: npt.ArrayLike, what: str = "requant") -> tuple[Value, dict[str, Any]]:
        """The requant operand, and the attributes `mode` and `dtype` that go with it."""
        params = self.requant_params(acc_scale)
        return self.parameter(what, params.array), {"mode": params.mode, "dtype": self.result_quant.dtype}

    def on_grid(self, value: Value, grid: QuantParams) -> Value:
        """`value` as integers of `grid`: itself, a quantized constant, or a requantize inserted before the node."""
        if value.is_parameter and value.type.dtype.is_float:
            return self._constant_on_grid(value, grid)
        quant = self.quant(value)
        if quant.same_grid(grid):
            return value
        plain = grid.replace(fixed=False)
        key = id(value), plain
        if key not in self._on_grid:
            source = self.scale(value)
            if quant.scale.tobytes() == grid.scale.tobytes():
                operands, attributes = [value], {"mode": "clip", "dtype": grid.dtype}
            else:
                params = self.requant_params(source, grid)
                requant = self.graph.add_parameter(f"{value.name}_requant", params.array)
                operands, attributes = [value, requant], {"mode": params.mode, "dtype": grid.dtype}
            self._on_grid[key] = self.insert("int_requantize", operands, attributes, f"{value.name}_requantize", plain)
        return self._on_grid[key]

    def _constant_on_grid(self, value: Value, grid: QuantParams) -> Value:
        key = id(value), grid.replace(fixed=False)
        if key not in self._on_grid:
            q = arithmetic.quantize(constant_array(value), grid.scale, grid.dtype.bits, grid.rounding)
            array = q.astype(grid.dtype.numpy)
            lost = float(np.abs(constant_array(value) - q * np.float64(grid.scale)).max(initial=0.0))
            if self.node.op.has(Trait.LAYOUT_ONLY) and lost > float(grid.scale):
                self.remark(f"the constant {value.name} saturates by {lost:.6g} at the scale {float(grid.scale):.6g}")
            self._on_grid[key] = self.graph.add_parameter(f"{value.name}_{grid.dtype.value}", array, key[1])
        return self._on_grid[key]

    # --- nodes ---------------------------------------------------------------------------------------------------

    def insert(
        self, op: str, operands: Sequence[Value | None], attributes: Mapping[str, Any], name: str, quant: QuantParams
    ) -> Value:
        """A helper node before the current one, with its device, subgraph and location; its result has `quant`."""
        anchor = self.node
        node = self.graph.add_node(op, operands, attributes, name=name, loc=anchor.loc, origin=anchor.origin, before=anchor)
        node.device, node.subgraph, node.support = Device.BPU, self.node.subgraph, self.node.support
        node.result.quant = quant
        return node.result

    def image(self, value: Value) -> Value:
        """Rows `[N,C,L]` as images of height 1."""
        channels, length = self.shape(value)[1:]
        name = f"{value.name}_image_of_{self.node.name}"
        return self.insert("reshape", [value], {"shape": (0, channels, 1, length)}, name, self.quant(value))

    def become(self, op: str, operands: Sequence[Value | None], attributes: Mapping[str, Any]) -> None:
        """Turn the current node into `op`; its results keep names, uses and quantization, and get integer types."""
        node = self.node
        node.op = get_op(op)
        node.attributes = node.op.complete_attributes(attributes)
        node.set_inputs(operands)
        for result, type in zip(node.results, node.infer_types(), strict=True):
            result.type = type

    def keep(self, operands: Sequence[Value | None], attributes: Mapping[str, Any] | None = None) -> None:
        """Keep the op, which works on integers as it is, on new operands (and attributes)."""
        merged = {**self.node.attributes, **(attributes or {})}
        self.become(self.node.op.name, operands, merged)
