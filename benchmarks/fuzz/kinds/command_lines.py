"""Command lines: every command with options, values and files that fit badly."""

from __future__ import annotations

import os
import random
from pathlib import Path

from click.testing import CliRunner

from benchmarks.fuzz.cases import Attempt, kind
from benchmarks.fuzz.material import odd_text
from hqc.cli import main

_FILE = """
import torch
from torch import nn
example_inputs = torch.zeros(1, 3, 6, 6)
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
    def forward(self, x):
        return torch.softmax(self.conv(x), 1)
def broken(): raise SystemExit(4)
def loader():
    for _ in range(2): yield torch.zeros(1, 3, 6, 6), torch.zeros(1)
def odd_loader():
    yield 3
    raise KeyError("no")
def metric(outputs, labels): return [1.0] * len(outputs)
def bad_metric(outputs, labels): return None
class Pass: pass
def needs(argument): return Net()
number = 3
def pair(): return Net(), example_inputs
def odd(): return Net(), "shape"
"""
_COMMANDS = ("compile", "explain", "run", "report", "bench", "ops", "opt", "doctor", "nonsense", "")
MODELS = ("net.py:Net", "net.py:Net", "net.py:Net", "net.py:broken", "net.py:needs",
           "net.py:number", "net.py:odd", "net.py:pair", "net.py:",
           ":Net",
           "none.py:Net", "bad.py:Net", "text.hqc", "net.py", "damaged.onnx", "folder:Net", "net.py:Net.conv", "net.py:Net()")  # fmt: skip
_OPTIONS = {
    "--march": ("bayes", "bayes", "bayes", "bernoulli", "x", ""),
    "--input": (
        "1,3,6,6",
        "1,3",
        "0,3,6,6",
        "-1",
        "1,3,6,6,",
        "999999,9999,9999,9999",
        "9" * 5000,
        "a",
        "1x3x6x6",
        "1,3,1e3,6",
    ),
    "--calibration": ("data.npy", "none.npy", "net.py", "folder", ""),
    "--samples": ("1", "0", "-1", "99999999999999999999", "a"),
    "--batch": ("1", "2", "0", "999999999999", "x"),
    "--cpu": ("conv", "op:softmax", "op:", "", "re:(", "nonsense"),
    "--bpu": ("op:softmax", "op:nonsense", "conv"),
    "--min-macs": ("0", "-1", "nan", "inf", "1e400", "x"),
    "--min-nodes": ("0", "-1", "9" * 30),
    "--pass": ("net.py:Net", "none.py:X", "x", "@after=x", "net.py:Net{x=1}@before="),
    "--dump-dir": ("dumps", "net.py", "", "/proc/x"),
    "--flavour": ("horizon", "qdq", "x"),
    "-o": ("out.onnx", "folder", "", "/proc/x.onnx", "a/b/c.onnx", "x" * 400, "net.py"),
    "--form": ("qat", "ptq", "x"),
    "--passes": ("canonicalize", "x", "canonicalize{", "canonicalize,,", ""),
}


@kind("command-line")
def make(generator: random.Random, folder: Path) -> Attempt:
    """Exit status 0, 1 or 2, and never a traceback."""
    write_models(generator, folder)
    words = [generator.choice(_COMMANDS)]
    words += [generator.choice(MODELS)] if generator.random() < 0.9 else []
    words += ["--march", "bayes"] if generator.random() < 0.6 else []
    for option in generator.sample(sorted(_OPTIONS), generator.choice((0, 1, 2, 4))):
        value = generator.choice(_OPTIONS[option])
        # A shell hands over what is not text in UTF-8 as surrogates; that the command line's last net is there for.
        odd = odd_text(generator).encode("utf-8", "replace").decode()
        words += [option, odd if generator.random() < 0.1 else value]
    return invoke(words, folder)


def write_models(generator: random.Random, folder: Path) -> None:
    """Files that the command lines name."""
    (folder / "net.py").write_text(_FILE)
    (folder / "bad.py").write_text("import nothing_like_this\n" if generator.random() < 0.5 else "def (:\n")
    (folder / "text.hqc").write_text(
        generator.choice(("input %x: f32[1,4]\n%y = relu(%x)\noutput %y\n", "nonsense", "", "\0\1\2"))
    )
    (folder / "damaged.onnx").write_bytes(b"\x08\x07\x12\x04abcd")
    (folder / "data.npy").write_bytes(b"\x93NUMPY\x01\x00v\x00{'descr': '<f4'")
    (folder / "folder").mkdir(exist_ok=True)


def invoke(words: list[str], folder: Path) -> Attempt:
    """The command line, run in `folder`."""

    def attempt() -> object:
        before = os.getcwd()
        try:
            os.chdir(folder)
            result = CliRunner().invoke(main, words)
        finally:
            os.chdir(before)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code in (0, 1, 2, 4), result.exit_code
        assert "Traceback" not in result.output and "\x1b" not in result.output, result.output[-500:]
        return words

    return attempt
