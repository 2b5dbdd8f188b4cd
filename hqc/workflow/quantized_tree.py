"""The module tree of a converted model: the user's own modules, with the parts that the BPU computes in the places of their layers."""

from __future__ import annotations

import copy

import torch
from torch import fx, nn

from hqc import arithmetic
from hqc.frontend.fx.leaf_modules import is_functional
from hqc.ir import Device
from hqc.nn.qat.layer import QATLayer
from hqc.nn.quantized import modules as parts
from hqc.nn.stubs import DeQuantStub
from hqc.quantization.fake_quantize import FakeQuantizeBase, fake_quant_of
from hqc.quantization.off_grid import OffGridFakeQuantize
from hqc.workflow.prepared import ObservedGraphModule

_BY_NAME = {
    name: kind for name, kind in vars(parts).items() if isinstance(kind, type) and issubclass(kind, parts.QuantizedModule)
}
"""Parts by the name of the float class that they stand for."""


def quantized_tree(prepared: ObservedGraphModule) -> dict[str, nn.Module]:
    """The children of a converted model, by name. Modules of the CPU, and those that no forward calls, are the prepared model's own."""
    devices = prepared.preparation.plan.devices
    called: dict[str, list[fx.Node]] = {}
    for node in prepared.graph.nodes:
        if node.op in ("call_module", "get_attr"):
            called.setdefault(str(node.target), []).append(node)
    on_bpu = {path for path, nodes in called.items() if any(_device(node, devices) is Device.BPU for node in nodes)}
    return {name: _converted(name, child, on_bpu) for name, child in prepared.named_children()}


def _device(node: fx.Node, devices: dict[str, Device]) -> Device | None:
    if node.op == "get_attr":  # a FloatFunctional: where its method runs
        return next((devices.get(user.name) for user in node.users), None)
    return devices.get(node.name)


def _converted(path: str, module: nn.Module, on_bpu: set[str]) -> nn.Module:
    if isinstance(module, QATLayer):
        return _layer(module)
    if isinstance(module, DeQuantStub):
        return parts.DeQuantize()
    fake_quant = fake_quant_of(module) or fake_quant_of(getattr(module, "activation_post_process", None))
    if fake_quant is not None and not is_functional(module):
        return _with_scale(parts.Quantize(), fake_quant)
    if is_functional(module) and path in on_bpu:
        return parts.QFunctional()
    if isinstance(module, OffGridFakeQuantize):
        return parts.Operation(f"on the grid of {module.source.name}")
    children = {name: _converted(f"{path}.{name}", child, on_bpu) for name, child in module.named_children()}
    if path in on_bpu:
        name = type(module).__name__
        return _BY_NAME.get(name, parts.Operation)("" if name in _BY_NAME else f"{name}({module.extra_repr()})")
    if all(child is module._modules[name] for name, child in children.items()):
        return module
    twin = copy.copy(module)  # with the user's class and attributes, and children of its own
    twin.__dict__["_modules"] = {**module._modules, **children}
    return twin


def _layer(layer: QATLayer) -> parts.QuantizedModule:
    weight, bias = layer.deployed_parameters()
    quant = layer.weight_fake_quant.weight_quant(weight)
    integers = arithmetic.quantize_weight(weight.cpu().numpy(), quant.scale, quant.axis)
    kind = parts.Linear if layer.float_class is nn.Linear else parts.Conv2d
    described = layer.extra_repr()
    part = kind(
        f"{type(layer).__name__}: {described}",
        weight=torch.from_numpy(integers),
        weight_scale=torch.from_numpy(quant.scale.copy()),
        bias=None if bias is None else bias.clone(),
    )
    return _with_scale(part, fake_quant_of(layer.activation_post_process))


def _with_scale(part: parts.QuantizedModule, fake_quant: FakeQuantizeBase | None) -> parts.QuantizedModule:
    if fake_quant is not None:
        scale, dtype, _, _ = fake_quant.scale_info()
        part.register_buffer("scale", torch.from_numpy(scale.copy()), persistent=False)
        part.register_buffer("zero_point", torch.zeros(len(scale), dtype=torch.int64), persistent=False)
        part.result_dtype = dtype
    return part
