"""ONNX files as what users bring: told from torch modules, and lowered for the inputs at hand. No torch here."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hqc.errors import InputError
from hqc.ir import TensorType
from hqc.ir.batch import open_batch

if TYPE_CHECKING:
    from hqc.frontend.onnx import LoweredOnnx

logger = logging.getLogger("hqc")


def is_onnx(model: Any) -> bool:
    """True for the path of a file and for a loaded `onnx.ModelProto`."""
    if isinstance(model, (str, os.PathLike)):
        return True
    onnx: Any = sys.modules.get("onnx")  # who has a ModelProto has imported it
    return onnx is not None and isinstance(model, onnx.ModelProto)


def as_torch(model: Any, example_inputs: Any) -> tuple[Any, Any]:
    """An ONNX file as a torch module, with example inputs as the tuple that its forward takes; other models as they are."""
    if not is_onnx(model):
        return model, example_inputs
    from hqc.workflow.onnx_module import module_of

    return module_of(model, example_inputs)


def lower_file(model: Any, example_inputs: Any = None) -> LoweredOnnx:
    """Lower an ONNX file or `ModelProto` for inputs of the shapes of `example_inputs` (None: those of the file, an open batch is 1).

    Where the graph allows it its batch stays open, so that its torch form takes any. Says (as warnings) what could not be taken over.
    Raises what `lower_onnx` raises.
    """
    from hqc.frontend.onnx import lower_onnx

    lowered = lower_onnx(model, input_shapes(example_inputs))
    for sentence in lowered.warnings:
        logger.warning("%s", sentence)
    open_batch(lowered.graph)
    return lowered


def input_shapes(example_inputs: Any) -> Mapping[str, Sequence[int]] | Sequence[Sequence[int]] | None:
    """The shapes of example inputs: a tensor or array, several in the order of the file's inputs, or a dict by name."""
    if example_inputs is None:
        return None
    if isinstance(example_inputs, Mapping):
        return {str(name): _shape(item, str(name)) for name, item in example_inputs.items()}
    given = example_inputs if isinstance(example_inputs, (tuple, list)) else (example_inputs,)
    return [_shape(item, str(index)) for index, item in enumerate(given)]


def _shape(item: Any, name: str) -> tuple[int, ...]:
    shape = getattr(item, "shape", None)
    if shape is None:
        raise InputError(f"the example input {name} must be a tensor or an array, got {type(item).__name__}")
    return tuple(int(size) for size in shape)


def file_inputs(model: Any, example_inputs: Any = None) -> list[np.ndarray[Any, Any]]:
    """Inputs of zeros for an ONNX file, in order, of the shapes that `lower_file` would lower it for."""
    from hqc.frontend.onnx import read_model

    return zeros_of(read_model(model, input_shapes(example_inputs)).inputs.values())


def zeros_of(types: Iterable[TensorType]) -> list[np.ndarray[Any, Any]]:
    """An array of zeros for each type, whose shapes are known."""
    return [np.zeros(type.shape or (), type.dtype.numpy) for type in types]
