"""Reductions and softmax."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hqc.ir.op import Array, Attr, Attributes, Bounds, OpDef, OperandTypes, Trait, first_range, op
from hqc.ir.ops._shapes import first, normalize_axis, reduced
from hqc.ir.types import DType, TensorType

_AXES = (Attr("axes", "ints", ()), Attr("keepdims", "bool", False))  # no axes: all of them
_SELECTS = (Trait.PASS_THROUGH, Trait.SELECTS)


def _reduction(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    x = first(types)
    return [x.with_shape(reduced(x.sizes, attributes["axes"], attributes["keepdims"]))]


def _over_axes(name: str, doc: str, function: Callable[..., Any], *traits: Trait, bounds: Bounds | None = None) -> OpDef:
    def compute(arrays: Sequence[Any], attributes: Attributes) -> Array:
        axes = tuple(attributes["axes"]) or None
        return np.asarray(function(arrays[0], axis=axes, keepdims=attributes["keepdims"]))

    return op(name, operands="x", attributes=_AXES, traits=traits, compute=compute, bounds=bounds, doc=doc)(_reduction)


mean = _over_axes("mean", "Mean over axes.", lambda x, **options: np.mean(x, dtype=np.float64, **options), Trait.AVERAGE)
sum_ = _over_axes(
    "sum", "Sum over axes.", lambda x, **options: np.sum(x, dtype=np.float64 if x.dtype.kind == "f" else np.int64, **options)
)
reduce_max = _over_axes("reduce_max", "Maximum over axes.", np.max, *_SELECTS, bounds=first_range)
reduce_min = _over_axes("reduce_min", "Minimum over axes.", np.min, *_SELECTS, bounds=first_range)


def _log_sum_exp(x: Array, **options: Any) -> Array:
    top = x.max(axis=options["axis"], keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    total = np.log(np.sum(np.exp(x - top), **options))
    return np.asarray(total + (top if options["keepdims"] else top.reshape(total.shape)))


_IN_DOUBLE: tuple[tuple[str, str, Callable[..., Any]], ...] = (
    ("reduce_l1", "Sum of magnitudes over axes.", lambda x, **options: np.sum(np.abs(x), **options)),
    ("reduce_l2", "Square root of the sum of squares over axes.", lambda x, **options: np.sqrt(np.sum(x * x, **options))),
    ("reduce_sum_square", "Sum of squares over axes.", lambda x, **options: np.sum(x * x, **options)),
    ("reduce_log_sum", "Logarithm of the sum over axes.", lambda x, **options: np.log(np.sum(x, **options))),
    ("reduce_log_sum_exp", "Logarithm of the sum of exponentials over axes.", _log_sum_exp),
)
reduce_l1, reduce_l2, reduce_sum_square, reduce_log_sum, reduce_log_sum_exp = (
    _over_axes(name, doc, lambda x, function=function, **options: function(x.astype(np.float64), **options))
    for name, doc, function in _IN_DOUBLE
)

_AXIS = Attr("axis", "int", required=True)


def _arg(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    x = first(types)
    return [TensorType(DType.INT64, reduced(x.sizes, (attributes["axis"],), attributes["keepdims"]))]


def _index(name: str, doc: str, function: Callable[..., Any]) -> OpDef:
    return op(
        name,
        operands="x",
        attributes=(_AXIS, Attr("keepdims", "bool", False)),
        traits={Trait.INTEGER_RESULT, Trait.SELECTS},
        compute=lambda arrays, a: np.asarray(function(arrays[0], axis=a["axis"], keepdims=a["keepdims"])),
        doc=doc,
    )(_arg)


argmax = _index("argmax", "Index of the largest element along `axis`, the lowest of equals.", np.argmax)
argmin = _index("argmin", "Index of the smallest element along `axis`, the lowest of equals.", np.argmin)


def _along_axis(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    x = first(types)
    if x.sizes is not None:
        normalize_axis(attributes["axis"], len(x.sizes))
    return [x]


def _log_softmax(arrays: Sequence[Any], attributes: Attributes) -> Array:
    x, axis = arrays[0].astype(np.float64), attributes["axis"]
    shifted = x - x.max(axis=axis, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True)))


softmax = op(
    "softmax",
    operands="x",
    attributes=(_AXIS,),
    compute=lambda arrays, a: np.asarray(np.exp(_log_softmax(arrays, a))),
    doc="`exp(x) / sum(exp(x))` along `axis`.",
)(_along_axis)
log_softmax = op("log_softmax", operands="x", attributes=(_AXIS,), compute=_log_softmax, doc="Logarithm of softmax.")(
    _along_axis
)
