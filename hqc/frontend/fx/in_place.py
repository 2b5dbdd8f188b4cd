"""Which calls write into their first operand, by torch's conventions."""

from __future__ import annotations

import functools
import inspect
import operator
from typing import Any

from torch import fx

PLAIN_OPERATORS = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
    operator.ifloordiv: operator.floordiv,
    operator.imod: operator.mod,
    operator.ipow: operator.pow,
    operator.imatmul: operator.matmul,
    operator.iand: operator.and_,
    operator.ior: operator.or_,
    operator.ixor: operator.xor,
    operator.ilshift: operator.lshift,
    operator.irshift: operator.rshift,
}
"""Python's in-place operators, each with what it computes."""
FIRST_OPERANDS = ("input", "self", "tensor")
"""What functions call their first operand."""
_WRITING_OPERATORS = frozenset(PLAIN_OPERATORS) - {
    operator.imatmul
}  # tensors have no in-place product: `a @= b` makes a new one
_WRITING_METHODS = frozenset(f"__{function.__name__}__" for function in _WRITING_OPERATORS) | {"__idiv__", "__setitem__"}


def is_in_place_name(name: str) -> bool:
    """torch's rule: a trailing underscore writes into the first operand (`requires_grad_` sets a flag of it)."""
    return name.endswith("_") and not name.endswith("__") and name != "requires_grad_"


def is_set_item(target: Any) -> bool:
    """True for `x[...] = y`, as a function or as a method."""
    return target is operator.setitem or target == "__setitem__"


def writes_first_operand(target: Any) -> bool:
    """True for a function, or the name of a method, whose form says that it writes into its first operand.

    `operator.and_` and its like are no such: Python needs the underscore for its keywords.
    """
    if isinstance(target, str):
        return target in _WRITING_METHODS or is_in_place_name(target)
    if getattr(target, "__module__", "") == "_operator":
        return target in _WRITING_OPERATORS or target is operator.setitem
    return is_in_place_name(getattr(target, "__name__", ""))


def first_operand(node: fx.Node) -> fx.Node | None:
    """The node of the first operand, which views share memory with and in-place forms write; functions have names for it."""
    candidates = (*node.args[:1], *(node.kwargs.get(name) for name in FIRST_OPERANDS))
    return next((item for item in candidates if isinstance(item, fx.Node)), None)


def first_argument(node: fx.Node) -> Any:
    """What a call is given first, by place or by name; None where it is given nothing."""
    return node.args[0] if node.args else next(iter(node.kwargs.values()), None)


def asks_in_place(node: fx.Node) -> bool:
    """True for a call of a function with `inplace=True`."""
    at = inplace_position(node.target)
    given = node.kwargs.get("inplace", node.args[at] if at is not None and at < len(node.args) else False)
    return given is True


@functools.lru_cache(1024)
def inplace_position(function: Any) -> int | None:
    """Where `function` takes the argument `inplace`. Kept, because torch's signatures are parsed from text at every question."""
    try:
        names = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return None
    return names.index("inplace") if "inplace" in names else None
