"""Plain tables, on the terminal and in the text files that the analyses leave behind."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hqc.files import make_parent, path_text, write_file


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Columns padded to their widest cell, a dashed line under the header."""
    cells = [[_cell(each) for each in row] for row in rows]
    widths = [max(len(title), *(len(row[i]) for row in cells), 0) for i, title in enumerate(header)]
    lines = [list(header), ["-" * width for width in widths], *cells]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() + "\n" for line in lines
    )


def show(text: str, out_dir: str | os.PathLike[str] | None, name: str, *, printed: bool = True) -> None:
    """Print a text, and write it to `name` in `out_dir` (the current folder by default)."""
    if printed:
        sys.stdout.write(text)
    path = Path("." if out_dir is None else path_text(out_dir, verb="write")) / name
    make_parent(path)
    write_file(path, text.encode())


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
