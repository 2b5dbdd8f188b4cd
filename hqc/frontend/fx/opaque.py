"""Calls that only torch can run: opaque nodes with types from one trial call, and callables on NumPy arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from hqc.errors import FAULTS, first_line
from hqc.frontend.fx.calls import FrozenModule
from hqc.frontend.fx.context import LoweringContext, to_torch_dtype
from hqc.frontend.fx.locations import value_name
from hqc.frontend.fx.shapes import GIVE_INPUTS, UnknownShape, UnknownSize
from hqc.frontend.fx.tensors import unusual_kind
from hqc.ir import TensorType, Value
from hqc.structures import leaves, map_structure

TorchCallable = Callable[..., Any]


def emit_opaque(
    ctx: LoweringContext, call: TorchCallable, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], reason: str
) -> tuple[Any, str, OpaqueCall]:
    """Emit `call(*args, **kwargs)` as an opaque node.

    Returns the call's result with IR values in place of tensors, the node's id, and the callable for `compile(opaque=)`: it
    takes the operands' arrays in order and returns the result arrays, a tuple if there are several. Where the answer of the call is
    no tensor and needs no data, it is the result, there is no node, and the id is empty.
    """
    operands: list[Value] = []
    for item in leaves((args, kwargs)):
        if isinstance(item, Value) and item not in operands:
            operands.append(item)
    unknown = [value.name for value in operands if value.shape is None]
    unknown += [str(item) for item in leaves((args, kwargs)) if isinstance(item, (UnknownSize, UnknownShape))]
    if unknown:
        raise ctx.error(f"{name} {reason}; to run it as it is, on the CPU, its result must be known: {GIVE_INPUTS}")
    bound = _Bound(call, args, kwargs, [value.name for value in operands])
    with _AsksForData() as asked:
        result = tried(ctx, name, operands, lambda: bound(*[_trial(value.type) for value in operands]))
    if asked.found:
        _refuse_changing_shapes(ctx, name, bound, operands, result)
    tensors = [item for item in leaves(result) if isinstance(item, torch.Tensor)]
    if not tensors:
        answer = _answer(bound, operands)
        if answer == result:
            return answer, "", OpaqueCall(bound)
        raise ctx.error(f"{name} returns {type(result).__name__} and no tensor, which the IR cannot express")
    kind = next(filter(None, map(unusual_kind, tensors)), None)
    if kind is not None:
        raise ctx.error(f"{name} returns a {kind} tensor, which the IR cannot express; it knows dense ones")
    types = [TensorType(ctx.ir_dtype(tensor.dtype), tuple(tensor.shape)) for tensor in tensors]
    single = isinstance(result, torch.Tensor)
    names = [value_name(ctx.node)] if single else _names(ctx, result, tensors)
    identifier = ctx.node.name
    results = iter(ctx.emit_results("opaque", *operands, names=names, types=types, id=identifier))
    structure = map_structure(result, lambda item: next(results) if isinstance(item, torch.Tensor) else item)
    return structure, identifier, OpaqueCall(bound, call.module if isinstance(call, FrozenModule) else None)


def _answer(bound: _Bound, operands: Sequence[Value]) -> Any:
    """What a question about types and shapes (`torch.numel`, `torch.result_type`) is answered with; None where data counts."""
    try:
        return bound(
            *[torch.empty(value.shape or (), dtype=to_torch_dtype(value.type.dtype), device="meta") for value in operands]
        )
    except FAULTS:
        return None


class _AsksForData(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes whether an operation runs whose result may have a shape that depends on the data (`nonzero`, `unique`)."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found = False

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        self.found = self.found or torch.Tag.dynamic_output_shape in func.tags
        return func(*args, **(kwargs or {}))


def _refuse_changing_shapes(ctx: LoweringContext, name: str, bound: _Bound, operands: Sequence[Value], result: Any) -> None:
    """Refuse a call that gives other shapes for other numbers: the simulator and every file have static ones."""
    try:
        other = bound(*[_plain(value.type) for value in operands])
    except FAULTS:  # it does not take these numbers
        return
    for one, two in zip(leaves(result), leaves(other), strict=False):
        if isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor) and one.shape != two.shape:
            shapes = f"{list(one.shape)} for some numbers, {list(two.shape)} for others"
            raise ctx.error(
                f"{name} gives a tensor whose shape depends on the data ({shapes}), and a deployed graph has static shapes; "
                "use torch.where, a multiplication by the mask or topk, or run what follows outside of the model"
            )


def tried(ctx: LoweringContext, name: str, operands: Sequence[Value], run: Callable[[], Any]) -> Any:
    """The result of a trial call; the sentence about the user's line where it fails."""
    try:
        return run()
    except FAULTS as error:
        types = ", ".join(str(value.type) for value in operands)
        raise ctx.error(f"{name} failed on operands {types}: {first_line(error)}") from error


def trial(call: TorchCallable, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What `call` gives for some operands of the types of the IR values among its arguments."""
    args, kwargs = map_structure((args, kwargs), lambda item: _trial(item.type) if isinstance(item, Value) else item)
    with torch.no_grad():
        return call(*args, **kwargs)


class _Bound:
    """A call with its constant arguments in place, which follow the operands to their device; takes the tensors of its operands."""

    def __init__(self, call: TorchCallable, args: tuple[Any, ...], kwargs: dict[str, Any], operands: Sequence[str]) -> None:
        index = {name: i for i, name in enumerate(operands)}
        self._call = call
        self._args, self._kwargs = map_structure(
            (args, kwargs), lambda item: _Slot(index[item.name]) if isinstance(item, Value) else item
        )

    @property
    def call_key(self) -> Any:
        """What tells the call from others (see `hqc.workflow.call_keys`)."""
        return self._call, self._args, self._kwargs

    def __call__(self, *tensors: torch.Tensor) -> Any:
        device = tensors[0].device if tensors else torch.device("cpu")

        def filled(item: Any) -> Any:
            if isinstance(item, _Slot):
                return tensors[item.index]
            if isinstance(item, torch.device):
                return device
            return item.to(device) if isinstance(item, torch.Tensor) else item

        args, kwargs = map_structure((self._args, self._kwargs), filled)
        with torch.no_grad():
            return self._call(*args, **kwargs)


class _Slot:
    def __init__(self, index: int) -> None:
        self.index = self.call_key = index


class OpaqueCall:
    """A call that only torch can run, on NumPy arrays: operands in order, the result arrays, a tuple if there are several.

    `function`: the same on torch tensors, with the structure that the model's call returns. `module`: the module that is called, if
    it is one.
    """

    def __init__(self, function: TorchCallable, module: nn.Module | None = None) -> None:
        self.function = function
        self.module = module

    def __call__(self, *arrays: npt.NDArray[Any]) -> Any:
        result = self.function(*(torch.from_numpy(np.array(array)) for array in arrays))
        if isinstance(result, torch.Tensor):
            return result.cpu().numpy()
        return tuple(item.cpu().numpy() for item in leaves(result) if isinstance(item, torch.Tensor))


def _trial(type: TensorType) -> torch.Tensor:
    """An operand for the trial call: numbers in [0, 1) for reals, zeros for integers (valid as indices)."""
    assert type.shape is not None
    dtype = to_torch_dtype(type.dtype)
    if type.dtype.is_float:
        return torch.rand(type.shape, dtype=dtype, generator=torch.Generator().manual_seed(0))
    return torch.zeros(type.shape, dtype=dtype)


def _plain(type: TensorType) -> torch.Tensor:
    """An operand in which no two elements differ: zeros for reals, ones for integers and truth values."""
    assert type.shape is not None
    dtype = to_torch_dtype(type.dtype)
    return torch.zeros(type.shape, dtype=dtype) if type.dtype.is_float else torch.ones(type.shape, dtype=dtype)


def _names(ctx: LoweringContext, result: Any, tensors: Sequence[torch.Tensor]) -> list[str]:
    flat = isinstance(result, (tuple, list)) and all(isinstance(item, torch.Tensor) for item in result)
    if flat:
        return ctx.result_names(len(tensors))
    return [ctx.free_name(f"{value_name(ctx.node)}_{i}") for i in range(len(tensors))]
