"""Arrays in files: .npy, .npz, raw .bin, .pt, .safetensors. Nothing that a file holds is ever executed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hqc.array_files import ONLY, read_numpy
from hqc.data.inputs import InputSpec
from hqc.errors import InputError

Array = npt.NDArray[Any]

RAW = (".bin", ".raw", ".rgb", ".bgr", ".gray", ".yuv", ".yuv444", ".nv12", ".rgbp", ".bgrp")
CONTAINERS = (".npz", ".pt", ".pth", ".safetensors")
SUFFIXES = (".npy", *CONTAINERS, *RAW)


def read_arrays(
    path: Path, *, shape: Sequence[int] | None = None, dtype: str | None = None, spec: InputSpec
) -> dict[str, Array]:
    """The arrays of a file by name; a file of one has it under `ONLY`.

    `shape` and `dtype` say what a raw file holds (its samples lie one after the other); without them it is what `spec`, the input
    that it is for, takes. `InputError` for what cannot be read.
    """
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    kind = path.suffix.lower()
    if kind in RAW:
        return {ONLY: _read_raw(path, shape, dtype, spec)}
    if kind in (".pt", ".pth"):
        return _read_torch(path)
    if kind == ".safetensors":
        return _read_safetensors(path)
    return read_numpy(path)


def _read_raw(path: Path, shape: Sequence[int] | None, dtype: str | None, spec: InputSpec) -> Array:
    kind = spec.dtype if dtype is None else raw_dtype(dtype)
    sizes = list(spec.sample_shape if shape is None else shape)
    if None in sizes:
        raise InputError(f"{path} is raw data and input {spec.name} leaves sizes open; give --shape")
    one = int(np.prod([int(size or 0) for size in sizes])) * kind.itemsize
    data = path.read_bytes()
    if not data or len(data) % one:
        raise InputError(
            f"{path} has {len(data):,} bytes, which is not a whole number of samples of {one:,} bytes ({kind} {sizes}); "
            "--shape and --dtype say what it holds"
        )
    return np.frombuffer(data, kind).reshape(-1, *(int(size or 0) for size in sizes))


def raw_dtype(text: str) -> np.dtype[Any]:
    """A NumPy dtype by its name; `InputError` for anything but numbers."""
    try:
        found = np.dtype(text)
    except TypeError:
        found = np.dtype(object)
    if found.kind not in "fiub":
        raise InputError(f"dtype is the name of a NumPy dtype, such as uint8 or float32, got {text}")
    return found


def _read_torch(path: Path) -> dict[str, Array]:
    """Tensors of a file of `torch.save`: one, a dict, or a list (named by position)."""
    try:
        import torch
    except ImportError:
        raise InputError(f"{path} is a file of torch, which is not installed; save the data as .npz instead") from None
    try:
        held: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # for a file that is none, torch's reader raises whatever its bytes lead to
        raise InputError(f"{path} cannot be read as tensors: {' '.join(str(error).split())[:200]}") from error
    if isinstance(held, torch.Tensor):
        return {ONLY: as_array(held, str(path))}
    named = held if isinstance(held, Mapping) else dict(enumerate(held)) if isinstance(held, (list, tuple)) else {}
    if not named or not all(isinstance(value, torch.Tensor) for value in named.values()):
        raise InputError(f"{path} holds a {type(held).__name__}, not a tensor or a dict or list of tensors")
    return {str(name): as_array(value, f"{path}: {name}") for name, value in named.items()}


def _read_safetensors(path: Path) -> dict[str, Array]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return dict(load_file(path))
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise InputError(f"{path} cannot be read as .safetensors: {' '.join(str(error).split())}") from error


def as_array(value: Any, where: str) -> Array:
    """A tensor (bfloat16 as float32), array or nested list of numbers as an array; `InputError` begins with `where`."""
    try:
        if hasattr(value, "detach"):
            value = value.detach().cpu()
            return np.asarray((value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy())
        return np.asarray(value)
    except ValueError:  # rows of different lengths
        return np.asarray(value, dtype=object)
    except (TypeError, RuntimeError) as error:  # float8, sparse, quantized, nested, on the meta device, and lists of such
        raise InputError(f"{where} cannot become an array of numbers: {' '.join(str(error).split())[:200]}") from error
