"""CPU nodes: segments of float ops run in onnxruntime, opaque calls too where they have an ONNX form, else through their callables."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hqc.backends.bpu.program import Array, Step
from hqc.backends.bpu.workers import default_threads
from hqc.errors import CompileError, ExportError, HqcError
from hqc.ir import Graph, Node, Value
from hqc.ir.costs import macs

Calls = Mapping[str, Callable[..., Any]]
Run = Callable[[Sequence[Any]], tuple[Array, ...]]
_SHARE_NS = 100_000  # segments below this run on one thread: waking another costs more than it brings
_ARENA_BYTES = 1 << 22  # segments with larger values hand their memory back, where each would keep what it needed once
_BOUND_BYTES = 1 << 16  # arrays up to this size are copied into buffers faster than they are handed over


def has_form(node: Node, opaque: Calls) -> bool:
    """True when the callable of an opaque node offers an ONNX form for its operands."""
    from hqc.backends.onnx.opaque import form_of

    try:
        form_of(node, opaque)
    except ExportError:
        return False
    return True


def segment_step(nodes: Sequence[Node], graph: Graph, opaque: Calls | None = None, threads: int | None = None) -> Step:
    """One onnxruntime session for a set of CPU nodes (in program order). `threads`: default all cores of the process."""
    inputs, outputs = _interface(nodes, graph)
    run = _session(nodes, inputs, outputs, opaque, threads or default_threads())
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
    nodes: Sequence[Node], inputs: Sequence[Value], outputs: Sequence[Value], opaque: Calls | None, threads: int
) -> Run:
    import onnxruntime

    from hqc.backends.onnx.segment import segment_skeleton

    names = f"CPU segment {nodes[0].name}..{nodes[-1].name}"
    if not outputs:
        raise CompileError(f"{names} computes nothing that is used; run remove_dead_code on the graph first")
    skeleton = segment_skeleton(nodes, inputs, outputs, opaque=opaque)
    options = onnxruntime.SessionOptions()
    # Spinning threads would keep the cores from the BPU kernels that run next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = threads if _estimated_ns(nodes) >= _SHARE_NS else 1
    options.enable_cpu_mem_arena = sum(value.type.nbytes or 0 for node in nodes for value in node.results) < _ARENA_BYTES
    options.log_severity_level = 3
    try:
        if skeleton.constants:  # without a copy of each in the message and in its bytes
            values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in skeleton.constants.values()]
            options.add_external_initializers(list(skeleton.constants), values)
        session = onnxruntime.InferenceSession(skeleton.model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common base below Exception
        raise CompileError(f"{names} [{nodes[0].loc}]: onnxruntime refuses it: {error}") from error
    if all(0 < (value.type.nbytes or 0) <= _BOUND_BYTES for value in (*inputs, *outputs)):
        return _Bound(session, inputs, outputs)
    input_names = [info.name for info in session.get_inputs()]
    output_names = [info.name for info in session.get_outputs()]
    # An input that no node of the emitted model reads is dropped by nobody, so positions agree.
    dtypes = [value.type.dtype.numpy for value in inputs]

    def run(operands: Sequence[Any]) -> tuple[Array, ...]:
        feeds = {
            name: np.asarray(array, dtype, order="C") for name, array, dtype in zip(input_names, operands, dtypes, strict=True)
        }
        return tuple(session.run(output_names, feeds))

    return run


def _estimated_ns(nodes: Sequence[Node]) -> float:
    """Time of a segment on one thread: sixteen multiply-accumulates a nanosecond, one for a result."""
    return sum((macs(node) or 0) / 16 + sum(math.prod(value.shape or ()) for value in node.results) for node in nodes)


class _Bound:
    """A session that reads and writes buffers of its own: a small segment costs less than naming its arrays anew in each run."""

    def __init__(self, session: Any, inputs: Sequence[Value], outputs: Sequence[Value]) -> None:
        self._session, self._inputs, self._outputs = session, inputs, outputs
        self._free = [self._bind()]  # as many as ran at the same time; append and pop are atomic

    def _bind(self) -> tuple[Any, list[Array], list[Array]]:
        binding = self._session.io_binding()
        sources, targets = ([_buffer(value) for value in values] for values in (self._inputs, self._outputs))
        for info, buffer in zip(self._session.get_inputs(), sources, strict=True):
            binding.bind_input(info.name, "cpu", 0, buffer.dtype, buffer.shape, buffer.ctypes.data)
        for info, buffer in zip(self._session.get_outputs(), targets, strict=True):
            binding.bind_output(info.name, "cpu", 0, buffer.dtype, buffer.shape, buffer.ctypes.data)
        return binding, sources, targets

    def __call__(self, operands: Sequence[Any]) -> tuple[Array, ...]:
        try:
            bound = self._free.pop()
        except IndexError:
            bound = self._bind()
        binding, sources, targets = bound
        try:
            for source, operand in zip(sources, operands, strict=True):
                np.copyto(source, operand)
            self._session.run_with_iobinding(binding)
            return tuple(target.copy() for target in targets)
        finally:
            self._free.append(bound)


def _buffer(value: Value) -> Array:
    return np.zeros(value.shape or (), value.type.dtype.numpy)


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
