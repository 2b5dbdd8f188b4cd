"""Collects ONNX nodes, constants and types, and assembles a model: opset 11, static shapes, deterministic bytes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from hqc.backends.onnx.registry import Emitter, get_emitter
from hqc.backends.onnx.skeleton import Skeleton, initializer
from hqc.errors import ExportError
from hqc.ir import DType, Node, TensorType, Value

OPSET_VERSION = 11
IR_VERSION = 6  # what onnx 1.6 wrote with opset 11
PRODUCER = "hqc"
FILE_LIMIT = 2**31 - 1  # bytes that protobuf can hold
_FOLD_LIMIT = 64  # constants up to this many elements take part in shape inference

ELEMENT_TYPES: dict[DType, int] = {
    DType.FLOAT32: TensorProto.FLOAT,
    DType.FLOAT64: TensorProto.DOUBLE,
    DType.INT8: TensorProto.INT8,
    DType.UINT8: TensorProto.UINT8,
    DType.INT16: TensorProto.INT16,
    DType.INT32: TensorProto.INT32,
    DType.INT64: TensorProto.INT64,
    DType.BOOL: TensorProto.BOOL,
}
_FROM_ELEMENT = {code: dtype for dtype, code in ELEMENT_TYPES.items()}


def static_shape(value: Value) -> tuple[int, ...]:
    """The value's shape; `ExportError` when it is unknown."""
    if value.shape is None:
        raise ExportError(f"the shape of {value.name} is unknown; ONNX export needs static shapes, give example inputs")
    return value.shape


def value_info(name: str, type: TensorType) -> onnx.ValueInfoProto:
    assert type.shape is not None, name
    return helper.make_tensor_value_info(name, ELEMENT_TYPES[type.dtype], list(type.shape))


CustomOps = Literal["", "nodes", "bodies"]
"""How operations of the BPU that opset 11 lacks are written: in standard ops, as nodes of the domain `horizon`, or as such nodes with
function bodies."""


class Builder:
    """One ONNX graph under construction. Call it to append a node: `b("Relu", x)` returns the result's name.

    Emitters read operands with `operand`, make constants with `constant`, and never name anything themselves: results are
    called `<IR name>/<ONNX op>` until `emit_node` gives the last one the IR value's name.
    """

    def __init__(self, name: str, opaque: Mapping[str, Callable[..., Any]] | None = None, custom_ops: CustomOps = "") -> None:
        self.name = name
        self.opaque = opaque or {}
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.initializers: dict[str, TensorProto] = {}
        self.types: dict[str, TensorType] = {}
        self.custom_ops = custom_ops
        self.functions: dict[str, onnx.FunctionProto] = {}
        self.domains: dict[str, int] = {"": OPSET_VERSION}
        self._names: dict[int, str] = {}
        self._renamed: dict[int, str] = {}
        self._taken: set[str] = set()
        self._node_names: set[str] = set()
        self._scope = name
        self._constants: dict[_Content, str] = {}
        self._arrays: dict[str, npt.NDArray[Any]] = {}

    # --- names ---------------------------------------------------------------------------------------------------

    @staticmethod
    def fitting(name: str) -> str:
        """`name` as a file can hold it: text in UTF-8 that no list of hb_mapper's takes for two."""
        return re.sub(r"[;\x00-\x1f\x7f-\x9f\ud800-\udfff]", "_", name)

    def reserve(self, names: Iterable[str]) -> None:
        """Keep `names` for IR values: intermediates never take them."""
        self._taken.update(names)

    def unique(self, base: str) -> str:
        """`base`, or `base_1`, `base_2`, ... when it is taken."""
        base = self.fitting(base)
        name, count = base, 0
        while name in self._taken:
            count += 1
            name = f"{base}_{count}"
        self._taken.add(name)
        return name

    def bind(self, value: Value, name: str) -> None:
        """Let later emitters read `value` under the ONNX name `name`."""
        self._names[id(value)] = name

    def read(self, value: Value) -> str:
        """The ONNX name under which `value` is read; a parameter becomes an initializer on first use."""
        if id(value) not in self._names:
            if value.array is None:
                raise ExportError(f"{value.name} is used before it is computed; the graph is not in program order")
            name = self.unique(value.name)
            self.bind(value, name)
            self._add_initializer(name, value.array)
        return self._names[id(value)]

    def operand(self, node: Node, index: int) -> str:
        """ONNX name of the node's operand at `index`, which must be present."""
        value = node.inputs[index]
        assert value is not None, f"{node.name} has no operand {index}"
        return self.read(value)

    def optional(self, node: Node, name: str) -> str | None:
        """ONNX name of the operand declared as `name`, None when it is absent."""
        value = node.operand(name)
        return None if value is None else self.read(value)

    # --- constants -----------------------------------------------------------------------------------------------

    def _add_initializer(self, name: str, array: npt.NDArray[Any]) -> None:
        contiguous = np.ascontiguousarray(array).reshape(array.shape)
        self.initializers[name] = initializer(name, contiguous)
        self._arrays[name] = contiguous
        self._constants.setdefault(_content(contiguous), name)  # a parameter that comes again as a constant is written once

    def constant(self, array: npt.ArrayLike, dtype: npt.DTypeLike, what: str = "constant") -> str:
        """Name of an initializer with these elements; equal constants share one."""
        data = np.ascontiguousarray(array, dtype).reshape(np.shape(array))
        key = _content(data)
        if key not in self._constants:
            self._add_initializer(self.unique(f"{self._scope}/{what}"), data)
        return self._constants[key]

    def ints(self, values: Sequence[int], what: str = "constant") -> str:
        """An int64 vector, as shape-like inputs want it."""
        return self.constant(np.array(values, np.int64), np.int64, what)

    def scalar(self, value: float, dtype: DType = DType.FLOAT32) -> str:
        """A constant of shape []."""
        return self.constant(np.array(value), dtype.numpy)

    def array(self, name: str) -> npt.NDArray[Any] | None:
        """Elements of the initializer called `name`; None for anything computed."""
        return self._arrays.get(name)

    def transformed(self, name: str, function: Any, what: str) -> str | None:
        """A new initializer `function(array)` when `name` is a constant, else None."""
        array = self.array(name)
        if array is None:
            return None
        derived = f"{name}/{what}"
        if derived not in self._arrays:
            self._taken.add(derived)
            self._add_initializer(derived, np.asarray(function(array)))
        return derived

    # --- nodes ---------------------------------------------------------------------------------------------------

    def __call__(self, op_type: str, *inputs: str | None, domain: str = "", what: str = "", **attributes: Any) -> str:
        """Append a node with one result and return the result's name; None stands for an absent optional input."""
        return self.multi(op_type, *inputs, count=1, domain=domain, what=what, **attributes)[0]

    def multi(
        self, op_type: str, *inputs: str | None, count: int, domain: str = "", what: str = "", **attributes: Any
    ) -> list[str]:
        """Append a node with `count` results and return their names."""
        names = list(inputs)
        while names and names[-1] is None:
            names.pop()
        base = f"{self._scope}/{what or op_type}"
        results = [self.unique(base) for _ in range(count)]
        node = helper.make_node(
            op_type, ["" if name is None else name for name in names], results, name=results[0], domain=domain
        )
        # helper.make_node sorts keyword attributes, which keeps the bytes deterministic.
        node.attribute.extend(helper.make_attribute(key, attributes[key]) for key in sorted(attributes))
        self.nodes.append(node)
        return results

    def set_type(self, name: str, type: TensorType) -> str:
        """State the type of a result that shape inference cannot know (a custom domain's); returns `name`."""
        self.types[name] = type
        return name

    def enter(self, item: Node | Value) -> None:
        """Name what follows after this node or value."""
        self._scope = item.name

    def scope(self, name: str) -> None:
        """Name what follows `<name>/<ONNX op>`."""
        self._scope = name

    def splice(self, model: onnx.ModelProto, operands: Sequence[str]) -> list[str]:
        """Append the nodes of `model`, which reads `operands` as its inputs; returns the names of its outputs.

        Constants are shared with those that are here already, results get names of this graph.
        """
        graph = model.graph
        names = dict(zip((info.name for info in graph.input), operands, strict=True))
        for tensor in graph.initializer:
            array = numpy_helper.to_array(tensor)
            names[tensor.name] = self.constant(array, array.dtype)
        types = {info.name: info.type.tensor_type for info in (*graph.value_info, *graph.output)}
        for node in graph.node:
            inputs = [names[name] if name else "" for name in node.input]
            for name in node.output:
                names[name] = self.unique(f"{self._scope}/{node.op_type}") if name else ""
                if name in types:
                    self.types[names[name]] = _tensor_type(types[name])
            copied = helper.make_node(node.op_type, inputs, [names[name] if name else "" for name in node.output])
            copied.name = next(name for name in copied.output if name)
            copied.attribute.extend(node.attribute)
            self.nodes.append(copied)
        return [names[info.name] for info in graph.output]

    def rename(self, value: Value, name: str) -> None:
        """Call `value` by another name than the IR's; before its producer is emitted."""
        self._renamed[id(value)] = name

    def emit_node(self, node: Node, emit: Emitter | None = None) -> None:
        """Run the node's emitter (or `emit`) and give its results the IR values' names."""
        self.enter(node)
        for value in node.results:
            static_shape(value)
        first = len(self.nodes)
        returned = (emit or get_emitter(node))(node, self)
        names = [returned] if isinstance(returned, str) else returned
        assert len(names) == len(node.results), f"the emitter of {node.op.name} returned {len(names)} names"
        for value, name in zip(node.results, names, strict=True):
            self._name_result(value, name, first)
        self._name_node(node, first)

    def _result_name(self, value: Value) -> str:
        return self._renamed.get(id(value), value.name)

    def _name_result(self, value: Value, name: str, first: int) -> None:
        wanted = self._result_name(value)
        produced = any(name in node.output for node in self.nodes[first:])
        already = any(name == self._names.get(id(other)) for other in value.producer.results) if value.producer else False
        if not produced or already:
            name = self("Identity", name)
        self._replace(self.nodes[first:], name, wanted)
        self._taken.discard(name)
        self._taken.add(wanted)
        self.types[wanted] = value.type
        self.bind(value, wanted)

    def _name_node(self, node: Node, first: int) -> None:
        """The node that writes the IR node's first result carries the IR node's name."""
        wanted = self._result_name(node.results[0])
        for proto in self.nodes[first:]:
            if wanted in proto.output:
                proto.name = node.name
                return

    # --- graph inputs and outputs --------------------------------------------------------------------------------

    def add_input(self, value: Value, name: str | None = None, type: TensorType | None = None) -> str:
        """Declare a graph input and bind `value` to it."""
        static_shape(value)
        name = name or value.name
        self._taken.add(name)
        self.types[name] = type or value.type
        self.inputs.append(value_info(name, self.types[name]))
        self.bind(value, name)
        return name

    def add_output(self, source: str, name: str, type: TensorType) -> None:
        """Declare the graph output `name`, whose value is `source`.

        The value is renamed where that is possible, else (inputs, constants, values returned twice) copied.
        """
        computed = any(source in node.output for node in self.nodes)
        if source != name:
            if computed and all(info.name != source for info in self.outputs):
                self._replace(self.nodes, source, name)
                self._names.update({key: name for key, item in self._names.items() if item == source})
            else:
                self.nodes.append(helper.make_node("Identity", [source], [name], name=self.unique(f"{name}/Identity")))
        self._taken.add(name)
        self.types[name] = type
        self.outputs.append(value_info(name, type))

    def _replace(self, nodes: Iterable[onnx.NodeProto], old: str, new: str) -> None:
        """Call the value `old` by the name `new` in `nodes`."""
        for node in nodes:
            for names in (node.input, node.output):
                for index, item in enumerate(names):
                    if item == old:
                        names[index] = new
        self.types.pop(old, None)

    # --- assembly ------------------------------------------------------------------------------------------------

    def model(self) -> onnx.ModelProto:
        """The finished model with a type for every value; checked by `onnx.checker`."""
        return self.skeleton().complete()

    def skeleton(self) -> Skeleton:
        """The same with large constants beside it."""
        used = {name for node in self.nodes for name in node.input} | {info.name for info in self.outputs}
        self.initializers = {name: tensor for name, tensor in self.initializers.items() if name in used}
        self._check_size()
        graph = self._graph(list(self.initializers.values()), [])
        boundary = {info.name for info in (*self.inputs, *self.outputs)}
        known = self._inferred_types()
        infos = []
        for node in self.nodes:
            for name in node.output:
                if name and name not in boundary:
                    if name not in known:
                        raise ExportError(f"no type is known for {name}, the result of {node.name} ({node.op_type})")
                    infos.append(value_info(name, known[name]))
        graph.value_info.extend(infos)
        model = self._wrap(graph)
        outside = [name for name, tensor in self.initializers.items() if tensor.data_location == TensorProto.EXTERNAL]
        skeleton = Skeleton(model, {name: self._arrays[name] for name in outside})
        onnx.checker.check_model(
            skeleton.with_inputs()
        )  # it would copy large constants twice, and there is nothing to check in bytes
        return skeleton

    def _constant_info(self, name: str) -> onnx.ValueInfoProto:
        array = self._arrays[name]
        return value_info(name, TensorType(DType.from_numpy(array.dtype), array.shape))

    def _check_size(self) -> None:
        sizes = {name: self._arrays[name].nbytes for name in self.initializers}
        total = sum(sizes.values())
        if total > FILE_LIMIT:
            largest = max(sizes, key=sizes.__getitem__)
            raise ExportError(
                f"the constants of {self.name} take {total} bytes (the largest, {largest}, {sizes[largest]}), an ONNX file holds at "
                f"most {FILE_LIMIT}, and hb_mapper reads no external data; split the model and export its parts"
            )

    def _graph(self, initializers: list[TensorProto], extra_inputs: list[onnx.ValueInfoProto]) -> onnx.GraphProto:
        return helper.make_graph(self.nodes, self.name, [*self.inputs, *extra_inputs], self.outputs, initializers)

    def _wrap(self, graph: onnx.GraphProto) -> onnx.ModelProto:
        imports = [helper.make_opsetid(domain, version) for domain, version in sorted(self.domains.items())]
        functions = [self.functions[name] for name in sorted(self.functions)]
        model = helper.make_model(graph, opset_imports=imports, functions=functions, producer_name=PRODUCER)
        model.ir_version = IR_VERSION
        return model

    def _inferred_types(self) -> dict[str, TensorType]:
        """Types of all values: stated ones, then onnx's inference for what lies between them.

        Large constants only lend their type, so that weights are not serialized for the inference. So do results of nodes in other
        domains: behind one that it does not know onnx 1.16 infers nothing, though its result has a type.
        """
        small, large = [], []
        for name in self.initializers:
            if self._arrays[name].size <= _FOLD_LIMIT:
                small.append(self.initializers[name])
            else:
                large.append(self._constant_info(name))
        standard = [node for node in self.nodes if not node.domain]
        foreign = [name for node in self.nodes if node.domain for name in node.output if name in self.types]
        outputs = {info.name for info in self.outputs}
        given = [*self.inputs, *large, *(value_info(name, self.types[name]) for name in foreign)]
        inputs = {info.name for info in given}
        made = {name for node in standard for name in node.output} | inputs
        graph = helper.make_graph(standard, self.name, given, [info for info in self.outputs if info.name in made], small)
        graph.value_info.extend(
            value_info(name, type) for name, type in self.types.items() if name not in outputs and name not in inputs
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid(domain, version) for domain, version in sorted(self.domains.items())]
        )
        model.ir_version = IR_VERSION
        known = dict(self.types)
        for info in onnx.shape_inference.infer_shapes(model, strict_mode=False, data_prop=True).graph.value_info:
            tensor = info.type.tensor_type
            if info.name not in known and tensor.HasField("shape") and all(d.HasField("dim_value") for d in tensor.shape.dim):
                known[info.name] = _tensor_type(tensor)
        return known


_Content = tuple[str, tuple[int, ...], bytes]


def _content(array: npt.NDArray[Any]) -> _Content:
    """A key that equal arrays share: the bytes, or a digest of many."""
    data = array.tobytes() if array.size <= _FOLD_LIMIT else hashlib.blake2b(array.data).digest()
    return array.dtype.str, array.shape, data


def _tensor_type(tensor: onnx.TypeProto.Tensor) -> TensorType:
    return TensorType(_FROM_ELEMENT[tensor.elem_type], tuple(d.dim_value for d in tensor.shape.dim))
