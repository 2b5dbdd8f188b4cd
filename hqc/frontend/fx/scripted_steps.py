"""What TorchScript's steps do, in Python: operators as ordinary torch calls, branches, loops, lists, numbers and texts."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from hqc.errors import LoweringError
from hqc.frontend.fx.exported import ordinary_call
from hqc.frontend.fx.exported_core import WITH_INDICES
from hqc.frontend.fx.locations import interpreter
from hqc.frontend.fx.proxies import traced_float, traced_int, traced_is, traced_len


@dataclass
class Step:
    """One step: `outputs = target(inputs)`, by the names of values.

    `kind`: constant, attribute, assignment, call (of the operator's `overload`, whose arguments have `names`; without one, of numbers,
    lists and texts), layer (of the module at `place`) or primitive (which may have blocks). `used`: which outputs somebody reads.
    `source`: the line of the user's code.
    """

    kind: str
    target: Any
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    blocks: tuple[Block, ...] = ()
    names: tuple[str, ...] = ()
    overload: str | None = None
    used: tuple[bool, ...] = ()
    place: tuple[str, ...] = ()
    source: str = ""


@dataclass
class Block:
    """Steps, with the names of what they take and give."""

    inputs: tuple[str, ...]
    steps: list[Step]
    outputs: tuple[str, ...]


@dataclass
class Program:
    """The code of a module. `arguments`: of forward, each with whether it has a default, and that."""

    arguments: tuple[tuple[str, bool, Any], ...]
    block: Block


def run(program: Program, module: nn.Module, given: Sequence[Any]) -> Any:
    """What `module` returns for these arguments."""
    values: dict[str, Any] = {}
    results = _run(program.block, values, (module, *given), module)
    return results[0] if len(results) == 1 else tuple(results)


def _run(block: Block, values: dict[str, Any], given: Sequence[Any], root: nn.Module) -> list[Any]:
    values.update(zip(block.inputs, given, strict=True))
    for step in block.steps:
        results = _results(step, values, root)
        values.update(zip(step.outputs, results, strict=False))
    return [values[name] for name in block.outputs]


@interpreter
def _results(step: Step, values: dict[str, Any], root: nn.Module) -> Sequence[Any]:
    if step.kind == "constant":
        held = isinstance(step.target, str) and type(step.target) is not str
        return [getattr(root, step.target) if held else step.target]
    given = [values[name] for name in step.inputs]
    if step.kind == "attribute":
        return [getattr(given[0], step.target)]
    if step.kind == "assignment":
        setattr(given[0], step.target, given[1])
        return []
    if step.kind == "layer":
        return _of_layer(root.get_submodule(".".join(step.place)), step, given)
    if step.kind == "call":
        return _call(step, given)
    if step.target == "If":
        return _run(step.blocks[0 if given[0] else 1], values, (), root)
    if step.target == "Loop":
        return _loop(step.blocks[0], given, values, root)
    if step.target in ("ListUnpack", "TupleUnpack"):
        return [given[0][index] for index in range(len(step.outputs))]
    return [PRIMITIVES[step.target](*given) if step.target in PRIMITIVES else given[0]]


def _of_layer(layer: nn.Module, step: Step, given: list[Any]) -> Sequence[Any]:
    if not isinstance(layer, nn.RNNBase):
        return [layer(given[0])]
    state = tuple(given[1]) if isinstance(given[1], (list, tuple)) else given[1]
    result, left = layer(given[0], state)
    return [result, left[0], left[1]] if isinstance(layer, nn.LSTM) else [result, left]


def _loop(body: Block, given: list[Any], values: dict[str, Any], root: nn.Module) -> list[Any]:
    count, goes_on, *carried = given
    turn = 0
    while goes_on and turn < operator.index(count):
        goes_on, *carried = _run(body, values, (turn, *carried), root)
        turn += 1
    return carried


# --- operators ------------------------------------------------------------------------------------------------------------------

_DTYPES = (
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.float32, torch.float64),
    *(torch.complex32, torch.complex64, torch.complex128, torch.bool, torch.qint8, torch.quint8, torch.qint32, torch.bfloat16),
)
_FORMATS = (torch.contiguous_format, torch.preserve_format, torch.channels_last, torch.channels_last_3d)
_OPERATORS: dict[str, Callable[..., Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "floor_divide": operator.floordiv,
    "floordiv": operator.floordiv,
    "remainder": operator.mod,
    "pow": operator.pow,
    "neg": operator.neg,
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "rsub": lambda a, b: b - a,
}
"""Calls that are the same of numbers and of tensors. A traced graph has numbers where its operators say tensors."""


def _same_lists(left: Any, right: Any) -> bool:
    """`left == right` of lists of numbers, where one of them may be a traced shape: Python's shapes are no lists."""
    if not any(isinstance(item, (list, tuple)) for item in (left, right)):
        return bool(left == right)
    count = traced_len(left)
    return bool(count == traced_len(right)) and all(bool(left[index] == right[index]) for index in range(count))


def _in_place_on_list(name: str) -> Callable[..., Any]:
    def call(items: list[Any], *args: Any) -> Any:
        getattr(items, name)(*args)
        return items

    return call


_OF_PYTHON: dict[str, Callable[..., Any]] = {
    "len": traced_len,
    "__getitem__": operator.getitem,
    "__contains__": lambda items, item: item in items,
    "__is__": traced_is,
    "__isnot__": lambda a, b: not traced_is(a, b),
    "__not__": operator.not_,
    "__and__": operator.and_,
    "__or__": operator.or_,
    "__xor__": operator.xor,
    "format": lambda text, *args: text.replace("{}", "%s") % args if text.count("{}") == len(args) else text,
    "append": _in_place_on_list("append"),
    "extend": _in_place_on_list("extend"),
    "insert": _in_place_on_list("insert"),
    "reverse": _in_place_on_list("reverse"),
    "clear": _in_place_on_list("clear"),
    "pop": lambda items, *at: items.pop(*at),
    "_set_item": lambda items, key, value: (operator.setitem(items, key, value), items)[1],
    "list": list,
    "copy": lambda items: items.copy(),
    "index": lambda items, item: items.index(item),
    "keys": lambda table: list(table.keys()),
    "values": lambda table: list(table.values()),
    "items": lambda table: list(table.items()),
    "get": lambda table, key, *other: table.get(key, *other),
    "slice": lambda items, start=None, stop=None, step=1: items[start:stop:step],
    "floor": math.floor,
    "ceil": math.ceil,
    "sqrt": math.sqrt,
    "log": math.log,
    "exp": math.exp,
    "round": round,
    "str": str,
    "abs": abs,
    "all": all,
    "any": any,
    "sum": sum,
    "device": torch.device,
}
_CONVERSIONS: dict[str, Callable[..., Any]] = {
    "Int": traced_int,
    "IntImplicit": traced_int,
    "Float": traced_float,
    "FloatImplicit": traced_float,
    "Bool": bool,
    "ScalarImplicit": lambda value: value,
    "_unwrap_optional": lambda value: value,
    "size": lambda x, *dim: x.size(*dim),
    "dim": lambda x: x.dim(),
    "numel": lambda x: x.numel(),
    "is_floating_point": lambda x: x.is_floating_point(),
    "warn": lambda *args: None,
    "tensor": lambda data, dtype=None, *place: torch.tensor(data, dtype=_as_python("dtype", dtype)),
}


def _call(step: Step, given: list[Any]) -> Sequence[Any]:
    name = step.target
    if name in _CONVERSIONS:
        return [_CONVERSIONS[name](*given)]
    if step.overload is None or (isinstance(given[0], (list, dict)) and name in _OF_PYTHON):
        if name in ("min", "max"):
            return [PRIMITIVES[name](*given)]
        if name in ("eq", "ne"):
            return [_same_lists(*given) == (name == "eq")]
        known = _OPERATORS.get(name) or _OF_PYTHON.get(name)
        if known is not None:
            return [known(*given)]
    bound = dict(zip(step.names, given, strict=False))
    if name in _OPERATORS and bound.get("alpha", 1) == 1 and bound.get("rounding_mode") is None:
        return [_OPERATORS[name](*given[: 1 if name == "neg" else 2])]
    overload = getattr(getattr(torch.ops.aten, name), step.overload or "default")
    bound = {key: _as_python(key, value) for key, value in bound.items()}
    if name == "_convolution":
        name, overload = "convolution", torch.ops.aten.convolution.default
        bound = {key: value for key, value in bound.items() if key not in _OF_BACK_ENDS}
    places = name in WITH_INDICES and len(step.used) > 1 and step.used[1]
    kind, target, args, kwargs = ordinary_call(overload, bound, places)
    result = getattr(args[0], target)(*args[1:], **kwargs) if kind == "call_method" else target(*args, **kwargs)
    if len(step.outputs) < 2:
        return [result]
    several = isinstance(result, (tuple, list)) or (isinstance(result, fx.Proxy) and (name not in WITH_INDICES or places))
    return [result[index] if used else None for index, used in enumerate(step.used)] if several else [result]


_OF_BACK_ENDS = ("benchmark", "deterministic", "cudnn_enabled", "allow_tf32")


def _as_python(name: str, value: Any) -> Any:
    """What TorchScript has numbers for."""
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    if name == "dtype":
        return _DTYPES[value]
    if name == "memory_format":
        return _FORMATS[value]
    return torch.strided if name == "layout" else value


def _raise(message: Any, *_: Any) -> Any:
    raise LoweringError(f"the code of the scripted module raises an error: {message}")


PRIMITIVES: dict[str, Callable[..., Any]] = {
    "If": lambda *args: args,
    "Loop": lambda *args: args,
    "ListUnpack": lambda *args: args,
    "TupleUnpack": lambda *args: args,
    "ListConstruct": lambda *args: list(args),
    "TupleConstruct": lambda *args: tuple(args),
    "TupleIndex": lambda items, index: items[index],
    "DictConstruct": lambda *args: dict(zip(args[::2], args[1::2], strict=True)),
    "RaiseException": _raise,
    "Uninitialized": lambda: None,
    "Print": lambda *args: None,
    "min": min,
    "max": max,
    "device": lambda x: x.device,
    "dtype": lambda x: x.dtype,
    "is_cuda": lambda x: False,
    "shape": lambda x: x.shape,
    "dim": lambda x: x.dim(),
    "layout": lambda x: torch.strided,
    "type": lambda device: device.type,
    **dict.fromkeys(("is_nested", "is_sparse", "is_quantized", "is_mkldnn", "requires_grad"), lambda x: False),
}
"""Steps that are no operators. The first four are done where blocks and several results are known."""
PASSED = frozenset({"NumToTensor", "unchecked_cast", "unchecked_unwrap_optional", "data"})
"""Steps that give what they take."""
