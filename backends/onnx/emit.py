"""A scaled or integer graph as an ONNX model."""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx

from hqc import arithmetic
from hqc.backends.onnx.builder import Builder, CustomOps
from hqc.backends.onnx.flavours import FLAVOURS, FakeQuantWriter, writer
from hqc.backends.onnx.opaque import OpaqueCalls
from hqc.backends.onnx.skeleton import Skeleton
from hqc.checked import checked
from hqc.errors import ExportError, InputError
from hqc.ir import Device, DType, Graph, Node, QuantParams, Trait, Value
from hqc.march import MarchSpec, get_spec


@dataclass
class Emission:
    """A model and where its nodes come from.

    `skeleton`: the model, its large constants beside it. `owners`: ONNX node name -> the IR node (or parameter) it was emitted for.
    `outputs`: the graph's output names as the file spells them, in order (they differ only where a name was taken by an input).
    """

    skeleton: Skeleton
    owners: dict[str, Node] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)

    @property
    def model(self) -> onnx.ModelProto:
        """The whole model in one message: a copy where it has large constants."""
        return self.skeleton.complete()


@checked
def emit(graph: Graph, *, flavour: str = "horizon", opaque: OpaqueCalls | None = None) -> onnx.ModelProto:
    """The graph as an ONNX model, opset 11, checked by `onnx.checker`.

    `horizon`, `runnable` and `qdq` are emitted from a scaled graph, `integer` from an integer graph. `opaque`: callables of the
    graph's opaque nodes by id; those that are `Writable` are written. `ExportError` names the node that cannot be written;
    `InputError` an unknown flavour.
    """
    return emit_with_owners(graph, flavour=flavour, opaque=opaque).model


def emit_with_owners(graph: Graph, *, flavour: str, opaque: OpaqueCalls | None = None) -> Emission:
    """Like `emit`, with the IR node behind every ONNX node."""
    if flavour not in FLAVOURS:
        raise InputError(f"unknown ONNX flavour {flavour!r}; known: {', '.join(FLAVOURS)}")
    _check_stage(graph, flavour)
    if flavour == "integer":
        emitter: _GraphEmitter = _GraphEmitter(graph, opaque)
    else:
        emitter = _ScaledEmitter(graph, writer(flavour), opaque)
    return emitter.run(flavour)


def emit_plain(graph: Graph, *, opaque: OpaqueCalls | None = None) -> Emission:
    """The operations of a graph without boundaries and scales, in real numbers: for viewers, not for hb_mapper."""
    return _GraphEmitter(graph, opaque).run("plain")


def _check_stage(graph: Graph, flavour: str) -> None:
    wanted = "integer" if flavour == "integer" else "scaled"
    if graph.stage != wanted:
        raise ExportError(
            f"flavour {flavour} is emitted from a graph at stage {wanted}, this one is at stage {graph.stage}; run "
            f"hqc.workflow.pipelines.deploy_pipeline(integer={wanted == 'integer'}) on it"
        )


def march_of(graph: Graph) -> MarchSpec | None:
    """The specification of the march the graph is for, None when it names none."""
    return None if graph.march is None else get_spec(graph.march)


_NO_MARCH = MarchSpec(name="none", title="a graph that names no march", chips=())


class _GraphEmitter:
    """Emits every node in program order, each result under the IR value's name."""

    def __init__(self, graph: Graph, opaque: OpaqueCalls | None = None, custom_ops: CustomOps = "") -> None:
        self.graph = graph
        self.b = Builder(graph.name, opaque, custom_ops)
        self.owners: dict[str, Node] = {}

    def run(self, flavour: str) -> Emission:
        names = self.output_names()
        self.b.reserve(value.name for value in self.graph.inputs)
        self.b.reserve(names)
        taken = set(names)
        for value in self.graph.inputs:
            self.b.add_input(value)
        for node in self.graph.nodes:
            for value in node.results:
                if value.name in taken:  # a user-visible output name that another value has in the IR
                    self.b.rename(value, self.b.unique(f"{value.name}_value"))
                else:
                    self.b.reserve([value.name])
        for node in self.graph.nodes:
            first = len(self.b.nodes)
            self.node(node)
            for proto in self.b.nodes[first:]:
                self.owners[proto.name] = node
                proto.doc_string = str(node.loc)
        for value, name in zip(self.graph.outputs, names, strict=True):
            self.b.add_output(self.b.read(value), name, value.type)
        skeleton = self.b.skeleton()
        onnx.helper.set_model_props(
            skeleton.model,
            {"flavour": flavour, "march": self.graph.march or "", "arithmetic": str(arithmetic.VERSION)},
        )
        return Emission(skeleton, self.owners, names)

    def output_names(self) -> list[str]:
        """The user's output names; one that an input has gets `_output` appended, for ONNX names are one space."""
        inputs = {value.name for value in self.graph.inputs}
        names: list[str] = []
        for name in map(self.b.fitting, self.graph.output_names):
            while name in inputs or name in names:
                name += "_output"
            names.append(name)
        return names

    def node(self, node: Node) -> None:
        self.b.emit_node(node)


class _ScaledEmitter(_GraphEmitter):
    """Adds a fake quantization to every value that owns a grid."""

    def __init__(self, graph: Graph, fake_quant: FakeQuantWriter, opaque: OpaqueCalls | None = None) -> None:
        super().__init__(graph, opaque, fake_quant.custom_ops)
        self.fake_quant = fake_quant
        self.march = march_of(graph) or _NO_MARCH
        self._raw: dict[int, str] = {}
        self._quantized: dict[tuple[int, QuantParams], str] = {}

    def node(self, node: Node) -> None:
        if node.op.has(Trait.BOUNDARY) or node.op.name == "requantize":
            self._boundary(node)
            return
        for index, value in enumerate(node.inputs):
            if value is not None and value.is_parameter:
                self._parameter(node, index, value)
        self.b.emit_node(node)
        for value in node.results:
            rounding = self._rounding(node, value)
            if rounding is not None:
                self._put_on_grid(value, rounding)

    def _boundary(self, node: Node) -> None:
        """Quantize and requantize only put their operand on a grid, dequantize is the identity on reals."""
        source = node.operands[0]
        self.b.bind(node.result, self.b.read(source))
        if node.op.name == "dequantize":
            return
        if node.result.quant is None:
            raise ExportError(f"{node.label}: its result has no scale; run propagate-scales before exporting")
        self.b.enter(node)
        self._put_on_grid(node.result, node.result.quant.rounding)

    def _put_on_grid(self, value: Value, rounding: str) -> None:
        assert value.quant is not None
        name = self.fake_quant.activation(self.b, self.b.read(value), value.type, value.quant, rounding)
        self.b.bind(value, name)

    # --- which values own a grid -------------------------------------------------------------------------------------

    def _rounding(self, node: Node, value: Value) -> str | None:
        """How the value is rounded to its grid; None when it owns none.

        A result that takes its operand's grid is on it already, unless the op leaves the grid: then it is rounded as the
        integer kernel rounds, down. A high-precision result (int32) has no grid to speak of.
        """
        quant = value.quant
        if quant is None or quant.dtype is DType.INT32 or not value.type.dtype.is_float or node.device is not Device.BPU:
            return None
        source = node.inputs[0] if node.inputs else None
        if self.march.keeps_scale(node) and source is not None and quant.same_grid(source.quant):
            return "off_grid" if value.off_grid else None
        return quant.rounding

    # --- march specifics -----------------------------------------------------------------------------------------------

    def _parameter(self, node: Node, index: int, value: Value) -> None:
        """Bind a constant operand to its quantized form for BPU nodes, to the plain one for others."""
        raw = self._raw.setdefault(id(value), self.b.read(value))
        quant = value.quant if node.device is Device.BPU else None
        if quant is None or quant.dtype is DType.INT32:
            self.b.bind(value, raw)
            return
        key = (id(value), quant)
        if key not in self._quantized:
            self.b.enter(value)
            self._quantized[key] = self.fake_quant.parameter(self.b, raw, value, quant)
        self.b.bind(value, self._quantized[key])
