"""Parameter bytes: what prints inline, what prints as a content hash, and the `.safetensors` file that holds the bytes."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hqc.errors import InputError
from hqc.files import write_file
from hqc.ir.graph import Graph
from hqc.ir.lexer import quote_name
from hqc.ir.types import DType, QuantParams

INLINE_LIMIT = 64  # elements of a parameter that still print inline
SCALE_LIMIT = 4  # entries of a per-channel scale that still print where it is used
SHARED = "parameters.safetensors"  # sidecar that all dumps in one folder may share
_DIGITS = 32  # of the hash: 128 bits tell any two parameters apart

_hashes: dict[int, tuple[weakref.ref[npt.NDArray[Any]], str]] = {}


def content_hash(array: npt.NDArray[Any]) -> str:
    """`sha256:...` of dtype, shape and bytes. Remembered per array: parameters are never written after they are added."""
    known = _hashes.get(id(array))
    if known is not None and known[0]() is array:
        return known[1]
    digest = hashlib.sha256(f"{DType.from_numpy(array.dtype).value}{list(array.shape)}".encode())
    digest.update(np.ascontiguousarray(array).data)
    text = f"sha256:{digest.hexdigest()[:_DIGITS]}"
    key = id(array)
    _hashes[key] = (weakref.ref(array, lambda _: _hashes.pop(key, None)), text)
    return text


def prints_inline(array: npt.NDArray[Any]) -> bool:
    """True for small arrays whose bits survive decimal text (a NaN with a payload does not)."""
    if array.size > INLINE_LIMIT:
        return False
    if array.dtype.kind == "f":
        nan = np.isnan(array)
        return not nan.any() or array[nan].tobytes() == np.full(nan.sum(), np.nan, array.dtype).tobytes()
    return True


class ScaleTable:
    """Names for the per-channel scales of a graph that are too long to print where they are used.

    A scale takes the name of the first value that has it, with `.scale` behind; equal scales share one name.
    """

    def __init__(self, graph: Graph) -> None:
        self._taken = graph.values.keys()
        self.scales: dict[str, npt.NDArray[np.float32]] = {}
        self._names: dict[bytes, str] = {}
        for value in graph.inputs:
            self._add(value.name, value.quant)
        for name, value in graph.parameters.items():
            self._add(name, value.quant)
        for node in graph.nodes:
            for value in node.results:
                self._add(value.name, value.quant)

    def _add(self, owner: str, quant: QuantParams | None) -> None:
        if quant is None or quant.scale.size <= SCALE_LIMIT:
            return
        key = quant.scale.tobytes()
        if key in self._names:
            return
        base = name = f"{owner}.scale"
        count = 0
        while name in self._taken or name in self.scales:
            count += 1
            name = f"{base}_{count}"
        self._names[key] = name
        self.scales[name] = quant.scale

    def reference(self, quant: QuantParams) -> str:
        """`@name` of a long scale."""
        return f"@{quote_name(self._names[quant.scale.tobytes()])}"


def sidecar_arrays(graph: Graph) -> dict[str, npt.NDArray[Any]]:
    """Arrays that the graph's text names by hash, by that hash."""
    arrays = [value.array for value in graph.parameters.values() if value.array is not None]
    arrays += ScaleTable(graph).scales.values()
    return {content_hash(array): array for array in arrays if not prints_inline(array)}


def write_sidecar(graphs: Iterable[Graph], path: str | Path, *, beside: Mapping[str, npt.NDArray[Any]] | None = None) -> None:
    """Write the bytes that the text of `graphs` names by hash into one `.safetensors` file, with the arrays `beside` them."""
    write_file(path, sidecar_bytes(graphs, beside=beside))


def sidecar_bytes(graphs: Iterable[Graph], *, beside: Mapping[str, npt.NDArray[Any]] | None = None) -> bytes:
    """What `write_sidecar` writes."""
    from safetensors.numpy import save

    arrays: dict[str, npt.NDArray[Any]] = dict(beside or {})
    for graph in graphs:
        arrays.update(sidecar_arrays(graph))
    return save({key: np.ascontiguousarray(array) for key, array in sorted(arrays.items())})


def read_sidecar(path: str | Path) -> Mapping[str, npt.NDArray[Any]]:
    """Arrays by hash; `InputError` when the file is not a readable `.safetensors` file."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        arrays: dict[str, npt.NDArray[Any]] = load_file(str(path))
    except (OSError, SafetensorError, AttributeError, TypeError, ValueError) as error:  # dtypes that NumPy lacks
        raise InputError(f"cannot read parameters from {path}: {error}") from None
    return arrays
