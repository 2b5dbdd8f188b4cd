"""`fold-batch-norm`: batch norms disappear into the layer before them, or become a convolution of their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from hqc.ir import Graph, Node, Trait, Value
from hqc.ir.graph import constant_array
from hqc.ir.ops.conv import conv_transpose2d, linear
from hqc.ir.ops.normalization import batch_norm
from hqc.passes.base import Pass, PassContext, PassResult, Remark
from hqc.passes.registry import register_pass
from hqc.passes.rewrite import absorb_origin, become, drop_unused, may_join, morph, only_user, set_parameter, wished_on_cpu

F64 = npt.NDArray[np.float64]


@register_pass
@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """Fold a batch norm into the convolution, transposed convolution or linear layer whose only user it is.

    `w' = w * g` and `b' = (b - mean) * g + beta` with `g = gamma / sqrt(var + eps)`, in float64, stored as float32. A
    weight that other nodes read is copied. A batch norm of rank 4 (or of unknown rank) with no such layer before it becomes a
    depthwise 1x1 convolution with the weight `g`; of another rank it stays. Nothing is folded across a value with other
    users, with a scale, or that the graph returns, nor where the user wishes the two on different devices or on the CPU.
    """

    name: ClassVar[str] = "fold-batch-norm"

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        changed, remarks = False, list[Remark]()
        for node in graph.nodes:
            if node.op is not batch_norm:
                continue
            affine = _Affine.of(node)
            if affine is None:
                continue
            layer = _layer_before(graph, node, affine, context)
            if layer is not None:
                _fold(graph, layer, node, affine)
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


def _layer_before(graph: Graph, node: Node, affine: _Affine, context: PassContext) -> Node | None:
    """The layer that can take the batch norm, or None."""
    x = node.inputs[0]
    layer = None if x is None else x.producer
    if x is None or layer is None or not layer.op.has(Trait.CONV_LIKE) or only_user(graph, x) is not node:
        return None
    if layer.operand("residual") is not None or layer.attributes["activation"] != "none":
        return None
    weight, bias = layer.operand("weight"), layer.operand("bias")
    if weight is None or not weight.is_parameter or weight.quant is not None or not (bias is None or bias.is_parameter):
        return None
    if not may_join(layer, node, context) or _channels(layer, weight) != affine.gain.size:
        return None
    # The channels of a linear layer are its last axis, those of a batch norm axis 1: the same for rank 2 only. Without shapes
    # a linear layer followed by a batch norm of its size is taken for that common case.
    if layer.op is linear and x.type.rank not in (None, 2):
        return None
    return layer


def _channels(layer: Node, weight: Value) -> int:
    shape = constant_array(weight).shape
    return int(shape[1] * layer.attributes["groups"] if layer.op is conv_transpose2d else shape[0])


def _scaled_weight(layer: Node, weight: npt.NDArray[Any], gain: F64) -> npt.NDArray[np.float32]:
    """`weight` with every output channel multiplied by its gain, in float64, a piece at a time: weights are large."""
    factor = gain.reshape(-1, *[1] * (weight.ndim - 1))
    if layer.op is conv_transpose2d:
        factor = _gain_per_input(layer, weight, gain)
    result = np.empty(weight.shape, np.float32)
    np.multiply(weight, factor, out=result, dtype=np.float64, casting="unsafe")
    return result


def _gain_per_input(layer: Node, weight: npt.NDArray[Any], gain: F64) -> F64:
    """The gains of a transposed convolution, shaped for its weight `[C, O/groups, ...]`."""
    # Input channel i is in group i // (C/groups) and reaches that group's output channels.
    groups = int(layer.attributes["groups"])
    per_input = np.repeat(gain.reshape(groups, -1), weight.shape[0] // groups, axis=0)
    return per_input.reshape(*per_input.shape, *[1] * (weight.ndim - 2))


def _fold(graph: Graph, layer: Node, norm: Node, affine: _Affine) -> None:
    """The batch norm's node becomes the layer, so its value keeps its name, users and location."""
    weight, bias = layer.operand("weight"), layer.operand("bias")
    assert weight is not None
    statistics = norm.inputs[1:]
    new_weight = _scaled_weight(layer, constant_array(weight), affine.gain)
    new_bias = affine.bias(0.0 if bias is None else constant_array(bias).astype(np.float64))
    op = layer.op
    absorb_origin(graph, norm, layer)
    become(norm, op, layer.inputs, dict(layer.attributes))
    graph.erase(layer)
    set_parameter(graph, norm, op.operand_index("weight"), new_weight, f"{weight.name}_{norm.name}")
    name = f"{layer_name(weight)}bias" if bias is None else f"{bias.name}_{norm.name}"
    set_parameter(graph, norm, op.operand_index("bias"), new_bias, name)
    drop_unused(graph, *statistics)


def layer_name(weight: Value) -> str:
    """`conv1.` of a weight called `conv1.weight`: the prefix for the layer's other parameters."""
    return weight.name.rpartition(".")[0] + "." if "." in weight.name else f"{weight.name}_"


def _become_convolution(graph: Graph, node: Node, affine: _Affine) -> None:
    x, statistics = node.inputs[0], node.inputs[1:]
    weight = graph.add_parameter(f"{node.name}_weight", affine.gain.astype(np.float32).reshape(-1, 1, 1, 1))
    bias = graph.add_parameter(f"{node.name}_bias", affine.bias(0.0))
    morph(node, "conv2d", [x, weight, bias], {"groups": affine.gain.size})
    drop_unused(graph, *statistics)
