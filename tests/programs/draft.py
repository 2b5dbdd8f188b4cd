"""A random program as Python source: the class of a network that a user could have written, line by line.

`Draft` holds the lines of `__init__` and `forward` and the tensors that are alive; the steps of `steps.py` add to it. Every tensor
has the batch as its first axis, and no step touches that axis, so a program takes any batch size.
"""

from __future__ import annotations

import linecache
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

HEADER = """\
from collections import namedtuple

import torch
import torch.nn.functional as F
from torch import nn

from hqc.nn import DeQuantStub, QuantStub

Pair = namedtuple("Pair", ["first", "second"])


class PlainConv(nn.Conv2d):
    pass


"""


@dataclass(frozen=True)
class Tensor:
    """A live tensor of the program: its expression and its shape without the batch axis."""

    name: str
    shape: tuple[int, ...]

    @property
    def channels(self) -> int:
        return self.shape[0]


@dataclass
class Draft:
    """The program so far. `features`: names of the steps taken, for statistics and failure reports."""

    rng: random.Random
    init: list[str] = field(default_factory=list)
    forward: list[str] = field(default_factory=list)
    live: list[Tensor] = field(default_factory=list)
    features: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def fresh(self, prefix: str) -> str:
        self.counts[prefix] = self.counts.get(prefix, -1) + 1
        return f"{prefix}{self.counts[prefix]}"

    def member(self, prefix: str, expression: str) -> str:
        """A new attribute of the module, made in `__init__`; returns `self.<name>`."""
        name = self.fresh(prefix)
        self.init.append(f"self.{name} = {expression}")
        return f"self.{name}"

    def buffer(self, prefix: str, expression: str) -> str:
        name = self.fresh(prefix)
        self.init.append(f'self.register_buffer("{name}", {expression})')
        return f"self.{name}"

    def line(self, text: str) -> None:
        self.forward.append(text)

    def value(self, shape: tuple[int, ...], expression: str) -> Tensor:
        """A line that computes a new live tensor."""
        tensor = Tensor(self.fresh("t"), shape)
        self.line(f"{tensor.name} = {expression}")
        self.live.append(tensor)
        return tensor

    def pick(self, accept: Callable[[Tensor], bool] = lambda tensor: True) -> Tensor | None:
        """A live tensor, one of the latest more often than not; None where none fits."""
        fitting = [tensor for tensor in self.live if accept(tensor)]
        if not fitting:
            return None
        return fitting[-1] if self.rng.random() < 0.6 else self.rng.choice(fitting)

    def image(self, least: int = 1) -> Tensor | None:
        return self.pick(lambda tensor: len(tensor.shape) == 3 and min(tensor.shape[1:]) >= least)

    def of_rank(self, rank: int) -> Tensor | None:
        return self.pick(lambda tensor: len(tensor.shape) == rank)

    def source(self, outputs: str) -> str:
        init = "".join(f"        {line}\n" for line in self.init)
        body = "".join(f"        {line}\n" for line in self.forward)
        inputs = ", ".join(["self", *(tensor.name for tensor in self.live if tensor.name.startswith("x"))])
        return (
            f"{HEADER}class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n{init}\n"
            f"    def forward({inputs}):\n{body}        return {outputs}\n"
        )


@dataclass(frozen=True)
class Program:
    """One generated program. `inputs(batch)` are its example inputs; `features` names the steps it is made of; with `stubs` it has a
    QuantStub behind every input and a DeQuantStub before every output, as models for quantized training do."""

    seed: int
    stubs: bool
    source: str
    shapes: tuple[tuple[int, ...], ...]
    features: tuple[str, ...]

    def build(self) -> nn.Module:
        """The network in eval mode with weights of its seed; batch norms have settled statistics."""
        file = f"program_{self.seed}.py"
        linecache.cache[file] = (len(self.source), None, self.source.splitlines(True), file)  # errors quote the line
        namespace: dict[str, Any] = {"__name__": f"program_{self.seed}"}
        exec(compile(self.source, file, "exec"), namespace)
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            model: nn.Module = namespace["Net"]()
            for module in model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    nn.init.uniform_(module.weight, 0.5, 1.5)
                    nn.init.uniform_(module.bias, -0.2, 0.2)
            model.train()
            with torch.no_grad():
                for step in range(3):
                    model(*self.inputs(8, seed=step))
        return model.eval()

    def __str__(self) -> str:
        return f"program {self.seed}{' with stubs' if self.stubs else ''} ({', '.join(self.features)})\n{self.source}"

    def inputs(self, batch: int = 1, *, seed: int = 0) -> tuple[torch.Tensor, ...]:
        generator = torch.Generator().manual_seed(1000 * self.seed + seed)
        return tuple(torch.rand(batch, *shape, generator=generator) * 2 - 1 for shape in self.shapes)
