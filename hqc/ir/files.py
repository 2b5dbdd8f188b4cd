"""IR text files and their parameter sidecars."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy.typing as npt

from hqc.checked import checked
from hqc.errors import InputError
from hqc.files import check_file_target, exclusive, path_text, read_text, settle, write_file
from hqc.ir import sidecar
from hqc.ir.graph import Graph
from hqc.ir.parser import parse
from hqc.ir.printer import print_graph


@checked
def save(graph: Graph, path: str | Path) -> None:
    """Write the text to `path` and the large parameters beside it, to `<stem>.safetensors` (only when there are any).

    Each file appears complete or not at all. Over an older pair the sidecar holds the old parameters and the new ones until the
    new text is there, so that whatever stops the program in between, the text that lies there can be read. `InputError` when a
    file cannot be written.
    """
    check_file_target(path)
    path = Path(path)
    beside = path.with_suffix(".safetensors")
    if not sidecar.sidecar_arrays(graph):
        write_file(path, print_graph(graph).encode())
        return
    with exclusive(path.resolve().parent):
        old = _older_parameters(path, beside)
        sidecar.write_sidecar([graph], beside, beside=old)
        write_file(path, print_graph(graph).encode())
        if old:
            sidecar.write_sidecar([graph], beside)


def _older_parameters(path: Path, beside: Path) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a sidecar that a text at `path` may need; none where there is no such pair."""
    if not (path.is_file() and beside.is_file()):
        return {}
    try:
        return dict(sidecar.read_sidecar(beside))
    except InputError:  # damaged: no text can read it now, so nothing is lost
        return {}


@checked
def load(path: str | Path) -> Graph:
    """Read what `save` wrote. A text without a sidecar of its own uses `parameters.safetensors` in its folder."""
    settle(path_text(path))
    text = read_text(path, what="IR text")
    path = Path(path)
    for candidate in (path.with_suffix(".safetensors"), path.with_name(sidecar.SHARED)):
        if candidate.is_file():
            return parse(text, parameters=sidecar.read_sidecar(candidate), file=str(path))
    return parse(text, file=str(path))
