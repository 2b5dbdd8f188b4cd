"""The layers of an emitted model: quantized-training twins of fused groups, with the user's own parameters wherever that is possible."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import fx, nn

from hqc import arithmetic
from hqc.ir import Device, Node, Trait, Value
from hqc.march.spec import MarchSpec
from hqc.nn.qat.kept_batch_norm import BATCH_NORMS
from hqc.nn.qat.layer import QATLayer
from hqc.nn.qat.mapping import qat_module
from hqc.workflow.emit_tree import ModuleTree
from hqc.workflow.emit_values import PlannedValues

Parameters = tuple[nn.Parameter, nn.Parameter | None]


@dataclass(frozen=True)
class LayerGroup:
    """A conv-like node that becomes one layer. `conv`: the call of its `module`; `anchor`: where the layer is called (the addition,
    when there is one); `members`: all calls it stands for; `norm`: the batch norm among them."""

    node: Node
    conv: fx.Node
    anchor: fx.Node
    members: tuple[fx.Node, ...]
    module: Any
    norm: Any

    @property
    def residual(self) -> Value | None:
        """The value that is added, before its boundary."""
        residual = self.node.operand("residual")
        return None if residual is None else source_of(residual)


def source_of(value: Value) -> Value:
    """`value`, or what an inserted boundary that made it reads."""
    producer = value.producer
    boundary = producer is not None and producer.op.has(Trait.BOUNDARY) and not producer.origin
    return producer.operands[0] if producer is not None and boundary else value


def find_groups(values: PlannedValues, tree: ModuleTree) -> list[LayerGroup]:
    """The conv-like nodes on the BPU that stand for a call of a module with a quantized-training twin."""
    groups = []
    for node in values.graph.nodes:
        if not node.op.has(Trait.CONV_LIKE) or node.device is not Device.BPU:
            continue
        members = values.members(node)
        conv = next((member for member in members if _is_layer(member, tree)), None)
        if conv is None and members and _is_batch_norm(members[0], tree, BATCH_NORMS):
            conv = members[0]
        if conv is not None:
            norms = (tree.floats[str(m.target)] for m in members if m is not conv and _is_batch_norm(m, tree))
            module = tree.floats[str(conv.target)]
            norm = module if isinstance(module, BATCH_NORMS) else next(norms, None)
            anchor = _anchor(node, conv, members, values)
            groups.append(LayerGroup(node, conv, anchor, tuple(members), module, norm))
    return groups


def _is_layer(member: fx.Node, tree: ModuleTree) -> bool:
    return member.op == "call_module" and qat_module.accepts(tree.floats[str(member.target)])


def _is_batch_norm(member: fx.Node, tree: ModuleTree, kinds: Any = nn.modules.batchnorm._BatchNorm) -> bool:
    return member.op == "call_module" and isinstance(tree.floats[str(member.target)], kinds)


def _anchor(node: Node, conv: fx.Node, members: Iterable[fx.Node], values: PlannedValues) -> fx.Node:
    """The member that adds the residual, or the convolution's call."""
    residual = node.operand("residual")
    if residual is None:
        return conv
    added = source_of(residual)
    return next(
        member
        for member in members
        if member is not conv
        and (
            any(values.ever_holds(operand, added) for operand in member.all_input_nodes)
            or (added.producer is not None and member.name in added.producer.origin)  # a step inside the addition
        )
    )


class LayerBuilder:
    """Makes the layers of `groups`, which share parameters exactly where the float model does.

    A batch norm is folded into the layer's parameters, or kept in the layer of a model that `trains`: when asked (`keep`), when the model
    reads one of the group's tensors elsewhere too (`relu(bn(conv(x))) + conv.bias`), and when a weight that several layers own goes through
    different batch norms or is frozen while its batch norm trains.
    """

    def __init__(self, groups: list[LayerGroup], tree: ModuleTree, march: MarchSpec, *, keep: bool, trains: bool) -> None:
        self.march = march
        self._keep = keep
        self._trains = trains
        self._read = tree.read
        self._folded: dict[tuple[int, int], list[tuple[LayerGroup, Parameters]]] = {}
        self._norms: Counter[int] = Counter()  # of every weight: how many batch norms (or none) it goes through
        for weight, _ in {(id(_weight(group)), id(group.norm)) for group in groups}:
            self._norms[weight] += 1

    def build(self, group: LayerGroup, weight_fake_quant: Any, activation_post_process: nn.Module | None) -> QATLayer:
        """The layer of a group. `weight_fake_quant`: a qconfig's entry; `activation_post_process`: None for a high-precision output."""
        module, norm = group.module, group.norm
        kept = norm is not None and self._trains and self._keeps(group)
        weight, bias = self._own(group) if kept or _is_unchanged(group) else self._fold(group)
        if isinstance(module, BATCH_NORMS):
            module = qat_module.unit_convolution(module, kept=kept)
            if kept:
                weight, bias = _as_parameter(module.weight), None
        layer = qat_module.build(
            module,
            weight=weight,
            bias=bias,
            activation=group.node.attributes["activation"],
            residual=group.residual is not None,
            weight_fake_quant=weight_fake_quant,
            activation_post_process=activation_post_process,
            march=self.march,
            batch_norm=norm if kept else None,
        )
        layer.half_step = group.node.attributes["half_step"]
        if "output_padding" in group.node.attributes:  # what the call's output_size makes of it, when there is one
            axes = len(module.kernel_size)
            layer.output_padding = group.node.attributes["output_padding"][-axes:]
        return layer

    def _keeps(self, group: LayerGroup) -> bool:
        module, norm = group.module, group.norm
        assert norm is not None
        like = module if module is not norm else qat_module.unit_convolution(norm, kept=True)
        if not qat_module.keeps_batch_norm(like, norm):
            return False
        tensors = [*module.parameters(), *norm.parameters(), *norm.buffers()]
        gamma = norm.weight
        trains_alone = gamma is not None and gamma.requires_grad and not module.weight.requires_grad
        return self._keep or trains_alone or self._norms[id(_weight(group))] > 1 or any(id(t) in self._read for t in tensors)

    def _own(self, group: LayerGroup) -> Parameters:
        """The user's own parameters."""
        module = group.module
        weight, bias = module.weight, getattr(module, "bias", None)
        return _as_parameter(weight), None if bias is None else _as_parameter(bias)

    def _fold(self, group: LayerGroup) -> Parameters:
        """Parameters with the batch norm (and constants) in them; the same ones for every call of the modules that comes out equal."""
        module, norm = group.module, group.norm
        like = _weight(group)
        known = self._folded.setdefault((id(like), id(norm)), [])
        for other, parameters in known:
            if all(_same(other.node.operand(name), group.node.operand(name)) for name in ("weight", "bias")):
                return parameters
        weight, bias = group.node.operand("weight"), group.node.operand("bias")
        assert weight is not None and weight.array is not None
        trains = {name: _trains(module, name) or (norm is not None and _trains(norm, name)) for name in ("weight", "bias")}
        made = (
            _new_parameter(weight.array, like, trains["weight"]),
            None if bias is None or bias.array is None else _new_parameter(bias.array, like, trains["bias"]),
        )
        known.append((group, made))
        return made


def _same(a: Value | None, b: Value | None) -> bool:
    """Whether two constants hold the same numbers."""
    if a is None or b is None or a.array is None or b.array is None:
        return a is b
    return _equal(a.array, b.array)


def _weight(group: LayerGroup) -> torch.Tensor:
    """The weight of the group's module; of a batch norm without one, its variance."""
    weight = group.module.weight
    found: torch.Tensor = group.module.running_var if weight is None else weight
    return found


def _is_unchanged(group: LayerGroup) -> bool:
    """True when the planned weight and bias are those of the module."""
    for name in ("weight", "bias"):
        planned, own = group.node.operand(name), getattr(group.module, name, None)
        if planned is None and own is None:
            continue
        if planned is None or own is None or planned.array is None:
            return False
        if not _equal(planned.array, own.detach().cpu().numpy()):
            return False
    return True


def _equal(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> bool:
    """Whether both hold the same numbers, NaN like NaN; usually both are the same memory."""
    if a.shape != b.shape:
        return False
    if a.dtype == b.dtype and a.strides == b.strides and a.__array_interface__["data"] == b.__array_interface__["data"]:
        return True
    return all(np.array_equal(a[rows], b[rows], equal_nan=True) for rows in arithmetic.row_blocks(a))


def _trains(module: nn.Module, name: str) -> bool:
    tensor = getattr(module, name, None)
    return tensor is not None and tensor.requires_grad


def _as_parameter(tensor: torch.Tensor) -> nn.Parameter:
    """A frozen tensor that the user keeps as a buffer becomes a frozen parameter."""
    return tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor.detach(), requires_grad=False)


def _new_parameter(array: npt.NDArray[Any], like: torch.Tensor, trains: bool) -> nn.Parameter:
    return nn.Parameter(torch.from_numpy(np.array(array)).to(device=like.device, dtype=like.dtype), requires_grad=trains)
