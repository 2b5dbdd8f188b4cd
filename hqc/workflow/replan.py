"""Planning again at the first forward, for models that were prepared without shapes.

What only shapes decide may come out otherwise than it was planned. The model is then emitted again and takes over what is new; what
stays is the same object: parameters, so that an optimizer goes on, and modules, with their scales, states and hooks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from hqc.errors import InputError, ShapeError, SupportError
from hqc.frontend.fx.copying import deep_copy
from hqc.ir import Graph, Trait
from hqc.nn.qat.steep import SteepDeQuantStub, SteepOperand
from hqc.nn.qat.weights import BiasFakeQuantize, FoldedWeightFakeQuantize
from hqc.quantization.fake_quantize import FakeQuantizeBase, fake_quants, scale_groups_of
from hqc.quantization.off_grid import OffGridFakeQuantize
from hqc.workflow.arguments import from_meta, to_meta
from hqc.workflow.planning import PlannedModel, plan_model
from hqc.workflow.prepared import ObservedGraphModule, Preparation

_FOLLOWERS = (OffGridFakeQuantize, BiasFakeQuantize, FoldedWeightFakeQuantize, SteepDeQuantStub, SteepOperand)
"""Modules that refer to a module with a place of its own in the tree; they are always taken from the new tree."""


def settle_plan(model: ObservedGraphModule, args: tuple[Any, ...]) -> None:
    """Remember the shapes of a first forward's inputs, and plan again with them where that changes the plan.

    `SupportError` where the change would come too late: a scale that would go is known already, a parameter would appear or vanish, or
    the model is wrapped in DistributedDataParallel.
    """
    preparation = model.preparation
    if preparation.inputs is not None or not args:
        return
    inputs = to_meta(args)
    fresh = _plan(preparation, inputs, preparation.float_model)
    if emission_of(fresh.graph) != preparation.emission:
        fresh = _plan(preparation, inputs, deep_copy(preparation.float_model))
        _adopt(model, fresh)
    preparation.inputs = inputs


def emission_of(graph: Graph) -> tuple[Any, ...]:
    """What of a plan shows in the emitted model: devices, boundaries, observers and roundings by name."""
    parts: list[Any] = []
    for node in graph.nodes:
        seen = [(value.observation is not None, value.off_grid) for value in node.results]
        boundary = node.name if node.op.has(Trait.BOUNDARY) else ""
        parts.append((boundary, node.origin, node.device, "gain" in node.attributes, seen))
    return tuple(parts)


def _plan(preparation: Preparation, inputs: tuple[Any, ...], root: nn.Module) -> PlannedModel:
    try:
        return plan_model(root, preparation.options, from_meta(inputs))
    except ShapeError as error:
        raise InputError(f"the prepared model cannot take these inputs: {error}") from error


def _adopt(model: ObservedGraphModule, planned: PlannedModel) -> None:
    from hqc.workflow.prepare import emit_planned

    preparation = model.preparation
    graph, root = emit_planned(planned, preparation.options), planned.root
    changes = "; ".join(map(str, preparation.plan.changes(planned.plan)))
    _refuse_too_late(model, root, changes)
    device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    merger = _Merger(model)
    groups = scale_groups_of(root)
    merger.merge(model, root)
    merger.regroup(root, groups)
    root.to(device)
    for module in root.modules():
        merger.follow(module)
    for key in ("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set"):
        model.__dict__[key] = root.__dict__[key]
    model.graph = graph
    preparation.plan, preparation.emission = planned.plan, emission_of(planned.graph)
    preparation.remarks = planned.remarks


def _refuse_too_late(model: nn.Module, root: nn.Module, changes: str) -> None:
    old, new = (dict(each.named_parameters(remove_duplicate=False)) for each in (model, root))
    moved = sorted(set(old) ^ set(new)) + sorted(name for name in set(old) & set(new) if old[name].shape != new[name].shape)
    kept = {name for name, _ in fake_quants(root)}
    known = [
        name for name, each in fake_quants(model) if each.calibrated and not each.fixed and "weight_fake_quant" not in name
    ]
    lost = [name for name in known if name not in kept]
    reason = ""
    if moved:
        reason = f"parameters would appear or vanish ({', '.join(moved[:5])})"
    elif lost:
        reason = f"scales that are known would be lost ({', '.join(lost[:5])})"
    elif getattr(DistributedDataParallel, "_active_ddp_module", None) is not None:
        reason = "the model is wrapped in DistributedDataParallel already"
    if reason:
        raise SupportError(
            f"with the shapes of this first forward the plan differs from the one made without shapes ({changes or 'other observers'}), "
            f"and {reason}; pass example_inputs to prepare"
        )


class _Merger:
    """Puts the modules of the old tree into the new one wherever both are of one kind."""

    def __init__(self, model: nn.Module) -> None:
        self._kept: dict[int, nn.Module] = {}
        self._state = next((each.state for _, each in fake_quants(model)), None)

    def merge(self, old: nn.Module | None, new: nn.Module) -> nn.Module:
        """The module for `new`'s place: `old` with the children that `new` has, where it is of the same kind."""
        if id(new) in self._kept:
            return self._kept[id(new)]
        keeps = old is not None and _same_kind(old, new)
        self._kept[id(new)] = old if keeps and old is not None else new
        for name, child in list(new._modules.items()):
            if child is not None:
                new._modules[name] = self.merge(None if old is None else old._modules.get(name), child)
        if old is None:
            self._start(new)
            return new
        for name, parameter in old._parameters.items():
            if new._parameters.get(name) is not None:
                new._parameters[name] = parameter
        if not keeps:
            new.training = old.training
            if not isinstance(old, ObservedGraphModule):
                self._start(new)
            return new
        old._modules = new._modules
        return old

    def _start(self, new: nn.Module) -> None:
        if isinstance(new, FakeQuantizeBase) and self._state is not None:
            new.set_state(self._state)

    def regroup(self, root: nn.Module, groups: list[list[FakeQuantizeBase]]) -> None:
        """Let the fake quants that are there now share scales as those of the new tree did."""
        for _, fake_quant in fake_quants(root):
            fake_quant.join([])
        for members in groups:
            shared: list[FakeQuantizeBase] = []
            for member in members:
                kept = self._kept.get(id(member), member)
                assert isinstance(kept, FakeQuantizeBase)
                kept.join(shared)

    def follow(self, module: nn.Module) -> None:
        """Let a module that refers to another one refer to the one that was kept."""
        referred = module.__dict__.get("_source") if isinstance(module, _FOLLOWERS) else None
        if referred is not None:
            referred[:] = [self._kept.get(id(each), each) for each in referred]


def _same_kind(old: nn.Module, new: nn.Module) -> bool:
    if type(old) is not type(new) or isinstance(new, _FOLLOWERS):
        return False
    if isinstance(old, FakeQuantizeBase) and isinstance(new, FakeQuantizeBase):
        return (old.dtype, old.rounding, old.power_of_two, old.ch_axis) == (
            new.dtype,
            new.rounding,
            new.power_of_two,
            new.ch_axis,
        )
    return True
