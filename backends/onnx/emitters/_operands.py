"""What emitters ask about operands, and the element types that opset 11 computes on."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from hqc.backends.onnx.builder import ELEMENT_TYPES, Builder, static_shape
from hqc.errors import ExportError
from hqc.ir import DType, Node, TensorType
from hqc.ir.types import Shape


def operand_type(node: Node, index: int = 0) -> TensorType:
    """Type of the operand at `index`, which must be present."""
    value = node.inputs[index]
    assert value is not None, f"{node.name} has no operand {index}"
    return value.type


def operand_shape(node: Node, index: int = 0) -> Shape:
    """Static shape of the operand at `index`; `ExportError` when it is unknown."""
    value = node.inputs[index]
    assert value is not None, f"{node.name} has no operand {index}"
    return static_shape(value)


def constant_operand(node: Node, name: str) -> npt.NDArray[Any]:
    """Elements of the operand declared as `name`; `ExportError` when it is computed or absent."""
    value = node.operand(name)
    if value is None or value.array is None:
        raise ExportError(f"{node.label}: operand {name} of {node.op.name} must be a constant")
    return value.array


def shapes(node: Node) -> tuple[Shape, Shape]:
    """Shapes of the first operand and the first result."""
    return operand_shape(node), static_shape(node.results[0])


def type_of(node: Node, index: int = 0) -> DType:
    """Element type of the operand at `index`."""
    return operand_type(node, index).dtype


def cast_to(b: Builder, name: str, given: DType, wanted: DType) -> str:
    """`name` converted where its type `given` is not already `wanted`."""
    return name if given is wanted else b("Cast", name, to=ELEMENT_TYPES[wanted])


_EXACT_BITS = {DType.FLOAT32: 24, DType.FLOAT64: 53}


def holds(wide: DType, narrow: DType) -> bool:
    """True when every element of type `narrow` is exact in type `wide`."""
    if wide is narrow:
        return True
    if narrow.is_float:
        return wide is DType.FLOAT64
    signed = narrow in (DType.INT8, DType.INT16, DType.INT32, DType.INT64)
    bits = 1 if narrow is DType.BOOL else narrow.bits if signed else narrow.bits + 1
    if wide.is_float:
        return bits <= _EXACT_BITS[wide]
    return wide is not DType.BOOL and wide is not DType.UINT8 and bits <= wide.bits


def widen(b: Builder, name: str, dtype: DType, *allowed: DType) -> tuple[str, DType]:
    """`name` as `dtype` when that is allowed, else as the first allowed type that holds it; with the type chosen."""
    wide = dtype if dtype in allowed else next((candidate for candidate in allowed if holds(candidate, dtype)), allowed[-1])
    return cast_to(b, name, dtype, wide), wide


def compute_type(*dtypes: DType) -> DType:
    """The narrowest type of opset 11's arithmetic that holds all of `dtypes`."""
    if any(dtype.is_float for dtype in dtypes):
        return DType.FLOAT64 if DType.FLOAT64 in dtypes else DType.FLOAT32
    return DType.INT64 if DType.INT64 in dtypes else DType.INT32
