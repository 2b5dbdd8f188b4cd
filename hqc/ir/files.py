"""IR text files and their parameter sidecars."""

from __future__ import annotations

from pathlib import Path

from hqc.errors import InputError
from hqc.ir import sidecar
from hqc.ir.graph import Graph
from hqc.ir.parser import parse
from hqc.ir.printer import print_graph


def save(graph: Graph, path: str | Path) -> None:
    """Write the text to `path` and the large parameters beside it, to `<stem>.safetensors` (only when there are any).

    Each file appears complete or not at all, the sidecar first. `InputError` when a file cannot be written.
    """
    path = Path(path)
    if sidecar.sidecar_arrays(graph):
        sidecar.write_sidecar([graph], path.with_suffix(".safetensors"))
    sidecar.replace_file(path, print_graph(graph).encode())


def load(path: str | Path) -> Graph:
    """Read what `save` wrote. A text without a sidecar of its own uses `parameters.safetensors` in its folder."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read IR text from {path}: {error}") from None
    for candidate in (path.with_suffix(".safetensors"), path.with_name(sidecar.SHARED)):
        if candidate.is_file():
            return parse(text, parameters=sidecar.read_sidecar(candidate), file=str(path))
    return parse(text, file=str(path))
