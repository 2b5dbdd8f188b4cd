"""Element-wise arithmetic, comparisons, where and cast.

Opset 11 computes on float32, float64, int32 and int64 (often fewer), so narrower integers are widened around the op.
"""

from __future__ import annotations

from hqc.backends.onnx.builder import ELEMENT_TYPES, Builder
from hqc.backends.onnx.emitters._operands import cast_to, compute_type, type_of
from hqc.backends.onnx.registry import Emitter, emitter
from hqc.ir import DType, Node


def _widened(node: Node, b: Builder, dtype: DType, start: int = 0) -> tuple[str, str]:
    """The two operands from `start` on, as `dtype`."""
    first, second = (cast_to(b, b.operand(node, i), type_of(node, i), dtype) for i in (start, start + 1))
    return first, second


def _arithmetic(onnx_op: str) -> Emitter:
    def emit(node: Node, b: Builder) -> str:
        dtype = compute_type(type_of(node, 0), type_of(node, 1))
        return cast_to(b, b(onnx_op, *_widened(node, b, dtype)), dtype, node.result.type.dtype)

    return emit


for _name, _onnx_op in {"add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div"}.items():
    emitter(_name)(_arithmetic(_onnx_op))


@emitter("pow")
def pow_(node: Node, b: Builder) -> str:
    """Opset 11's Pow takes floats only."""
    dtype = compute_type(type_of(node, 0), type_of(node, 1))
    dtype = dtype if dtype.is_float else DType.FLOAT64
    return cast_to(b, b("Pow", *_widened(node, b, dtype)), dtype, node.result.type.dtype)


def _extremum(onnx_op: str, integer_comparison: str) -> Emitter:
    """Max and Min take floats only; integers choose by comparison."""

    def emit(node: Node, b: Builder) -> str:
        dtype = compute_type(type_of(node, 0), type_of(node, 1))
        first, second = _widened(node, b, dtype)
        if dtype.is_float:
            result = b(onnx_op, first, second)
        else:
            result = b("Where", b(integer_comparison, first, second), first, second)
        return cast_to(b, result, dtype, node.result.type.dtype)

    return emit


emitter("maximum")(_extremum("Max", "Greater"))
emitter("minimum")(_extremum("Min", "Less"))


def _compare(b: Builder, onnx_op: str, or_equal: bool, first: str, second: str) -> str:
    """Opset 11 has no GreaterOrEqual; `not less` would be true for NaN."""
    result = b(onnx_op, first, second)
    return b("Or", result, b("Equal", first, second)) if or_equal else result


def _comparison(onnx_op: str, or_equal: bool = False) -> Emitter:
    def emit(node: Node, b: Builder) -> str:
        dtype = compute_type(type_of(node, 0), type_of(node, 1))
        return _compare(b, onnx_op, or_equal, *_widened(node, b, dtype))

    return emit


emitter("equal")(_comparison("Equal"))
emitter("greater")(_comparison("Greater"))
emitter("less")(_comparison("Less"))
emitter("greater_equal")(_comparison("Greater", or_equal=True))
emitter("less_equal")(_comparison("Less", or_equal=True))


def _logical(onnx_op: str) -> Emitter:
    def emit(node: Node, b: Builder) -> str:
        operands = [cast_to(b, b.operand(node, i), type_of(node, i), DType.BOOL) for i in range(len(node.inputs))]
        return cast_to(b, b(onnx_op, *operands), DType.BOOL, node.result.type.dtype)

    return emit


emitter("logical_and")(_logical("And"))
emitter("logical_or")(_logical("Or"))
emitter("logical_not")(_logical("Not"))


@emitter("where")
def where(node: Node, b: Builder) -> str:
    """Where of any types; those onnxruntime has no kernel for pass through int32."""
    condition = cast_to(b, b.operand(node, 0), type_of(node, 0), DType.BOOL)
    dtype = compute_type(type_of(node, 1), type_of(node, 2))
    return cast_to(b, b("Where", condition, *_widened(node, b, dtype, start=1)), dtype, node.result.type.dtype)


@emitter("cast")
def cast(node: Node, b: Builder) -> str:
    return b("Cast", b.operand(node, 0), to=ELEMENT_TYPES[node.attributes["dtype"]])
