"""Convolutions and products on the BPU whose weight no module owns (`F.conv2d`, `F.linear`, `x @ w`): they get a weight fake quant."""

from __future__ import annotations

import inspect
import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import fx, nn
from torch.nn import functional as F

from hqc.frontend.fx.locations import FORM_META, NAME_META, ORIGIN_META
from hqc.frontend.fx.proxies import IN_PLACE_META
from hqc.frontend.fx.weights import WeightArgument, weight_argument
from hqc.ir import Device, Node, Trait
from hqc.nn.qat.weights import BiasFakeQuantize, weight_fake_quant
from hqc.workflow.emit_operands import Operands

if TYPE_CHECKING:
    from hqc.workflow.emit import _Emitter


@dataclass(frozen=True)
class _Norm:
    """A folded batch norm as the model has it: `variance` and `gamma`, FX nodes (in `statistics`) or paths of a module's, with their
    tensors in `tensors`."""

    eps: float
    places: tuple[fx.Node | str | None, fx.Node | str | None]
    tensors: tuple[torch.Tensor, torch.Tensor | None]


class WeightedCalls:
    """Writes the calls that have a weight of their own, which is fake-quantized as the chip has it: with its batch norms folded into it."""

    def __init__(self, emitter: _Emitter) -> None:
        self._emitter = emitter

    def copy(self, old: fx.Node) -> fx.Node | None:
        """The call with its weight (and an int8 bias) fake-quantized, which `old` is from now on; None for another call.

        A product becomes the `F.linear` that it is in the plan.
        """
        found = self._weighted(old)
        return None if found is None else self._copy(old, *found)

    def _weighted(self, old: fx.Node) -> tuple[WeightArgument, Node, fx.Node] | None:
        """Of a convolution or product on the BPU with a weight that no module owns: which argument it is, the planned node, the weight."""
        emitter, argument = self._emitter, weight_argument(old)
        node = next((n for n in emitter.values.nodes_of(old) if n.op.has(Trait.CONV_LIKE) and n.device is Device.BPU), None)
        weight = None if argument is None else argument.of(old)
        if argument is None or node is None or not isinstance(weight, fx.Node) or weight.name not in emitter.tensors:
            return None
        return argument, node, weight

    def _copy(self, old: fx.Node, argument: WeightArgument, node: Node, weight: fx.Node) -> fx.Node:
        emitter, graph = self._emitter, self._emitter.graph
        operands = Operands(emitter, old)
        tensor, now = emitter.tensors[weight.name], emitter.env[weight]
        is_vector = tensor.ndim == 1  # a matrix of one column: the layer has one output feature
        if is_vector:
            tensor = tensor.unsqueeze(0)
            now = graph.create_node("call_method", "unsqueeze", (now, 0), {}, emitter.free_name(f"{old.name}_row"))
        elif argument.is_matrix:
            tensor = tensor.t()
            now = graph.create_node("call_method", "t", (now,), {}, emitter.free_name(f"{old.name}_transposed"))
        alpha, beta = argument.factors(old)
        tensor, now = tensor * alpha, self._times(now, alpha, f"{old.name}_scaled")
        axis = 0 if argument.is_matrix else argument.axis
        norms = self._norms(node)
        folded = self._factor(node, tensor) if norms is None else [(norm.eps, *norm.tensors) for norm in norms] or None
        module = weight_fake_quant(emitter.observers.weight_entry(node), emitter.march, tensor, axis, folded, old.name)
        statistics = [self._place(place) for norm in norms or () for place in norm.places]
        quantized = emitter.insert(f"{old.name}_weight_fake_quant", module, (now, *statistics), old)
        bias, new_bias = argument.bias_of(old), None
        if isinstance(bias, fx.Node):
            new_bias = self._times(emitter.env[bias], beta, f"{old.name}_start")
            if emitter.march.int8_bias and folded is None and bias.name in emitter.tensors:
                fake_quant = BiasFakeQuantize(module)  # type: ignore[arg-type]  # without a batch norm it is the fake quant itself
                new_bias = emitter.insert(f"{old.name}_bias_fake_quant", fake_quant, (new_bias,), old)
        if argument.is_matrix or is_vector:
            if is_vector and new_bias is not None:
                new_bias = graph.create_node(
                    "call_method", "reshape", (new_bias, 1), {}, emitter.free_name(f"{old.name}_offset")
                )
            args = (operands(argument.data_of(old)), quantized, *(() if new_bias is None else (new_bias,)))
            name = emitter.free_name(f"{old.name}_product") if is_vector else old.name
            new = graph.create_node("call_function", F.linear, args, {}, name)
            if is_vector:
                unnamed = {key: value for key, value in old.meta.items() if key not in (NAME_META, FORM_META)}
                new.meta = {**unnamed, ORIGIN_META: (old.name,)}
                new = graph.create_node("call_method", "squeeze", (new, -1), {}, old.name)
        else:
            replaced = {emitter.env[weight]: quantized, **({emitter.env[bias]: new_bias} if isinstance(bias, fx.Node) else {})}
            mapped = (operands.map(old.args), operands.map(old.kwargs))
            args, kwargs = fx.node.map_arg(mapped, lambda arg: replaced.get(arg, arg))
            new = graph.create_node(old.op, old.target, args, kwargs, old.name, old.type)
        stale = {IN_PLACE_META} if new.target is old.target else {IN_PLACE_META, FORM_META}
        new.meta = {key: value for key, value in old.meta.items() if key not in stale}
        emitter.env[old] = new
        return new

    def _times(self, now: fx.Node, factor: float, name: str) -> fx.Node:
        """`now` times a number of the call's own (`alpha` and `beta` of `addmm`), which the plan has in the parameter."""
        if factor == 1:
            return now
        emitter = self._emitter
        return emitter.graph.create_node("call_function", operator.mul, (now, factor), {}, emitter.free_name(name))

    # --- what is folded into a weight ----------------------------------------------------------------------------------------

    def _factor(self, node: Node, weight: torch.Tensor) -> torch.Tensor | None:
        """By what the plan multiplied every weight of `node`, as a number for each; None where it left them."""
        planned, own = node.operand("weight"), weight.detach().cpu().numpy()
        if planned is None or planned.array is None or planned.array.shape != own.shape or np.array_equal(planned.array, own):
            return None
        wide = own.astype(np.float64)
        return torch.from_numpy(np.divide(planned.array, wide, out=np.ones_like(wide), where=wide != 0)).to(weight.device)

    def _norms(self, node: Node) -> list[_Norm] | None:
        """The batch norms folded into the weight of `node`, whose statistics go on changing in a model that trains; None where that is
        not known, or where nothing trains: the factor of every weight is a constant then."""
        emitter = self._emitter
        if not emitter.trains:
            return None
        found: list[_Norm] = []
        for member in emitter.values.members(node):
            module = emitter.tree.floats.get(str(member.target)) if member.op == "call_module" else None
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_var is not None:
                paths = (f"{member.target}.running_var", None if module.weight is None else f"{member.target}.weight")
                found.append(_Norm(module.eps, paths, (module.running_var, module.weight)))
            elif member.op == "call_function" and member.target is F.batch_norm:
                bound = inspect.signature(F.batch_norm).bind(*member.args, **member.kwargs)
                bound.apply_defaults()
                variance, gamma = bound.arguments["running_var"], bound.arguments["weight"]
                nodes = [each for each in (variance, gamma) if each is not None]
                if not all(isinstance(each, fx.Node) and self._repeatable(each) for each in nodes):
                    return None
                tensor = None if gamma is None else emitter.tensors[gamma.name]
                found.append(_Norm(float(bound.arguments["eps"]), (variance, gamma), (emitter.tensors[variance.name], tensor)))
        return found

    def _repeatable(self, node: fx.Node) -> bool:
        """True where `node` can be computed ahead of its place: from parameters, sizes and calls that write nothing."""
        emitter = self._emitter
        if node.name in emitter.numbers:
            return True
        if node.name not in emitter.tensors or node.name in emitter.updates or emitter.values.writes(node):
            return False
        return node.op == "get_attr" or all(self._repeatable(operand) for operand in node.all_input_nodes)

    def _place(self, place: fx.Node | str | None) -> fx.Node | None:
        """The node that holds a statistic: the model computes it behind the call whose weight needs it, so it is computed once more."""
        if isinstance(place, str):
            emitter = self._emitter
            emitter.tree.reads(place)
            return emitter.graph.create_node("get_attr", place, (), {}, emitter.free_name(place.replace(".", "_")))
        return place if place is None else self._ahead(place)

    def _ahead(self, node: fx.Node) -> Any:
        emitter = self._emitter
        if node in emitter.env:
            return emitter.env[node]
        if node.name in emitter.numbers:
            return emitter.numbers[node.name]
        args, kwargs = fx.node.map_arg((node.args, dict(node.kwargs)), self._ahead)
        new = emitter.graph.create_node(node.op, node.target, args, kwargs, emitter.free_name(f"{node.name}_ahead"))
        new.meta = dict(node.meta)
        return new
