"""Sets of files that were being exchanged when their writer died: the record of what was to be renamed, and who completes it.

A set (ONNX file and yaml, the dumps of a run) lies whole under temporary names before its record appears, by one rename, in the same
folder. From that moment the new set counts: whoever reads or writes the folder next finishes the renaming. Every step can be done
twice, so it does not matter who was first, nor how often the finishing itself is stopped.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RECORD = ".hqc-set"
"""One per folder: writers of a folder wait for each other."""
_TEMPORARY = re.compile(r"\..*\.tmp")


def record(renames: Sequence[tuple[Path, Path]], obsolete: Sequence[Path]) -> bytes | None:
    """The contents of a record; None for what a record cannot say: more than one folder, or files to remove that are not of the set."""
    if len({path.parent for path in (*obsolete, *(new for _, new in renames))}) != 1:
        return None
    names = [[old.name, new.name] for old, new in renames]
    removes = [path.name for path in obsolete]
    return json.dumps({"rename": names, "remove": removes}).encode() if _is_set(names, removes) else None


def recorded(temporary: Path) -> bool:
    """True where a record still promises this temporary file."""
    return any(name == temporary.name for name, _ in _read(temporary.parent)["rename"])


def complete(folder: Path) -> None:
    """Finish the exchange that a record in `folder` promises; nothing where there is none, or one that promises anything else.

    Raises `OSError` where the system refuses; the record stays then.
    """
    path = folder / RECORD
    if not path.exists():
        return
    promised = _read(folder)
    done = {new for old, new in promised["rename"] if not (folder / old).exists()}
    for name in promised["remove"]:
        if name not in done:  # else it is the new file
            (folder / name).unlink(missing_ok=True)
    for old, new in promised["rename"]:
        with contextlib.suppress(FileNotFoundError):  # done already
            (folder / old).replace(folder / new)
    path.unlink(missing_ok=True)


def _read(folder: Path) -> dict[str, list[Any]]:
    """What the record says, where it says nothing but what a writer of ours would.

    Only temporaries of hqc are renamed and only files of the set's own kinds are removed: a record that somebody else put into a folder
    cannot reach outside of it, nor take away what is no such file.
    """
    nothing: dict[str, list[Any]] = {"rename": [], "remove": []}
    try:
        found = json.loads((folder / RECORD).read_bytes())
        renames = [[str(old), str(new)] for old, new in found["rename"]]
        removes = [str(name) for name in found["remove"]]
    except (OSError, ValueError, TypeError, KeyError):
        return nothing
    return {"rename": renames, "remove": removes} if _is_set(renames, removes) else nothing


def _is_set(renames: list[list[str]], removes: list[str]) -> bool:
    """True where temporaries of hqc take the places of files, and what goes are these files or others of their kinds."""
    targets = [new for _, new in renames]
    plain = all(
        Path(name).name == name and "\0" not in name for name in (*removes, *targets, *(temporary for temporary, _ in renames))
    )
    kinds = {Path(new).suffix for new in targets} - {""}
    ours = all(_TEMPORARY.fullmatch(temporary) for temporary, _ in renames)
    return plain and ours and bool(renames) and all(name in targets or Path(name).suffix in kinds for name in removes)
