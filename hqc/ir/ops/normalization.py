"""Normalizations. Statistics of batch norm are constants: inference only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from hqc.errors import ShapeError
from hqc.ir.op import Array, Attr, Attributes, OperandTypes, Vectors, op
from hqc.ir.ops._shapes import first, reduced, same_as_first
from hqc.ir.ops.activation import along_channels
from hqc.ir.types import TensorType

_EPS = Attr("eps", "float", 1e-5)


def _affine(y: Array, weight: Any, bias: Any) -> Array:
    """`y * weight + bias` with per-channel parameters on axis 1, either of which may be absent."""
    if weight is not None:
        y = y * along_channels(weight, y.ndim)
    return y if bias is None else y + along_channels(bias, y.ndim)


def _batch_norm(arrays: Sequence[Any], attributes: Attributes) -> Array:
    x, mean, var, weight, bias = [*arrays, None, None][:5]
    deviation = np.sqrt(along_channels(var.astype(np.float64), x.ndim) + attributes["eps"])
    return _affine((x - along_channels(mean, x.ndim)) / deviation, weight, bias)


@op("batch_norm", operands="x, mean, var, weight?, bias?", attributes=(_EPS,), compute=_batch_norm)
def batch_norm(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """`(x - mean) / sqrt(var + eps) * weight + bias` along axis 1; all but x of shape `[C]`."""
    return [first(types)]


def _standardized(x: Array, axes: tuple[int, ...], eps: float) -> Array:
    mean, var = x.mean(axis=axes, keepdims=True), x.var(axis=axes, keepdims=True)
    return np.asarray((x - mean) / np.sqrt(var + eps))


def _deviations(shape: tuple[int, ...], axes: tuple[int, ...], attributes: Attributes) -> Vectors:
    return Vectors(shape, axes, math.sqrt(attributes["eps"]), centred=True)


def _layer_norm(arrays: Sequence[Any], attributes: Attributes) -> Array:
    x, weight, bias = [*arrays, None, None][:3]
    y = _standardized(x.astype(np.float64), tuple(range(-attributes["normalized_ndim"], 0)), attributes["eps"])
    y = y if weight is None else y * weight
    return y if bias is None else np.asarray(y + bias)


@op(
    "layer_norm",
    operands="x, weight?, bias?",
    attributes=(Attr("normalized_ndim", "int", 1, minimum=1), _EPS),
    compute=_layer_norm,
    vectors=lambda sizes, a: _deviations(sizes, tuple(range(-a["normalized_ndim"], 0)), a),
)
def layer_norm(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """Normalize over the last `normalized_ndim` axes."""
    x = first(types)
    if x.rank is not None and attributes["normalized_ndim"] > x.rank:
        raise ShapeError(f"layer_norm over {attributes['normalized_ndim']} axes of {x}")
    return [x]


def _group_norm(arrays: Sequence[Any], attributes: Attributes) -> Array:
    x, weight, bias = [*arrays, None, None][:3]
    grouped = x.astype(np.float64).reshape(x.shape[0], attributes["groups"], -1)
    return _affine(_standardized(grouped, (2,), attributes["eps"]).reshape(x.shape), weight, bias)


@op(
    "group_norm",
    operands="x, weight?, bias?",
    attributes=(Attr("groups", "int", required=True, minimum=1), _EPS),
    compute=_group_norm,
    vectors=lambda sizes, a: _deviations((sizes[0], a["groups"], -1), (2,), a),
)
def group_norm(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """Normalize over groups of channels."""
    x = first(types)
    channels = x.sizes[1] if x.sizes is not None and len(x.sizes) > 1 else None
    if channels is not None and channels % attributes["groups"]:
        raise ShapeError(f"{channels} channels do not divide into {attributes['groups']} groups")
    return [x]


def _instance_norm(arrays: Sequence[Any], attributes: Attributes) -> Array:
    x, weight, bias = [*arrays, None, None][:3]
    return _affine(_standardized(x.astype(np.float64), tuple(range(2, x.ndim)), attributes["eps"]), weight, bias)


instance_norm = op(
    "instance_norm",
    operands="x, weight?, bias?",
    attributes=(_EPS,),
    compute=_instance_norm,
    vectors=lambda sizes, a: _deviations(sizes, tuple(range(2, len(sizes))), a),
    doc="Normalize each channel of each sample.",
)(same_as_first)


def _lp_normalize(arrays: Sequence[Any], attributes: Attributes) -> Array:
    x, axes = arrays[0].astype(np.float64), tuple(attributes["axes"])
    norm = np.abs(x).sum(axis=axes, keepdims=True) if attributes["p"] == 1 else np.sqrt((x * x).sum(axis=axes, keepdims=True))
    return np.asarray(x / np.maximum(norm, attributes["eps"]))


@op(
    "lp_normalize",
    operands="x",
    attributes=(Attr("axes", "ints", required=True), Attr("p", "int", 2, minimum=1), Attr("eps", "float", 1e-12)),
    compute=_lp_normalize,
    vectors=lambda sizes, a: Vectors(sizes, tuple(a["axes"]), a["eps"], centred=False),
)
def lp_normalize(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """`x / max(norm(x), eps)` with the norm of order `p` (1 or 2) over `axes`."""
    x = first(types)
    if attributes["p"] > 2:
        raise ShapeError(f"lp_normalize of order {attributes['p']}")
    if x.sizes is not None:
        reduced(x.sizes, attributes["axes"], True)
    return [x]
