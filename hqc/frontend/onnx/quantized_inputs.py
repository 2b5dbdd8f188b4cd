"""Inputs of integers that stand for real numbers, as whole-integer models have them (TFLite's, and QOperator files cut before Quantize).

The IR's values are real numbers with a grid, so such an input takes the real numbers, on the grid that every reader of it states.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

Array = npt.NDArray[Any]
KINDS = ("int8", "uint8", "int16", "uint16")
_MOVES = {
    "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Slice", "Split", "Concat", "Gather", "Pad", "Tile", "Expand",
    "MaxPool",
}  # fmt: skip
"""What moves integers and leaves them the integers of the same numbers."""


@dataclass(frozen=True)
class FileGrid:
    """A grid as the file states it: `q` of `kind` stands for `(q - zero) * scale`; `node` states it."""

    scale: Array
    zero: Array | None
    kind: str
    node: onnx.NodeProto

    @property
    def offset(self) -> int:
        return 0 if self.zero is None else int(np.reshape(self.zero, -1)[0])

    def has_offset(self, offset: int) -> bool:
        """Whether `offset` stands for 0, in every channel."""
        return offset == 0 if self.zero is None else bool((self.zero == offset).all())

    def __str__(self) -> str:
        return f"({self.kind} - {self.offset}) * {float(self.scale.reshape(-1)[0]):.6g}"


def quantized_inputs(
    graph: onnx.GraphProto, inputs: Sequence[onnx.ValueInfoProto], initializers: Mapping[str, Array]
) -> dict[str, FileGrid]:
    """The grids of inputs of integers that are read as quantized numbers alone, all of them on one grid."""
    kinds = {item.name: kind_of(item) for item in inputs}
    wanted = [name for name, kind in kinds.items() if kind in KINDS]
    if not wanted:
        return {}
    constants = {**initializers, **{node.output[0]: array for node in graph.node if (array := _constant(node)) is not None}}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in dict.fromkeys(node.input):
            readers.setdefault(name, []).append(node)
    found = {}
    for name in wanted:
        grids = _grids(name, kinds[name], readers, constants)
        if grids and all(str(grid) == str(grids[0]) for grid in grids):
            found[name] = grids[0]
    return found


def _grids(
    name: str, kind: str, readers: Mapping[str, Sequence[onnx.NodeProto]], constants: Mapping[str, Array]
) -> list[FileGrid]:
    """The grids on which the integers called `name` are read, moved or not; none where something reads the integers themselves."""
    found, waiting, seen = [], [name], {name}
    while waiting:
        current = waiting.pop()
        for node in readers.get(current, ()):
            if node.op_type in _MOVES:
                waiting += [item for item in node.output if item and item not in seen]
                seen.update(node.output)
                continue
            grid = _stated(node, current, kind, constants)
            if grid is None:
                return []
            found.append(grid)
    return found


def _stated(node: onnx.NodeProto, name: str, kind: str, constants: Mapping[str, Array]) -> FileGrid | None:
    """The grid that a reader states for its operand `name`: the two operands behind it."""
    if not (node.op_type == "DequantizeLinear" or node.op_type.startswith(("QLinear", "QGemm"))):
        return None
    index = list(node.input).index(name)
    rest = [*node.input[index + 1 : index + 3], "", ""]
    scale, zero = constants.get(rest[0]), constants.get(rest[1])
    if scale is None or scale.size != 1 or (rest[1] and zero is None):
        return None
    return FileGrid(scale, zero, kind, node)


def kind_of(item: onnx.ValueInfoProto) -> str:
    """NumPy's name of the element type that is declared; empty where none is."""
    code = item.type.tensor_type.elem_type
    known = code in onnx.TensorProto.DataType.values() and code != onnx.TensorProto.UNDEFINED
    return str(onnx.helper.tensor_dtype_to_np_dtype(code)) if known else ""


def _constant(node: onnx.NodeProto) -> Array | None:
    tensor = next((item.t for item in node.attribute if item.name == "value"), None) if node.op_type == "Constant" else None
    return None if tensor is None or tensor.data_type == onnx.TensorProto.STRING else numpy_helper.to_array(tensor)
