"""Half a step on biases, where the plan marked them, once scales are final."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hqc import arithmetic
from hqc.ir import DType, Graph, Node, QuantParams
from hqc.passes.base import Pass, PassContext, PassResult, Remark
from hqc.passes.conv_scales import output_channels
from hqc.passes.node_facts import is_conv_like, on_bpu
from hqc.passes.registry import register_pass
from hqc.passes.rewrite import drop_unused


@register_pass
@dataclass(frozen=True)
class AddHalfSteps(Pass):
    """Add half a step of the result to the bias of convolutions and linear layers that are marked `half_step`; the mark goes.

    A march whose requantization only shifts rounds down, half a step below the real result in the mean. With half a step in the bias it
    rounds to nearest; kernels stay as they are. A layer whose int8 bias cannot hold half a step, because its grid is coarser, and one
    whose result leaves at high precision, are left alone.
    """

    name: ClassVar[str] = "add-half-steps"
    requires: ClassVar[str] = "scaled"
    establishes: ClassVar[str] = "scaled"

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        marked = [node for node in graph.nodes if is_conv_like(node) and node.attributes.get("half_step")]
        done = [node for node in marked if on_bpu(node) and context.march.int8_bias and _add(graph, node)]
        for node in marked:
            node.attributes = {**node.attributes, "half_step": False}
        remarks: tuple[Remark, ...] = ()
        if done:
            left = f"; {len(marked) - len(done)} have a bias too coarse for it" if len(marked) > len(done) else ""
            remarks = (self.remark(f"half a step in the bias of {len(done)} layers makes them round to nearest{left}"),)
        return PassResult(bool(marked), remarks)


def _add(graph: Graph, node: Node) -> bool:
    """True when the bias of `node` was changed."""
    quant = node.result.quant
    if quant is None or quant.per_channel or quant.dtype is DType.INT32:
        return False
    index = node.op.operand_index("bias")
    old = node.operand("bias")
    array = np.zeros(output_channels(node), np.float32) if old is None else old.array
    if array is None:
        return False
    new = arithmetic.half_step_bias(array, float(quant.scale))
    if np.array_equal(new, array):
        return False
    bias = graph.add_parameter(f"{node.name}_half_step", new)
    bias.quant = QuantParams(arithmetic.bernoulli_bias_scale(new))
    node.set_input(index, bias)
    drop_unused(graph, old)
    return True
