"""Nested structures of tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from hqc.checked import checked, numeric
from hqc.errors import InputError


@checked
def pytree_convert(
    input: Any,
    convert_type: type | tuple[type, ...],
    func: Callable[[Any], Any],
    skip_unsupported: bool = True,
    strict_type: bool = False,
) -> Any:
    """`input` (nested lists, tuples, dicts) with `func` applied to every instance of `convert_type`.

    `skip_unsupported` False: anything else in it is an `InputError`. `strict_type`: instances of subclasses do not count.
    """

    def convert(leaf: Any) -> Any:
        fits = type(leaf) is convert_type if strict_type else isinstance(leaf, convert_type)
        if not fits and not skip_unsupported:
            raise InputError(f"pytree_convert met a {type(leaf).__name__}, which is no {convert_type}")
        return func(leaf) if fits else leaf

    return pytree.tree_map(convert, input)


@numeric
def tensor_struct_repr(data: Any) -> str:
    """The structure with a tensor's dtype and shape in its place, such as `{'boxes': float32[1, 4]}`."""
    if isinstance(data, Tensor):
        return f"{str(data.dtype).removeprefix('torch.')}{list(data.shape)}"
    if isinstance(data, dict):
        return "{" + ", ".join(f"{key!r}: {tensor_struct_repr(value)}" for key, value in data.items()) + "}"
    if isinstance(data, (list, tuple)):
        inner = ", ".join(map(tensor_struct_repr, data))
        return f"[{inner}]" if isinstance(data, list) else f"({inner}{',' if len(data) == 1 else ''})"
    return repr(data)
