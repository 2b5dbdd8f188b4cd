"""What a march is to the rest of hqc: numbers of its arithmetic and a table of support rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hqc.checked import explained
from hqc.errors import MarchError
from hqc.ir import DType, Node, Trait

if TYPE_CHECKING:
    from hqc.march.rules import NodeRule, OpRules


@explained
@dataclass(frozen=True)
class MarchSpec:
    """One chip family.

    `power_of_two`: activation and weight scales are powers of two and requantization is a right shift. `rounding`: mode of
    quantize for activations. `resize_fraction_bits`: fixed-point bits of resize coordinates. `requantize_at_cat`: cat operands
    may have scales of their own. `int8_bias`: the bias is int8 with one power-of-two scale per layer.
    """

    name: str
    title: str
    chips: tuple[str, ...]
    activation_dtypes: tuple[DType, ...] = (DType.INT8,)
    power_of_two: bool = False
    int8_bias: bool = False
    rounding: str = "half_even"
    resize_fraction_bits: int = 16
    requantize_at_cat: bool = True
    pass_through_ops: frozenset[str] = frozenset()  # ops that keep their operand's scale on this march only
    four_d: bool = False  # the BPU holds 4-D tensors only; results of constant-weight products stay 4-D on it
    passive_needs_consumer: bool = False  # a passive op whose users are all off the BPU is off it too (calibrated models)
    passive_follows_user: bool = False  # a passive op between the CPU and a user on the BPU runs on the BPU
    strided_input_slices_on_cpu: bool = False  # stride-2 slices of the model's input (Focus) are the CPU's
    final_flatten_on_cpu: bool = False  # [1,N,1,1] -> [1,N] behind the last convolution is the CPU's
    node_rules: tuple[NodeRule, ...] = field(default=(), repr=False, compare=False)  # context rules about single nodes
    rules: Mapping[str, OpRules] = field(default_factory=dict, repr=False, compare=False)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """A march that is registered travels by its name: its rules are code."""
        from hqc.march.state import get_spec

        try:
            known = get_spec(self.name)
        except MarchError:
            known = None
        return (get_spec, (self.name,)) if known is self else super().__reduce_ex__(protocol)

    def keeps_scale(self, node: Node) -> bool:
        """True when the node's real result takes its first operand's quantization and owns no fake quant. A parameter has none to take:
        what a lookup takes out of a table (an embedding by int32 indices) has a scale of its own."""
        table = node.inputs[0] if node.inputs else None
        if table is not None and table.is_parameter and table.quant is None:
            return False
        return node.keeps_scale or node.op.name in self.pass_through_ops

    def makes_scale(self, node: Node) -> bool:
        """True when the node's result has a scale of its own: it needs a fake quant in QAT."""
        return not (self.keeps_scale(node) or node.op.has(Trait.INTEGER_RESULT) or node.op.has(Trait.BOUNDARY))

    def leaves_grid(self, node: Node) -> bool:
        """True when the real result of a scale-keeping op is in general between two grid points."""
        if node.op.has(Trait.OFF_GRID):
            return node.attributes.get("mode") != "nearest" or node.op.has(Trait.SAMPLES)
        return node.op.name in self.pass_through_ops

    def averages_by_gain(self, node: Node) -> bool:
        """True for averages that the BPU computes as `(sum * g) >> 9` (section 7 of the arithmetic): its average pools, and means
        over height and width of a number of elements that no shift divides. False while that depends on an unknown shape."""
        if not (self.power_of_two and node.op.has(Trait.AVERAGE)):
            return False
        if "axes" not in node.attributes:
            return True
        shape = node.operands[0].shape
        if shape is None or len(shape) != 4 or sorted(axis % 4 for axis in node.attributes["axes"]) != [2, 3]:
            return False
        count = shape[2] * shape[3]
        return count & (count - 1) != 0
