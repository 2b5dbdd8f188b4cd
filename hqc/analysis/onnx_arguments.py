"""ONNX files on the command line: `net.onnx`, and the shapes of its inputs. No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hqc.errors import InputError

Array = npt.NDArray[Any]


def is_onnx_file(spec: str) -> bool:
    """True for `FILE.onnx` (a `FILE.py:NAME` is something else)."""
    return Path(spec).suffix.lower() in (".onnx", ".ort")


def brings_scales(model: Any, example_inputs: Any) -> bool:
    """True for the path of a quantized ONNX file."""
    if not (isinstance(model, str) and is_onnx_file(model)):
        return False
    from hqc.frontend.onnx import is_quantized, lower_onnx
    from hqc.workflow.onnx_files import input_shapes

    return is_quantized(lower_onnx(model, input_shapes(example_inputs)).graph)


@dataclass(frozen=True)
class GivenShape:
    """One `--input`: `1,3,224,224`, `ids=1,16`, `1,16:int64`. `name` is empty where none was given."""

    name: str
    sizes: tuple[int, ...]
    dtype: str = "float32"


def given_shapes(texts: Sequence[str]) -> list[GivenShape]:
    """What `--input` says, in order; `InputError` where some have names and some have none."""
    found = [_given(text) for text in texts]
    if any(each.name for each in found) and not all(each.name for each in found):
        raise InputError("give --input NAME=SIZES for each input, or the sizes of all inputs in order")
    return found


def _given(text: str) -> GivenShape:
    name, sign, rest = text.rpartition("=")
    shown, _, dtype = rest.partition(":")
    return GivenShape(name if sign else "", tuple(sizes(shown)), dtype or "float32")


def shaped_inputs(shapes: Sequence[str]) -> Mapping[str, Array] | tuple[Array, ...] | None:
    """`--input name=1,3,224,224` or, for all inputs in order, `--input 1,3,224,224`: arrays of these shapes; None without any."""
    if not shapes:
        return None
    given = given_shapes(shapes)
    arrays = [np.broadcast_to(np.zeros((), np.float32), each.sizes) for each in given]
    return {each.name: array for each, array in zip(given, arrays, strict=True)} if given[0].name else tuple(arrays)


def sizes(text: str) -> list[int]:
    """`1,3,224,224` or `1x3x224x224` as numbers; `InputError` for anything else."""
    try:
        found = [int(part) for part in text.replace("x", ",").split(",")]
    except ValueError:
        raise InputError(f"--input takes sizes like 1,3,224,224, got {text}") from None
    if min(found) < 1:
        raise InputError(f"--input takes positive sizes, got {text}")
    return found
