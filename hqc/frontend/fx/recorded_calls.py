"""What stock FX patches beside modules while it traces: functions and methods marked with `fx.wrap`, and those of `math`."""

from __future__ import annotations

import builtins
import functools
import math
from collections.abc import Callable
from typing import Any

from torch import fx

from hqc.frontend.fx.patches import Patches
from hqc.frontend.fx.proxies import find_proxy, recorded, recorded_method

WRAPPED_META = "is_wrapped"
"""Stock FX's key in `node.meta` for a call of a function marked with `fx.wrap`."""
WRITES_META = "hqc_writes"
"""Key in `node.meta`, true for a call of such a function that writes into its first operand."""


def record_wrapped_calls(patches: Patches) -> None:
    """While tracing, these calls become nodes where they get proxies."""
    for (_, name), table in list(fx._symbolic_trace._wrapped_fns_to_patch.items()):
        function = table.get(name, getattr(builtins, name, None))
        if function is not None:
            patches.item(table, name, _wrapped(function))
    for cls, name in list(fx._symbolic_trace._wrapped_methods_to_patch):
        patches.attribute(cls, name, recorded_method(name, getattr(cls, name)))
    record_math(patches, vars(math))


def record_math(patches: Patches, table: dict[str, Any]) -> None:
    """Calls of functions of `math` become nodes where they get proxies, as in stock FX."""
    for name, value in list(table.items()):
        if not name.startswith("_") and callable(value) and getattr(value, "__module__", "") == "math":
            patches.item(table, name, _of_math(value))


@functools.cache
def _of_math(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same wrapper for every trace and table: there are sixty of them."""
    return recorded(function, function)


def _wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function marked with `fx.wrap`: one node, as in stock FX."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        proxy = find_proxy((args, kwargs))
        if proxy is None:
            return function(*args, **kwargs)
        result = proxy.tracer.create_proxy("call_function", function, args, kwargs)
        result.node.meta[WRAPPED_META] = True
        return result

    return wrapper
