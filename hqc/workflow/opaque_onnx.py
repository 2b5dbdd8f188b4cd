"""Opaque operations for the back ends: callables that run them in torch and offer their standard-opset form.

The operation is traced once into aten calls, which the ONNX back end writes; what it cannot write goes to torch's TorchScript
exporter. Either form is run in onnxruntime beside eager torch before it is accepted.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor

from hqc.backends.onnx import aten
from hqc.backends.onnx.opaque import multiply_accumulates, refusal
from hqc.backends.onnx.verify import run_model
from hqc.errors import ExportError, ShapeError
from hqc.frontend.fx import LoweredModel
from hqc.frontend.fx.context import to_torch_dtype
from hqc.frontend.fx.opaque import OpaqueCall
from hqc.frontend.fx.structures import leaves
from hqc.ir import DType, Graph, Node, TensorType, Trait
from hqc.passes.base import Remark
from hqc.workflow.aten_trace import DATA_DEPENDENT, UntraceableError, trace_calls

TensorFunction = Callable[..., "tuple[Tensor, ...]"]
TOLERANCE = 1e-4  # of the largest element: float32 sums in another order
_OPSET = 11


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
            raise refusal(node, found)
        return found

    def result_types(self, node: Node) -> list[TensorType]:
        """Types of the results for the operand types of `node`; `ShapeError` when torch does not take operands like that."""
        function, types = self._function(node)
        samples = _samples(function, types)
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
        function, types = self._function(node)
        return written_form(function, types, [value.type for value in node.results])

    def macs(self, node: Node) -> int:
        """Multiply-accumulates of the form; `ExportError` when there is none."""
        return multiply_accumulates(self.form(node))


def note_opaque(lowered: LoweredModel) -> dict[str, WritableCall]:
    """The opaque operations of a lowered model, as the back ends take them.

    Their nodes learn what they cost and, where no file can hold them, the sentence that says so: it is what explain shows, what
    prepare warns of, and what export refuses with.
    """
    calls = {name: WritableCall(call) for name, call in lowered.opaque.items()}
    for node in lowered.graph.nodes:
        if node.op.has(Trait.OPAQUE):
            call = calls[str(node.attributes["id"])]
            try:
                node.attributes["macs"] = call.macs(node)
            except ExportError as error:
                node.attributes["unwritable"] = str(error)
    return calls


def unwritable_remarks(graph: Graph) -> list[Remark]:
    """A warning for each operation that no file can hold."""
    found = [str(node.attributes["unwritable"]) for node in graph.nodes if node.op.has(Trait.OPAQUE)]
    return [Remark("export", sentence, severity="warning") for sentence in found if sentence]


def written_form(
    function: TensorFunction, operands: Sequence[TensorType], results: Sequence[TensorType]
) -> onnx.ModelProto | str:
    """The form of a function of tensors, or why there is none."""
    if any(type.shape is None for type in operands):
        return "the shapes of its operands are not known"
    samples = _samples(function, operands)
    if samples is None:
        return "it fails on random operands of its own types"
    reasons = []
    for attempt in (_by_composed_calls, _by_calls, _by_torch_exporter):
        try:
            model = attempt(function, samples[0])
            for tensors in samples:
                _check(model, function, tensors, results)
            return model
        except (UntraceableError, ExportError) as error:
            reasons.append(str(error))
            if isinstance(error, UntraceableError) and error.final and len(reasons) == 2:
                break  # before it is taken apart, an operation may only seem to draw random numbers
    return reasons[0] if reasons[1] == DATA_DEPENDENT else reasons[1]  # some look at their data to check it


def _by_composed_calls(function: TensorFunction, tensors: Sequence[Tensor]) -> onnx.ModelProto:
    return aten.write_calls(trace_calls(function, tensors, composite=True))


def _by_calls(function: TensorFunction, tensors: Sequence[Tensor]) -> onnx.ModelProto:
    return aten.write_calls(trace_calls(function, tensors, composite=False))


def _samples(function: TensorFunction, types: Sequence[TensorType]) -> list[list[Tensor]] | None:
    """Two sets of operands that eager torch accepts, the second to catch what the first decided while it was traced.

    Normal reals and small integers; where torch refuses those, zeros for integers; then reals in (0, 1).
    """
    for make in (_normal, _normal_and_zeros, _unit_and_zeros):
        generator = torch.Generator().manual_seed(0)
        samples = [[make(type, generator) for type in types] for _ in range(2)]
        try:
            for tensors in samples:
                function(*tensors)
        except (RuntimeError, IndexError, ValueError):
            continue
        return samples
    return None


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


# --- the check ----------------------------------------------------------------------------------------------------------------


def _check(model: onnx.ModelProto, function: TensorFunction, tensors: Sequence[Tensor], results: Sequence[TensorType]) -> None:
    """Run the form beside eager torch; `ExportError` when types or numbers differ."""
    expected = [tensor.detach().numpy() for tensor in function(*tensors)]
    feeds = {info.name: tensor.numpy() for info, tensor in zip(model.graph.input, tensors, strict=True)}
    found = list(run_model(model, feeds).values())
    for type, got, wanted in zip(results, found, expected, strict=True):
        if got.dtype != type.dtype.numpy or got.shape != type.shape:
            raise ExportError(f"its ONNX form gives {got.dtype}{list(got.shape)} where {type} was traced")
        if not _agrees(got, wanted):
            raise ExportError("its ONNX form does not compute what torch computes")


def _agrees(got: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> bool:
    if wanted.dtype.kind != "f":
        return bool((got == wanted).all())
    finite = np.abs(wanted[np.isfinite(wanted)])
    largest = float(finite.max()) if finite.size else 0.0
    return bool(np.allclose(got, wanted, rtol=TOLERANCE, atol=TOLERANCE * largest + 1e-7, equal_nan=True))


# --- torch's own exporter ------------------------------------------------------------------------------------------------------


class _AsModule(torch.nn.Module):
    def __init__(self, function: TensorFunction) -> None:
        super().__init__()
        self.function = function

    def forward(self, *tensors: Tensor) -> Any:
        return self.function(*tensors)


def _by_torch_exporter(function: TensorFunction, tensors: Sequence[Tensor]) -> onnx.ModelProto:
    """What torch's TorchScript exporter writes for this one operation; `ExportError` when it cannot, or uses control flow."""
    buffer = io.BytesIO()
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    quiet.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            options: dict[str, Any] = {"f": buffer, "opset_version": _OPSET, "dynamo": False}
            torch.onnx.export(_AsModule(function), tuple(tensors), **options)
    except Exception as error:  # the exporter's errors share no base of their own
        raise ExportError(f"torch's exporter cannot write it either: {str(error).strip().splitlines()[0]}") from error
    finally:
        quiet.setLevel(level)
    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(buffer.getvalue()))
    if any(attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for attribute in _attributes(model)):
        raise ExportError("torch's exporter needs control flow for it, which hb_mapper does not take")
    _inline_constants(model)
    return model


def _attributes(model: onnx.ModelProto) -> Iterator[onnx.AttributeProto]:
    for node in model.graph.node:
        yield from node.attribute


def _inline_constants(model: onnx.ModelProto) -> None:
    """`Constant` nodes become initializers, which files share."""
    kept = []
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensor = onnx.TensorProto()
            tensor.CopyFrom(node.attribute[0].t)
            tensor.name = node.output[0]
            model.graph.initializer.append(tensor)
        else:
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)
