"""ONNX nodes that the IR has no operation for, as the back ends take them: run by onnxruntime, written back in opset 11. No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import shape_inference, version_converter

from hqc.backends.onnx.opaque import multiply_accumulates, refusal
from hqc.backends.onnx.verify import run_model
from hqc.errors import CompileError, ExportError, ShapeError
from hqc.frontend.onnx import KeptNode
from hqc.ir import DType, Graph, Node, TensorType, Trait
from hqc.workflow.opaque_costs import note_form

Array = npt.NDArray[Any]
TOLERANCE = 1e-5  # of the largest element, between the node as it is and as it is written
_OPSET = 11


class OnnxCall:
    """A kept node on NumPy arrays (`__call__`), with its form in opset 11 (`form`)."""

    def __init__(self, kept: KeptNode) -> None:
        self.kept = kept
        self._sessions: dict[tuple[Any, ...], Any] = {}
        self._forms: dict[tuple[tuple[TensorType, bool], ...], onnx.ModelProto | str] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"kept": self.kept, "_sessions": {}, "_forms": {}}

    def __deepcopy__(self, memo: dict[int, Any]) -> OnnxCall:
        return self  # nothing of it ever changes

    @property
    def name(self) -> str:
        return f"{self.kept.node.op_type} {self.kept.node.name}".strip()

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """The results, one array each; `CompileError` when onnxruntime cannot run the node."""
        feeds = {name: np.asarray(array, order="C") for name, array in zip(self.kept.inputs, arrays, strict=True)}
        key = tuple((array.shape, array.dtype) for array in feeds.values())
        try:
            if key not in self._sessions:
                self._sessions[key] = _session(self.kept.model(feeds))
            return list(self._sessions[key].run(None, feeds))
        except Exception as error:  # onnxruntime's exceptions share no base of their own
            raise CompileError(f"{self.kept.where}: onnxruntime cannot run {self.name}: {_line(error)}") from None

    def __call__(self, *arrays: Array) -> Any:
        results = self.run(arrays)
        return results[0] if len(results) == 1 else tuple(results)

    def result_types(self, node: Node) -> list[TensorType]:
        """Types of the results for the operand types of `node`; `ShapeError` when the node does not take operands like that."""
        try:
            results = self.run(_samples([value.type for value in node.operands], 0))
        except CompileError as error:
            raise ShapeError(f"{node.label}: {error}") from None
        return [TensorType(DType.from_numpy(array.dtype), tuple(array.shape)) for array in results]

    def macs(self, node: Node) -> int:
        """Multiply-accumulates of the form; `ExportError` when there is none."""
        return multiply_accumulates(self.form(node))

    def form(self, node: Node) -> onnx.ModelProto:
        """The node in opset 11 for the operand types of `node`; `ExportError` says why it cannot be."""
        key = tuple((value.type, value.is_parameter) for value in node.operands)
        if key not in self._forms:
            self._forms[key] = self._with_constants(node)._written([value.type for value in node.data_operands])
        found = self._forms[key]
        if isinstance(found, str):
            raise refusal(node, found)
        return found

    def _with_constants(self, node: Node) -> OnnxCall:
        """The call with what has become a constant in the graph taken in."""
        fixed = {
            name: value.array for name, value in zip(self.kept.inputs, node.operands, strict=True) if value.array is not None
        }
        rest = tuple(name for name in self.kept.inputs if name not in fixed)
        return OnnxCall(replace(self.kept, inputs=rest, constants={**self.kept.constants, **fixed})) if fixed else self

    def _written(self, types: Sequence[TensorType]) -> onnx.ModelProto | str:
        node = self.kept.node
        if node.domain not in ("", "ai.onnx"):
            return f"it is an operator of the domain {node.domain}, which hb_mapper does not know"
        if any(attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for attribute in node.attribute):
            return "it is control flow, which hb_mapper does not take"
        if any(type.shape is None for type in types):
            return "the shapes of its operands are not known"
        samples = [_samples(types, seed) for seed in range(2)]
        try:
            expected = [self.run(arrays) for arrays in samples]
        except CompileError as error:
            return str(error)
        feeds = dict(zip(self.kept.inputs, samples[0], strict=True))
        for attempt in (self._as_it_is, self._converted):
            model = attempt(feeds)
            if model is not None and self._computes(model, samples, expected):
                return model
        return f"{node.op_type} of opset {self.kept.opsets.get('', '?')} has no equal in opset {_OPSET}"

    def _as_it_is(self, feeds: Mapping[str, Array]) -> onnx.ModelProto | None:
        model = self.kept.model(feeds, _OPSET)
        for node in model.graph.node:
            _forget_defaults(node, self.kept.opsets.get("", _OPSET))
        return _typed(model) if all(map(_is_known, model.graph.node)) else None

    def _converted(self, feeds: Mapping[str, Array]) -> onnx.ModelProto | None:
        try:
            model = version_converter.convert_version(self.kept.model(feeds), _OPSET)
        except (RuntimeError, version_converter.ConvertError):
            return None
        return _typed(model)

    def _computes(
        self, model: onnx.ModelProto, samples: Sequence[Sequence[Array]], expected: Sequence[Sequence[Array]]
    ) -> bool:
        for arrays, wanted in zip(samples, expected, strict=True):
            try:
                found = run_model(model, dict(zip(self.kept.inputs, arrays, strict=True))).values()
            except ExportError:
                return False
            if not all(_agree(got, want) for got, want in zip(found, wanted, strict=True)):
                return False
        return True


def note_kept(graph: Graph, kept: Mapping[str, KeptNode]) -> dict[str, OnnxCall]:
    """The kept nodes of a lowered file as the back ends take them; their IR nodes learn what they cost, or that no file holds them."""
    calls = {name: OnnxCall(node) for name, node in kept.items()}
    for node in graph.nodes:
        if node.op.has(Trait.OPAQUE):
            note_form(node, calls[str(node.attributes["id"])].macs)
    return calls


def _forget_defaults(node: onnx.NodeProto, opset: int) -> None:
    """Drop the attributes that opset 11 lacks where they ask for what it does anyway (the `layout` 0 of an LSTM)."""
    try:
        old, new = (onnx.defs.get_schema(node.op_type, version, "") for version in (_OPSET, opset))
    except onnx.defs.SchemaError:
        return
    for item in list(node.attribute):
        if item.name in new.attributes and item.name not in old.attributes:
            default = new.attributes[item.name].default_value
            if default.type == item.type and onnx.helper.get_attribute_value(default) == onnx.helper.get_attribute_value(item):
                node.attribute.remove(item)


def _is_known(node: onnx.NodeProto) -> bool:
    """True where the operator, with these attributes, is one of the opset that is written."""
    try:
        schema = onnx.defs.get_schema(node.op_type, _OPSET, "")
    except onnx.defs.SchemaError:
        return False
    return {item.name for item in node.attribute} <= set(schema.attributes)


def _session(model: onnx.ModelProto) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _samples(types: Sequence[TensorType], seed: int) -> list[Array]:
    """Normal reals; zeros and ones, which are valid as indices and truth values."""
    generator = np.random.default_rng(seed)
    arrays = []
    for type in types:
        shape, dtype = type.shape or (), type.dtype.numpy
        random = generator.standard_normal(shape) if type.dtype.is_float else generator.integers(0, 2, shape)
        arrays.append(np.asarray(random).astype(dtype))
    return arrays


def _typed(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """`model` with the types of all its values; None where they are not all known, or a value is optional."""
    try:
        model = shape_inference.infer_shapes(model, data_prop=True)
    except (shape_inference.InferenceError, ValueError):
        return None
    infos = (*model.graph.output, *model.graph.value_info)
    known = {
        info.name
        for info in infos
        if info.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in info.type.tensor_type.shape.dim)
    }
    return model if all(name in known for node in model.graph.node for name in node.output if name) else None


def _agree(got: Array, wanted: Array) -> bool:
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        return False
    if wanted.dtype.kind != "f":
        return bool(np.array_equal(got, wanted))
    finite = np.abs(wanted[np.isfinite(wanted)])
    largest = float(finite.max()) if finite.size else 0.0
    return bool(np.allclose(got, wanted, rtol=TOLERANCE, atol=TOLERANCE * largest + 1e-7, equal_nan=True))


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
