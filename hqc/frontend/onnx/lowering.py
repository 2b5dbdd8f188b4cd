"""The walk over an ONNX graph: constants are folded, known operators lowered, the rest kept as opaque nodes in their ONNX form."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import shape_inference

from hqc.checked import checked, explained
from hqc.errors import HqcError, InputError, LoweringError
from hqc.frontend.onnx import fused_attention  # noqa: F401  (registers its openings)
from hqc.frontend.onnx.constants import branch_of, fold
from hqc.frontend.onnx.context import Array, OnnxContext, Operand, Unexpressed
from hqc.frontend.onnx.fused import opened
from hqc.frontend.onnx.image_layout import read_image_layout
from hqc.frontend.onnx.kept import KeptNode, names_read
from hqc.frontend.onnx.ops.quantized import activation_quant, on_grid, put_on_grid
from hqc.frontend.onnx.ops.sequences import MAKERS
from hqc.frontend.onnx.patterns import read_patterns
from hqc.frontend.onnx.quantized_inputs import KINDS, FileGrid, kind_of
from hqc.frontend.onnx.reader import STANDARD, InputShapes, OnnxFile, element_type, line_of, read_model
from hqc.frontend.onnx.recurrent import join_recurrent
from hqc.frontend.onnx.registry import LOWERINGS
from hqc.frontend.onnx.rows import read_rows
from hqc.frontend.onnx.unrolled import loop, scan
from hqc.ir import Graph, TensorType, Value


@explained
@dataclass
class LoweredOnnx:
    """A lowered file. `opaque`: for each opaque node's id the ONNX node that it stands for. `shapes`: of everything that the file names,
    constants included, where it is known."""

    graph: Graph
    opset: int
    opaque: dict[str, KeptNode] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)


@checked
def lower_onnx(source: str | os.PathLike[str] | onnx.ModelProto, shapes: InputShapes | None = None) -> LoweredOnnx:
    """Lower an ONNX file (opset 7 to 21) to the IR, at stage `lowered`.

    `shapes`: input name -> shape, for inputs whose sizes the file leaves open (an open batch is 1). Value names are those of the
    file. `InputError` for a file that cannot be read, `LoweringError` (node and file) for one that makes no sense.
    """
    file = read_model(source, shapes)
    return _Walk(file).run()


class _Walk:
    def __init__(self, file: OnnxFile) -> None:
        self.file = file
        self.result = LoweredOnnx(Graph(file.graph.name or "onnx"), file.opset)
        self.ctx = OnnxContext(file, self.result.graph)
        self.types: dict[str, TensorType] | None = None
        self.checker = onnx.checker.C.CheckerContext()
        self.checker.ir_version = onnx.IR_VERSION
        self.checker.opset_imports = {"": file.opset}

    def run(self) -> LoweredOnnx:
        graph, env = self.result.graph, self.ctx.env
        for name, array in self.file.initializers.items():
            env[name] = array
            self.ctx.name_array(array, name)
        for name, type in self.file.inputs.items():
            env[name] = graph.add_input(name, type)
            if name in self.file.grids:
                env[name] = self.quantized_input(env[name], self.file.grids[name])
        self.nodes(self.file.graph)
        outputs = []
        for item in self.file.graph.output:
            if item.name in self.ctx.sequences:
                raise InputError(f"{self.file.where}: the output {item.name} is a sequence; return its tensors one by one")
            if item.name not in env:
                raise InputError(f"{self.file.where}: nothing makes the output {item.name}")
            outputs.append(self.ctx.value(env[item.name]))
            if kind_of(item) in KINDS and on_grid(self.ctx, outputs[-1]):
                self.result.warnings.append(
                    f"the output {item.name} is integers in the file; here it is the real numbers that those stand for"
                )
        graph.set_outputs(outputs, [item.name for item in self.file.graph.output])
        for value in list(graph.parameters.values()):
            if not value.has_uses and not graph.is_output(value):
                graph.erase_parameter(value)
        graph.remove_dead_code()
        join_recurrent(graph, self.result.opaque)
        read_patterns(graph)
        read_rows(graph)
        read_image_layout(graph)
        self.result.shapes = {name: operand.shape for name, operand in env.items() if operand.shape is not None}
        self.result.warnings.extend(self.ctx.warnings)
        return self.result

    def nodes(self, graph: onnx.GraphProto) -> None:
        for node in graph.node:
            self.ctx.node = node
            try:
                parts = opened(self.ctx)
                if parts is None:
                    self.check(node)
                for part in [node] if parts is None else parts:
                    self.ctx.node = part
                    self.node(part)
            except Unexpressed as error:
                self.keep_opaque(node, str(error))
            except LoweringError:
                raise
            except HqcError as error:
                raise self.ctx.error(f"cannot be lowered: {error}") from None
            except _NONSENSE as error:
                raise self.ctx.error(f"makes no sense: its attributes do not fit its operands ({line_of(error)})") from None

    def check(self, node: onnx.NodeProto) -> None:
        """The node against the definition of its operator: how many operands, which attributes of which types."""
        if node.domain not in STANDARD or any(item.HasField("g") for item in node.attribute):
            return
        if not onnx.defs.has(node.op_type):
            raise self.ctx.error(f"cannot be read: {node.op_type} is no operator of opset {self.file.opset}")
        try:
            onnx.checker.check_node(node, self.checker)
        except onnx.checker.ValidationError as error:
            raise self.ctx.error(f"cannot be read: {line_of(error)}") from None

    def node(self, node: onnx.NodeProto) -> None:
        if node.op_type == "If" and self.branch(node):
            return
        if node.op_type in _UNROLLED and node.domain in STANDARD:
            results = _UNROLLED[node.op_type](self.ctx, self.nodes)
            if results is not None:
                self.define(node, results)
                return
        if (
            all(isinstance(self.ctx.env.get(name), np.ndarray) for name in node.input if name)
            and node.op_type not in _NOT_FOLDED
        ):
            folded = fold(self.ctx)
            if folded is not None:
                if node.op_type in ("Transpose", "Identity"):
                    folded = (self.moved_grid(node, folded[0]),)
                self.define(node, folded)
                return
        lowering = LOWERINGS.get(node.op_type if node.domain in STANDARD else f"{node.domain}.{node.op_type}")
        reason = "the IR has no operation for it"
        if lowering is not None:
            try:
                found = lowering(self.ctx)
                self.define(node, found if isinstance(found, tuple) else (found,))
                return
            except Unexpressed as error:
                reason = str(error)
        self.keep_opaque(node, reason)

    def quantized_input(self, value: Operand, grid: FileGrid) -> Value:
        """An input of integers as one of the real numbers that they stand for, on their grid."""
        assert isinstance(value, Value)
        self.ctx.node = grid.node
        quant = activation_quant(self.ctx, grid.scale, grid.zero, grid.kind)
        name = self.result.graph.unique_name(f"{value.name}_quantize")
        node = self.result.graph.add_node("quantize", [value], {"dtype": quant.dtype}, name=name, origin=(name,))
        put_on_grid(self.ctx, node.result, quant, grid)
        self.result.warnings.append(
            f"the input {value.name} takes real numbers, where the file has integers that stand for them: {grid}"
        )
        return node.result

    def moved_grid(self, node: onnx.NodeProto, array: Array) -> Array:
        """A constant that was transposed or named again is on the grid that it was on."""
        source = self.ctx.env[node.input[0]]
        assert isinstance(source, np.ndarray)
        if self.ctx.grid_of(source) is None:
            return array
        perm = self.ctx.ints("perm") if node.op_type == "Transpose" else list(range(source.ndim))
        return self.ctx.transposed(source, perm)

    def branch(self, node: onnx.NodeProto) -> bool:
        """An `If` with a known condition is the branch that it takes."""
        taken = branch_of(self.ctx)
        if taken is None:
            return False
        for initializer in taken.initializer:
            array = onnx.numpy_helper.to_array(initializer)
            self.ctx.env[initializer.name] = array
            self.ctx.name_array(array, initializer.name)
        self.nodes(taken)
        for outer, inner in zip(node.output, taken.output, strict=True):
            self.ctx.env[outer] = self.ctx.env[inner.name]
        return True

    def define(self, node: onnx.NodeProto, results: tuple[Operand, ...]) -> None:
        for name, result in zip(node.output, results, strict=False):
            if name:
                self.ctx.env[name] = result
                if isinstance(result, np.ndarray):
                    self.ctx.name_array(result, name)

    # --- what stays ONNX -------------------------------------------------------------------------------------------

    def keep_opaque(self, node: onnx.NodeProto, reason: str) -> None:
        outputs = [name for name in node.output if name]
        sequence = next((name for name in names_read(node) if name in self.ctx.sequences), None)
        if sequence is not None:
            raise self.ctx.error(
                f"cannot be kept as it is ({reason}): it reads the sequence {sequence}, and the IR has tensors alone"
            )
        read = {name: self.ctx.read(name) for name in names_read(node)}
        arrays = {name: operand if isinstance(operand, np.ndarray) else operand.array for name, operand in read.items()}
        constants = {name: array for name, array in arrays.items() if array is not None}
        operands = {name: self.ctx.value(operand) for name, operand in read.items() if name not in constants}
        opsets = {item.domain: item.version for item in self.file.model.opset_import}
        kept = KeptNode(node, opsets, tuple(operands), constants, self.file.where)
        alone = _types_in(kept.typed_model({name: value.type for name, value in operands.items()}))
        types = [alone.get(name) or self.inferred(name, reason) for name in outputs]
        identifier = f"{node.op_type} {self.ctx.label}" if self.ctx.label != node.op_type else node.op_type
        while identifier in self.result.opaque:
            identifier += "'"
        results = self.ctx.emit_results("opaque", *operands.values(), names=outputs, types=types, id=identifier)
        self.result.opaque[identifier] = kept
        self.result.warnings.append(f"{self.ctx.label}: {node.op_type} stays as it is, on the CPU, because {reason}")
        for name, value in zip(outputs, results, strict=True):
            self.ctx.env[name] = value

    def inferred(self, name: str, reason: str) -> TensorType:
        """The type that ONNX's own inference finds for a result in the whole file, which may state it."""
        if self.types is None:
            self.types = _inferred_types(self.file)
        found = self.types.get(name)
        if found is None:
            raise self.ctx.error(f"cannot be kept as it is ({reason}), and the shape of its result {name} is not known")
        return found


_NONSENSE = (ArithmeticError, LookupError, TypeError, ValueError)
"""What arithmetic on sizes and axes raises where those of a damaged node pass the operator's definition."""
_UNROLLED = {"Loop": loop, "Scan": scan}
_NOT_FOLDED = {"DequantizeLinear", "RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", *MAKERS}


def _inferred_types(file: OnnxFile) -> dict[str, TensorType]:
    """Types by name from ONNX's shape inference, with the inputs' shapes fixed."""
    model = onnx.ModelProto()
    model.CopyFrom(file.model)
    for item in model.graph.input:
        type = file.inputs.get(item.name)
        if type is not None and type.shape is not None:
            item.type.tensor_type.shape.ClearField("dim")
            for size in type.shape:
                item.type.tensor_type.shape.dim.add().dim_value = size
    return _types_in(model)


def _types_in(model: onnx.ModelProto) -> dict[str, TensorType]:
    """The types that ONNX's shape inference knows whole, by name."""
    try:
        inferred = shape_inference.infer_shapes(model, data_prop=True)
    except (shape_inference.InferenceError, ValueError):
        return {}
    found: dict[str, TensorType] = {}
    for item in (*inferred.graph.value_info, *inferred.graph.output):
        kind = item.type.tensor_type
        if kind.HasField("shape") and all(size.HasField("dim_value") for size in kind.shape.dim) and kind.elem_type:
            dtype = element_type(kind.elem_type)
            if dtype is not None:
                found[item.name] = TensorType(dtype, tuple(size.dim_value for size in kind.shape.dim))
    return found
