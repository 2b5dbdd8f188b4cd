"""Operators of onnxruntime that its optimizer makes of several standard ones: each is read as the nodes that it stands for.

A file that `SessionOptions.optimized_model_filepath` wrote then has the plan of the file that it was made from.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from hqc.frontend.onnx.context import OnnxContext, Unexpressed
from hqc.frontend.onnx.reader import STANDARD
from hqc.registry import Registry

OWN = "com.microsoft"
LAYOUTS = (f"{OWN}.nchwc", "com.ms.internal.nhwc")
"""Domains of operators on tensors that are rearranged for one processor."""


class Parts:
    """The nodes that stand for the current node of `ctx`: all have its name, and the last one its result."""

    def __init__(self, ctx: OnnxContext) -> None:
        self.ctx = ctx
        self.nodes: list[onnx.NodeProto] = []

    def input(self, index: int) -> str:
        """The name of an operand, empty where it is absent."""
        return str(self.ctx.node.input[index]) if index < len(self.ctx.node.input) else ""

    def add(self, op: str, *inputs: str, what: str | None = None, **attributes: Any) -> str:
        """Append a node; its result is called after the whole one's, with `what` on the way to it."""
        result = str(self.ctx.node.output[0]) + (f"_{what}" if what else "")
        self.nodes.append(onnx.helper.make_node(op, inputs, [result], self.ctx.node.name, **attributes))
        return result

    def constant(self, array: npt.ArrayLike, what: str, dtype: Any = np.float32) -> str:
        name, held = f"{self.ctx.node.output[0]}_{what}", np.asarray(array, dtype)
        self.ctx.env[name] = held
        self.ctx.name_array(held, name)
        return name

    def rest(self, *own: str) -> dict[str, Any]:
        """The attributes of the node but for its `own`."""
        return {item.name: onnx.helper.get_attribute_value(item) for item in self.ctx.node.attribute if item.name not in own}


Opening = Callable[[Parts], Any]
OPENINGS: Registry[str, Opening] = Registry("opening of an operator of onnxruntime")


def opened(ctx: OnnxContext) -> list[onnx.NodeProto] | None:
    """What the current node stands for; None for a node that is to be read as it is. `Unexpressed` where no nodes say it."""
    domain, op = ctx.node.domain, ctx.node.op_type
    if domain in LAYOUTS:
        raise ctx.error(
            f"is an operator of {domain}: the file was optimized for the layout of one processor; save it with "
            "graph_optimization_level ORT_ENABLE_EXTENDED at most, or take the file that it was made from"
        )
    if domain in STANDARD:
        # onnxruntime had these before the standard, and writes them into its domain whatever the opset.
        own = op == "SimplifiedLayerNormalization" or (op == "LayerNormalization" and ctx.opset < 17)
    else:
        own = domain == OWN
    opening = OPENINGS.get(op) if own else None
    if opening is None:
        return None
    parts = Parts(ctx)
    opening(parts)
    return parts.nodes


# --- layers with an activation --------------------------------------------------------------------------------------------


def _activated(parts: Parts, x: str, kind: str, numbers: list[float]) -> None:
    """The activation behind a layer; `numbers`: its parameters."""
    if kind == "Clip" and parts.ctx.opset < 11:
        parts.add("Clip", x, min=numbers[0], max=numbers[1])
    elif kind == "Clip":
        parts.add("Clip", x, parts.constant(numbers[0], "min"), parts.constant(numbers[1], "max"))
    else:
        names = {"LeakyRelu": ("alpha",), "HardSigmoid": ("alpha", "beta"), "Elu": ("alpha",)}.get(kind, ())
        attributes: dict[str, Any] = dict(zip(names, numbers, strict=False))
        parts.add(kind, x, **attributes)


@OPENINGS.register("FusedConv")
def _conv(parts: Parts) -> None:
    kind, added = parts.ctx.attribute("activation", ""), parts.input(3)
    inner = [parts.input(index) for index in range(3 if parts.input(2) else 2)]
    attributes = parts.rest("activation", "activation_params")
    y = parts.add("Conv", *inner, what="conv" if kind or added else None, **attributes)
    if added:
        y = parts.add("Add", y, added, what="sum" if kind else None)
    if kind:
        _activated(parts, y, kind, list(parts.ctx.attribute("activation_params", [])))


@OPENINGS.register("FusedGemm")
def _gemm(parts: Parts) -> None:
    kind, own = parts.ctx.attribute("activation", ""), ("activation_alpha", "activation_beta", "activation_gamma")
    inner = [parts.input(index) for index in range(3 if parts.input(2) else 2)]
    y = parts.add("Gemm", *inner, what="product" if kind else None, **parts.rest("activation", *own))
    if kind:
        _activated(parts, y, kind, [float(parts.ctx.attribute(name)) for name in own if parts.ctx.attribute(name) is not None])


@OPENINGS.register("FusedMatMul", "TransposeMatMul")
def _matmul(parts: Parts) -> None:
    if parts.ctx.attribute("transBatchA", 0) or parts.ctx.attribute("transBatchB", 0):
        raise Unexpressed("it moves axes of the batch")
    operands = []
    for index, name in enumerate("AB"):
        operand = parts.input(index)
        if parts.ctx.attribute(f"trans{name}", 0):
            axes = list(range(parts.ctx.rank(parts.ctx.required(index))))
            operand = parts.add("Transpose", operand, what=name.lower(), perm=[*axes[:-2], *axes[:-3:-1]])
        operands.append(operand)
    alpha = float(parts.ctx.attribute("alpha", 1.0))
    y = parts.add("MatMul", *operands, what=None if alpha == 1 else "product")
    if alpha != 1:
        parts.add("Mul", y, parts.constant(alpha, "alpha"))


# --- activations ------------------------------------------------------------------------------------------------------------


@OPENINGS.register("Gelu", "BiasGelu", "FastGelu")
def _gelu(parts: Parts) -> None:
    x = parts.add("Add", parts.input(0), parts.input(1), what="sum") if parts.input(1) else parts.input(0)
    parts.add("Gelu", x, approximate="tanh" if parts.ctx.node.op_type == "FastGelu" else "none")


@OPENINGS.register("QuickGelu")
def _quick_gelu(parts: Parts) -> None:
    scaled = parts.add("Mul", parts.input(0), parts.constant(parts.ctx.attribute("alpha", 1.702), "alpha"), what="scaled")
    parts.add("Mul", parts.input(0), parts.add("Sigmoid", scaled, what="gate"))


@OPENINGS.register("BiasSoftmax")
def _bias_softmax(parts: Parts) -> None:
    x, axis = parts.ctx.required(0), int(parts.ctx.attribute("axis", 1))
    if axis % parts.ctx.rank(x) != parts.ctx.rank(x) - 1:
        raise Unexpressed("it is over several axes")
    parts.add("Softmax", parts.add("Add", parts.input(0), parts.input(1), what="sum"), axis=-1)


# --- norms ------------------------------------------------------------------------------------------------------------------


@OPENINGS.register("LayerNormalization")
def _layer_norm(parts: Parts) -> None:
    parts.nodes.append(onnx.NodeProto())
    parts.nodes[0].CopyFrom(parts.ctx.node)
    parts.nodes[0].domain = ""


@OPENINGS.register("SkipLayerNormalization", "SkipSimplifiedLayerNormalization")
def _skip_norm(parts: Parts) -> None:
    """A norm of the sum of two tensors and a bias; the fourth result is the sum."""
    simple = parts.ctx.node.op_type.startswith("SkipSimplified")
    results = list(parts.ctx.node.output)
    if any(results[1:3]):
        raise Unexpressed("its mean or deviation is read")
    bias = parts.input(3 if simple else 4)
    x = parts.add("Add", parts.input(0), parts.input(1), what="sum")
    if bias:
        x = parts.add("Add", x, bias, what="shifted")
    if len(results) > 3 and results[3]:
        parts.nodes[-1].output[0] = x = results[3]
    eps = float(parts.ctx.attribute("epsilon", 1e-5))
    if simple:
        _root_mean_square(parts, x, parts.input(2), eps, -1)
    else:
        weights = [parts.input(index) for index in (2, 3) if parts.input(index)]
        parts.add("LayerNormalization", x, *weights, axis=-1, epsilon=eps)


@OPENINGS.register("SimplifiedLayerNormalization")
def _simplified(parts: Parts) -> None:
    if any(list(parts.ctx.node.output)[1:]):
        raise Unexpressed("its deviation is read")
    axis = int(parts.ctx.attribute("axis", -1))
    _root_mean_square(parts, parts.input(0), parts.input(1), float(parts.ctx.attribute("epsilon", 1e-5)), axis)


def _root_mean_square(parts: Parts, x: str, scale: str, eps: float, axis: int) -> None:
    """`x / sqrt(mean(x^2) + eps) * scale`, over the axes from `axis` on."""
    rank = parts.ctx.rank(parts.ctx.required(0))
    axes = list(range(axis % rank, rank))
    square = parts.add("Pow", x, parts.constant(2.0, "two"), what="square")
    if parts.ctx.opset < 18:
        mean = parts.add("ReduceMean", square, what="mean", axes=axes)
    else:
        mean = parts.add("ReduceMean", square, parts.constant(axes, "axes", np.int64), what="mean")
    root = parts.add("Sqrt", parts.add("Add", mean, parts.constant(eps, "eps"), what="shifted_mean"), what="root")
    parts.add("Mul", parts.add("Div", x, root, what="normal"), scale)
