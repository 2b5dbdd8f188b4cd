"""What a lowering of one ONNX node works with: its operands and attributes, and the ways to add IR nodes for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from hqc.errors import LoweringError
from hqc.frontend.onnx.quantized_inputs import FileGrid
from hqc.frontend.onnx.reader import OnnxFile, as_ir
from hqc.ir import DType, Graph, Location, QuantParams, TensorType, Value

Array = npt.NDArray[Any]
Operand = Value | Array


class Unexpressed(Exception):  # noqa: N818 (signal: the driver keeps the node as an opaque one)
    """The IR has no way to say this node; the reason completes the sentence `... because ...`."""


class OnnxContext:
    """State of one lowering; `node` is the ONNX node being lowered. Constants stay arrays until an IR node reads them."""

    def __init__(self, file: OnnxFile, graph: Graph) -> None:
        self.file, self.graph = file, graph
        self.env: dict[str, Operand] = {}
        self.sequences: dict[str, list[Operand]] = {}
        self.node = onnx.NodeProto()
        self.on_grid: set[Value] = set()  # results of the file's own quantization, which its integers stand for
        self.file_grids: dict[Value, FileGrid] = {}  # of those, as the file has it
        self._grids: dict[int, QuantParams] = {}  # of constants, by the id of their array
        self.warnings: list[str] = []
        self._parameters: dict[int, Value] = {}
        self._kept: list[Array] = []  # ids stay valid only while the arrays live
        self._names: dict[int, str] = {}
        self._counts: dict[str, int] = {}

    @property
    def opset(self) -> int:
        return self.file.opset

    # --- reading the node ----------------------------------------------------------------------------------------

    def operand(self, index: int) -> Operand | None:
        """The operand at a position; None where it is absent."""
        name = self.node.input[index] if index < len(self.node.input) else ""
        return self.read(name) if name else None

    def read(self, name: str) -> Operand:
        """The value of a name in the file."""
        if name in self.sequences:
            raise Unexpressed(f"it reads the sequence {name} as a whole")
        if name not in self.env:
            raise self.error(f"reads {name}, which nothing before it makes (a cycle, or a damaged file)")
        return self.env[name]

    def required(self, index: int) -> Operand:
        found = self.operand(index)
        if found is None:
            raise self.error(f"needs operand {index}")
        return found

    def data(self, index: int = 0) -> Value:
        """The operand as an IR value; constants become parameters."""
        return self.value(self.required(index))

    def optional(self, index: int) -> Value | None:
        found = self.operand(index)
        return None if found is None else self.value(found)

    def constant(self, index: int) -> Array | None:
        """The operand as an array; None where it is absent. `Unexpressed` where it is computed at run time."""
        found = self.operand(index)
        if found is None or isinstance(found, np.ndarray):
            return found
        raise Unexpressed(f"its operand {self.node.input[index]} is computed at run time")

    def ints(self, name: str, index: int | None = None) -> list[int] | None:
        """Integers given as an attribute, or in newer opsets as the constant operand at `index`."""
        given = self.attribute(name)
        if given is None and index is not None:
            array = self.constant(index)
            given = None if array is None else array.reshape(-1).tolist()
        return None if given is None else [int(item) for item in given]

    def attribute(self, name: str, default: Any = None) -> Any:
        for item in self.node.attribute:
            if item.name == name:
                value = onnx.helper.get_attribute_value(item)
                return value.decode() if isinstance(value, bytes) else value
        return default

    # --- types ---------------------------------------------------------------------------------------------------

    def shape(self, operand: Operand) -> tuple[int, ...]:
        shape = operand.shape
        if shape is None or None in shape:
            raise Unexpressed(f"the shape of {getattr(operand, 'name', 'an operand')} is not known")
        return tuple(shape)

    def rank(self, operand: Operand) -> int:
        return len(self.shape(operand))

    def axis(self, name: str = "axis", default: int = -1, *, of: Operand) -> int:
        return int(self.attribute(name, default)) % max(1, self.rank(of))

    def dtype(self, operand: Operand) -> DType:
        return DType.from_numpy(operand.dtype) if isinstance(operand, np.ndarray) else operand.type.dtype

    def type_name(self, name: str) -> str:
        """NumPy's name of the element type that the file declares for a value; empty where it declares none."""
        for item in (*self.file.graph.value_info, *self.file.graph.output):
            if item.name == name and item.type.tensor_type.elem_type:
                return str(onnx.helper.tensor_dtype_to_np_dtype(item.type.tensor_type.elem_type))
        return ""

    # --- emitting ------------------------------------------------------------------------------------------------

    def emit(self, op: str, *operands: Operand | float | None, what: str | None = None, **attributes: Any) -> Value:
        """Append a node with one result, called after the ONNX result, or `<result>_<what>` on the way to it."""
        return self.emit_results(op, *operands, names=[self._name(what)], **attributes)[0]

    def emit_results(
        self,
        op: str,
        *operands: Operand | float | None,
        names: Sequence[str],
        types: Sequence[TensorType] | None = None,
        **attributes: Any,
    ) -> tuple[Value, ...]:
        inputs = [None if operand is None else self.value(operand) for operand in operands]
        node = self.graph.add_node(
            op, inputs, attributes, name=list(names), loc=self._location(op), origin=(self.origin(names),), types=types
        )
        return tuple(node.results)

    def value(self, operand: Operand | float) -> Value:
        """An operand as an IR value: an array becomes a parameter, the same array the same one; a number a float32 one."""
        if isinstance(operand, Value):
            return operand
        array = np.asarray(operand, np.float32) if isinstance(operand, float) else operand
        known = self._parameters.get(id(array))
        if known is None:
            name = self._names.get(id(array)) or f"{self._name(None)}_constant"
            known = self.graph.add_parameter(self.graph.unique_name(name), as_ir(self.file.where, name, array))
            known.quant = self._grids.get(id(array))
            self._parameters[id(array)] = known
            self._kept.append(array)
        return known

    def name_array(self, array: Array, name: str) -> None:
        """Call `array` `name` should it become a parameter."""
        self._names.setdefault(id(array), name)
        self._kept.append(array)

    def put_on_grid(self, array: Array, quant: QuantParams | None) -> Array:
        """Note that `array` holds real numbers of a grid, which its parameter will have."""
        if quant is not None:
            self._grids[id(array)] = quant
            self._kept.append(array)
        return array

    def grid_of(self, array: Array) -> QuantParams | None:
        return self._grids.get(id(array))

    def transposed(self, array: Array, perm: Sequence[int] | None = None) -> Array:
        """A constant with its axes permuted (default: turned round), on the grid it was on."""
        order = list(perm) if perm is not None else list(range(array.ndim))[::-1]
        quant = self.grid_of(array)
        if quant is not None and quant.axis is not None:
            quant = quant.replace(axis=order.index(quant.axis))
        return self.put_on_grid(np.ascontiguousarray(np.transpose(array, order)), quant)

    def reshape(self, x: Operand, shape: Sequence[int], what: str | None = None) -> Value:
        return self.emit("reshape", x, what=what, shape=tuple(shape))

    def cast(self, x: Operand, dtype: DType, what: str) -> Operand:
        if isinstance(x, np.ndarray):
            return x.astype(dtype.numpy)
        return x if x.type.dtype is dtype else self.emit("cast", x, what=what, dtype=dtype)

    def origin(self, names: Sequence[str]) -> str:
        """What the plan calls the node: as the torch module of this graph does, where every IR node is a call of its own."""
        return names[0]

    @property
    def label(self) -> str:
        """The name by which the user knows the node."""
        return self.node.name or next(filter(None, self.node.output), self.node.op_type)

    def _name(self, what: str | None) -> str:
        base = next(filter(None, self.node.output), self.label)
        return base if what is None else self.graph.unique_name(f"{base}_{what}")

    def _location(self, op: str) -> Location:
        """Exporters name nodes by module path (`/layer1/conv/Conv`); the path without the operator is the module."""
        path = ".".join(filter(None, self.label.split("/")[:-1])) if "/" in self.label else ""
        count = self._counts.get(f"{path}:{op}", 0)
        self._counts[f"{path}:{op}"] = count + 1
        return Location(f"{path}:{op}#{count}", f"{self.file.short}:{self.label}", label=self.label)

    def warn(self, message: str) -> None:
        self.warnings.append(f"{self.label} ({self.node.op_type}): {message}")

    def error(self, message: str) -> LoweringError:
        return LoweringError(f"{self.label} ({self.node.op_type} in {self.file.where}) {message}")
