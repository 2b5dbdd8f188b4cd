"""What an opaque operation does, as a list of aten calls: plain data that the workflow traces and this back end writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from hqc.checked import explained
from hqc.ir import DType, TensorType


@explained
@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor of a `CallGraph`: an input, a result, or a constant where `array` is given."""

    name: str
    type: TensorType
    array: npt.NDArray[Any] | None = None


@explained
@dataclass(frozen=True, eq=False)
class Call:
    """One aten operation. `target`: name and overload, `topk.default`. `arguments`: all of the schema's, by name, defaults filled
    in: tensors, numbers, texts, `DType`s, None, or lists of them."""

    target: str
    arguments: Mapping[str, Any]
    results: tuple[Tensor, ...]

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def get(self, name: str, default: Any = None) -> Any:
        """The argument, `default` where the overload has none of that name."""
        return self.arguments.get(name, default)

    @property
    def type(self) -> TensorType:
        """Type of the first result."""
        return self.results[0].type

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the first result."""
        return shape_of(self.results[0])

    @property
    def dtype(self) -> DType:
        """Element type of the first result."""
        return self.results[0].type.dtype


@explained
@dataclass(frozen=True)
class CallGraph:
    """Calls in program order, from `inputs` to `outputs`."""

    inputs: tuple[Tensor, ...]
    calls: tuple[Call, ...]
    outputs: tuple[Tensor, ...]
    name: str = field(default="call")


def shape_of(tensor: Tensor) -> tuple[int, ...]:
    """The static shape; traced tensors always have one."""
    assert tensor.type.shape is not None, tensor.name
    return tensor.type.shape


def promoted(*types: DType) -> DType:
    """torch's element type for tensors of these types: the widest float where there is one, else the widest integer."""
    floats = [dtype for dtype in types if dtype.is_float]
    if floats:
        return DType.FLOAT64 if DType.FLOAT64 in floats else DType.FLOAT32
    return DType.from_numpy(np.result_type(*(dtype.numpy for dtype in types)))
