"""The standard-opset form of one function of tensors: traced into aten calls and written, or written by torch, and checked.

Imported only where an operation needs a form: tracing and onnxruntime take a second to load.
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
from hqc.backends.onnx.verify import run_model
from hqc.errors import FAULTS, ExportError, first_line
from hqc.ir import TensorType
from hqc.workflow.aten_trace import DATA_DEPENDENT, UntraceableError, trace_calls
from hqc.workflow.opaque_onnx import TensorFunction, sample_operands
from hqc.workflow.ties import FirstOfEquals

TOLERANCE = 1e-4  # of the largest element: float32 sums in another order
_OPSET = 11


def written_form(
    function: TensorFunction, operands: Sequence[TensorType], results: Sequence[TensorType]
) -> onnx.ModelProto | str:
    """The form of a function of tensors, or why there is none."""
    if any(type.shape is None for type in operands):
        return "the shapes of its operands are not known"
    if any(type.is_empty for type in (*operands, *results)):
        return "there are tensors without elements in it"  # torch's exporter divides by their sizes, and the process dies
    samples = sample_operands(function, operands)
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


# --- the check ----------------------------------------------------------------------------------------------------------------


def _check(model: onnx.ModelProto, function: TensorFunction, tensors: Sequence[Tensor], results: Sequence[TensorType]) -> None:
    """Run the form beside eager torch; `ExportError` when types or numbers differ."""
    with FirstOfEquals():  # type: ignore[no-untyped-call]
        expected = [tensor.detach().numpy() for tensor in function(*tensors)]
    if len(model.graph.input) != len(tensors):
        raise ExportError(f"its ONNX form takes {len(model.graph.input)} of its {len(tensors)} operands")
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
    def __init__(self, function: Callable[..., Any]) -> None:
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
    log = torch._C._jit_onnx_log  # prints the graph that could not be written, where commands print their results
    torch._C._jit_onnx_log = lambda *parts: None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            options: dict[str, Any] = {"f": buffer, "opset_version": _OPSET, "dynamo": False}
            torch.onnx.export(_AsModule(function), tuple(tensors), **options)
    except FAULTS as error:  # the exporter's errors share no base of their own
        raise ExportError(f"torch's exporter cannot write it either: {first_line(error)}") from error
    finally:
        quiet.setLevel(level)
        torch._C._jit_onnx_log = log
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
