"""Opaque operations for the back ends: callables that run them in torch and offer their standard-opset form."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hqc.errors import ShapeError
from hqc.frontend.fx import LoweredModel
from hqc.frontend.fx.context import to_torch_dtype
from hqc.frontend.fx.opaque import OpaqueCall
from hqc.ir import DType, Node, TensorType, Trait
from hqc.structures import leaves
from hqc.workflow.call_keys import call_key
from hqc.workflow.opaque_costs import note_form

if TYPE_CHECKING:
    import onnx

_FORMS: OrderedDict[Hashable, onnx.ModelProto | str] = OrderedDict()
"""Forms of calls that were written lately, by what tells them apart."""
_KEPT = 1 << 28
"""Bytes of forms that stay; constants are part of them."""
TensorFunction = Callable[..., "tuple[Tensor, ...]"]


class WritableCall:
    """An opaque operation on NumPy arrays (`__call__`) with its standard-opset form (`form`), made on first use and kept."""

    def __init__(self, call: OpaqueCall) -> None:
        self._call = call
        self._forms: dict[tuple[tuple[TensorType, bool], ...], onnx.ModelProto | str] = {}

    def __call__(self, *arrays: npt.NDArray[Any]) -> Any:
        return self._call(*arrays)

    def form(self, node: Node) -> onnx.ModelProto:
        """The operation in standard ops for the operand types of `node`; `ExportError` says why there is none."""
        key = tuple((value.type, value.is_parameter) for value in node.operands)
        if key not in self._forms:
            self._forms[key] = self._written(node)
        found = self._forms[key]
        if isinstance(found, str):
            from hqc.backends.onnx.opaque import refusal

            raise refusal(node, found)
        return found

    def result_types(self, node: Node) -> list[TensorType]:
        """Types of the results for the operand types of `node`; `ShapeError` when torch does not take operands like that."""
        function, types = self._function(node)
        samples = sample_operands(function, types)
        if samples is None:
            shown = ", ".join(str(value.type) for value in node.operands)
            raise ShapeError(f"{node.label}: {node.attributes['id']} cannot take operands of types {shown}")
        return [TensorType(DType.from_numpy(tensor.numpy().dtype), tuple(tensor.shape)) for tensor in function(*samples[0])]

    def _function(self, node: Node) -> tuple[TensorFunction, list[TensorType]]:
        """The call as a function of the operands that are no parameters, to its tensors; and their types."""
        fixed = [None if value.array is None else torch.from_numpy(np.array(value.array)) for value in node.operands]

        def function(*tensors: Tensor) -> tuple[Tensor, ...]:
            given = iter(tensors)
            operands = [next(given) if constant is None else constant for constant in fixed]
            return tuple(item for item in leaves(self._call.function(*operands)) if isinstance(item, Tensor))

        return function, [value.type for value in node.operands if value.array is None]

    def _written(self, node: Node) -> onnx.ModelProto | str:
        from hqc.workflow.opaque_forms import written_form

        function, types = self._function(node)
        results = [value.type for value in node.results]
        key = call_key(self._call.function, [value.array for value in node.operands], repr(types), repr(results))
        if key is not None and key in _FORMS:
            _FORMS.move_to_end(key)
            return _FORMS[key]
        form = written_form(function, types, results)
        if key is not None:
            _FORMS[key] = form
            _forget_old_forms()
        return form

    def macs(self, node: Node) -> int:
        """Multiply-accumulates of the form; `ExportError` when there is none."""
        from hqc.backends.onnx.opaque import multiply_accumulates

        return multiply_accumulates(self.form(node))


def _forget_old_forms() -> None:
    sizes = [len(form) if isinstance(form, str) else form.ByteSize() for form in _FORMS.values()]
    total = sum(sizes)
    for size in sizes[:-1]:
        if total <= _KEPT:
            break
        _FORMS.popitem(last=False)
        total -= size


def note_opaque(lowered: LoweredModel) -> dict[str, WritableCall]:
    """The opaque operations of a lowered model, as the back ends take them.

    Their nodes learn what they cost and, where no file can hold them, the sentence that says so.
    """
    calls = {name: _writable(call) for name, call in lowered.opaque.items()}
    for node in lowered.graph.nodes:
        if node.op.has(Trait.OPAQUE):
            note_form(node, calls[str(node.attributes["id"])].macs)
    return calls


def _writable(call: OpaqueCall) -> WritableCall:
    """What writes an opaque call: nodes of ONNX files have their own form, everything else is traced."""
    own = getattr(call.module, "call", None)
    return cast(WritableCall, own) if hasattr(own, "form") else WritableCall(call)


def sample_operands(function: TensorFunction, types: Sequence[TensorType]) -> list[list[Tensor]] | None:
    """Two sets of operands that eager torch accepts, the second to catch what the first decided while it was traced.

    Normal reals and small integers; where torch refuses those, zeros for integers; then reals in (0, 1). Operands that an operation takes
    for sorted are.
    """
    for make in (_normal, _normal_and_zeros, _unit_and_zeros):
        generator = torch.Generator().manual_seed(0)
        samples = [[make(type, generator) for type in types] for _ in range(2)]
        try:
            for tensors in samples:
                with _TakenForSorted(tensors) as taken:
                    function(*tensors)
                for index in taken.found:
                    tensors[index] = tensors[index].sort(-1).values
        except (RuntimeError, IndexError, ValueError):
            continue
        return samples
    return None


class _TakenForSorted(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes which of `operands` are the boundaries of a search, whose result is undefined where they are not sorted."""

    def __init__(self, operands: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._operands = operands
        self.found: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        searched = {torch.ops.aten.searchsorted.Tensor: 0, torch.ops.aten.bucketize.Tensor: 1}.get(func)
        if searched is not None:
            self.found |= {index for index, operand in enumerate(self._operands) if operand is args[searched]}
        return func(*args, **(kwargs or {}))


def _normal(type: TensorType, generator: torch.Generator) -> Tensor:
    assert type.shape is not None
    dtype = to_torch_dtype(type.dtype)
    if type.dtype.is_float:
        return torch.randn(type.shape, dtype=dtype, generator=generator)
    return torch.randint(0, 2, type.shape, generator=generator).to(dtype)


def _normal_and_zeros(type: TensorType, generator: torch.Generator) -> Tensor:
    sample = _normal(type, generator)
    return sample if type.dtype.is_float else torch.zeros_like(sample)


def _unit_and_zeros(type: TensorType, generator: torch.Generator) -> Tensor:
    assert type.shape is not None
    dtype = to_torch_dtype(type.dtype)
    if type.dtype.is_float:
        return torch.rand(type.shape, dtype=dtype, generator=generator)
    return torch.zeros(type.shape, dtype=dtype)
