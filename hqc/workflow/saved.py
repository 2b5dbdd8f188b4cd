"""The file of a compiled model: one `.safetensors` file, without code or pickle.

A JSON text with the IR is its metadata. Its tensors: `sha256:...`, the arrays that the IR names by hash; `sample/3/x`, input x of
calibration sample 3; `form/name`, the ONNX bytes of opaque operation `name`. docs/saved_models.md describes the form.
"""

from __future__ import annotations

import json
import os
import re
from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hqc.data.preprocessing import Preprocessing
from hqc.errors import HqcError, InputError
from hqc.files import check_file_target, path_text, write_file
from hqc.ir import Graph, Node, Trait, parse, print_graph, verify
from hqc.ir.sidecar import sidecar_arrays
from hqc.passes.base import Remark

Array = npt.NDArray[Any]
FORMAT = "hqc-compiled-1"
_FIELD = re.compile(r"[^\W\d_]\w*\Z")
_DEPTH = 64


@dataclass(frozen=True)
class TensorRef:
    """The place of a tensor in the structure of inputs or outputs: its number among the graph's."""

    index: int


@dataclass
class SavedModel:
    """The contents of the file. `inputs` (forward's positional arguments), `outputs`: encoded structures with a `TensorRef` per
    tensor; `input_names`: of forward's arguments; `forms`: ONNX bytes per opaque operation, by the name of its node;
    `preprocessing`: by input, what calibration did to pictures, for the yaml of exported files."""

    scaled: Graph
    integer: Graph
    inputs: Any
    input_names: tuple[str, ...]
    outputs: Any
    samples: list[dict[str, Array]] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)
    forms: dict[str, bytes] = field(default_factory=dict)
    preprocessing: dict[str, Preprocessing] = field(default_factory=dict)


# --- writing ------------------------------------------------------------------------------------------------------------------


def write_model(model: SavedModel, path: str | os.PathLike[str]) -> Path:
    """Write the file; `InputError` when it cannot be written."""
    from hqc import __version__

    check_file_target(path)
    contents = {
        "format": FORMAT,
        "version": __version__,
        "scaled": print_graph(model.scaled),
        "integer": print_graph(model.integer),
        "input_names": model.input_names,
        "inputs": model.inputs,
        "outputs": model.outputs,
        "remarks": [asdict(remark) for remark in model.remarks],
        "preprocessing": {name: asdict(each) for name, each in model.preprocessing.items()},
    }
    arrays = {**sidecar_arrays(model.scaled), **sidecar_arrays(model.integer)}
    for number, sample in enumerate(model.samples):
        arrays.update({f"sample/{number}/{name}": array for name, array in sample.items()})
    arrays.update({f"form/{name}": np.frombuffer(form, np.uint8) for name, form in model.forms.items()})
    from safetensors.numpy import save

    tensors = {key: np.ascontiguousarray(array).reshape(array.shape) for key, array in sorted(arrays.items())}
    # One entry: the library writes several in an order of its own, and equal models have equal files.
    return write_file(path, save(tensors, {"hqc": json.dumps(contents)}))


def encoded(structure: Any) -> Any:
    """A structure as JSON: what JSON has no form for is an object with one key that says what it is. `InputError` for what has none."""
    if isinstance(structure, TensorRef):
        return {"tensor": structure.index}
    if is_dataclass(structure) and not isinstance(structure, type):
        items = {each.name: getattr(structure, each.name) for each in fields(structure)}
        return {"named": [type(structure).__name__, list(items), [encoded(item) for item in items.values()]]}
    if isinstance(structure, tuple) and hasattr(structure, "_fields"):
        return {"named": [type(structure).__name__, list(structure._fields), [encoded(item) for item in structure]]}
    if isinstance(structure, tuple):
        return {"tuple": [encoded(item) for item in structure]}
    if isinstance(structure, list):
        return [encoded(item) for item in structure]
    if isinstance(structure, Mapping):
        return {"dict": [[encoded(key), encoded(item)] for key, item in structure.items()]}
    if structure is None or isinstance(structure, (bool, int, float, str)):
        return structure
    raise InputError(
        f"the model takes or returns a {type(structure).__name__}, which a saved model cannot hold; only tensors, numbers, texts and "
        "None, in tuples, lists, dicts and dataclasses, can be saved"
    )


# --- reading ------------------------------------------------------------------------------------------------------------------


def read_model(path: str | os.PathLike[str]) -> SavedModel:
    """The contents of the file, checked: graphs obey the rules of their stages, arrays are those that the texts name.

    `InputError` in one sentence for what is no such file or damaged.
    """
    path = path_text(path)
    metadata, tensors = _read(path)
    try:
        contents = json.loads(metadata["hqc"])
        form = str(contents["format"])
    except (KeyError, ValueError, TypeError, RecursionError):
        raise InputError(f"{path} is no model of Compiled.save, which hqc.load reads (IR text: hqc.ir.load)") from None
    if form != FORMAT:
        raise InputError(f"{path} has the form {form[:40]!r}, which this version of hqc does not know; it knows {FORMAT}")
    try:
        scaled, integer = (_graph(contents[key], tensors, key) for key in ("scaled", "integer"))
        model = SavedModel(
            scaled,
            integer,
            inputs=contents["inputs"],
            input_names=tuple(map(str, contents["input_names"])),
            outputs=contents["outputs"],
            samples=_samples(tensors, scaled),
            remarks=[Remark(**remark) for remark in contents["remarks"]],
            preprocessing={str(key): Preprocessing(**each) for key, each in contents.get("preprocessing", {}).items()},
            forms={key.removeprefix("form/"): array.tobytes() for key, array in tensors.items() if key.startswith("form/")},
        )
        if not isinstance(decoded(model.inputs, len(scaled.inputs)), tuple):
            raise ValueError("its inputs are no tuple")
        decoded(model.outputs, len(scaled.outputs))
        _check_forms(model)
        return model
    except HqcError as error:
        raise InputError(f"{path} is damaged: {error}") from None
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} is damaged: {type(error).__name__} {error}") from None


def _read(path: str) -> tuple[Mapping[str, str], dict[str, Array]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            return metadata, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a mapping)
    except (
        OSError,
        SafetensorError,
        TypeError,
        ValueError,
        AttributeError,
    ) as error:  # TypeError and the like: dtypes NumPy lacks
        raise InputError(f"cannot read {path}: {error}") from None


def _graph(text: str, tensors: Mapping[str, Array], what: str) -> Graph:
    graph = parse(text, parameters=tensors, file=f"<{what}>")
    if graph.stage != what:
        raise ValueError(f"its {what} graph is in the stage {graph.stage}")
    verify(graph)
    return graph


def _samples(tensors: Mapping[str, Array], graph: Graph) -> list[dict[str, Array]]:
    samples: dict[int, dict[str, Array]] = {}
    types = {value.name: value.type for value in graph.inputs}
    for key, array in tensors.items():
        if key.startswith("sample/"):
            number, _, name = key.removeprefix("sample/").partition("/")
            if array.shape != types[name].shape or array.dtype != types[name].dtype.numpy:
                raise ValueError(f"sample {number} of {name} is {array.dtype}{list(array.shape)}")
            samples.setdefault(int(number), {})[name] = array
    return [sample for _, sample in sorted(samples.items()) if sample.keys() == types.keys()]


def decoded(structure: Any, count: int, depth: int = 0) -> Any:
    """The structure that `encoded` wrote; named tuples and dataclasses become named tuples of the same fields."""
    if depth > _DEPTH:
        raise ValueError("a structure is nested too deeply")
    inner: Callable[[Any], Any] = lambda item: decoded(item, count, depth + 1)  # noqa: E731
    if isinstance(structure, list):
        return [inner(item) for item in structure]
    if not isinstance(structure, dict):
        return structure
    ((kind, items),) = structure.items()
    if kind == "tensor":
        if not isinstance(items, int) or not 0 <= items < count:
            raise ValueError(f"there is no tensor {items!r}")
        return TensorRef(items)
    if kind == "tuple":
        return tuple(inner(item) for item in items)
    if kind == "dict":
        return {inner(key): inner(item) for key, item in items}
    if kind == "named":
        name, names, values = items
        if not all(_FIELD.match(each) for each in (name, *names)):
            raise ValueError(f"{name!r} is no name of a type with named fields")
        return named(name, names, [inner(item) for item in values])
    raise ValueError(f"{kind!r} is no structure")


def named(name: str, names: Sequence[str], values: Sequence[Any]) -> Any:
    """A named tuple of a type made here; copies and pickles make their own."""
    base = namedtuple(name, names)  # type: ignore[misc]
    reduce = lambda self: (named, (name, list(self._fields), list(self)))  # noqa: E731
    return type(name, (base,), {"__slots__": (), "__reduce__": reduce})(*values)


# --- opaque operations ----------------------------------------------------------------------------------------------------------


class StoredForm:
    """An opaque operation as its ONNX sub-graph: onnxruntime runs it, for operands of the types it was written for."""

    def __init__(self, node: Node, form: bytes) -> None:
        self._form = form
        self._key = _types(node)

    def form(self, node: Node) -> Any:
        """The sub-graph; `ExportError` for operands of other types, such as another batch size."""
        import onnx

        from hqc.backends.onnx.opaque import refusal

        if _types(node) != self._key:
            raise refusal(node, "the saved model holds it for the batch size it was compiled for")
        return onnx.load_model_from_string(self._form)

    def __call__(self, *arrays: Array) -> Any:
        import onnx

        from hqc.backends.onnx.verify import run_model

        model = onnx.load_model_from_string(self._form)
        feeds = {info.name: array for info, array in zip(model.graph.input, arrays, strict=True)}
        found = tuple(run_model(model, feeds).values())
        return found if len(found) > 1 else found[0]


def _types(node: Node) -> tuple[Any, ...]:
    return tuple((value.type, value.is_parameter) for value in node.operands)


def opaque_nodes(graph: Graph) -> list[Node]:
    """The operations that the IR does not look into."""
    return [node for node in graph.nodes if node.op.has(Trait.OPAQUE)]


def stored_forms(model: SavedModel) -> dict[str, StoredForm]:
    """The forms as callables by the id of their operation, as the back ends take them."""
    return {str(node.attributes["id"]): StoredForm(node, model.forms[node.name]) for node in opaque_nodes(model.scaled)}


def _check_forms(model: SavedModel) -> None:
    """Every opaque operation has a form, and no form reaches outside the file."""
    import onnx

    for node in (*opaque_nodes(model.scaled), *opaque_nodes(model.integer)):
        if node.name not in model.forms:
            raise ValueError(f"the form of {node.name} is missing")
    for name, form in model.forms.items():
        try:
            loaded = onnx.load_model_from_string(form)
        except Exception as error:  # protobuf's errors have no common base
            raise ValueError(f"the form of {name} is no ONNX model ({error})") from None
        tensors = list(loaded.graph.initializer)
        tensors += [attribute.t for node in loaded.graph.node for attribute in node.attribute if attribute.HasField("t")]
        if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in tensors):
            raise ValueError(f"the form of {name} refers to another file")
        if any(attribute.HasField("g") or attribute.graphs for node in loaded.graph.node for attribute in node.attribute):
            raise ValueError(f"the form of {name} has control flow, which hqc never writes")
