"""What happens to a picture before the model: order of the channels, camera format, size, mean and scale.

The same object prepares calibration data and is written into the yaml for hb_mapper, so the board does what calibration did.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from hqc.checked import numeric, whole_number
from hqc.data.colors import Image, nv12_to_yuv444, rgb_to_gray, rgb_to_yuv444, yuv444_to_nv12, yuv444_to_rgb
from hqc.data.inputs import InputSpec
from hqc.errors import InputError

Array = npt.NDArray[Any]
TrainType = Literal["rgb", "bgr", "gray", "yuv444"]
RuntimeType = Literal["rgb", "bgr", "gray", "yuv444", "nv12"]
Layout = Literal["NCHW", "NHWC"]
RESIZES = ("stretch", "crop", "letterbox", "none")


@numeric
@dataclass(frozen=True)
class Preprocessing:
    """The model sees `(pixel - mean) / std`, or `(pixel - mean) * scale`, per channel; pixels run from 0 to `value_range`.

    `mean`, `std`, `scale`: one number or one per channel, in the order of the model's channels. `value_range`: 255, or 1 for models
    trained on pixels from 0 to 1; None: 1 where `std` and `mean` are all at most 1, as torchvision has them, else 255.
    `order`: what the model was trained on (hb_mapper's `input_type_train`): rgb, bgr, gray or yuv444. `input_type_rt`: what the
    board is given: one of these or nv12; None: the same. Pictures pass through that format on their way, so calibration sees its
    losses. `video_range`: YUV in 16..235 (`bt601_video`) rather than 0..255. `resize`: `stretch`; `crop`: the shorter side fits, the
    middle is cut out; a number such as `256`: the shorter side becomes that first; `letterbox`, `letterbox:114`: the longer side fits,
    the rest is filled with that grey; `none`: pictures must have the model's size. `layout`: of arrays in files, NCHW or NHWC; None: the
    model's. Errors: `InputError`.
    """

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    value_range: float | None = None
    order: TrainType = "rgb"
    input_type_rt: RuntimeType | None = None
    video_range: bool = False
    resize: str = "stretch"
    layout: Layout | None = None

    def __post_init__(self) -> None:
        for name in ("mean", "std", "scale"):
            object.__setattr__(self, name, _numbers(getattr(self, name), name))
        if self.std and self.scale:
            raise InputError("give std (pixels are divided by it) or scale (they are multiplied by it), not both")
        if any(value == 0 for value in (*self.std, *self.scale)):
            raise InputError(f"{'std' if self.std else 'scale'} must not be zero")
        if self.value_range is not None and self.value_range not in (1, 255):
            raise InputError(f"value_range is 1 or 255, got {self.value_range!r}")
        for name, allowed in (("order", TrainType), ("input_type_rt", RuntimeType), ("layout", Layout)):
            value, known = getattr(self, name), get_args(allowed)
            if value not in known and not (value is None and name != "order"):
                raise InputError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        if "gray" in (self.order, self.runtime) and self.order != self.runtime:
            raise InputError(f"a model of {self.order} pictures cannot be given {self.runtime} ones on the board")
        self.resize_plan  # noqa: B018  raises for what it cannot read

    @property
    def runtime(self) -> RuntimeType:
        """What the board is given."""
        return self.input_type_rt or self.order

    @property
    def channels(self) -> int:
        """Of the model's input."""
        return 1 if self.order == "gray" else 3

    @cached_property
    def resize_plan(self) -> tuple[str, int]:
        """The way (stretch, crop, letterbox, none) and its number: the shorter side before a crop (0: it fits), the fill of a letterbox."""
        way, _, number = self.resize.partition(":")
        if not number and (shorter := whole_number(way)):
            return "crop", shorter
        grey = whole_number(number) if number else 114
        if way not in RESIZES or (number and way != "letterbox") or grey is None or grey > 255:
            raise InputError(
                f"resize is {', '.join(RESIZES)}, letterbox:GREY or the length of the shorter side, got {self.resize}"
            )
        return way, grey if way == "letterbox" else 0

    @property
    def pixel_range(self) -> float:
        """Largest value of a pixel before mean and scale."""
        if self.value_range is not None:
            return self.value_range
        return 1.0 if self.std and max(map(abs, (*self.std, *self.mean))) <= 1 else 255.0

    @property
    def pixel_mean(self) -> tuple[float, ...]:
        """The mean for pixels from 0 to 255, as hb_mapper's `mean_value`; empty for none."""
        return tuple(value * 255.0 / self.pixel_range for value in self.mean) if any(self.mean) else ()

    @property
    def pixel_scale(self) -> tuple[float, ...]:
        """The factor for pixels from 0 to 255, as hb_mapper's `scale_value`; empty for none."""
        factors = self.scale or tuple(1.0 / value for value in self.std) or (1.0,)
        found = tuple(value * self.pixel_range / 255.0 for value in factors)
        return () if all(value == 1.0 for value in found) else found

    @property
    def norm_type(self) -> str:
        """hb_mapper's word for what mean and scale there are."""
        return {
            (False, False): "no_preprocess",
            (True, False): "data_mean",
            (False, True): "data_scale",
            (True, True): "data_mean_and_scale",
        }[bool(self.pixel_mean), bool(self.pixel_scale)]

    def per_channel(self, values: Sequence[float], channels: int | None = None) -> list[float]:
        """One value a channel; `InputError` where there are neither one nor as many."""
        count = channels or self.channels
        if len(values) not in (1, count):
            raise InputError(f"{len(values)} values of mean, std or scale do not fit {count} channel{'s'[: count != 1]}")
        return list(values) * (count // len(values))

    def normalize(self, values: Array, channel_axis: int) -> Array:
        """`values` (pixels from 0 to 255) as float32, less the mean, times the scale."""
        found = values.astype(np.float32)
        shape = [1] * found.ndim
        shape[channel_axis] = -1
        for numbers, apply in ((self.pixel_mean, np.subtract), (self.pixel_scale, np.multiply)):
            if numbers:
                each = np.array(self.per_channel(numbers, found.shape[channel_axis]), np.float32).reshape(shape)
                found = apply(found, each)
        return found

    def from_rgb(self, rgb: Image) -> Image:
        """`[H,W,3]` RGB of the model's size -> `[H,W,C]` as the model was trained, through the board's format."""
        return self.from_runtime(self._to_runtime(rgb))

    def from_runtime(self, pixels: Image) -> Image:
        """What the board is given (`[H,W,C]`, or `[H*3/2,W]` of nv12) -> `[H,W,C]` as the model was trained."""
        runtime = self.runtime
        if runtime == "nv12":
            pixels, runtime = nv12_to_yuv444(pixels), "yuv444"
        if runtime == self.order:
            return pixels
        if runtime == "yuv444":
            rgb = yuv444_to_rgb(pixels, video=self.video_range)
        else:
            rgb = pixels[..., ::-1] if runtime == "bgr" else pixels
        return self._convert(rgb, self.order)

    def _to_runtime(self, rgb: Image) -> Image:
        if self.runtime != "nv12":
            return self._convert(rgb, self.runtime)
        if rgb.shape[0] % 2 or rgb.shape[1] % 2:
            raise InputError(f"nv12 needs an even height and width, the model takes {rgb.shape[0]}x{rgb.shape[1]}")
        return yuv444_to_nv12(rgb_to_yuv444(rgb, video=self.video_range))

    def _convert(self, rgb: Image, kind: str) -> Image:
        if kind == "yuv444":
            return rgb_to_yuv444(rgb, video=self.video_range)
        if kind == "gray":
            return rgb_to_gray(rgb)
        return rgb[..., ::-1] if kind == "bgr" else rgb

    def for_input(self, spec: InputSpec) -> Preprocessing:
        """The same for this input: one channel takes grey pictures where the user named no order. `InputError` where it cannot be."""
        axis = spec.channel_axis
        channels = None if axis is None else spec.sample_shape[axis]
        if channels is None or channels == self.channels:
            return self
        if channels == 1 and self.order == "rgb" and self.input_type_rt is None:
            return replace(self, order="gray")
        raise InputError(
            f"input {spec.name} takes {channels} channel{'s'[: channels != 1]}, {self.order} pictures have {self.channels}"
        )

    def __str__(self) -> str:
        """In words, for what is printed beside the results."""
        colours = self.order.upper() + ("" if self.runtime == self.order else f" by way of {self.runtime}")
        if self.norm_type == "no_preprocess":
            return f"{colours}, pixels from 0 to 255 as they are"
        value = f"(pixel - {_shown(self.pixel_mean)})" if self.pixel_mean else "pixel"
        value = f"{value} * {_shown(self.pixel_scale)}" if self.pixel_scale else value
        return f"{colours}, {value} of pixels from 0 to 255"


def _numbers(given: Any, name: str) -> tuple[float, ...]:
    """One number or several, as a tuple of finite ones."""
    values = (given,) if isinstance(given, (int, float)) else tuple(given or ())
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise InputError(f"{name} must be numbers such as 0.485, got {value!r}")
    return tuple(map(float, values))


def _shown(values: Sequence[float]) -> str:
    texts = [f"{value:.6g}" for value in values]
    return texts[0] if len(set(texts)) == 1 else f"[{', '.join(texts)}]"
