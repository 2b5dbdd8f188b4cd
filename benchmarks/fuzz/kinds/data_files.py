"""Data and weights in files of torch, safetensors, pictures and raw bytes, whole and damaged."""

from __future__ import annotations

import functools
import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import save as save_arrays

from benchmarks.fuzz.cases import Attempt, kind
from benchmarks.fuzz.material import Net, compiled, mutate_bytes, odd_tensor, odd_value
from hqc.analysis.model_files import load_checkpoint
from hqc.data import DataSpec, Preprocessing, load_samples

_PICTURES = {"png": "RGB", "jpg": "RGB", "bmp": "RGB", "gif": "P", "tif": "I;16", "webp": "RGBA", "ppm": "RGB"}
_OPTIONS: dict[str, tuple[Any, ...]] = {
    "shape": ((3, 6, 6), (3,), (0, 6, 6), (-1, 6, 6), (1 << 40,), ()),
    "dtype": ("float32", "uint8", "x", "object", "U3", "datetime64"),
    "samples": (1, 4, 0, -1, 10**12),
}
_PREPROCESSING: dict[str, tuple[Any, ...]] = {
    "mean": ((0.0,), (1.0, 2.0, 3.0), (1.0, 2.0), (float("nan"),), ()),
    "scale": ((1.0,), (0.0,), (1e300,), (1.0, 2.0)),
    "order": ("rgb", "bgr", "gray", "yuv444", "x"),
    "resize": ("bilinear", "x", ""),
    "layout": ("NCHW", "NHWC", "x"),
    "input_type_rt": ("rgb", "nv12", "gray", "x"),
}


@kind("data-file")
def make(generator: random.Random, folder: Path) -> Attempt:
    """As calibration data, or as the weights of a model."""
    if generator.random() < 0.3:
        name, data = _weights(generator)
        (folder / name).write_bytes(data)
        return lambda: load_checkpoint(Net(), str(folder / name))
    write_data(generator, folder)
    place = folder / generator.choice(("data.pt", "data.safetensors", "pictures", "picture.png", "data.bin", "data.npz"))
    options = {name: generator.choice(values) for name, values in _OPTIONS.items() if generator.random() < 0.2}
    changes = {name: generator.choice(values) for name, values in _PREPROCESSING.items() if generator.random() < 0.15}

    def attempt() -> object:
        if changes:
            options["preprocessing"] = Preprocessing(**changes)
        spec = DataSpec(str(place), **options)
        samples = load_samples(spec.place, compiled().graph, **options)
        return [batch for batch, _ in zip(samples.labelled(2), range(8), strict=False)]

    return attempt


def write_data(generator: random.Random, folder: Path) -> None:
    """One file of each kind, some damaged."""
    (folder / "data.pt").write_bytes(_damaged(generator, _torch_file(generator)))
    (folder / "data.safetensors").write_bytes(_damaged(generator, save_arrays({"x": np.zeros((2, 3, 6, 6), np.float32)})))
    (folder / "data.bin").write_bytes(bytes(generator.choice((0, 1, 107, 108, 432, 864))))
    buffer = io.BytesIO()
    np.savez(buffer, x=np.zeros((2, 3, 6, 6), np.float32), labels=np.zeros(generator.choice((0, 1, 2, 3)), np.int64))
    (folder / "data.npz").write_bytes(_damaged(generator, buffer.getvalue()))
    pictures = folder / "pictures" / generator.choice(("", "class", "中文"))
    pictures.mkdir(parents=True, exist_ok=True)
    for number in range(generator.randrange(3)):
        suffix = generator.choice(sorted(_PICTURES))
        data = _damaged(generator, _picture(suffix, generator.choice(((6, 6), (1, 1), (9, 4), (64, 1)))))
        (pictures / f"{number}.{generator.choice((suffix, suffix, suffix, 'png', 'bin', 'nv12', 'JPG', 'txt'))}").write_bytes(
            data
        )
    (folder / "picture.png").write_bytes(_damaged(generator, _picture("png", (6, 6))))


def _damaged(generator: random.Random, data: bytes) -> bytes:
    return mutate_bytes(generator, data, head=generator.choice((0, 100, 600))) if generator.random() < 0.5 else data


@functools.cache
def _picture(suffix: str, size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    mode = _PICTURES[suffix]
    Image.new(mode, size).save(buffer, {"jpg": "jpeg", "tif": "tiff"}.get(suffix, suffix))
    return buffer.getvalue()


def _torch_file(generator: random.Random) -> bytes:
    held = generator.choice((
        lambda: torch.zeros(2, 3, 6, 6), lambda: {"x": torch.zeros(2, 3, 6, 6)}, lambda: [torch.zeros(2, 3, 6, 6)],
        lambda: {"x": odd_tensor(generator)}, lambda: odd_tensor(generator), lambda: odd_value(generator), lambda: {3: {4: torch.zeros(1)}},
    ))()  # fmt: skip
    buffer = io.BytesIO()
    try:
        torch.save(held, buffer)
    except Exception:  # what torch cannot write cannot be read either
        return b"none"
    return buffer.getvalue() if buffer.tell() < 1 << 20 else b"large"


def _weights(generator: random.Random) -> tuple[str, bytes]:
    state: dict[Any, Any] = dict(Net().state_dict())
    for _ in range(generator.randrange(3)):
        key = generator.choice(list(state))
        match generator.randrange(5):
            case 0:
                state[key] = odd_tensor(generator)
            case 1:
                del state[key]
            case 2:
                state[generator.choice(("module.conv.weight", "", 3, "a\0b", "\x1b[31m"))] = torch.zeros(2)
            case 3:
                state[key] = odd_value(generator)
            case 4:
                state = {generator.choice(("state_dict", "model", "x")): state}
        if not state:
            break
    buffer = io.BytesIO()
    try:
        torch.save(state, buffer)
    except Exception:  # as above
        buffer = io.BytesIO(b"none")
    data = buffer.getvalue() if buffer.getbuffer().nbytes < 1 << 20 else b"large"
    return generator.choice(("weights.pt", "weights.ckpt", "weights.bin", "weights.safetensors", "weights")), _damaged(
        generator, data
    )
