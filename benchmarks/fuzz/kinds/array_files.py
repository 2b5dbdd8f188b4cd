"""`.npy` and `.npz` files: damaged, giant, of other dtypes; read as calibration data."""

from __future__ import annotations

import functools
import io
import random
import struct
import zipfile
from pathlib import Path

import numpy as np

from benchmarks.fuzz.cases import Attempt, kind
from benchmarks.fuzz.material import compiled, mutate_bytes, odd_tensor
from hqc.data import load_samples

_DESCR = (
    "<f4",
    ">f4",
    "<f8",
    "|b1",
    "<c8",
    "|O",
    "<M8[s]",
    "<U3",
    "|S4",
    "|V8",
    "<f2",
    "<i8",
    "|u1",
    "<f16",
    "x",
    "[('a','<f4')]",
    "<V16",
)


@kind("array-file")
def make(generator: random.Random, folder: Path) -> Attempt:
    """The file as the calibration data of a model with one image as input."""
    draw = generator.random()
    if draw < 0.35:
        name, data = "data.npy", mutate_bytes(generator, _npy(np.zeros((4, 3, 6, 6), np.float32)), head=128)
    elif draw < 0.6:
        name, data = "data.npy", _header(generator)
    elif draw < 0.85:
        name, data = "data.npz", mutate_bytes(generator, _npz(generator), head=64 if generator.random() < 0.3 else 0)
    elif draw < 0.93:
        name, data = "data.npz", _zip(generator)
    else:
        name, data = "data.npy", _npy(_array(generator))
    path = folder / name
    path.write_bytes(data)
    count = generator.choice((1, 8, 10**9, None))
    return lambda: list(load_samples(str(path), compiled().graph, samples=count).batches())


def _array(generator: random.Random) -> np.ndarray:
    while True:
        found = odd_tensor(generator)
        if isinstance(found, np.ndarray) and found.nbytes < 1 << 20 and found.dtype != object:
            return found


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _header(generator: random.Random) -> bytes:
    """A header that promises what the file does not hold."""
    shape = tuple(generator.choice((0, 1, 3, 6, -1, 10**6, 10**12, 2**62)) for _ in range(generator.randrange(6)))
    order = generator.choice(("True", "False", "2", "None"))
    text = f"{{'descr': '{generator.choice(_DESCR)}', 'fortran_order': {order}, 'shape': {shape}, }}"
    if generator.random() < 0.2:
        text = generator.choice(
            ("{}", "[" * 3000, "{'descr': '<f4'}", text * 3, "'" + "9" * 6000, "{'shape': (9" + "9" * 5000 + ",)}")
        )
    body = text.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(body) & 0xFFFF) + body + bytes(generator.choice((0, 10, 432)))


def _npz(generator: random.Random) -> bytes:
    buffer = io.BytesIO()
    arrays = {name: np.zeros((2, 3, 6, 6), np.float32) for name in generator.choice((("x",), ("x", "y"), ("class", "a/b")))}
    (np.savez_compressed if generator.random() < 0.5 else np.savez)(buffer, **arrays)
    return buffer.getvalue()


@functools.cache
def _much_from_little() -> bytes:
    """An archive of a few MiB with an array of 700 MiB."""
    buffer = io.BytesIO()
    body = b"{'descr': '|u1', 'fortran_order': False, 'shape': (350, 3, 836, 836), }\n"
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive, archive.open("x.npy", "w") as member:
        member.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(body)) + body)
        for _ in range(350):
            member.write(bytes(3 * 836 * 836))
    return buffer.getvalue()


def _zip(generator: random.Random) -> bytes:
    """Archives that NumPy never writes: much out of little, strange members."""
    if generator.random() < 0.2:
        return _much_from_little()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for _ in range(generator.choice((0, 1, 3))):
            member = generator.choice(("x.npy", "../x.npy", "x", "readme.txt", "a" * 200 + ".npy"))
            archive.writestr(member, _header(generator) if generator.random() < 0.6 else b"nothing")
    return buffer.getvalue()
