"""`fuse_fx`: fold batch norms into the layers before them, as a float GraphModule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn

from hqc.checked import checked
from hqc.errors import InputError
from hqc.frontend.fx import lower_graph_module, trace
from hqc.frontend.fx.copying import deep_copy
from hqc.ir import Trait
from hqc.march import all_specs
from hqc.passes.base import PassContext
from hqc.passes.pipeline import parse_pipeline
from hqc.quantization.qat_mode import keeps_batch_norm
from hqc.workflow.model_copy import copy_model
from hqc.workflow.options import custom_config
from hqc.workflow.prepared import keep_module_tree


@checked
def fuse_fx(model: nn.Module, fuse_custom_config_dict: Mapping[str, Any] | None = None) -> fx.GraphModule:
    """A traced copy of `model` whose batch norms are folded into the convolution or linear layer before them.

    In the QAT modes that keep batch norms (`set_qat_mode`) nothing is folded. Additions and activations are fused by `prepare_*_fx`
    itself, which also accepts models that were not fused.
    `fuse_custom_config_dict`: `preserved_attributes`, as for prepare (all plain attributes are kept anyway).
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"fuse_fx needs a torch.nn.Module, got {type(model).__name__}")
    custom_config(fuse_custom_config_dict, "fuse_custom_config_dict", ("preserved_attributes",), model)
    root = copy_model(model)
    gm = trace(root)
    graph = lower_graph_module(gm, None).graph
    # Folding reads no march: any will do.
    parse_pipeline("canonicalize,fold-batch-norm").run(graph, PassContext(all_specs()[-1]))
    nodes = {node.name: node for node in gm.graph.nodes}
    for node in () if keeps_batch_norm() else graph.nodes:
        weight, bias = (node.operand("weight"), node.operand("bias")) if node.op.has(Trait.CONV_LIKE) else (None, None)
        members = [nodes[name] for name in node.origin if name in nodes]
        if len(members) < 2 or weight is None or weight.array is None or bias is None or bias.array is None:
            continue
        layer, norm = members[0], members[-1]
        if layer.op != "call_module" or norm.op != "call_module":
            continue
        module = deep_copy(root.get_submodule(str(layer.target)))
        with torch.no_grad():
            device = next(module.parameters()).device
            module.weight = nn.Parameter(torch.from_numpy(weight.array.copy()).to(device))
            module.bias = nn.Parameter(torch.from_numpy(bias.array.copy()).to(device))
        _assign(root, str(layer.target), module)
        norm.replace_all_uses_with(layer)
        gm.graph.erase_node(norm)
        if not any(n.op == "call_module" and n.target == norm.target for n in gm.graph.nodes):
            _assign(root, str(norm.target), nn.Identity())
    fused = fx.GraphModule(root, gm.graph, type(model).__name__)
    keep_module_tree(fused, root)
    fused.train(model.training)
    return fused


def _assign(root: nn.Module, target: str, module: nn.Module) -> None:
    parent, _, name = target.rpartition(".")
    owner = root.get_submodule(parent) if parent else root
    module.train(owner.training)
    owner.add_module(name, module)
