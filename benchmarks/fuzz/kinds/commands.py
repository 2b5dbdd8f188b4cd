"""Every command with every option that click knows of it: fitting values, values of other options, and odd ones, on files of all kinds."""

from __future__ import annotations

import functools
import random
from pathlib import Path
from typing import Any

import click

from benchmarks.fuzz.cases import Attempt, kind
from benchmarks.fuzz.kinds.command_lines import MODELS, invoke, write_models
from benchmarks.fuzz.kinds.data_files import write_data
from benchmarks.fuzz.material import compiled, odd_text
from hqc.cli import main

_LONG = ("demo", "tune")  # these take minutes where their options fit: they come with an odd value always
_FILES = (
    *MODELS,
    "graph.hqc",
    "saved.safetensors",
    "good.onnx",
    "good.onnx",
    "weights.pt",
    "net.yaml",
    "picture.png",
    "data.npz",
)
_PLACES = (
    "data.npy",
    "data.npz",
    "data.pt",
    "pictures",
    "folder",
    "net.py:loader",
    "x=data.npy",
    "none",
    "",
    "net.py:odd_loader",
    "-",
)
_TEXTS: dict[str, tuple[str, ...]] = {
    "--input": ("1,3,6,6", "x=1,3,6,6", "1,3", "0,3,6,6", "", "1,,3", "999999999,3,6,6", "1,3,6,6;1"),
    "--cpu": ("conv", "op:softmax", "type:Conv2d", "re:.*", "nothing"),
    "--bpu": ("op:softmax", "nothing"),
    "--pass": ("net.py:Pass", "net.py:Net", "canonicalize", "net.py:Pass@after=canonicalize", "net.py:Pass@before=nothing"),
    "--pipeline": ("canonicalize", "analyze-support,partition", "nothing", "canonicalize{", "partition{min-macs=x}", ""),
    "--load": ("net.py", "none.py", "net.py:Pass"),
    "--metric": ("top1", "top5", "net.py:metric", "net.py:bad_metric", "nothing", "sqnr"),
    "--variants": ("integer", "float,integer", "x", ""),
    "--target": ("20", "0.9", "-1", "nan", "x", "30dB"),
    "--pair": ("float:integer", "x:y", "float", ""),
    "--dtype": ("uint8", "float32", "x", "object"),
    "--resize": ("bilinear", "crop", "x", ""),
    "names": ("conv2d", "softmax", "nothing", ""),
}


@kind("commands")
def make(generator: random.Random, folder: Path) -> Attempt:
    """Exit status 0, 1, 2 or 4, and never a traceback."""
    write_models(generator, folder)
    write_data(generator, folder)
    for name, data in _good().items():
        (folder / name).write_bytes(data)
    name = generator.choice(main.list_commands())
    command = main.get_command(click.Context(main), name)
    assert command is not None
    words = [name]
    for parameter in command.params:
        if isinstance(parameter, click.Argument):
            words += [_argument(generator, parameter)] if generator.random() < 0.95 else []
    options = [each for each in command.params if isinstance(each, click.Option)]
    if any("--march" in each.opts for each in options) and generator.random() < 0.8:
        words += ["--march", "bayes"]
    for option in generator.sample(options, min(len(options), generator.choice((0, 1, 2, 3, 5)))):
        words += _given(generator, option)
    if name in _LONG:
        words += ["--march", "nothing"] if generator.random() < 0.9 or name == "demo" else ["--max-changes", "1"]
    return invoke(words, folder)


def _argument(generator: random.Random, parameter: click.Argument) -> str:
    if parameter.name == "names":
        return generator.choice(_TEXTS["names"])
    return (
        _odd(generator) if generator.random() < 0.05 else generator.choice((*_FILES, "net.py:Net", "net.py:Net", "net.py:Net"))
    )


def _given(generator: random.Random, option: click.Option) -> list[str]:
    flag = max(option.opts, key=len)
    if option.is_flag:
        return [flag]
    if flag == "--workers":
        return [flag, generator.choice(("1", "0", "-1", "x", "99999"))]
    draw = generator.random()
    if draw < 0.1:
        return [flag, _odd(generator)]
    kind: Any = option.type
    if isinstance(kind, click.Choice):
        return [flag, generator.choice((*kind.choices, "nothing"))]
    if isinstance(kind, (click.IntRange, click.FloatRange)) or kind in (click.INT, click.FLOAT):
        return [flag, generator.choice(("1", "1", "2", "0", "-1", "1e400", "nan", "inf", "9" * 40, "0x1", "1.5", ""))]
    if isinstance(kind, click.Path):
        return [
            flag,
            generator.choice(
                (
                    *_FILES,
                    "out.onnx",
                    "out.html",
                    "out.svg",
                    "out",
                    "folder",
                    "/dev/full",
                    "no/such/folder/x",
                    "/proc/x",
                    "a\nb",
                )
            ),
        ]
    if flag in ("--data", "--calibration"):
        return [flag, generator.choice(_PLACES)]
    if flag in _TEXTS:
        return [flag, generator.choice(_TEXTS[flag])]
    return [flag, generator.choice(("1", "1,2,3", "0.5,0.5,0.5", "0", "nan", "x", "1,3,6,6", "-1", "3,6,6", ""))]


def _odd(generator: random.Random) -> str:
    return odd_text(generator).encode("utf-8", "replace").decode()


@functools.cache
def _good() -> dict[str, bytes]:
    """Files that fit: an exported model with its yaml, a saved one, IR text, weights."""
    import io
    import tempfile

    import torch

    import hqc
    from benchmarks.fuzz.material import Net, image

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        compiled().export(folder / "good.onnx", flavour="runnable", verify=False)
        compiled().save(folder / "saved.safetensors")
        hqc.ir.save(hqc.lower(Net().eval(), image()), folder / "graph.hqc")
        weights = io.BytesIO()
        torch.save(Net().state_dict(), weights)
        return {
            **{path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()},
            "weights.pt": weights.getvalue(),
        }
