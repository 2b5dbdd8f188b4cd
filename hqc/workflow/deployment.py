"""What the back ends take of a deployed model. No torch here: models that were saved run without it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hqc.errors import ShapeError
from hqc.ir import Graph, Value
from hqc.passes.base import Remark

PROGRAMS_KEPT = 4
"""Programs a model keeps, one per batch size. They share their parameters, and with the engine `jit` the packed weights too."""


Shape = tuple[int, ...]


def batch_sizes(values: Sequence[Value], shapes: Sequence[Shape]) -> set[int]:
    """Sizes of the first axes of inputs of these shapes, for a model that was compiled for `values`; `ShapeError` where more than the
    batch differs."""
    for value, shape in zip(values, shapes, strict=True):
        wanted = value.shape or ()
        if len(shape) != len(wanted) or shape[1:] != wanted[1:]:
            raise ShapeError(
                f"input {value.name} has shape {list(shape)}, the model was compiled for {list(wanted)} (only the batch may differ)"
            )
    return {shape[0] for shape in shapes if shape}


def disagreeing(shapes: Sequence[Shape]) -> ShapeError:
    """Inputs with several batch sizes, where the model was compiled for one."""
    return ShapeError(f"inputs disagree about the batch size: {', '.join(str(list(shape)) for shape in shapes)}")


@dataclass
class Deployment:
    """`scaled`: what the ONNX back end takes (fake-quant semantics). `integer`: what the simulator takes. `opaque`: callables
    for operations that only torch can run. `outputs`: what the model returns, with an `OutputRef` for each tensor. `remarks`:
    what the passes had to say. `rescaled`: scales that ties between values gave to some that trained with another, by the path of the
    module that has their fake quant."""

    scaled: Graph
    integer: Graph
    opaque: Mapping[str, Callable[..., Any]]
    outputs: Any
    remarks: list[Remark] = field(default_factory=list)
    rescaled: Mapping[str, float] = field(default_factory=dict)
