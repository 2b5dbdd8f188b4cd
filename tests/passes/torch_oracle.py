"""A float32 interpreter of IR graphs on torch, independent of the passes: the oracle for rewrites."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from hqc.ir import DType, Graph

Tensors = Sequence[Any]
Attributes = dict[str, Any]


def run(graph: Graph, inputs: dict[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
    """The graph's outputs."""
    known: dict[str, torch.Tensor] = {name: torch.from_numpy(array.copy()) for name, array in inputs.items()}
    known.update({name: torch.from_numpy(np.array(value.array)) for name, value in graph.parameters.items()})
    for node in graph.nodes:
        operands = [None if value is None else known[value.name] for value in node.inputs]
        results = _OPS[node.op.name](operands, node.attributes)
        for value, tensor in zip(node.results, results if isinstance(results, (list, tuple)) else [results], strict=True):
            known[value.name] = tensor
    return [known[value.name].numpy() for value in graph.outputs]


def _pads(x: torch.Tensor, padding: Sequence[int]) -> torch.Tensor:
    top, left, bottom, right = padding
    return F.pad(x, (left, right, top, bottom))


def _finish(y: torch.Tensor, residual: torch.Tensor | None, attributes: Attributes) -> torch.Tensor:
    y = y if residual is None else y + residual
    return {"none": lambda t: t, "relu": torch.relu, "relu6": F.relu6}[attributes["activation"]](y)


def _four(operands: Tensors) -> list[torch.Tensor | None]:
    return [*operands, *[None] * 4][:4]


def _conv2d(operands: Tensors, a: Attributes) -> torch.Tensor:
    x, weight, bias, residual = _four(operands)
    assert x is not None
    y = F.conv2d(_pads(x, a["padding"]), weight, bias, a["stride"], 0, a["dilation"], a["groups"])
    return _finish(y, residual, a)


def _conv_transpose2d(operands: Tensors, a: Attributes) -> torch.Tensor:
    x, weight, bias, residual = _four(operands)
    padding = a["padding"][:2]
    y = F.conv_transpose2d(x, weight, bias, a["stride"], padding, a["output_padding"], a["groups"], a["dilation"])
    return _finish(y, residual, a)


def _conv3d(operands: Tensors, a: Attributes) -> torch.Tensor:
    x, weight, bias, _ = _four(operands)
    return F.conv3d(x, weight, bias, a["stride"], a["padding"][:3], a["dilation"], a["groups"])


def _conv_transpose3d(operands: Tensors, a: Attributes) -> torch.Tensor:
    x, weight, bias, _ = _four(operands)
    extra = a["output_padding"]
    return F.conv_transpose3d(x, weight, bias, a["stride"], a["padding"][:3], extra, a["groups"], a["dilation"])


def _linear(operands: Tensors, a: Attributes) -> torch.Tensor:
    x, weight, bias, residual = _four(operands)
    return _finish(F.linear(x, weight, bias), residual, a)


def _batch_norm(operands: Tensors, a: Attributes) -> torch.Tensor:
    x, mean, var, weight, bias = [*operands, None, None][:5]
    return F.batch_norm(x, mean, var, weight, bias, False, 0.0, a["eps"])


def _slice(operands: Tensors, a: Attributes) -> torch.Tensor:
    index = [slice(None)] * operands[0].ndim
    steps = a["steps"] or (1,) * len(a["axes"])
    for axis, start, end, step in zip(a["axes"], a["starts"], a["ends"], steps, strict=True):
        index[axis] = slice(start, end, step)
    return operands[0][tuple(index)]


def _reshape(operands: Tensors, a: Attributes) -> torch.Tensor:
    shape = [operands[0].shape[i] if size == 0 else size for i, size in enumerate(a["shape"])]
    return operands[0].reshape(shape)


def _pad(operands: Tensors, a: Attributes) -> torch.Tensor:
    rank = operands[0].ndim
    widths = [width for i in reversed(range(rank)) for width in (a["pads"][i], a["pads"][rank + i])]
    return F.pad(operands[0], widths, value=a["value"])


_TORCH_DTYPE = {DType.FLOAT32: torch.float32, DType.INT64: torch.int64, DType.BOOL: torch.bool, DType.INT32: torch.int32}
_OPS: dict[str, Callable[[Tensors, Attributes], Any]] = {
    "conv2d": _conv2d,
    "conv_transpose2d": _conv_transpose2d,
    "conv3d": _conv3d,
    "conv_transpose3d": _conv_transpose3d,
    "linear": _linear,
    "batch_norm": _batch_norm,
    "slice": _slice,
    "reshape": _reshape,
    "pad": _pad,
    "matmul": lambda x, a: torch.matmul(*x),
    "add": lambda x, a: torch.add(*x),
    "sub": lambda x, a: torch.sub(*x),
    "mul": lambda x, a: torch.mul(*x),
    "div": lambda x, a: torch.div(*x),
    "maximum": lambda x, a: torch.maximum(*x),
    "minimum": lambda x, a: torch.minimum(*x),
    "pow": lambda x, a: torch.pow(*x),
    "pow_scalar": lambda x, a: torch.pow(x[0], a["exponent"]),
    "equal": lambda x, a: torch.eq(*x),
    "greater": lambda x, a: torch.gt(*x),
    "less": lambda x, a: torch.lt(*x),
    "greater_equal": lambda x, a: torch.ge(*x),
    "less_equal": lambda x, a: torch.le(*x),
    "logical_and": lambda x, a: torch.logical_and(*x),
    "logical_or": lambda x, a: torch.logical_or(*x),
    "logical_not": lambda x, a: torch.logical_not(*x),
    "where": lambda x, a: torch.where(*x),
    "cast": lambda x, a: x[0].to(_TORCH_DTYPE[a["dtype"]]),
    "identity": lambda x, a: x[0],
    "dropout": lambda x, a: x[0],
    "relu": lambda x, a: torch.relu(x[0]),
    "clamp": lambda x, a: x[0] if a["min"] is None and a["max"] is None else torch.clamp(x[0], a["min"], a["max"]),
    "sigmoid": lambda x, a: torch.sigmoid(x[0]),
    "hardsigmoid": lambda x, a: F.hardsigmoid(x[0]),
    "silu": lambda x, a: F.silu(x[0]),
    "hardswish": lambda x, a: F.hardswish(x[0]),
    "neg": lambda x, a: -x[0],
    "abs": lambda x, a: torch.abs(x[0]),
    "exp": lambda x, a: torch.exp(x[0]),
    "sqrt": lambda x, a: torch.sqrt(x[0]),
    "round": lambda x, a: torch.round(x[0]),
    "transpose": lambda x, a: x[0].permute(a["perm"]).contiguous(),
    "split": lambda x, a: torch.split(x[0], a["sizes"], a["axis"]),
    "cat": lambda x, a: torch.cat(list(x), a["axis"]),
    "expand": lambda x, a: x[0].expand(a["shape"]),
    "tile": lambda x, a: x[0].repeat(a["repeats"]),
    "gather": lambda x, a: torch.from_numpy(np.take(x[0].numpy(), x[1].numpy(), axis=a["axis"])),
    "pixel_shuffle": lambda x, a: F.pixel_shuffle(x[0], a["factor"]),
    "pixel_unshuffle": lambda x, a: F.pixel_unshuffle(x[0], a["factor"]),
    "mean": lambda x, a: torch.mean(x[0], a["axes"] or None, a["keepdims"]),
    "sum": lambda x, a: torch.sum(x[0], a["axes"] or None, a["keepdims"]),
    "reduce_max": lambda x, a: torch.amax(x[0], a["axes"] or tuple(range(x[0].ndim)), a["keepdims"]),
    "reduce_min": lambda x, a: torch.amin(x[0], a["axes"] or tuple(range(x[0].ndim)), a["keepdims"]),
    "argmax": lambda x, a: torch.argmax(x[0], a["axis"], a["keepdims"]),
    "argmin": lambda x, a: torch.argmin(x[0], a["axis"], a["keepdims"]),
    "adaptive_avg_pool2d": lambda x, a: F.adaptive_avg_pool2d(x[0], a["output_size"]),
}
