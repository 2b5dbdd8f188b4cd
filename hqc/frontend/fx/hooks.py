"""Forward hooks of the layers that a trace does not open.

A layer of torch.nn is one node, and a call of that node runs the layer with its hooks. What hooks collect (`features[name] = output`) the
rest of forward may read, so they are called while tracing, too. One that returns something changes what goes into the layer or what
comes out of it: such a layer is opened, so that its hooks are part of the graph.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import fx, nn
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from hqc.errors import FAULTS

WEIGHT_HOOKS = (WeightNorm, SpectralNorm)
"""Forward pre-hooks of torch.nn.utils that compute a module's weight, of the style before parametrizations."""

_OWN = frozenset(nn.Module().__dict__)
HOOKS_META = "hqc_hooks"
"""Key in `node.meta` of a layer's call whose hooks were all called while tracing."""


def has_hooks(module: nn.Module) -> bool:
    """True where something beside the module's own code runs when it is called."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def held_by_hooks(module: nn.Module) -> Iterator[Any]:
    """What the hooks of a module keep hold of and may change."""
    for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values()):
        for item in _held(hook):
            if isinstance(item, nn.Module):
                yield from (
                    value for name, value in vars(item).items() if name not in _OWN and isinstance(value, (dict, list, set))
                )
            else:
                yield item


def _held(hook: Any) -> Iterator[Any]:
    while isinstance(hook, functools.partial):
        yield from (*hook.args, *hook.keywords.values())
        hook = hook.func
    yield getattr(hook, "__self__", None) or hook
    function = getattr(hook, "__func__", hook)
    for cell in getattr(function, "__closure__", None) or ():
        try:
            yield cell.cell_contents
        except ValueError:  # a name that was not given a value yet
            continue
    names = function.__code__.co_names if hasattr(function, "__code__") else ()
    yield from (function.__globals__[name] for name in names if isinstance(function.__globals__.get(name), (dict, list)))


def between_hooks(
    module: nn.Module, call: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[bool, Any]:
    """`(True, call(*args, **kwargs))`, with the hooks called as torch calls them; `(False, None)` where one of them returns something.

    A hook that does not take proxies is left out, as all hooks of layers are in stock FX; the result's node says when none was.
    """
    calls = _Calls(module)
    for key, hook in list(module._forward_pre_hooks.items()):
        named = [kwargs] if key in module._forward_pre_hooks_with_kwargs else []
        if calls.returned(hook, args, *named) is not None:
            return False, None
    result = call(*args, **kwargs)
    for key, hook in list(module._forward_hooks.items()):
        named = [kwargs] if key in module._forward_hooks_with_kwargs else []
        if calls.returned(hook, args, *named, result) is not None:
            return False, None
    if isinstance(result, fx.Proxy) and not calls.failed:
        result.node.meta[HOOKS_META] = True
    return True, result


class _Calls:
    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.failed = False

    def returned(self, hook: Callable[..., Any], *arguments: Any) -> Any:
        """What the hook returns. Buffers that it writes, such as a profiler's counters, are as they were afterwards."""
        buffers = dict(self.module._buffers)
        self.module._buffers.update({name: None if item is None else item.clone() for name, item in buffers.items()})
        try:
            return hook(self.module, *arguments)
        except FAULTS:
            self.failed = True
            return None
        finally:
            self.module._buffers.update(buffers)
