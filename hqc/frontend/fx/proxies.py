"""Proxies that record what stock FX refuses or forgets, and that know their values when the trace has example inputs."""

from __future__ import annotations

import builtins
import functools
import math
import opcode
import operator
import sys
from collections.abc import Callable, Iterator
from types import BuiltinFunctionType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx

from hqc.frontend.fx.assumptions import is_size
from hqc.frontend.fx.known import UNKNOWN, is_plain
from hqc.frontend.fx.locations import SOURCE_META, user_source
from hqc.frontend.fx.patches import Patches
from hqc.frontend.fx.trace_errors import ProxyUse

IN_PLACE_META = "hqc_in_place"
"""Key in `node.meta`, true where the user's code says `x += y` and the graph `x + y`."""
_FACTORIES = ["arange", "zeros", "ones", "full", "empty", "eye", "linspace", "tensor", "as_tensor", "rand", "randn", "randint"]
_FACTORIES += ["logspace", "tril_indices", "triu_indices", "hann_window", "hamming_window"]
_SIZED_METHODS = ["expand", "view", "reshape", "repeat", "tile", "new_zeros", "new_ones", "new_full", "new_empty", "new_tensor"]
_SIZED_METHODS += ["roll", "split", "split_with_sizes", "chunk", "tensor_split", "narrow", "unflatten", "repeat_interleave"]
_SIZED_METHODS += ["new", "index_select", "diagonal", "tril", "triu", "unfold", "broadcast_to", "as_strided", "permute", "flip"]
_SIZED_FUNCTIONS = ["interpolate", "upsample", "unfold", "fold", "affine_grid", "one_hot", "adaptive_avg_pool2d"]
_ASKING = ["finfo", "iinfo", "is_autocast_enabled", "get_autocast_dtype", "promote_types", "can_cast", "broadcast_shapes"]
_CHECKS = ["_check", "_check_with", "_check_value", "_check_index", "_check_type", "_check_not_implemented", "_check_is_size"]
_CHECKS += ["_check_tensor_all", "_check_tensor_all_with"]
_UNPACK = opcode.opmap["UNPACK_SEQUENCE"]
_NO_ATTRIBUTES = ("__array", "__cuda_array", "__dlpack", "__fx_", "__torch_dispatch", "_hqc", "__await", "__aiter", "__enter")


class RecordingProxy(fx.Proxy):
    """A proxy that also records what stock FX refuses or forgets: assignment to a part, and that `x += y` writes x.

    With example inputs it has a value (`tracer.known`), which Python's own protocols answer with: `if`, `len`, `int`, `range`,
    loops, `in`, hashing of sizes. Every answer that other sizes would change is recorded as an assumption.
    """

    tracer: Any

    def __getattr__(self, name: str) -> Any:
        if name.startswith(_NO_ATTRIBUTES):
            raise AttributeError(name)
        known = self.tracer.known
        of_tensors = hasattr(torch.Tensor, name) and not _is_part_of_shape(self.node)
        value = known.early(self.node) if of_tensors else known.of(self.node)
        if value is not UNKNOWN and not hasattr(value, name):
            raise AttributeError(f"{type(value).__name__!r} object has no attribute {name!r}")
        if self.tracer.is_argument(self.node) and isinstance(
            getattr(value, name, UNKNOWN), (bool, int, float, str, type(None))
        ):
            return self.tracer.create_proxy("call_function", getattr, (self, name), {})
        return _Attribute(self, name)

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})

    def _written(self, function: Callable[..., Any], other: Any) -> Any:
        """`x op= y` is recorded as stock FX does, as `x = x op y`; lowering refuses it where the difference shows."""
        result = self.tracer.create_proxy("call_function", function, (self, other), {})
        if not self._is_number():
            result.node.meta[IN_PLACE_META] = True
        return result

    def _is_number(self) -> bool:
        value = self.tracer.known.early(self.node)
        return isinstance(value, (int, float)) or is_size(self.node) or self.node.target == "item"

    def __iadd__(self, other: Any) -> Any:
        return self._written(operator.add, other)

    def __isub__(self, other: Any) -> Any:
        return self._written(operator.sub, other)

    def __imul__(self, other: Any) -> Any:
        return self._written(operator.mul, other)

    def __itruediv__(self, other: Any) -> Any:
        return self._written(operator.truediv, other)

    # --- what Python asks ----------------------------------------------------------------------------------------

    def _plain(self, what: str) -> Any:
        """The value of a size, for good: the assumption is recorded. `ProxyUse` for tensors and without example inputs."""
        known = self.tracer.known
        value = known.of(self.node)
        if not is_plain(value):
            constant = known.of_constants(self.node)  # `int(torch.tensor(x.shape).prod())`
            if not isinstance(constant, torch.Tensor) or constant.numel() != 1:
                raise ProxyUse(what, self.node, known.reasons.get(self.node, ""))
            value = constant.item()
        self.tracer.assume(self.node, value)
        return value

    def _content(self, what: str) -> torch.Tensor:
        """The values of a tensor that is made of constants and sizes alone; `ProxyUse` where data counts."""
        known = self.tracer.known
        constant = known.of_constants(self.node)
        if not isinstance(constant, torch.Tensor):
            raise ProxyUse(what, self.node, known.reasons.get(self.node, ""))
        self.tracer.assume(self.node, constant.tolist())
        return constant.resolve_conj().resolve_neg()

    def __index__(self) -> int:
        return operator.index(self._plain("Python needs the value of"))

    def __int__(self) -> int:
        return int(self._plain("Python needs the value of"))

    def __float__(self) -> float:
        return float(self._plain("Python needs the value of"))

    def __len__(self) -> int:
        value = self.tracer.known.of(self.node)
        if value is UNKNOWN:
            length = shape_slice_length(self.node)
            return length if length is not None else int(super().__len__())  # which raises
        size = len(value)
        self.tracer.assume(self.tracer.create_proxy("call_function", len, (self,), {}).node, size)
        return size

    def __iter__(self) -> Iterator[Any]:
        value = self.tracer.known.of(self.node)
        if value is UNKNOWN:
            count = _unpacked_by(sys._getframe(1))
            if count is None:
                iterator: Iterator[Any] = self.tracer.iter(self)
                return iterator
            return iter([operator.getitem(self, index) for index in range(count)])
        if isinstance(value, dict):
            return iter(list(value))
        count = len(value)
        if _unpacked_by(sys._getframe(1)) is None:
            self.tracer.assume_length(self, count)
        return iter([operator.getitem(self, index) for index in range(count)])

    def __contains__(self, item: Any) -> bool:
        value = self.tracer.known.of(self.node)
        if isinstance(value, dict):
            return item in value
        if value is UNKNOWN or isinstance(value, torch.Tensor):
            return bool(self.tracer.create_proxy("call_function", operator.contains, (self, item), {}))
        return any(entry is item or bool(entry == item) for entry in self)

    def __hash__(self) -> int:
        value = self.tracer.known.of(self.node)
        return hash(value) if isinstance(value, (int, float, str, torch.Size)) else object.__hash__(self)

    def __str__(self) -> str:
        value = self.tracer.known.of(self.node)
        return str(value) if is_plain(value) else repr(self)

    def __format__(self, spec: str) -> str:
        value = self.tracer.known.of(self.node)
        return format(value, spec) if is_plain(value) else repr(self)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        if isinstance(self.tracer.known.of(self.node), torch.Tensor):
            return np.asarray(self._content("numpy needs the value of").numpy(), dtype=dtype)
        return np.asarray(self._plain("numpy needs the value of"), dtype=dtype)

    def keys(self) -> Any:
        value = self.tracer.known.of(self.node)
        return list(value) if isinstance(value, dict) else super().keys()

    def __mul__(self, other: Any) -> Any:
        return other * int(self) if self._repeats(other) else super().__mul__(other)  # type: ignore[misc]  # fx makes it in a loop

    def __rmul__(self, other: Any) -> Any:
        return other * int(self) if self._repeats(other) else super().__rmul__(other)  # type: ignore[misc]

    def _repeats(self, other: Any) -> bool:
        """True for `[x] * size`: a list of as many entries, as Python makes it."""
        return isinstance(other, (list, tuple)) and isinstance(self.tracer.known.of(self.node), int)

    # --- what stays a size ---------------------------------------------------------------------------------------

    def __round__(self, *digits: int) -> Any:
        return self.tracer.create_proxy("call_function", round, (self, *digits), {})

    def __floor__(self) -> Any:
        return self.tracer.create_proxy("call_function", math.floor, (self,), {})

    def __ceil__(self) -> Any:
        return self.tracer.create_proxy("call_function", math.ceil, (self,), {})

    def __trunc__(self) -> Any:
        return self.tracer.create_proxy("call_function", math.trunc, (self,), {})

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> Any:
        return other // self, other % self


class _Attribute(RecordingProxy, fx.proxy.Attribute):
    """`x.name`. The node is made when first used; its source line is that of the access."""

    def __init__(self, root: fx.Proxy, attr: str) -> None:
        self.root, self.attr, self.tracer = root, attr, root.tracer
        self._node: fx.Node | None = None
        self._source = user_source(getattr(root.tracer, "_stop", None))

    @property
    def node(self) -> fx.Node:  # type: ignore[override]  # fx.proxy.Attribute does the same
        if self._node is None:
            self._node = fx.Tracer.create_proxy(self.tracer, "call_function", getattr, (self.root, self.attr), {}).node
            self._node.meta[SOURCE_META] = self._source
        return self._node

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.attr in ("items", "values", "get"):
            entries = self.tracer.known.of(self.root.node)
            if isinstance(entries, dict):
                return _of_dict(self.root, entries, self.attr, *args)
        if self.attr in ("numpy", "tolist") and isinstance(self.tracer.known.of(self.root.node), torch.Tensor):
            content = self.root._content("Python needs the value of")
            return content.numpy() if self.attr == "numpy" else content.tolist()
        return self.tracer.create_proxy("call_method", self.attr, (self.root, *args), kwargs)


def _of_dict(proxy: Any, entries: dict[Any, Any], method: str, key: Any = None, default: Any = None) -> Any:
    """`items`, `values` and `get` of a traced dictionary, whose keys are known."""
    if method == "get":
        return proxy[key] if key in entries else default
    return [(key, proxy[key]) if method == "items" else proxy[key] for key in entries]


def _unpacked_by(frame: Any) -> int | None:
    """How many names the frame unpacks into at its present instruction, if that is what it does."""
    code, at = frame.f_code.co_code, frame.f_lasti
    return code[at + 1] if 0 <= at < len(code) and code[at] == _UNPACK else None


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


def _is_part_of_shape(node: Any) -> bool:
    while isinstance(node, fx.Node) and node.target is operator.getitem:
        node = node.args[0]
    return _is_shape(node)


def is_shape(node: Any) -> bool:
    """True for a shape that is read off a tensor, and for a slice of one."""
    if isinstance(node, fx.Node) and node.target is operator.getitem and isinstance(node.args[1], slice):
        return _is_shape(node.args[0])
    return _is_shape(node)


def _is_shape(node: Any) -> bool:
    if not isinstance(node, fx.Node):
        return False
    is_attribute = node.target is getattr and node.args[1] == "shape"
    return is_attribute or (node.op == "call_method" and node.target == "size" and len(node.args) == 1)


RECORDED = "_hqc_recorded"
"""Attribute of a wrapper: the function that its nodes call."""


def recorded(function: Callable[..., Any], target: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """`function`, but on proxies a node that calls `target` (by default the result of this call itself)."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        proxy = find_proxy((args, kwargs))
        if proxy is None:
            return function(*args, **kwargs)
        return proxy.tracer.create_proxy("call_function", target or wrapper, args, kwargs)

    if target is not None:
        setattr(wrapper, RECORDED, target)
    return wrapper


def find_proxy(structure: Any) -> Any:
    """The first proxy among nested arguments, or None."""
    if isinstance(structure, fx.Proxy):
        return structure
    if isinstance(structure, (tuple, list)):
        items: Any = structure
    elif isinstance(structure, dict):
        items = structure.values()
    elif isinstance(structure, slice):
        items = (structure.start, structure.stop, structure.step)
    else:
        return None
    return next((proxy for proxy in map(find_proxy, items) if proxy is not None), None)


@functools.cache
def takers_of_plain_numbers() -> list[tuple[Any, str]]:
    """Torch's compiled functions where they refuse proxies for sizes and dimensions, as in torch 2.4; none where they take them."""
    proxy: Any = fx.Proxy(fx.Graph().placeholder("x"))
    try:
        torch.flatten(proxy, proxy)
    except TypeError:
        return compiled_functions()
    return []


def compiled_functions() -> list[tuple[Any, str]]:
    """The compiled functions on tensors of torch and torch.nn.functional."""
    on_tensors = torch.overrides.get_overridable_functions()
    return [
        (owner, name)
        for owner in (torch, torch.nn.functional)
        for name, item in vars(owner).items()
        if isinstance(item, BuiltinFunctionType)
        and not name.startswith("_")
        and item in on_tensors[owner]
        and name not in _FACTORIES
    ]


def record_factories(patches: Patches) -> None:
    """While tracing, constants whose sizes come from a tensor's shape are recorded: factories, and methods and functions of constant
    tensors that take sizes; torch's argument parser takes no proxies there.
    """
    functions = [*_FACTORIES, "roll", "split"]
    for owner, name in [(torch, name) for name in functions] + takers_of_plain_numbers():
        function = getattr(owner, name)
        patches.function(owner, name, recorded(function, function))
    for name in _SIZED_METHODS:
        method = getattr(torch.Tensor, name)
        patches.attribute(torch.Tensor, name, recorded_method(name, method))
    for name in _SIZED_FUNCTIONS:
        function = getattr(F, name)
        patches.function(F, name, recorded(function, function))
    patches.function(torch, "is_tensor", lambda item: traced_isinstance(item, torch.Tensor))
    patches.attribute(torch.Tensor, "type", _with_plain_arguments(torch.Tensor.type))
    patches.attribute(torch.autocast, "__init__", _with_plain_arguments(torch.autocast.__init__))
    for names, wrapped in ((_ASKING, _with_plain_arguments), (_CHECKS, _unchecked)):
        for name in names:
            if hasattr(torch, name):  # some are newer than the oldest torch that hqc runs with
                patches.function(torch, name, wrapped(getattr(torch, name)))


def recorded_method(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    """A method that is a node where it gets proxies, as one of a constant tensor that gets traced sizes."""

    @functools.wraps(method)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        proxy = find_proxy((args, kwargs))
        if proxy is None:
            return method(*args, **kwargs)
        return proxy.tracer.create_proxy("call_method", name, args, kwargs)

    return wrapper


def _with_plain_arguments(original: Callable[..., Any]) -> Callable[..., Any]:
    """A call of C++ that takes the values of proxies of devices, dtypes and flags."""

    def plain(item: Any) -> Any:
        return item._plain("torch needs") if isinstance(item, RecordingProxy) else item

    @functools.wraps(original, updated=())
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return original(*map(plain, args), **{name: plain(item) for name, item in kwargs.items()})

    return wrapper


def _unchecked(original: Callable[..., Any]) -> Callable[..., Any]:
    """`torch._check` and its kin, which are assertions: of what a trace knows they check, what it does not know is taken as true."""

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        values: dict[Any, Any] = {}
        for item in (*args, *kwargs.values()):
            if isinstance(item, RecordingProxy):
                item.tracer.asserted.append(item.node)
                values[item.node] = item.tracer.known.of(item.node)
        if not all(map(is_plain, values.values())):
            return None

        def plain(item: Any) -> Any:
            return values[item.node] if isinstance(item, RecordingProxy) else item

        return original(*map(plain, args), **{name: plain(item) for name, item in kwargs.items()})

    return wrapper


# --- builtins, as the rewritten code of a trace calls them -----------------------------------------------------------------


def traced_int(*args: Any) -> Any:
    """`int(x)`: of a size a size, elsewhere what `int` does."""
    return _converted(int, args)


def traced_float(*args: Any) -> Any:
    """`float(x)`: of a size a number computed from it, elsewhere what `float` does."""
    return _converted(float, args)


def _converted(kind: Any, args: tuple[Any, ...]) -> Any:
    if len(args) == 1 and isinstance(args[0], fx.Proxy):
        proxy: Any = args[0]
        value = proxy.tracer.known.of(proxy.node)
        if isinstance(value, (int, float)) or ((value is UNKNOWN or isinstance(value, torch.Tensor)) and is_size(proxy.node)):
            return proxy.tracer.create_proxy("call_function", kind, (proxy,), {})
    return kind(*args)


def traced_len(*args: Any) -> Any:
    """`len(x)`: of a traced tensor its size, elsewhere what `len` does."""
    if len(args) == 1 and isinstance(args[0], fx.Proxy):
        proxy: Any = args[0]
        value = proxy.tracer.known.of(proxy.node)
        if isinstance(value, torch.Tensor):
            return proxy.tracer.create_proxy("call_function", len, (proxy,), {})
        if isinstance(value, (torch.Size, dict)):
            return len(value)
        if reason := proxy.tracer.known.reasons.get(proxy.node):
            raise ProxyUse("Python needs the length of", proxy.node, reason)
    return len(*args)


def traced_isinstance(*args: Any) -> bool:
    """`isinstance(x, kinds)`: of a proxy, what holds of its value; a proxy without a known value is a tensor unless it is a size."""
    if len(args) != 2 or not isinstance(args[0], fx.Proxy):
        return builtins.isinstance(*args)
    proxy: Any = args[0]
    alike, kinds = _of_its_kind(proxy), args[1]
    if alike is not proxy and builtins.isinstance(alike, kinds):
        return True
    if alike is proxy and proxy.tracer.known.reasons.get(proxy.node) and builtins.isinstance(torch.empty(0), kinds):
        return not is_size(proxy.node)  # known to be computed, its shape is not: `torch.unique`
    if not builtins.isinstance(proxy, kinds):
        return False
    proxy.tracer.was_asked = True  # whether this is a trace
    return not proxy.tracer.hidden


def traced_type(*args: Any) -> Any:
    """`type(x)`: of a proxy, that of its value."""
    return type(_of_its_kind(args[0])) if len(args) == 1 and isinstance(args[0], fx.Proxy) else type(*args)


def traced_callable(*args: Any) -> bool:
    """`callable(x)`: a proxy can be called to record a call, what it stands for cannot, unless it is a method of a tensor."""
    if len(args) == 1 and isinstance(args[0], fx.Proxy):
        return isinstance(args[0], fx.proxy.Attribute)
    return callable(*args)


def isinstance_of_jit(original: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    """`torch.jit.isinstance`, which knows `List[Tensor]` too, of what a proxy stands for."""

    @functools.wraps(original)
    def function(obj: Any, target_type: Any) -> bool:
        return original(_of_its_kind(obj) if isinstance(obj, fx.Proxy) else obj, target_type)

    return function


def _of_its_kind(proxy: Any) -> Any:
    """The value of a proxy, or one of its kind; an argument of forward is taken for a tensor."""
    alike = getattr(type(proxy), "_hqc_alike", None)
    if alike is not None:
        return alike
    value = proxy.tracer.known.of(proxy.node)
    if type(value).__name__ == "FakeTensor":
        return torch.empty(0, dtype=value.dtype)
    if value is not UNKNOWN:
        return value
    return torch.empty(0) if proxy.node.op == "placeholder" and not str(proxy.node.target).startswith("*") else proxy


def traced_is(left: Any, right: Any) -> bool:
    """`left is right`; a proxy of a dtype, a device or None is what it stands for."""
    return _meant(left) is _meant(right)


def _meant(item: Any) -> Any:
    if not isinstance(item, fx.Proxy):
        return item
    value = item.tracer.known.of(item.node)  # type: ignore[attr-defined]
    return value if value is None or isinstance(value, (torch.dtype, torch.layout, bool)) else item


BUILTINS: dict[str, Callable[..., Any]] = {
    "int": traced_int,
    "float": traced_float,
    "len": traced_len,
    "isinstance": traced_isinstance,
    "type": traced_type,
    "callable": traced_callable,
    "is": traced_is,
}
