"""What two calls have in common when they compute the same: a key of the function, its constants and what it reads from outside.

Networks repeat their blocks, and a plan is made before and after calibration: the ONNX form of a call is made and checked once.
"""

from __future__ import annotations

import functools
import hashlib
import sys
import types
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from hqc.frontend.fx.rewriting import names_in

_LARGEST = 1 << 26
"""Bytes of a constant that are worth a digest."""
_DEEPEST = 40
_ATOMS = (
    types.MethodDescriptorType, types.WrapperDescriptorType, torch.dtype, torch.device, torch.layout, torch.memory_format, type(None),
    type(...), bool, int, str, bytes,
)  # fmt: skip
_SETTLED = frozenset({"torch", "hqc", "numpy", *sys.stdlib_module_names})
"""Packages whose functions, classes and modules do not change."""
_RESTATED = ("_flat_weights", "_flat_weight_refs")
"""What recurrent layers keep beside their parameters: the same tensors in another order, and weak references to them."""


class _NoKey(Exception):  # noqa: N818 - no error: the call is looked at anew
    """Something whose state nobody can tell has a part in the call."""


def call_key(*parts: Any) -> Hashable | None:
    """A key of functions, modules, constants and arrays; equal ones compute the same. None where that cannot be told: objects with
    state, and the classes and modules of users, whose attributes may change."""
    try:
        return torch.get_default_dtype(), _Keys().of(parts, 0)
    except _NoKey:
        return None


class _Keys:
    """The keys of what one call is made of. A function that has been met is named by its number: functions may call themselves."""

    def __init__(self) -> None:
        self._met: dict[int, int] = {}

    def of(self, item: Any, depth: int) -> Hashable:
        if depth > _DEEPEST:
            raise _NoKey
        if isinstance(item, _ATOMS):
            return type(item), item
        if isinstance(item, (types.BuiltinFunctionType, types.ModuleType, type)):
            return self._of_settled(item, depth)
        if isinstance(item, (float, complex)):
            return type(item), repr(item)
        if isinstance(item, Tensor):
            return "tensor", str(item.dtype), item.device, _of_tensor(item)
        if isinstance(item, np.ndarray):
            return "array", _of_array(item)
        if isinstance(item, slice):
            return "slice", *self._each((item.start, item.stop, item.step), depth)
        if isinstance(item, (tuple, list)):
            return type(item), *self._each(item, depth)
        if isinstance(item, dict):
            return type(item), *(self._each(entry, depth) for entry in item.items())
        if isinstance(item, (set, frozenset)):
            return type(item), frozenset(self._each(tuple(item), depth))
        if isinstance(item, functools.partial):
            return "partial", *self._each((item.func, item.args, item.keywords), depth)
        if isinstance(item, types.FunctionType):
            return self._of_function(item, depth)
        if isinstance(item, nn.Module):
            return self._of_module(item, depth)
        own = getattr(item, "call_key", None)
        if own is None:
            raise _NoKey
        return type(item), self.of(own, depth + 1)

    def _each(self, items: Sequence[Any], depth: int) -> tuple[Hashable, ...]:
        return tuple(self.of(each, depth + 1) for each in items)

    def _of_settled(self, item: Any, depth: int) -> Hashable:
        """A class, a module or a builtin of a package that does not change; what users write does (`Settings.scale = 2`)."""
        if isinstance(item, types.BuiltinFunctionType):
            owner = item.__self__
            return "builtin", item.__name__, None if owner is None else self.of(owner, depth + 1)
        name = item.__name__ if isinstance(item, types.ModuleType) else item.__module__
        if not _is_settled(name):
            raise _NoKey
        return type(item), item

    def _of_function(self, function: types.FunctionType, depth: int) -> Hashable:
        """By its code, what it holds, and the globals that its code names."""
        if id(function) in self._met:
            return "function", self._met[id(function)]
        self._met[id(function)] = len(self._met)
        names = set() if _is_settled(function.__module__) else names_in(function.__code__)
        read = {name: function.__globals__[name] for name in sorted(names & function.__globals__.keys())}
        held = [cell.cell_contents for cell in function.__closure__ or ()]
        inside = (function.__defaults__, function.__kwdefaults__, held, read)
        return "function", function.__code__, self.of(inside, depth + 1)

    def _of_module(self, module: nn.Module, depth: int) -> Hashable:
        """One of torch's own layers by its class and all that it holds; nobody knows what other classes read from elsewhere."""
        if not _is_settled(type(module).__module__):
            raise _NoKey
        state = {
            name: held for name, held in vars(module).items() if name not in _RESTATED or not isinstance(module, nn.RNNBase)
        }
        return type(module), self.of(state, depth + 1)


def _is_settled(module: str | None) -> bool:
    return module is not None and module.partition(".")[0] in _SETTLED


def _of_tensor(tensor: Tensor) -> Hashable:
    if tensor.layout is not torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise _NoKey
    plain = tensor.detach().contiguous().reshape(-1).view(torch.uint8) if tensor.numel() else tensor.new_empty(0)
    return tuple(tensor.shape), tensor.stride(), _of_array(plain.numpy())


def _of_array(array: npt.NDArray[Any]) -> Hashable:
    if array.nbytes > _LARGEST or array.dtype.hasobject:
        raise _NoKey
    return array.dtype.str, array.shape, hashlib.blake2b(np.ascontiguousarray(array).data, digest_size=16).digest()
