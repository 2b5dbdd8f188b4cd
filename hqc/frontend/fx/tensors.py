"""The tensors and arrays that may enter a model: dense, real, with values. One gate for every entry point."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hqc.array_files import native
from hqc.errors import InputError

LARGEST = 1 << 30
"""Elements of one input: four GiB of float32, ten thousand images of 224x224."""
_REAL = {
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
    torch.uint16, torch.uint32, torch.uint64,
}  # fmt: skip


def is_data(value: Any) -> bool:
    """True for tensors and arrays."""
    return isinstance(value, (Tensor, np.ndarray))


def plain_tensor(value: Tensor | np.ndarray[Any, Any], what: str) -> Tensor:
    """`value` as a dense tensor of numbers; arrays share their memory where torch can. `what`: how errors call it.

    `InputError` for complex, text, date, object and float8 elements, for sparse, nested and quantized tensors, for the meta device,
    and for more elements than any model takes.
    """
    tensor = value if isinstance(value, Tensor) else _from_array(value, what)
    kind = unusual_kind(tensor)
    if kind == "quantized":
        raise InputError(f"{what} is a quantized tensor of torch; give real numbers, its dequantize()")
    if kind is not None:
        raise InputError(f"{what} is a {kind} tensor; the chip knows dense ones, give its to_dense()")
    if tensor.dtype not in _REAL:
        raise InputError(f"{what} holds {str(tensor.dtype).removeprefix('torch.')} numbers; give float32 or integers")
    if tensor.is_meta:
        raise InputError(f"{what} is on the meta device and has no values")
    check_size(tensor.shape, what)
    return tensor


def unusual_kind(tensor: Tensor) -> str | None:
    """What a tensor is that is no dense one of plain numbers: nested, sparse_coo, quantized and so on."""
    if tensor.is_nested:
        return "nested"
    if tensor.layout is not torch.strided:
        return str(tensor.layout).removeprefix("torch.")
    return "quantized" if tensor.is_quantized else None


def check_size(shape: Sequence[int], what: str) -> None:
    """`InputError` for more elements than any model takes."""
    if math.prod(shape) > LARGEST:
        raise InputError(f"{what} has the shape {list(shape)}, {math.prod(shape):,} elements; at most {LARGEST:,} are taken")


def _from_array(array: np.ndarray[Any, Any], what: str) -> Tensor:
    array = np.asarray(array)  # masked arrays and other kinds of arrays are their numbers
    if array.dtype.kind not in "fiub":
        raise InputError(f"{what} must hold numbers, got {array.dtype}")
    check_size(array.shape, what)
    array = native(array)
    if any(stride < 0 for stride in array.strides) or not array.flags.writeable:
        array = array.copy()  # torch has no negative strides, and warns of memory that must not be written
    return torch.from_numpy(array)
