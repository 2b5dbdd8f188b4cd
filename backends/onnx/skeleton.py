"""Models whose large constants lie beside the protobuf message: each is in memory once, whoever checks, runs or writes the model."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, numpy_helper

Array = npt.NDArray[Any]
Chunk = bytes | memoryview
LARGE = 1 << 20
"""Bytes from which on a constant stays outside."""


@dataclass(frozen=True)
class Skeleton:
    """`model`: complete but for the bytes of the initializers in `constants` (C-contiguous, little-endian), which it calls external."""

    model: onnx.ModelProto
    constants: Mapping[str, Array] = field(default_factory=dict)

    def complete(self) -> onnx.ModelProto:
        """The whole model as one message; the model itself where nothing lies outside."""
        if not self.constants:
            return self.model
        whole = onnx.ModelProto()
        whole.CopyFrom(self.model)
        for tensor in whole.graph.initializer:
            if tensor.name in self.constants:
                _close(tensor)
                tensor.raw_data = self.constants[tensor.name].tobytes()
        return whole

    def with_inputs(self) -> onnx.ModelProto:
        """The model with the constants as further inputs: for who checks it, or runs it once with the arrays as they lie in memory."""
        if not self.constants:
            return self.model
        opened = onnx.ModelProto()
        opened.CopyFrom(self.model)
        tensors = list(opened.graph.initializer)
        del opened.graph.initializer[:]
        for tensor in tensors:
            if tensor.name in self.constants:
                opened.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
            else:
                opened.graph.initializer.append(tensor)
        return opened

    def chunks(self) -> list[Chunk]:
        """The bytes of the whole model's file, those of `complete().SerializeToString(deterministic=True)`."""
        graph = list(self._graph())
        before, after = _around(self.model, "graph")
        return [before, *_field(self.model, "graph", graph), after]

    def _graph(self) -> Iterator[Chunk]:
        graph = self.model.graph
        before, after = _around(graph, "initializer")
        yield before
        for tensor in graph.initializer:
            yield from _field(graph, "initializer", list(self._tensor(tensor)))
        yield after

    def _tensor(self, tensor: TensorProto) -> Iterator[Chunk]:
        if tensor.name not in self.constants:
            yield tensor.SerializeToString(deterministic=True)
            return
        closed = TensorProto()
        closed.CopyFrom(tensor)
        _close(closed)
        before, after = _around(closed, "raw_data")
        data = self.constants[tensor.name].reshape(-1).view(np.uint8).data
        yield before
        yield from _field(closed, "raw_data", [data])
        yield after


def initializer(name: str, array: Array) -> TensorProto:
    """The message of a constant: with its bytes, or as one of those that lie outside."""
    if array.nbytes < LARGE:
        return numpy_helper.from_array(array, name)
    tensor = TensorProto(name=name, data_type=onnx.helper.np_dtype_to_tensor_dtype(array.dtype), dims=array.shape)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="beside")
    return tensor


def _close(tensor: TensorProto) -> None:
    """Take back that the tensor's bytes are elsewhere."""
    tensor.ClearField("data_location")
    tensor.ClearField("external_data")


def _around(message: Any, name: str) -> tuple[bytes, bytes]:
    """The serialized fields of a message before and behind the field `name`: protobuf writes them by their numbers."""
    number = message.DESCRIPTOR.fields_by_name[name].number
    kind: Any = type(message)
    parts = []
    for kept in (operator.lt, operator.gt):
        part = kind()
        for each, value in message.ListFields():
            if not kept(each.number, number):
                continue
            if hasattr(value, "extend"):
                getattr(part, each.name).extend(value)
            elif hasattr(value, "CopyFrom"):
                getattr(part, each.name).CopyFrom(value)
            else:
                setattr(part, each.name, value)
        parts.append(part.SerializeToString(deterministic=True))
    return parts[0], parts[1]


def _field(message: Any, name: str, chunks: list[Chunk]) -> list[Chunk]:
    """A field of bytes or of a message: its number, its length, its contents."""
    number = message.DESCRIPTOR.fields_by_name[name].number
    size = sum(chunk.nbytes if isinstance(chunk, memoryview) else len(chunk) for chunk in chunks)
    return [_varint(number << 3 | 2) + _varint(size), *chunks]


def _varint(value: int) -> bytes:
    digits = bytearray()
    while value >= 0x80:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*digits, value))
