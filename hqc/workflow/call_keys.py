"""What two calls have in common when they compute the same: a key of the function, its constants and what it reads from outside.

Networks repeat their blocks, and a plan is made before and after calibration: the ONNX form of a call is made and checked once.
"""

from __future__ import annotations

import functools
import hashlib
import types
from collections.abc import Hashable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_LARGEST = 1 << 24
"""Bytes of a constant that are worth a digest."""
_DEEPEST = 12
_ATOMS = (
    types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType, types.ModuleType, type, torch.dtype,
    torch.device, torch.layout, torch.memory_format, type(None), type(...), bool, int, str, bytes,
)  # fmt: skip


class _NoKey(Exception):  # noqa: N818 - no error: the call is looked at anew
    """Something whose state nobody can tell has a part in the call."""


def call_key(*parts: Any) -> Hashable | None:
    """A key of functions, constants and arrays; equal ones compute the same. None where that cannot be told (objects with state)."""
    try:
        return _key(parts, 0)
    except _NoKey:
        return None


def _key(item: Any, depth: int) -> Hashable:
    if depth > _DEEPEST:
        raise _NoKey
    if isinstance(item, _ATOMS):
        return type(item), item
    if isinstance(item, (float, complex)):
        return type(item), repr(item)
    if isinstance(item, Tensor):
        return "tensor", str(item.dtype), item.device, _of_tensor(item)
    if isinstance(item, np.ndarray):
        return "array", _of_array(item)
    if isinstance(item, slice):
        return "slice", *(_key(each, depth + 1) for each in (item.start, item.stop, item.step))
    if isinstance(item, (tuple, list)):
        return type(item), *(_key(each, depth + 1) for each in item)
    if isinstance(item, dict):
        return type(item), *((_key(name, depth + 1), _key(each, depth + 1)) for name, each in item.items())
    if isinstance(item, functools.partial):
        return "partial", *(_key(each, depth + 1) for each in (item.func, item.args, item.keywords))
    if isinstance(item, types.FunctionType):
        return _of_function(item, depth + 1)
    own = getattr(item, "call_key", None)
    if own is None:
        raise _NoKey
    return type(item), _key(own, depth + 1)


def _of_tensor(tensor: Tensor) -> Hashable:
    if tensor.layout is not torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise _NoKey
    plain = tensor.detach().contiguous().reshape(-1).view(torch.uint8) if tensor.numel() else tensor.new_empty(0)
    return tuple(tensor.shape), tensor.stride(), _of_array(plain.numpy())


def _of_array(array: npt.NDArray[Any]) -> Hashable:
    if array.nbytes > _LARGEST or array.dtype.hasobject:
        raise _NoKey
    return array.dtype.str, array.shape, hashlib.blake2b(np.ascontiguousarray(array).data, digest_size=16).digest()


def _of_function(function: types.FunctionType, depth: int) -> Hashable:
    """By its code, what it holds, and the globals that its code names."""
    names: set[str] = set()
    codes = [function.__code__]
    while codes:
        code = codes.pop()
        names.update(code.co_names)
        codes.extend(each for each in code.co_consts if isinstance(each, types.CodeType))
    if function.__module__.partition(".")[0] in ("torch", "hqc"):  # their globals do not change
        names.clear()
    read = {name: function.__globals__[name] for name in sorted(names & function.__globals__.keys())}
    held = [cell.cell_contents for cell in function.__closure__ or ()]
    inside = (function.__defaults__, function.__kwdefaults__, held, read)
    return "function", function.__code__, _key(inside, depth + 1)
