"""ONNX files on the command line: `net.onnx`, and the shapes of its inputs. No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hqc.errors import InputError

Array = npt.NDArray[Any]


def is_onnx_file(spec: str) -> bool:
    """True for `FILE.onnx` (a `FILE.py:NAME` is something else)."""
    return Path(spec).suffix.lower() in (".onnx", ".ort")


def shaped_inputs(shapes: Sequence[str]) -> Mapping[str, Array] | tuple[Array, ...] | None:
    """`--input name=1,3,224,224` or, for all inputs in order, `--input 1,3,224,224`: arrays of these shapes; None without any."""
    if not shapes:
        return None
    named = [text.partition("=") for text in shapes]
    if all(sign for _, sign, _ in named):
        return {name: _zeros(text) for name, _, text in named}
    if any(sign for _, sign, _ in named):
        raise InputError("give --input NAME=SIZES for each input, or the sizes of all inputs in order")
    return tuple(_zeros(text) for text in shapes)


def sizes(text: str) -> list[int]:
    """`1,3,224,224` or `1x3x224x224` as numbers; `InputError` for anything else."""
    try:
        found = [int(part) for part in text.replace("x", ",").split(",")]
    except ValueError:
        raise InputError(f"--input takes sizes like 1,3,224,224, got {text}") from None
    if min(found) < 1:
        raise InputError(f"--input takes positive sizes, got {text}")
    return found


def _zeros(text: str) -> Array:
    return np.broadcast_to(np.zeros((), np.float32), sizes(text))
