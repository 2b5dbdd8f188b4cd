"""Scales of weights that no module owns and that a batch norm (or constants) is folded into: from their fake quants to the folded weights.

Such a weight cannot carry its scale through folding, as the scale is that of what folding makes of it. So the scales wait beside
the graph, by the name of the call, until the layers are complete.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

from hqc.ir import Graph, QuantParams, Trait
from hqc.nn.qat.weights import FoldedWeightFakeQuantize
from hqc.passes.base import Pass, PassContext, PassResult
from hqc.passes.conv_scales import weight_axis
from hqc.quantization.calib_fake_quantize import CalibFakeQuantize
from hqc.workflow.options import CompileOptions, Edit
from hqc.workflow.prepared import ObservedGraphModule


def with_folded_weight_scales(options: CompileOptions, model: ObservedGraphModule) -> CompileOptions:
    """The options with a step of the deploy pipeline that gives every folded weight of `model` the scale that was trained or observed."""
    scales: dict[str, QuantParams] = {}
    for node in model.graph.nodes:
        module = model.get_submodule(str(node.target)) if node.op == "call_module" else None
        if not isinstance(module, FoldedWeightFakeQuantize):
            continue
        fake_quant = module.weight_fake_quant
        if isinstance(fake_quant, CalibFakeQuantize) and fake_quant.of_weights:
            continue  # its scale is that of the range, which a folded weight without a scale gets anyway
        for call in node.users:
            scales[call.name] = fake_quant.ir_quant()
    if not scales:
        return options
    given = Edit(GiveFoldedScales(scales), after="fuse-conv", pipeline="deploy")
    return replace(options, edits=(given, *options.edits))


@dataclass(frozen=True)
class GiveFoldedScales(Pass):
    """Weights of the calls named in `scales` get these scales, once batch norms and constants are folded and layers are fused."""

    name: ClassVar[str] = "give-folded-scales"
    scales: Mapping[str, QuantParams] = field(default_factory=dict)

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        changed = False
        for node in graph.nodes:
            quant = next((self.scales[name] for name in node.origin if name in self.scales), None)
            weight = node.operand("weight") if node.op.has(Trait.CONV_LIKE) else None
            if quant is None or weight is None or not weight.is_parameter or weight.quant is not None:
                continue
            axis = weight_axis(node)
            if quant.axis in (None, axis) and quant.scale.size in (1, (weight.shape or ())[axis]):
                weight.quant, changed = quant, True
        return PassResult(changed)
