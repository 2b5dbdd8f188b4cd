"""Writes a `CallGraph` as a standard opset-11 model. Emitters of aten operations register here, one small function each::

    @aten("logsumexp.default")
    def logsumexp(c: Call, w: CallWriter) -> Value:
        x = w.value(c["self"])
        ...
        return w.op("log", w.op("sum", w.op("exp", x), axes=axes, keepdims=True))

An emitter works on typed values. `w.op` writes an operation of the IR with the emitter that the back end has for it (all element types
included), `w.onnx` a single ONNX node.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from hqc.backends.onnx.aten.calls import Call, CallGraph, Tensor
from hqc.backends.onnx.builder import ELEMENT_TYPES, Builder
from hqc.backends.onnx.registry import get_emitter
from hqc.checked import checked
from hqc.errors import ExportError, ShapeError
from hqc.ir import DType, Graph, TensorType, Value
from hqc.ir.types import Shape
from hqc.registry import Registry

AtenEmitter = Callable[[Call, "CallWriter"], "Value | Sequence[Value | None]"]
_EMITTERS: Registry[str, AtenEmitter] = Registry("aten emitter", families="hqc.backends.onnx.aten")


class NoFormError(ExportError):
    """An aten operation that this back end cannot write, or not with these arguments."""


def aten(*targets: str) -> Callable[[AtenEmitter], AtenEmitter]:
    """Register the decorated function as the emitter of the aten overloads `targets`."""
    return _EMITTERS.register(*targets)


@checked
def knows(target: str) -> bool:
    """True when the aten overload has an emitter."""
    return target in _EMITTERS


def known_targets() -> list[str]:
    """All aten overloads with an emitter, sorted."""
    return sorted(_EMITTERS)


@checked
def write_calls(graph: CallGraph) -> onnx.ModelProto:
    """The calls as a model of standard ops; `NoFormError` names the aten operation that cannot be written."""
    writer = CallWriter(graph.name)
    for tensor in graph.inputs:
        writer.add_input(tensor)
    for call in graph.calls:
        writer.write(call)
    for index, tensor in enumerate(graph.outputs):
        writer.add_output(tensor, f"output_{index}")
    return writer.builder.model()


class CallWriter:
    """Writes calls into a `Builder`. Values are those of a scratch IR graph, so that every one has a type."""

    def __init__(self, name: str) -> None:
        self.builder = Builder(name)
        self._graph = Graph(name)
        self._values: dict[str, Value] = {}

    # --- the graph -----------------------------------------------------------------------------------------------

    def add_input(self, tensor: Tensor) -> None:
        value = self._graph.add_input(tensor.name, tensor.type)
        self.builder.add_input(value)
        self._values[tensor.name] = value

    def add_output(self, tensor: Tensor, name: str) -> None:
        self.builder.add_output(self.name(self.value(tensor)), name, tensor.type)

    def write(self, call: Call) -> None:
        """Write one call; its results are read by later ones."""
        emit = _EMITTERS.get(call.target)
        if emit is None:
            raise NoFormError(f"no ONNX form of aten.{call.target} is known")
        self.builder.scope(call.results[0].name)
        try:
            written = emit(call, self)
        except (
            KeyError,
            IndexError,
            TypeError,
            ValueError,
            ArithmeticError,
            ShapeError,
        ) as error:  # arguments that the emitter does not foresee
            raise NoFormError(f"aten.{call.target} is called in a way that has no known ONNX form ({error})") from error
        values = [written] if isinstance(written, Value) else list(written)
        for tensor, value in zip(call.results, values, strict=False):
            if value is not None:  # else a result that nobody can read: the state that an inference kernel returns
                self._values[tensor.name] = self._checked(call, tensor, value)

    def _checked(self, call: Call, tensor: Tensor, value: Value) -> Value:
        if value.type != tensor.type:
            raise NoFormError(f"the ONNX form of aten.{call.target} gives {value.type} where {tensor.type} was traced")
        return value

    # --- values --------------------------------------------------------------------------------------------------

    def value(self, item: Any, like: DType | None = None) -> Value:
        """The value of a tensor, of a number (as a scalar of type `like`) or of a value; converted to `like` where given."""
        if isinstance(item, Value):
            value = item
        elif isinstance(item, Tensor):
            if item.array is not None and item.name not in self._values:
                self._values[item.name] = self._graph.add_parameter(item.name, item.array)
            if item.name not in self._values:
                raise NoFormError(f"its result {item.name} serves training alone and has no ONNX form")
            value = self._values[item.name]
        else:
            return self.const(item, like or DType.from_numpy(np.asarray(item).dtype))
        return value if like is None else self.cast(value, like)

    def const(self, array: npt.ArrayLike, dtype: DType) -> Value:
        """A constant."""
        data = np.array(array).astype(dtype.numpy)
        return self._graph.add_parameter(self._graph.unique_name("constant"), data)

    def ints(self, values: Sequence[int]) -> Value:
        """An int64 vector."""
        return self.const(np.array(values, np.int64), DType.INT64)

    def array(self, item: Any) -> npt.NDArray[Any] | None:
        """Elements of a constant, None for what is computed."""
        value = self.value(item)
        return value.array

    def name(self, value: Value) -> str:
        """The ONNX name under which a value is read."""
        if value.array is not None and value.is_parameter:
            return self.builder.constant(value.array, value.type.dtype.numpy)
        return self.builder.read(value)

    # --- operations ----------------------------------------------------------------------------------------------

    def op(self, name: str, *operands: Value | None, **attributes: Any) -> Value:
        """An operation of the IR with one result."""
        return self.ops(name, *operands, **attributes)[0]

    def ops(self, name: str, *operands: Value | None, **attributes: Any) -> list[Value]:
        """An operation of the IR, written by its emitter."""
        node = self._graph.add_node(name, operands, attributes)
        for value in operands:
            if value is not None and value.is_parameter:
                self.builder.bind(value, self.name(value))
        names = get_emitter(node)(node, self.builder)
        return self._bound(node.results, [names] if isinstance(names, str) else names)

    def onnx(self, op_type: str, *operands: Value | None, type: TensorType, **attributes: Any) -> Value:
        """A single ONNX node with one result of the given type."""
        return self.onnx_many(op_type, *operands, types=[type], **attributes)[0]

    def onnx_many(self, op_type: str, *operands: Value | None, types: Sequence[TensorType], **attributes: Any) -> list[Value]:
        """A single ONNX node with results of the given types."""
        names = [None if value is None else self.name(value) for value in operands]
        results = self.builder.multi(op_type, *names, count=len(types), **attributes)
        present = [value for value in operands if value is not None]
        node = self._graph.add_node("opaque", present, {"id": op_type}, types=list(types))
        return self._bound(node.results, results)

    def named(self, name: str, type: TensorType, *operands: Value) -> Value:
        """The value of type `type` that nodes of the builder made of `operands` and called `name`."""
        node = self._graph.add_node("opaque", operands, {"id": name}, types=[type])
        return self._bound(node.results, [name])[0]

    def _bound(self, values: Sequence[Value], names: Sequence[str]) -> list[Value]:
        for value, name in zip(values, names, strict=True):
            self.builder.bind(value, name)
            self.builder.set_type(name, value.type)
        return list(values)

    # --- what most emitters need -----------------------------------------------------------------------------------

    def cast(self, value: Value, dtype: DType) -> Value:
        """`value` as `dtype`."""
        if value.type.dtype is dtype:
            return value
        if value.array is not None:
            return self.const(value.array, dtype)
        return self.onnx("Cast", value, type=value.type.with_dtype(dtype), to=ELEMENT_TYPES[dtype])

    def reshape(self, value: Value, shape: Sequence[int]) -> Value:
        """`value` with another shape; sizes are given in full."""
        if value.shape == tuple(shape):
            return value
        if value.array is not None:
            return self.const(value.array.reshape(tuple(shape)), value.type.dtype)
        return self.onnx("Reshape", value, self.ints(shape), type=TensorType(value.type.dtype, tuple(shape)))

    def transpose(self, value: Value, perm: Sequence[int]) -> Value:
        """`value` with its axes permuted."""
        if list(perm) == list(range(len(perm))):
            return value
        if value.array is not None:
            return self.const(value.array.transpose(tuple(perm)), value.type.dtype)
        return self.op("transpose", value, perm=tuple(perm))

    def expand(self, value: Value, shape: Sequence[int]) -> Value:
        """`value` broadcast to `shape`."""
        return value if value.shape == tuple(shape) else self.op("expand", value, shape=tuple(shape))

    def slice(self, value: Value, axis: int, start: int, end: int, step: int = 1) -> Value:
        """A slice along one axis; bounds are resolved ones."""
        size = shape(value)[axis]
        if (start, end, step) == (0, size, 1):
            return value
        if value.array is not None:
            index = tuple(np.s_[start:end:step] if i == axis else np.s_[:] for i in range(len(shape(value))))
            return self.const(value.array[index], value.type.dtype)
        return self.op("slice", value, axes=(axis,), starts=(start,), ends=(end,), steps=(step,))

    def cat(self, values: Sequence[Value], axis: int) -> Value:
        """Concatenation of values of one type."""
        arrays = [value.array for value in values if value.array is not None]
        if len(arrays) == len(values) > 1:
            return self.const(np.concatenate(arrays, axis), values[0].type.dtype)
        return values[0] if len(values) == 1 else self.op("cat", *values, axis=axis)

    def gather(self, value: Value, indices: Sequence[int] | npt.NDArray[Any], axis: int) -> Value:
        """Elements at constant positions along `axis`."""
        if value.array is not None:
            return self.const(np.take(value.array, np.asarray(indices, np.int64), axis), value.type.dtype)
        return self.op("gather", value, self.const(np.asarray(indices, np.int64), DType.INT64), axis=axis)


def shape(value: Value) -> Shape:
    """The static shape of a value."""
    assert value.shape is not None, value.name
    return value.shape


def axis_of(dim: int, rank: int) -> int:
    """`dim`, counted from the front; scalars have one axis as torch sees it."""
    return dim % max(rank, 1)


def axes_of(dims: Sequence[int] | int | None, rank: int) -> tuple[int, ...]:
    """Axes in rising order; None and () mean all."""
    if isinstance(dims, int):
        dims = [dims]
    return tuple(range(rank)) if not dims else tuple(sorted({axis_of(dim, rank) for dim in dims}))
