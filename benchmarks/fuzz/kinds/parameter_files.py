"""`.safetensors` files: sidecars of IR text, and saved models."""

from __future__ import annotations

import json
import random
import tempfile
from functools import cache
from pathlib import Path

import hqc
from benchmarks.fuzz.cases import Attempt, kind
from benchmarks.fuzz.material import compiled, image, mutate_bytes, odd_text

_DTYPES = ("F32", "F64", "F16", "BF16", "F8_E4M3", "F8_E5M2", "I8", "U8", "I64", "U64", "BOOL", "C64", "F4", "x", 3, None)
_SIZES = (0, 1, 4, -1, 1 << 40, 1 << 63, 1.5, "4", None)


@cache
def _files() -> tuple[bytes, bytes, str]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        hqc.ir.save(compiled().integer_graph, folder / "net.hqc")
        saved = compiled().save(folder / "saved.safetensors").read_bytes()
        return saved, (folder / "net.safetensors").read_bytes(), (folder / "net.hqc").read_text()


@kind("parameter-file")
def make(generator: random.Random, folder: Path) -> Attempt:
    """A damaged sidecar beside its text, or a damaged saved model, loaded and run."""
    saved, sidecar, text = _files()
    data = saved if generator.random() < 0.6 else sidecar
    data = mutate_bytes(generator, data, head=600) if generator.random() < 0.4 else _reheaded(generator, data)
    path = folder / "net.safetensors"
    path.write_bytes(data)
    (folder / "net.hqc").write_text(text)

    def attempt() -> object:
        hqc.ir.load(folder / "net.hqc") if generator.random() < 0.4 else None
        return hqc.load(path).simulate(image())

    return attempt


def _reheaded(generator: random.Random, data: bytes) -> bytes:
    """The file with another header: dtypes, shapes, offsets, metadata."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    for _ in range(generator.choice((1, 1, 2, 3))):
        name = generator.choice(list(header))
        entry = header[name]
        match generator.randrange(6):
            case 0 if "dtype" in entry:
                entry["dtype"] = generator.choice(_DTYPES)
            case 1 if "shape" in entry:
                entry["shape"] = [generator.choice(_SIZES) for _ in range(generator.randrange(5))]
            case 2 if "data_offsets" in entry:
                entry["data_offsets"] = [generator.choice((0, 8, 1 << 50, -1)), generator.choice((0, 4, 16, 1 << 60))]
            case 3:
                header[odd_text(generator).encode("utf-8", "replace").decode()] = header.pop(name)
            case 4 if "hqc" in entry:
                entry["hqc"] = _recontents(generator, entry["hqc"])
            case _:
                header[name] = generator.choice((None, 3, [], {}, "x", {"dtype": "F32", "shape": [], "data_offsets": [0, 0]}))
                break
    text = json.dumps(header).encode()
    return generator.choice((len(text), len(text), len(text), 1 << 60)).to_bytes(8, "little") + text + data[8 + length :]


def _recontents(generator: random.Random, text: str) -> str:
    contents = json.loads(text)
    key = generator.choice(list(contents))
    odd = (
        None,
        3,
        "",
        [],
        {},
        {"tensor": 9},
        {"tuple": 3},
        {"named": ["class", ["a"], [1]]},
        {"named": 4},
        {"dict": [[{}, 1]]},
        [[]] * 9,
    )
    contents[key] = generator.choice(odd)
    if key in ("scaled", "integer") and generator.random() < 0.8:
        original = json.loads(text)[key]
        contents[key] = mutate_bytes(generator, original.encode()).decode("utf-8", "replace")
    return json.dumps(contents)
