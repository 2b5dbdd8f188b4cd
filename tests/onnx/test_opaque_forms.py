"""Opaque operations in files: their forms compute what torch computes, with standard ops of opset 11, or are refused by name."""

from __future__ import annotations

import contextlib
from typing import Any

import aten_cases
import numpy as np
import onnx
import pytest
import torch

from hqc.backends.onnx import aten, emit_segment
from hqc.backends.onnx.aten.writer import CallWriter
from hqc.backends.onnx.opaque import multiply_accumulates
from hqc.errors import ExportError
from hqc.frontend.fx.opaque import OpaqueCall
from hqc.ir import DType, Graph, Location, Node, TensorType
from hqc.structures import leaves
from hqc.workflow import opaque_forms
from hqc.workflow.aten_trace import UntraceableError
from hqc.workflow.opaque_onnx import WritableCall


def opaque_node(function: Any, *shapes: tuple[int, ...], dtypes: tuple[DType, ...] = ()) -> tuple[Graph, Node, WritableCall]:
    """One opaque node over inputs of these shapes, and its callable."""
    call = OpaqueCall(function)
    kinds = dtypes or (DType.FLOAT32,) * len(shapes)
    arrays = [np.ones(shape, kind.numpy) for shape, kind in zip(shapes, kinds, strict=True)]
    results = call(*arrays)
    graph = Graph("g")
    inputs = [graph.add_input(f"x{i}", TensorType(k, s)) for i, (k, s) in enumerate(zip(kinds, shapes, strict=True))]
    found = results if isinstance(results, tuple) else (results,)
    types = [TensorType(DType.from_numpy(array.dtype), array.shape) for array in found]
    loc = Location("head:f#0", "model.py:17")
    names = [f"y{i}" for i in range(len(types))]
    return graph, graph.add_node("opaque", inputs, {"id": "f"}, name=names, types=types, loc=loc), WritableCall(call)


@pytest.fixture
def without_torch_exporter(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> onnx.ModelProto:
        raise ExportError("not asked")

    monkeypatch.setattr(opaque_forms, "_by_torch_exporter", refuse)


_LATER = ("layout.trace", "products.attention_causal")  # what torch 2.4 makes of them is refused


@pytest.mark.usefixtures("without_torch_exporter")
@pytest.mark.parametrize("name", aten_cases.CASES)
def test_own_emitters_write_what_torch_computes(name: str) -> None:
    """`form` checks the numbers in onnxruntime on two samples before it accepts them."""
    if name in _LATER and not hasattr(torch.ops.aten, "_safe_softmax"):
        pytest.skip("torch 2.4 makes views with as_strided and writes in place of it, which no file holds")
    _, node, call = opaque_node(aten_cases.CASES[name], (1, 8, 6, 6))
    model = call.form(node)
    assert {item.domain: item.version for item in model.opset_import} == {"": 11}
    assert model.ir_version <= 7


@pytest.mark.parametrize("name", aten_cases.REFUSED)
def test_what_no_file_can_hold_is_refused_with_its_line_and_the_reason(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    function, reason = aten_cases.REFUSED[name]
    _, node, call = opaque_node(function, (1, 8, 6, 6))
    with pytest.raises(ExportError) as caught:
        call.form(node)
    text = str(caught.value)
    assert text.startswith("y0 [head:f#0 (model.py:17)]: f cannot be written to ONNX: ")
    assert reason in text
    assert "\n" not in text
    assert capfd.readouterr().out == ""  # torch's exporter prints graphs


def test_a_wrong_form_is_never_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a trace froze at its sample differs on the second sample."""

    def frozen(function: Any, tensors: Any) -> onnx.ModelProto:
        (value,) = function(*tensors)
        graph = Graph("frozen")
        x = graph.add_input("x", TensorType(DType.FLOAT32, (2, 3)))
        constant = graph.add_parameter("c", value.numpy())
        zero = graph.add_node("mul", [x, graph.add_parameter("z", np.zeros((), np.float32))])
        result = graph.add_node("add", [zero.result, constant])
        return emit_segment([zero, result], [x], [result.result])

    for attempt in ("_by_composed_calls", "_by_calls", "_by_torch_exporter"):
        monkeypatch.setattr(opaque_forms, attempt, frozen)
    _, node, call = opaque_node(torch.exp, (2, 3))
    with pytest.raises(ExportError, match="does not compute what torch computes"):
        call.form(node)


def test_torch_exporter_writes_what_has_no_emitter() -> None:
    _, node, call = opaque_node(torch.linalg.det, (3, 4, 4))
    assert [proto.op_type for proto in call.form(node).graph.node] == ["Det"]


def test_spliced_forms_share_constants_and_have_names_of_the_file() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Conv1d(4, 4, 3, padding=1).requires_grad_(False)
    graph, node, call = opaque_node(lambda x: layer(layer(x)), (1, 4, 50))
    again = graph.add_node("opaque", [node.result], {"id": "f"}, name="z", types=[node.result.type])
    model = emit_segment([node, again], graph.inputs, [again.result], opaque={"f": call})
    assert [proto.op_type for proto in model.graph.node] == ["Conv"] * 4
    assert len({name for proto in model.graph.node for name in proto.output}) == 4
    assert sorted(len(tensor.dims) for tensor in model.graph.initializer) == [1, 3]


@pytest.mark.parametrize(
    ("function", "shape", "macs"),
    [
        (aten_cases.module(lambda: torch.nn.Conv1d(4, 6, 3, padding=1)), (2, 4, 10), 2 * 6 * 10 * 4 * 3),
        (aten_cases.module(lambda: torch.nn.ConvTranspose1d(4, 6, 3)), (2, 4, 10), 2 * 4 * 10 * 6 * 3),
        (lambda x: torch.einsum("ij,kj->ik", x, x), (5, 7), 5 * 7 * 5),
        (aten_cases.module(lambda: torch.nn.LSTM(4, 6, bidirectional=True)), (9, 2, 4), 9 * 2 * 2 * (24 * 4 + 24 * 6)),
        (torch.cumsum, None, 0),
    ],
)
def test_multiply_accumulates_are_counted(function: Any, shape: tuple[int, ...] | None, macs: int) -> None:
    if shape is None:
        function, shape = (lambda x: x.cumsum(1)), (2, 3)
    _, node, call = opaque_node(function, shape)
    assert call.macs(node) == multiply_accumulates(call.form(node)) == macs


def test_integer_and_boolean_operands() -> None:
    both = (DType.FLOAT32, DType.INT64)
    _, node, call = opaque_node(lambda x, i: x.gather(1, i), (3, 4), (3, 2), dtypes=both)
    assert [proto.op_type for proto in call.form(node).graph.node] == ["GatherElements"]
    _, node, call = opaque_node(lambda x, m: x.masked_fill(m, 0.0), (3, 4), (3, 4), dtypes=(DType.FLOAT32, DType.BOOL))
    assert [proto.op_type for proto in call.form(node).graph.node] == ["Where"]


def test_every_emitter_of_an_aten_call_is_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls that only torch's decompositions make are asked for directly, by the functions in `aten_cases.DIRECT`."""
    seen: set[str] = set()
    write = CallWriter.write

    def recorded(self: CallWriter, call: aten.Call) -> None:
        write(self, call)
        seen.add(call.target)

    monkeypatch.setattr(CallWriter, "write", recorded)
    sample = [torch.randn(1, 8, 6, 6, generator=torch.Generator().manual_seed(0))]
    for case in (*aten_cases.CASES.values(), *aten_cases.DIRECT.values()):
        function = lambda *tensors, case=case: tuple(leaves(case(*tensors)))  # noqa: E731
        for attempt in (opaque_forms._by_composed_calls, opaque_forms._by_calls):
            with contextlib.suppress(UntraceableError, ExportError):
                attempt(function, sample)
    known = {target for target in aten.known_targets() if hasattr(torch.ops.aten, target.split(".")[0])}
    assert " ".join(sorted(known - seen)) == ""


@pytest.mark.usefixtures("without_torch_exporter")
@pytest.mark.parametrize("name", aten_cases.DIRECT)
def test_calls_that_decompositions_make(name: str) -> None:
    _, node, call = opaque_node(aten_cases.DIRECT[name], (1, 8, 6, 6))
    call.form(node)


def test_operands_that_are_parameters_are_constants_of_the_form() -> None:
    """Sorted boundaries and limits of bags are what they are, and are written once."""
    graph = Graph("g")
    x = graph.add_input("x", TensorType(DType.FLOAT32, (2, 3)))
    edges = graph.add_parameter("edges", np.array([-1.0, 0.5, 2.0], np.float32))
    call = WritableCall(OpaqueCall(torch.bucketize))
    node = graph.add_node("opaque", [x, edges], {"id": "f"}, types=[TensorType(DType.INT64, (2, 3))])
    shifted = graph.add_node("add", [x, edges])
    model = emit_segment([shifted, node], [x], [shifted.result, node.result], opaque={"f": call})
    assert [tensor.name for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT] == ["edges"]


def test_tensors_without_elements_are_refused_before_torch_divides_by_their_sizes() -> None:
    empty, windows = TensorType(DType.FLOAT32, (0, 1, 5, 5)), TensorType(DType.FLOAT32, (0, 4, 16))
    found = opaque_forms.written_form(lambda x: (torch.nn.functional.unfold(x, 2),), [empty], [windows])
    assert found == "there are tensors without elements in it"
