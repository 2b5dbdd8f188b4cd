"""Nodes whose operands are all constants, computed with NumPy: one small evaluator per op.

Arithmetic, comparisons and layout ops give the bits of torch's float32. Functions (exp, tanh, a power, ...) and
sums are computed in float64 and rounded once, so they can differ from torch's float32 in the last place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hqc.ir import Node, Trait
from hqc.ir.graph import constant_array
from hqc.ir.ops._shapes import resolve_reshape

Array = npt.NDArray[Any]
Evaluator = Callable[[Sequence[Array], Mapping[str, Any]], "Array | list[Array]"]
LIMIT = 1 << 24
"""Largest result in elements: larger constants are cheaper to compute than to keep."""
_EVALUATORS: dict[str, Evaluator] = {}


def evaluator(*names: str) -> Callable[[Evaluator], Evaluator]:
    """Register the evaluator of ops: operand arrays and attributes to result arrays."""

    def register(function: Evaluator) -> Evaluator:
        for name in names:
            _EVALUATORS[name] = function
        return function

    return register


def evaluable(node: Node) -> bool:
    """True when `evaluate` can compute the node: all operands are unquantized constants and the result is not huge."""
    operands = node.operands
    for value in operands:
        if not value.is_parameter or value.quant is not None:
            return False
    if not operands:
        return False
    if any(value.quant is not None or (value.type.size or 0) > LIMIT for value in node.results):
        return False
    return node.op.name in _EVALUATORS or node.op.has(Trait.LUT)


def evaluate(node: Node) -> list[Array]:
    """The results of a node that is `evaluable`, with the results' dtypes."""
    arrays = [constant_array(value) for value in node.operands]
    with np.errstate(all="ignore"):
        if node.op.name in _EVALUATORS:
            computed = _EVALUATORS[node.op.name](arrays, node.attributes)
        else:
            assert node.op.function is not None, node
            computed = node.op.function(arrays[0].astype(np.float64), node.attributes)
        results = computed if isinstance(computed, list) else [computed]
        return [
            np.ascontiguousarray(array, value.type.dtype.numpy).reshape(np.shape(array))  # keeps rank 0
            for array, value in zip(results, node.results, strict=True)
        ]


def _binary(name: str, function: Callable[[Array, Array], Array]) -> None:
    evaluator(name)(lambda arrays, _: function(arrays[0], arrays[1]))


for _name, _function in {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.true_divide,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "equal": np.equal,
    "greater": np.greater,
    "less": np.less,
    "greater_equal": np.greater_equal,
    "less_equal": np.less_equal,
    "logical_and": np.logical_and,
    "logical_or": np.logical_or,
}.items():
    _binary(_name, _function)


@evaluator("pow")
def _pow(arrays: Sequence[Array], attributes: Mapping[str, Any]) -> Array:
    base, exponent = arrays
    if base.dtype.kind == "f":
        return np.asarray(np.power(base.astype(np.float64), exponent.astype(np.float64)))
    return np.asarray(np.power(base, exponent))


@evaluator("logical_not")
def _logical_not(arrays: Sequence[Array], attributes: Mapping[str, Any]) -> Array:
    return np.asarray(np.logical_not(arrays[0]))


@evaluator("where")
def _where(arrays: Sequence[Array], attributes: Mapping[str, Any]) -> Array:
    return np.where(*arrays)


@evaluator("identity", "dropout", "cast")
def _same(arrays: Sequence[Array], attributes: Mapping[str, Any]) -> Array:
    return arrays[0]  # `evaluate` converts to the result's dtype


@evaluator("relu")
def _relu(arrays: Sequence[Array], attributes: Mapping[str, Any]) -> Array:
    return np.asarray(np.maximum(arrays[0], 0))


@evaluator("clamp")
def _clamp(arrays: Sequence[Array], attributes: Mapping[str, Any]) -> Array:
    x, low, high = arrays[0], attributes["min"], attributes["max"]
    if low is not None:
        x = np.maximum(x, x.dtype.type(low))
    if high is not None:
        x = np.minimum(x, x.dtype.type(high))
    return np.asarray(x)


# --- layout --------------------------------------------------------------------------------------------------------------


@evaluator("reshape")
def _reshape(arrays: Sequence[Array], attributes: Mapping[str, Any]) -> Array:
    shape = resolve_reshape(arrays[0].shape, attributes["shape"])
    assert shape is not None
    return arrays[0].reshape(shape)


@evaluator("transpose")
def _transpose(arrays: Sequence[Array], attributes: Mapping[str, Any]) -> Array:
    return np.transpose(arrays[0], attributes["perm"])


@evaluator("slice")
def _slice(arrays: Sequence[Array], attributes: Mapping[str, Any]) -> Array:
    x = arrays[0]
    index = [slice(None)] * x.ndim
    steps = attributes["steps"] or (1,) * len(attributes["axes"])
    for axis, start, end, step in zip(attributes["axes"], attributes["starts"], attributes["ends"], steps, strict=True):
        index[axis] = slice(start, end, step)
    return x[tuple(index)]


@evaluator("split")
def _split(arrays: Sequence[Array], attributes: Mapping[str, Any]) -> list[Array]:
    return np.split(arrays[0], np.cumsum(attributes["sizes"])[:-1], axis=attributes["axis"])


@evaluator("cat")
def _cat(arrays: Sequence[Array], attributes: Mapping[str, Any]) -> Array:
    return np.concatenate(list(arrays), axis=attributes["axis"])


@evaluator("pad")
def _pad(arrays: Sequence[Array], attributes: Mapping[str, Any]) -> Array:
    x, pads = arrays[0], attributes["pads"]
    crop = tuple(slice(max(0, -pads[i]), size - max(0, -pads[x.ndim + i])) for i, size in enumerate(x.shape))
    widths = [(max(0, pads[i]), max(0, pads[x.ndim + i])) for i in range(x.ndim)]
    if attributes["mode"] == "constant":
        return np.pad(x[crop], widths, constant_values=attributes["value"])
    return np.pad(x[crop], widths, mode=attributes["mode"])


@evaluator("expand")
def _expand(arrays: Sequence[Array], attributes: Mapping[str, Any]) -> Array:
    x, target = arrays[0], attributes["shape"]
    lead = len(target) - x.ndim
    return np.broadcast_to(x, [x.shape[i - lead] if size == -1 else size for i, size in enumerate(target)])


@evaluator("tile")
def _tile(arrays: Sequence[Array], attributes: Mapping[str, Any]) -> Array:
    return np.tile(arrays[0], attributes["repeats"])


@evaluator("gather")
def _gather(arrays: Sequence[Array], attributes: Mapping[str, Any]) -> Array:
    return np.asarray(np.take(arrays[0], arrays[1], axis=attributes["axis"]))


@evaluator("pixel_shuffle")
def _pixel_shuffle(arrays: Sequence[Array], attributes: Mapping[str, Any]) -> Array:
    f = attributes["factor"]
    n, c, h, w = arrays[0].shape
    parts = arrays[0].reshape(n, c // (f * f), f, f, h, w)
    return parts.transpose(0, 1, 4, 2, 5, 3).reshape(n, c // (f * f), h * f, w * f)


@evaluator("pixel_unshuffle")
def _pixel_unshuffle(arrays: Sequence[Array], attributes: Mapping[str, Any]) -> Array:
    f = attributes["factor"]
    n, c, h, w = arrays[0].shape
    parts = arrays[0].reshape(n, c, h // f, f, w // f, f)
    return parts.transpose(0, 1, 3, 5, 2, 4).reshape(n, c * f * f, h // f, w // f)


# --- reductions ------------------------------------------------------------------------------------------------------------


def _reduction(name: str, function: Callable[..., Any]) -> None:
    def reduce(arrays: Sequence[Array], attributes: Mapping[str, Any]) -> Array:
        axes = tuple(attributes["axes"]) or None
        return np.asarray(function(arrays[0], axis=axes, keepdims=attributes["keepdims"]))

    evaluator(name)(reduce)


_reduction("reduce_max", np.max)
_reduction("reduce_min", np.min)
_reduction("sum", lambda x, **options: np.sum(x.astype(np.float64), **options))
_reduction("mean", lambda x, **options: np.mean(x.astype(np.float64), **options))


def _arg(name: str, function: Callable[..., Any]) -> None:
    def reduce(arrays: Sequence[Array], attributes: Mapping[str, Any]) -> Array:
        return np.asarray(function(arrays[0], axis=attributes["axis"], keepdims=attributes["keepdims"]))

    evaluator(name)(reduce)


_arg("argmax", np.argmax)
_arg("argmin", np.argmin)
