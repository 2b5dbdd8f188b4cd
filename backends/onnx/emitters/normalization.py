"""Normalizations. Batch norm has an ONNX op; the others are spelled out with mean and variance (divided by n)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hqc.backends.onnx.builder import Builder
from hqc.backends.onnx.emitters._operands import shapes, type_of
from hqc.backends.onnx.registry import emitter
from hqc.ir import Node


@emitter("batch_norm")
def batch_norm(node: Node, b: Builder) -> str:
    x, mean, var = (b.operand(node, index) for index in range(3))
    channels, dtype = shapes(node)[0][1], type_of(node).numpy
    weight = b.optional(node, "weight") or b.constant(np.ones(channels), dtype, "ones")
    bias = b.optional(node, "bias") or b.constant(np.zeros(channels), dtype, "zeros")
    return b("BatchNormalization", x, weight, bias, mean, var, epsilon=node.attributes["eps"])


def _normalized(node: Node, b: Builder, x: str, axes: Sequence[int]) -> str:
    """`(x - mean) / sqrt(var + eps)` over `axes`."""
    centred = b("Sub", x, b("ReduceMean", x, axes=list(axes), keepdims=1))
    variance = b("ReduceMean", b("Mul", centred, centred), axes=list(axes), keepdims=1)
    return b("Div", centred, b("Sqrt", b("Add", variance, b.scalar(node.attributes["eps"], type_of(node)))))


def _reshaped(b: Builder, name: str, shape: list[int]) -> str:
    return b.transformed(name, lambda array: array.reshape(shape), "per_channel") or b("Reshape", name, b.ints(shape))


def _affine(node: Node, b: Builder, x: str, shape: Sequence[int] | None) -> str:
    """Multiply by weight and add bias, reshaped to `shape` when given."""
    for operand, op_type in (("weight", "Mul"), ("bias", "Add")):
        name = b.optional(node, operand)
        if name is not None:
            x = b(op_type, x, name if shape is None else _reshaped(b, name, list(shape)))
    return x


@emitter("layer_norm")
def layer_norm(node: Node, b: Builder) -> str:
    rank = len(shapes(node)[0])
    axes = range(rank - node.attributes["normalized_ndim"], rank)
    return _affine(node, b, _normalized(node, b, b.operand(node, 0), axes), None)


@emitter("group_norm")
def group_norm(node: Node, b: Builder) -> str:
    shape, _ = shapes(node)
    groups = node.attributes["groups"]
    grouped = b("Reshape", b.operand(node, 0), b.ints([shape[0], groups, -1]))
    back = b("Reshape", _normalized(node, b, grouped, [2]), b.ints(shape, "shape"))
    return _affine(node, b, back, [shape[1]] + [1] * (len(shape) - 2))


@emitter("instance_norm")
def instance_norm(node: Node, b: Builder) -> str:
    shape, _ = shapes(node)
    normalized = _normalized(node, b, b.operand(node, 0), range(2, len(shape)))
    return _affine(node, b, normalized, [shape[1]] + [1] * (len(shape) - 2))


@emitter("lp_normalize")
def lp_normalize(node: Node, b: Builder) -> str:
    """ONNX's LpNormalization has one axis and no eps, so it is spelled out."""
    x, shape = b.operand(node, 0), shapes(node)[0]
    axes = sorted(axis % len(shape) for axis in node.attributes["axes"])
    norm = b("ReduceL1" if node.attributes["p"] == 1 else "ReduceL2", x, axes=axes, keepdims=1)
    return b("Div", x, b("Max", norm, b.scalar(node.attributes["eps"], type_of(node))))
