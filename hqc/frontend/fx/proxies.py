"""Proxies that record what stock FX refuses or forgets, and functions that record calls with proxies."""

from __future__ import annotations

import contextlib
import functools
import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx

from hqc.frontend.fx.locations import SOURCE_META, user_source

IN_PLACE_META = "hqc_in_place"
"""Key in `node.meta`, true where the user's code says `x += y` and the graph `x + y`."""
_FACTORIES = ("arange", "zeros", "ones", "full", "empty", "eye", "linspace", "tensor")


class RecordingProxy(fx.Proxy):
    """A proxy that also records what stock FX refuses or forgets: assignment to a part, and that `x += y` writes x."""

    def __getattr__(self, name: str) -> _Attribute:
        return _Attribute(self, name)

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})

    def _written(self, function: Callable[..., Any], other: Any) -> fx.Proxy:
        """`x op= y` is recorded as stock FX does, as `x = x op y`; lowering refuses it where the difference shows."""
        result = self.tracer.create_proxy("call_function", function, (self, other), {})
        result.node.meta[IN_PLACE_META] = True
        return result

    def __iadd__(self, other: Any) -> fx.Proxy:
        return self._written(operator.add, other)

    def __isub__(self, other: Any) -> fx.Proxy:
        return self._written(operator.sub, other)

    def __imul__(self, other: Any) -> fx.Proxy:
        return self._written(operator.mul, other)

    def __itruediv__(self, other: Any) -> fx.Proxy:
        return self._written(operator.truediv, other)

    def __len__(self) -> int:
        length = shape_slice_length(self.node)
        return length if length is not None else int(super().__len__())  # which raises


class _Attribute(RecordingProxy, fx.proxy.Attribute):
    """`x.name`. The node is made when first used; its source line is that of the access."""

    def __init__(self, root: fx.Proxy, attr: str) -> None:
        self.root, self.attr, self.tracer = root, attr, root.tracer
        self._node: fx.Node | None = None
        self._source = user_source(getattr(root.tracer, "_stop", None))

    @property
    def node(self) -> fx.Node:  # type: ignore[override]  # fx.proxy.Attribute does the same
        if self._node is None:
            self._node = self.tracer.create_proxy("call_function", getattr, (self.root, self.attr), {}).node
            self._node.meta[SOURCE_META] = self._source
        return self._node

    def __call__(self, *args: Any, **kwargs: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_method", self.attr, (self.root, *args), kwargs)


def shape_slice_length(node: fx.Node) -> int | None:
    """Length of `x.shape[:2]` and `x.shape[-2:]`, which are known whatever x is."""
    if node.target is not operator.getitem or not isinstance(node.args[1], slice) or not _is_shape(node.args[0]):
        return None
    bounds = node.args[1]
    if bounds.step is None and bounds.start in (None, 0) and isinstance(bounds.stop, int) and bounds.stop > 0:
        return bounds.stop
    if bounds.step is None and bounds.stop is None and isinstance(bounds.start, int) and bounds.start < 0:
        return -bounds.start
    return None


def _is_shape(node: Any) -> bool:
    if not isinstance(node, fx.Node):
        return False
    is_attribute = node.target is getattr and node.args[1] == "shape"
    return is_attribute or (node.op == "call_method" and node.target == "size" and len(node.args) == 1)


def recorded(function: Callable[..., Any], target: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """`function`, but on proxies a node that calls `target` (by default the result of this call itself)."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        found: list[fx.Proxy] = []
        fx.node.map_aggregate((args, kwargs), lambda item: found.append(item) if isinstance(item, fx.Proxy) else None)
        if not found:
            return function(*args, **kwargs)
        return found[0].tracer.create_proxy("call_function", target or wrapper, args, kwargs)

    return wrapper


@contextlib.contextmanager
def recording_factories() -> Iterator[None]:
    """While tracing, constants whose sizes come from a tensor's shape are recorded; torch's factories take no proxies."""
    saved = {name: getattr(torch, name) for name in _FACTORIES}
    for name, factory in saved.items():
        setattr(torch, name, recorded(factory, factory))
    try:
        yield
    finally:
        for name, factory in saved.items():
            setattr(torch, name, factory)
