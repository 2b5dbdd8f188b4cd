"""Reading an ONNX file: size limits, external data, local functions, input shapes; every refusal is one sentence about the file."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from hqc.checked import checked
from hqc.errors import InputError
from hqc.files import path_text, settle
from hqc.frontend.onnx.order import in_order
from hqc.frontend.onnx.quantized_inputs import FileGrid, quantized_inputs
from hqc.ir import DType, TensorType
from hqc.near_names import suggest

OLDEST, NEWEST = 7, 25
STANDARD = ("", "ai.onnx")
LARGEST_TENSOR = 2**31
"""Elements; a shape in a file may claim anything."""

InputShapes = Mapping[str, Sequence[int]] | Sequence[Sequence[int]]
"""Shapes of inputs by name, or of all inputs in order."""


@dataclass
class OnnxFile:
    """A model that passed the first checks. `inputs`: the real ones, initializers left out, in which `grids` holds the grids of those that
    are integers in the file and real numbers here; `where`: how messages call the file."""

    where: str
    model: onnx.ModelProto
    opset: int
    inputs: dict[str, TensorType]
    initializers: dict[str, npt.NDArray[Any]]
    grids: dict[str, FileGrid] = field(default_factory=dict)

    @property
    def short(self) -> str:
        """The file's name without its folder."""
        return self.where.replace("\\", "/").rpartition("/")[2]

    @property
    def graph(self) -> onnx.GraphProto:
        return self.model.graph


@checked
def read_model(source: str | os.PathLike[str] | onnx.ModelProto, shapes: InputShapes | None = None) -> OnnxFile:
    """Read a file or take a loaded model; `shapes` fixes the shapes of inputs.

    `InputError` for what cannot be read: a damaged file, missing external data, opsets outside 7 to 21, sizes that are not known.
    """
    where, model = load_model(source)
    opset = _opset(where, model)
    if model.functions:
        from onnx import inliner

        try:
            model = inliner.inline_local_functions(model)
        except (RuntimeError, ValueError, TypeError) as error:  # onnx asserts in its own C++
            raise InputError(f"{where}: a function of the file does not fit a call of it: {line_of(error)}") from None
    model = in_order(model)
    graph = model.graph
    if graph.sparse_initializer:
        raise InputError(
            f"{where}: the sparse initializer {graph.sparse_initializer[0].values.name} is not supported; make it dense"
        )
    initializers = {item.name: array_of(where, item) for item in graph.initializer}
    declared = {item.name: item for item in graph.input if item.name not in initializers}
    shapes = _by_name(where, shapes, list(declared))
    unknown = [name for name in shapes if name not in declared]
    if unknown:
        raise InputError(
            f"{where} has no input {unknown[0]}; its inputs: {', '.join(declared) or 'none'}{suggest(unknown[0], declared)}"
        )
    inputs = {name: _input_type(where, item, shapes.get(name)) for name, item in declared.items()}
    grids = quantized_inputs(graph, list(declared.values()), initializers)
    inputs.update({name: inputs[name].with_dtype(DType.FLOAT32) for name in grids})
    return OnnxFile(where, model, opset, inputs, initializers, grids)


def _by_name(where: str, shapes: InputShapes | None, names: list[str]) -> Mapping[str, Sequence[int]]:
    if shapes is None or isinstance(shapes, Mapping):
        return shapes or {}
    if len(shapes) != len(names):
        raise InputError(f"{where} has {len(names)} input(s) ({', '.join(names)}), got {len(shapes)}")
    return dict(zip(names, shapes, strict=True))


def array_of(where: str, tensor: onnx.TensorProto) -> npt.NDArray[Any]:
    """The tensor's array; `InputError` for element types that the IR lacks and for damaged data."""
    count = math.prod(tensor.dims)
    if count > LARGEST_TENSOR or any(size < 0 for size in tensor.dims):
        raise InputError(f"{where}: the tensor {tensor.name} claims the shape {list(tensor.dims)}, which is too large")
    try:
        array = numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError, RuntimeError, OSError) as error:
        raise InputError(f"{where}: the tensor {tensor.name} cannot be read: {line_of(error)}") from None
    return as_ir(where, tensor.name, widened(array))


_BEFORE_ROUNDING = (math.sqrt(2), math.sqrt(0.5), math.sqrt(2 / math.pi), 0.044715, 1 / 3, 1 / 6)
"""The numbers of GELU, hardswish and hardsigmoid, which a conversion to half precision rounds."""


def widened(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Half precision as float32. A single number that is one of those by which activations are told is that number, unrounded."""
    if array.dtype.name not in ("float16", "bfloat16"):
        return array
    result = array.astype(np.float32)
    if array.size == 1:
        number = array.reshape(-1)[0]
        known = next((each for each in _BEFORE_ROUNDING if array.dtype.type(each) == number), None)
        result = result if known is None else np.full(array.shape, known, np.float32)
    return result


def as_ir(where: str, name: str, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """`array` in an element type that the IR has."""
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)
    try:
        DType.from_numpy(array.dtype)
    except TypeError:
        raise InputError(f"{where}: {name} holds {array.dtype}, for which the IR has no element type") from None
    return array


@checked
def load_model(source: str | os.PathLike[str] | onnx.ModelProto) -> tuple[str, onnx.ModelProto]:
    """How messages call a file or model, and the model; `InputError` for what is no ONNX file, or lacks its external data."""
    if isinstance(source, onnx.ModelProto):
        where = source.graph.name or "the ONNX model"
        _check_names(where if where.isprintable() else "the ONNX model", source)
        return where, source
    path = Path(path_text(source))
    settle(path)
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    try:
        model = onnx.load(str(path))
    except (DecodeError, ValueError, OSError, onnx.checker.ValidationError) as error:
        raise InputError(f"{path} cannot be read as an ONNX model: {line_of(error)}") from None
    if not model.graph.node and not model.graph.output:
        raise InputError(f"{path} is no ONNX model, or one without a graph")
    _check_names(str(path), model)
    return str(path), model


def _check_names(where: str, model: onnx.ModelProto) -> None:
    """Names are what every message and view shows: control characters and bytes that are no text are a sign of damage."""
    for text in (
        *_graph_texts(model.graph),
        *(text for each in model.functions for text in (each.name, *_node_texts(each.node))),
    ):
        if not (isinstance(text, str) and text.isprintable()):
            raise InputError(f"{where} is damaged: a name in it is {text[:40]!r}")


def _graph_texts(graph: onnx.GraphProto) -> Iterator[Any]:
    yield graph.name
    yield from (item.name for item in (*graph.input, *graph.output, *graph.initializer))
    yield from _node_texts(graph.node)


def _node_texts(nodes: Iterable[onnx.NodeProto]) -> Iterator[Any]:
    """Those of graphs in attributes too: branches and bodies of loops."""
    for node in nodes:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        for item in node.attribute:
            yield item.name
            for graph in (*([item.g] if item.HasField("g") else ()), *item.graphs):
                yield from _graph_texts(graph)


def _opset(where: str, model: onnx.ModelProto) -> int:
    opsets = {item.domain: item.version for item in model.opset_import}
    version = next((opsets[domain] for domain in STANDARD if domain in opsets), 0)
    if not OLDEST <= version <= NEWEST:
        raise InputError(
            f"{where} is of opset {version}; hqc reads {OLDEST} to {NEWEST}: convert it with onnx.version_converter"
        )
    return version


def _input_type(where: str, item: onnx.ValueInfoProto, given: Sequence[int] | None) -> TensorType:
    kind = item.type.tensor_type
    if not item.type.HasField("tensor_type"):
        raise InputError(f"{where}: the input {item.name} is no tensor")
    declared: list[int | None] = [size.dim_value if size.HasField("dim_value") else None for size in kind.shape.dim]
    if given is not None:
        sizes = [int(size) for size in given]
        if kind.HasField("shape") and len(declared) != len(sizes):
            raise InputError(
                f"{where}: the input {item.name} has {len(declared)} axes, the given shape {sizes} has {len(sizes)}"
            )
        clash = [(want, got) for want, got in zip(declared, sizes, strict=False) if want not in (None, 0, got)]
        if clash:
            raise InputError(f"{where}: the input {item.name} is declared as {_shown(item)}, which {sizes} does not fit")
    elif kind.HasField("shape"):
        # A batch of unknown size is 1: the chip runs one image at a time.
        sizes = [1 if axis == 0 and not size else size or 0 for axis, size in enumerate(declared)]
    else:
        raise InputError(f"{where}: the input {item.name} has no shape; give one with --input {item.name}=1,3,224,224")
    if any(size < 1 for size in sizes):
        raise InputError(
            f"{where}: the sizes of the input {item.name} are not known ({_shown(item)}); give them with --input {item.name}=1,3,224,224"
        )
    if math.prod(sizes) > LARGEST_TENSOR:
        raise InputError(f"{where}: the input {item.name} of shape {sizes} is too large")
    dtype = element_type(kind.elem_type)
    if dtype is None:
        known = onnx.TensorProto.DataType
        spelled = known.Name(kind.elem_type).lower() if kind.elem_type in known.values() else f"type {kind.elem_type}"
        raise InputError(f"{where}: the input {item.name} holds {spelled}, for which the IR has no element type")
    return TensorType(dtype, tuple(sizes))


def element_type(code: int) -> DType | None:
    """The IR's element type for ONNX's code: half precisions are read as float32, wide unsigned integers as int64."""
    if code == onnx.TensorProto.UNDEFINED:
        return DType.FLOAT32
    if code not in onnx.TensorProto.DataType.values():
        return None
    numpy = onnx.helper.tensor_dtype_to_np_dtype(code)
    if numpy.name in ("float16", "bfloat16"):
        return DType.FLOAT32
    if numpy.kind == "u" and numpy.itemsize > 1:
        return DType.INT64
    try:
        return DType.from_numpy(numpy)
    except TypeError:
        return None


def _shown(item: onnx.ValueInfoProto) -> str:
    sizes = [
        size.dim_param or (str(size.dim_value) if size.HasField("dim_value") else "?")
        for size in item.type.tensor_type.shape.dim
    ]
    return f"[{', '.join(sizes)}]"


def line_of(error: BaseException) -> str:
    """The first line of an error of another library, on one line, printable."""
    lines = str(error).strip().splitlines()
    return _printable(lines[0][:200]) if lines else type(error).__name__


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)
