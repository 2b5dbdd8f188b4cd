"""Pictures in files: decoding, size, and raw pixels as a camera writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hqc.data.colors import Image
from hqc.data.inputs import InputSpec
from hqc.data.preprocessing import Preprocessing
from hqc.errors import InputError

Array = npt.NDArray[Any]
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff", ".gif")
RAW_FORMATS = {".nv12": "nv12", ".yuv": "nv12", ".yuv444": "yuv444"}
"""Suffixes that say what the board is given."""


def picture_sample(path: Path, spec: InputSpec, preprocessing: Preprocessing) -> Array:
    """One picture as one sample of the input: sized, converted, less the mean, times the scale, in the model's layout."""
    height, width = image_size(spec, path)
    rgb = read_rgb(path)
    return finish(preprocessing.from_rgb(resized(rgb, height, width, preprocessing, path)), spec, preprocessing)


def raw_sample(pixels: Array, spec: InputSpec, preprocessing: Preprocessing, where: str) -> Array:
    """Raw pixels as the board is given them (uint8: nv12 flat, else `[H,W,C]` or `[C,H,W]`) as one sample of the input."""
    height, width = image_size(spec, where)
    if preprocessing.runtime == "nv12":
        shaped = pixels.reshape(height * 3 // 2, width)
    else:
        channels = 1 if preprocessing.runtime == "gray" else 3
        planar = preprocessing.layout == "NCHW"
        shaped = pixels.reshape((channels, height, width) if planar else (height, width, channels))
        shaped = shaped.transpose(1, 2, 0) if planar else shaped
    return finish(preprocessing.from_runtime(shaped), spec, preprocessing)


def raw_bytes(spec: InputSpec, preprocessing: Preprocessing, where: str) -> int:
    """Bytes of one raw picture as the board is given it."""
    height, width = image_size(spec, where)
    per_pixel = {"nv12": 1.5, "gray": 1}.get(preprocessing.runtime, 3)
    return int(height * width * per_pixel)


def finish(pixels: Image, spec: InputSpec, preprocessing: Preprocessing) -> Array:
    """`[H,W,C]` pixels -> one sample of the input: normalized, in its layout and dtype."""
    values = pixels if spec.dtype.kind in "iu" else preprocessing.normalize(pixels, 2)
    if spec.channel_axis == 0:
        values = values.transpose(2, 0, 1)
    return np.ascontiguousarray(values, dtype=spec.dtype)


def image_size(spec: InputSpec, where: Path | str) -> tuple[int, int]:
    """Height and width that the input takes; `InputError` where it takes no pictures."""
    size = spec.image_size
    if size is None:
        shape = list(spec.sample_shape)
        raise InputError(f"{where} is a picture; input {spec.name} takes {shape} per sample, not 1 or 3 channels of pixels")
    height, width = size
    if height is None or width is None:
        raise InputError(f"{where} is a picture, and input {spec.name} leaves its height and width open; give --input")
    return height, width


def read_rgb(path: Path) -> Image:
    """`[H,W,3]` uint8. `InputError` where the file is no picture, or Pillow is not there."""
    try:
        from PIL import Image as Pillow
    except ImportError:
        raise InputError(
            f"reading pictures such as {path} needs Pillow; install it with: pip install pillow (arrays in .npy files need nothing)"
        ) from None
    try:
        with Pillow.open(path) as opened:
            return np.asarray(opened.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Pillow.DecompressionBombError) as error:
        raise InputError(f"{path} cannot be read as a picture: {' '.join(str(error).split())}") from error


def resized(rgb: Image, height: int, width: int, preprocessing: Preprocessing, where: Path) -> Image:
    """The picture in the model's size, in the way that `preprocessing.resize` names; bilinear."""
    from PIL import Image as Pillow

    way, number = preprocessing.resize_plan
    given = rgb.shape[:2]
    if given == (height, width) and not (way == "crop" and number):
        return rgb
    if way == "none":
        raise InputError(
            f"{where} has {given[0]}x{given[1]} pixels, the model takes {height}x{width}; --resize says how to fit it"
        )
    picture = Pillow.fromarray(rgb)
    if way == "stretch":
        return np.asarray(picture.resize((width, height), Pillow.Resampling.BILINEAR))
    if way == "letterbox":
        factor = min(height / given[0], width / given[1])
        inner = max(1, round(given[1] * factor)), max(1, round(given[0] * factor))
        canvas = Pillow.new("RGB", (width, height), (number, number, number))
        left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
        canvas.paste(picture.resize(inner, Pillow.Resampling.BILINEAR), (left, top))
        return np.asarray(canvas)
    factor = max(height / given[0], width / given[1]) if not number else number / min(given)
    inner = max(width, round(given[1] * factor)), max(height, round(given[0] * factor))
    if number and number < max(height, width) and (round(given[1] * factor) < width or round(given[0] * factor) < height):
        raise InputError(f"--resize {number} makes {where} smaller than the {height}x{width} that the model takes")
    left, top = round((inner[0] - width) / 2), round((inner[1] - height) / 2)
    sized = picture.resize(inner, Pillow.Resampling.BILINEAR)
    return np.asarray(sized.crop((left, top, left + width, top + height)))
