"""CPU nodes: segments of float ops run in onnxruntime, opaque calls too where they have an ONNX form, else through their callables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hqc.backends.bpu.program import Array, Step
from hqc.errors import CompileError, ExportError, HqcError
from hqc.ir import Graph, Node, Value

Calls = Mapping[str, Callable[..., Any]]


def has_form(node: Node, opaque: Calls) -> bool:
    """True when the callable of an opaque node offers an ONNX form for its operands."""
    from hqc.backends.onnx.opaque import form_of

    try:
        form_of(node, opaque)
    except ExportError:
        return False
    return True


def segment_step(nodes: Sequence[Node], graph: Graph, opaque: Calls | None = None) -> Step:
    """One onnxruntime session for a set of CPU nodes (in program order)."""
    inputs, outputs = _interface(nodes, graph)
    run = _session(nodes, inputs, outputs, opaque)
    return Step(tuple(nodes), tuple(inputs), tuple(outputs), run, "cpu")


def _interface(nodes: Sequence[Node], graph: Graph) -> tuple[list[Value], list[Value]]:
    """Values that enter the segment and values that something outside it reads, in order of appearance."""
    inside = set(nodes)
    inputs: dict[str, Value] = {}
    outputs: dict[str, Value] = {}
    returned = {value.name for value in graph.outputs}
    for node in nodes:
        for value in node.data_operands:
            if value.producer not in inside:
                inputs[value.name] = value
        for value in node.results:
            if value.name in returned or any(user not in inside for user in value.users):
                outputs[value.name] = value
    return list(inputs.values()), list(outputs.values())


def _session(
    nodes: Sequence[Node], inputs: Sequence[Value], outputs: Sequence[Value], opaque: Calls | None
) -> Callable[[Sequence[Any]], Any]:
    import onnxruntime

    from hqc.backends.onnx import emit_segment

    names = f"CPU segment {nodes[0].name}..{nodes[-1].name}"
    if not outputs:
        raise CompileError(f"{names} computes nothing that is used; run remove_dead_code on the graph first")
    model = emit_segment(nodes, inputs, outputs, opaque=opaque)
    options = onnxruntime.SessionOptions()
    # Spinning threads would keep the cores from the BPU kernels that run next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common base below Exception
        raise CompileError(f"{names} [{nodes[0].loc}]: onnxruntime refuses it: {error}") from error
    input_names = [info.name for info in session.get_inputs()]
    output_names = [info.name for info in session.get_outputs()]
    # An input that no node of the emitted model reads is dropped by nobody, so positions agree.
    shapes = [value.type.dtype.numpy for value in inputs]

    def run(operands: Sequence[Any]) -> tuple[Array, ...]:
        feeds = {
            name: np.asarray(array, dtype, order="C") for name, array, dtype in zip(input_names, operands, shapes, strict=True)
        }
        return tuple(session.run(output_names, feeds))

    return run


def opaque_step(node: Node, opaque: Calls) -> Step:
    """A call of the model's framework; results are checked against the declared types."""
    identity = node.attributes["id"]
    function = opaque.get(identity)
    if function is None:
        raise CompileError(
            f"{node.name} [{node.loc}]: only the model's framework can run {identity}; pass opaque={{{identity!r}: callable}}"
        )
    types = [value.type for value in node.results]

    def run(operands: Sequence[Any]) -> tuple[Array, ...]:
        found = function(*[np.asarray(operand, order="C") for operand in operands])
        arrays = tuple(np.asarray(array) for array in (found if isinstance(found, (tuple, list)) else (found,)))
        if len(arrays) != len(types):
            raise HqcError(f"{node.name}: {identity} returned {len(arrays)} results, {len(types)} were traced")
        for array, type in zip(arrays, types, strict=True):
            if array.shape != type.shape or array.dtype != type.dtype.numpy:
                raise HqcError(f"{node.name}: {identity} returned {array.dtype}{list(array.shape)}, {type} was traced")
        return arrays

    return Step((node,), tuple(node.inputs), tuple(node.results), run, "cpu")
