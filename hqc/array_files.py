"""`.npy` and `.npz` files, read without believing what they say of themselves: no pickle, no allocation that the file does not back.

A header of forty bytes can promise an array of a terabyte, and a kilobyte of zip can expand to a gigabyte; NumPy allocates first.
"""

from __future__ import annotations

import io
import lzma
import math
import os
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from hqc.errors import InputError, printable

Array = npt.NDArray[Any]

ONLY = "the array"
"""Name of the array of a file that holds just one."""
EXPANSION = 100
"""How many bytes of an archive's members one byte of the archive may stand for, beyond `FREE`."""
FREE = 1 << 29
"""Bytes that a member may have however small it is packed."""

_DAMAGED = (
    OSError, ValueError, TypeError, EOFError, SyntaxError, struct.error, OverflowError, NotImplementedError, RuntimeError,
    tokenize.TokenError,
    zipfile.BadZipFile, zlib.error, lzma.LZMAError,
    KeyError, IndexError, AttributeError,
)  # fmt: skip


def read_numpy(path: str | os.PathLike[str]) -> dict[str, Array]:
    """Arrays of an `.npy` (one, called `ONLY`) or `.npz` file by name, in this machine's byte order.

    `InputError` in one sentence for what is no such file, is damaged, holds Python objects, or promises more than it has.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"there is no file {path}")
    try:
        with open(file, "rb") as opened:
            if opened.read(4)[:2] == b"PK":
                return _archive(opened)
            opened.seek(0)
            size = file.stat().st_size
            return {ONLY: _array(opened, size)}
    except InputError as error:
        raise InputError(f"{path} cannot be read as .npy or .npz: {error}") from None
    except _DAMAGED as error:
        detail = printable(" ".join(str(error).split()) or type(error).__name__)
        raise InputError(f"{path} cannot be read as .npy or .npz: {detail[:200]}") from None


def _archive(opened: IO[bytes]) -> dict[str, Array]:
    arrays = {}
    with zipfile.ZipFile(opened) as archive:
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            if info.file_size > max(FREE, EXPANSION * info.compress_size):
                raise InputError(
                    f"{printable(name)} expands from {info.compress_size:,} to {info.file_size:,} bytes, which no data of images or "
                    "sensors does; store it with numpy.savez, without compression"
                )
            with archive.open(info) as member:
                arrays[name] = _array(io.BufferedReader(member), info.file_size)
    return arrays


def _array(stream: Any, size: int) -> Array:
    """The array that `stream`, of `size` bytes, holds."""
    version = np.lib.format.read_magic(stream)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise InputError(f"its format has version {version[0]}.{version[1]}; known: 1.0 and 2.0")
    shape, fortran, dtype = read(stream)
    if dtype.hasobject:
        raise InputError("it holds Python objects, or is no NumPy file")
    if any(not isinstance(each, int) or each < 0 for each in shape):
        raise InputError(f"its shape is {shape}")
    length = math.prod(shape) * dtype.itemsize
    if length > size:
        raise InputError(f"it holds {size:,} bytes, and its header promises {length:,} ({dtype}{list(shape)})")
    data = np.empty(length, np.uint8)  # at most as large as the file
    if stream.readinto(data) != length:
        raise InputError("it ends in the middle of its array")
    stream.read(1)  # of an archive's member this is where its checksum is compared
    array = data.view(dtype).reshape(shape[::-1] if fortran else shape)
    return native(array.T if fortran else array)


def native(array: Array) -> Array:
    """The same numbers in this machine's byte order and in a dtype that other libraries know (extended precision as float64)."""
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        return array.astype(np.float64)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
