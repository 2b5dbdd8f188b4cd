"""Options that say what data to use and how to read it: the same for calibration, comparison and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from hqc.checked import whole_number
from hqc.data.arrays import raw_dtype
from hqc.data.preprocessing import Preprocessing
from hqc.errors import InputError

if TYPE_CHECKING:
    from hqc.data import DataSpec

PREPROCESSING = ("mean", "std", "scale", "value_range", "order", "input_type_rt", "video_range", "resize", "layout")


class Numbers(click.ParamType):  # type: ignore[type-arg]
    """One number, or several with commas or spaces between them."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """The numbers as a tuple."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(float(part) for part in value.replace(",", " ").split())
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers such as 0.485,0.456,0.406", param, ctx)


class Sizes(click.ParamType):  # type: ignore[type-arg]
    """Sizes such as 3,224,224 or 3x224x224."""

    name = "sizes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """The sizes as a tuple."""
        if isinstance(value, tuple):
            return value
        sizes = [whole_number(part.strip()) for part in value.replace("x", ",").split(",")]
        if not all(sizes):
            self.fail(f"{value!r} is not a list of sizes such as 3,224,224", param, ctx)
        return tuple(filter(None, sizes))


WHERE = (
    "A folder of pictures or arrays; a .npy, .npz (by input name), .pt, .safetensors or raw file; loader.py:FUNCTION; or NAME=PLACE for "
    "each input (repeatable)."
)
reading_options = (
    click.option("--samples", type=click.IntRange(1), metavar="N", help="Use at most so many samples; default: all."),
    click.option("--mean", type=Numbers(), metavar="M[,M,M]", help="Subtracted from the pixels, per channel."),
    click.option("--std", type=Numbers(), metavar="S[,S,S]", help="The pixels are divided by it, per channel."),
    click.option("--scale", type=Numbers(), metavar="S[,S,S]", help="The pixels are multiplied by it (hb_mapper's scale_value)."),
    click.option(
        "--range", "value_range", type=click.Choice(("1", "255")),
        help="Largest pixel value that mean, std and scale are for; default: 1 where mean and std are at most 1, else 255.",
    ),
    click.option(
        "--order", type=click.Choice(("rgb", "bgr", "gray", "yuv444")),
        help="What the model was trained on (hb_mapper's input_type_train); default: rgb.",
    ),
    click.option(
        "--input-type-rt", type=click.Choice(("rgb", "bgr", "gray", "yuv444", "nv12")),
        help="What the board is given, and raw files hold; default: as --order.",
    ),
    click.option("--video-range", is_flag=True, help="YUV in 16..235 (bt601_video), not 0..255."),
    click.option(
        "--resize", metavar="HOW",
        help="stretch, crop, letterbox[:GREY], none, or the shorter side before the middle is cut out, such as 256; default: stretch.",
    ),
    click.option("--layout", type=click.Choice(("NCHW", "NHWC")), help="Layout of arrays in files; default: the model's."),
    click.option("--shape", type=Sizes(), metavar="C,H,W", help="Shape of one sample in raw files; default: the input's."),
    click.option("--dtype", metavar="NAME", help="Type of the numbers in raw files, such as uint8; default: the input's."),
)  # fmt: skip


def with_reading_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: the keyword arguments of `data_spec`, beside the place."""
    for decorator in reversed(reading_options):
        function = decorator(function)
    return function


def place_option(name: str, what: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`--calibration` or `--data`: where the data is."""
    return click.option(f"--{name}", name, multiple=True, metavar="PLACE", help=f"{what} {WHERE}")


def take_reading(arguments: dict[str, Any]) -> dict[str, Any]:
    """Remove what `with_reading_options` added from `arguments`, and return it."""
    return {name: arguments.pop(name) for name in ("samples", "shape", "dtype", *PREPROCESSING)}


def reading_of(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """As `take_reading`, leaving `arguments` as they are."""
    return take_reading(dict(arguments))


def preprocessing_of(reading: dict[str, Any]) -> Preprocessing | None:
    """What the options say about pictures; None where none was given."""
    named = {name: reading[name] for name in PREPROCESSING if reading.get(name)}
    if "value_range" in named:
        named["value_range"] = float(named["value_range"])
    return Preprocessing(**named) if named else None


def data_spec(places: tuple[str, ...], reading: dict[str, Any]) -> DataSpec | None:
    """`--calibration` or `--data` with the reading options as the library takes it; None where no place was given."""
    from hqc.data import DataSpec

    if reading["dtype"] is not None:
        raw_dtype(reading["dtype"])
    if not places:
        return None
    return DataSpec(_place(places), preprocessing_of(reading), reading["samples"], reading["shape"], reading["dtype"])


def _place(places: tuple[str, ...]) -> str | dict[str, str]:
    if len(places) == 1 and "=" not in places[0]:
        return places[0]
    named = dict(each.split("=", 1) for each in places if "=" in each)
    if len(named) != len(places):
        raise InputError(f"give several places as NAME=PLACE, one for each input; got {' and '.join(places)}")
    return named
