"""`fold-batch-norm`: batch norms (and constants written by hand) disappear into the layer before them, or a norm becomes a convolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from hqc.ir import Graph, Node, Trait, Value, get_op
from hqc.ir.graph import constant_array
from hqc.ir.ops import elementwise
from hqc.ir.ops.conv import linear
from hqc.ir.ops.normalization import batch_norm
from hqc.passes.base import Pass, PassContext, PassResult, Remark
from hqc.passes.conv_scales import RESULT_AXIS, WEIGHT_AXIS
from hqc.passes.fuse_conv import is_fused
from hqc.passes.registry import register_pass
from hqc.passes.rewrite import absorb_origin, become, drop_unused, may_join, morph, only_user, set_parameter, wished_on_cpu

F64 = npt.NDArray[np.float64]


@register_pass
@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """Fold a batch norm into the convolution, transposed convolution or linear layer (trait `weighted`) whose only user it is.

    `w' = w * g` and `b' = (b - mean) * g + beta` with `g = gamma / sqrt(var + eps)`, in float64, stored as float32. A
    weight that other nodes read is copied. A batch norm of rank 4 (or of unknown rank) with no such layer before it becomes a
    depthwise 1x1 convolution with the weight `g`; of another rank it stays. Nothing is folded across a value with other
    users, with a scale, or that the graph returns, nor where the user wishes the two on different devices or on the CPU.

    With `constants` the same happens to what is a batch norm written by hand: a product, quotient, sum or difference of the layer's
    result and a constant with one number, or one per channel. Training goes on with such numbers, so only post-training quantization
    (and what it planned) folds them.
    """

    name: ClassVar[str] = "fold-batch-norm"
    constants: bool = field(default=False, metadata={"help": "fold products and sums with constants too"})

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        changed, remarks = False, list[Remark]()
        for node in graph.nodes:
            if node.op is not batch_norm:
                if self.constants and node.op in _BY_HAND:
                    changed |= _fold_constant(graph, node, context)
                continue
            affine = _Affine.of(node)
            if affine is None:
                continue
            layer = _layer_before(graph, node, node.inputs[0], affine, context)
            if layer is not None:
                _fold(graph, layer, node, affine, node.inputs[1:])
                changed = True
            elif node.result.type.rank in (None, 4) and not wished_on_cpu(node):
                _become_convolution(graph, node, affine)
                remarks.append(self.remark("has no layer to fold into: it becomes a depthwise 1x1 convolution", node))
                changed = True
        return PassResult(changed, tuple(remarks))


@dataclass(frozen=True)
class _Affine:
    """A batch norm as `x * gain + shift` per channel, float64 `[C]`."""

    gain: F64
    mean: F64
    beta: F64

    @classmethod
    def of(cls, node: Node) -> _Affine | None:
        """None when a statistic is not a constant."""
        arrays: dict[str, F64] = {}
        for name in ("mean", "var", "weight", "bias"):
            value = node.operand(name)
            if value is not None:
                if not value.is_parameter:
                    return None
                arrays[name] = constant_array(value).astype(np.float64)
        gain = 1.0 / np.sqrt(arrays["var"] + float(node.attributes["eps"]))
        if "weight" in arrays:
            gain = gain * arrays["weight"]
        return cls(gain, arrays["mean"], arrays.get("bias", np.zeros_like(gain)))

    def bias(self, before: F64 | float) -> npt.NDArray[np.float32]:
        """The bias after folding into a layer whose bias was `before`."""
        return ((before - self.mean) * self.gain + self.beta).astype(np.float32)


def _layer_before(graph: Graph, node: Node, x: Value | None, affine: _Affine, context: PassContext) -> Node | None:
    """The layer that makes `x` and can take the batch norm, or None."""
    layer = None if x is None else x.producer
    if x is None or layer is None or not layer.op.has(Trait.WEIGHTED) or only_user(graph, x) is not node or is_fused(layer):
        return None
    weight, bias = layer.operand("weight"), layer.operand("bias")
    if weight is None or not weight.is_parameter or not (bias is None or bias.is_parameter):
        return None
    if not may_join(layer, node, context) or _channels(layer, weight) != affine.gain.size:
        return None
    # What has its grid takes only what leaves it there: a sum, or anything while it is all zeros.
    if weight.quant is not None and not _is_kept(layer, constant_array(weight), affine.gain):
        return None
    # The channels of a linear layer are its last axis, those of a batch norm axis 1: the same for rank 2 only. Without shapes
    # a linear layer followed by a batch norm of its size is taken for that common case.
    if layer.op is linear and x.type.rank not in (None, 2) and node.op is batch_norm:
        return None
    return layer


def _channels(layer: Node, weight: Value) -> int:
    shape = constant_array(weight).shape
    return int(shape[1] * layer.attributes["groups"] if _is_transposed(layer) else shape[0])


def _is_transposed(layer: Node) -> bool:
    return layer.op.name in WEIGHT_AXIS


def _scaled_weight(layer: Node, weight: npt.NDArray[Any], gain: F64) -> npt.NDArray[np.float32]:
    """`weight` with every output channel multiplied by its gain, in float64, a piece at a time: weights are large."""
    factor = gain.reshape(-1, *[1] * (weight.ndim - 1))
    if _is_transposed(layer):
        factor = _gain_per_input(layer, weight, gain)
    result = np.empty(weight.shape, np.float32)
    np.multiply(weight, factor, out=result, dtype=np.float64, casting="unsafe")
    return result


def _is_kept(layer: Node, weight: npt.NDArray[Any], gain: F64) -> bool:
    """Whether the gains leave `weight` as it is."""
    return np.array_equal(_scaled_weight(layer, weight, gain), weight)


def _gain_per_input(layer: Node, weight: npt.NDArray[Any], gain: F64) -> F64:
    """The gains of a transposed convolution, shaped for its weight `[C, O/groups, ...]`."""
    # Input channel i is in group i // (C/groups) and reaches that group's output channels.
    groups = int(layer.attributes["groups"])
    per_input = np.repeat(gain.reshape(groups, -1), weight.shape[0] // groups, axis=0)
    return per_input.reshape(*per_input.shape, *[1] * (weight.ndim - 2))


def _fold(graph: Graph, layer: Node, norm: Node, affine: _Affine, constants: Sequence[Value | None]) -> None:
    """The batch norm's node becomes the layer, so its value keeps its name, users and location. `constants`: its other operands."""
    weight, bias = layer.operand("weight"), layer.operand("bias")
    assert weight is not None
    new_weight = _scaled_weight(layer, constant_array(weight), affine.gain) if weight.quant is None else None
    new_bias = affine.bias(0.0 if bias is None else constant_array(bias).astype(np.float64))
    op = layer.op
    absorb_origin(graph, norm, layer)
    become(norm, op, layer.inputs, dict(layer.attributes))
    graph.erase(layer)
    if new_weight is not None:  # one with a grid stays as it is
        set_parameter(graph, norm, op.operand_index("weight"), new_weight, f"{weight.name}_{norm.name}")
    name = f"{layer_name(weight)}bias" if bias is None else f"{bias.name}_{norm.name}"
    set_parameter(graph, norm, op.operand_index("bias"), new_bias, name)
    drop_unused(graph, *constants)


def layer_name(weight: Value) -> str:
    """`conv1.` of a weight called `conv1.weight`: the prefix for the layer's other parameters."""
    return weight.name.rpartition(".")[0] + "." if "." in weight.name else f"{weight.name}_"


def _become_convolution(graph: Graph, node: Node, affine: _Affine) -> None:
    x, statistics = node.inputs[0], node.inputs[1:]
    weight = graph.add_parameter(f"{node.name}_weight", affine.gain.astype(np.float32).reshape(-1, 1, 1, 1))
    bias = graph.add_parameter(f"{node.name}_bias", affine.bias(0.0))
    morph(node, "conv2d", [x, weight, bias], {"groups": affine.gain.size})
    drop_unused(graph, *statistics)


# --- batch norms written by hand ------------------------------------------------------------------------------------------------

_NEG = get_op("neg")
_BY_HAND = (elementwise.mul, elementwise.div, elementwise.add, elementwise.sub, _NEG)


def _fold_constant(graph: Graph, node: Node, context: PassContext) -> bool:
    """Fold `x * c`, `x / c`, `x + c`, `x - c`, `c - x` or `-x` into the layer that makes `x`; True when it could."""
    for index, x in enumerate(node.inputs):
        layer = None if x is None else x.producer
        weight = None if layer is None or not layer.op.has(Trait.WEIGHTED) else layer.operand("weight")
        if x is None or layer is None or weight is None or not weight.is_parameter:
            continue
        if len(node.inputs) == 1:
            other, number = None, np.ones(1)
        else:
            other = node.inputs[1 - index]
            found = None if other is None else _per_channel(other, x, layer, _channels(layer, weight))
            if found is None:
                continue
            number = found
        affine = _by_hand(node, index, number, _channels(layer, weight))
        if affine is None or node.result.shape != x.shape or _layer_before(graph, node, x, affine, context) is not layer:
            continue
        _fold(graph, layer, node, affine, [other])
        return True
    return False


def _per_channel(constant: Value, x: Value, layer: Node, channels: int) -> F64 | None:
    """The numbers of a constant with one number or one per channel of `x`, float64 `[1]` or `[C]`; None for another operand."""
    if not constant.is_parameter or constant.quant is not None or not constant.type.dtype.is_float:
        return None
    array = constant_array(constant)
    if array.size == 1:
        return array.astype(np.float64).reshape(1)
    rank = x.type.rank
    axis = RESULT_AXIS.get(layer.op.name, 1)
    if rank is None or array.ndim > rank or array.size != channels:
        return None
    spread = (1,) * (rank - array.ndim) + array.shape
    return array.astype(np.float64).reshape(-1) if spread[axis] == channels else None


def _by_hand(node: Node, index: int, number: F64, channels: int) -> _Affine | None:
    """What `node` does to its operand `index`, as a batch norm; None where that is nothing finite."""
    one, zero = np.ones(1), np.zeros(1)
    gain, shift = one, zero
    if node.op is _NEG:
        gain = -one
    elif node.op is elementwise.mul:
        gain = number
    elif node.op is elementwise.div:
        if index == 1 or not number.all():
            return None
        gain = one / number
    elif node.op is elementwise.add:
        shift = number
    else:
        gain, shift = (one, -number) if index == 0 else (-one, number)
    if not (np.isfinite(gain).all() and np.isfinite(shift).all()):
        return None
    spread = [np.broadcast_to(each, (channels,)) for each in (gain, zero, shift)]
    return _Affine(*spread)
