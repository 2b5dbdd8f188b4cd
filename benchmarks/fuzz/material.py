"""What cases are made of: small models, odd values, and mutations of bytes and texts."""

from __future__ import annotations

import functools
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import hqc
from benchmarks.fuzz.cases import UserError
from hqc.nn import QuantStub

MARCHES = ("bernoulli", "bernoulli2", "bayes", "bayes-e")


class Net(nn.Module):
    """conv, relu, a CPU operation, linear."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3, padding=1)
        self.head = nn.Linear(channels, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.head(torch.relu(self.conv(x)).mean((2, 3))), 1)


class Stubbed(Net):
    """`Net` with the stubs that prepare expects."""

    def __init__(self) -> None:
        super().__init__()
        self.quant = QuantStub()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.quant(x))


class TwoInputs(nn.Module):
    """Two inputs, one of them optional in the call, a dict as result."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"sum": self.conv(x) + y, "y": y}


class Raises(nn.Module):
    """The user's own error in forward."""

    def forward(self, x: Tensor) -> Tensor:
        raise UserError("the model's own")


class Exits(nn.Module):
    """A script that left an exit() in forward."""

    def forward(self, x: Tensor) -> Tensor:
        raise SystemExit(3)


class Lazy(nn.Module):
    """Parameters that do not exist yet."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LazyLinear(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Nothing(nn.Module):
    """Returns no tensor."""

    def forward(self, x: Tensor) -> None:
        return None


class Branch(nn.Module):
    """Control flow on the data."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


IMAGE = (1, 3, 6, 6)


def image() -> Tensor:
    """The input that `Net` takes."""
    return torch.linspace(-1, 1, 108).reshape(IMAGE)


@functools.cache
def compiled() -> hqc.Compiled:
    """`Net`, compiled once for all cases that need a result of compile."""
    torch.manual_seed(0)
    return hqc.compile(Net().eval(), image(), march="bayes", calibration_data=[image()])


def odd_models(generator: random.Random) -> Any:
    """Something where a model belongs."""
    makers = [
        Raises, Exits, Lazy, Nothing, Branch, Net, lambda: None, lambda: 3, lambda: "net.pt", lambda: Net, lambda: Net().state_dict(),
        lambda: torch.jit.trace(Net(), image()), lambda: torch.jit.script(nn.ReLU()), lambda: nn.Conv2d(3, 4, 3, device="meta"),
        lambda: torch.relu, lambda: nn.ModuleList([nn.ReLU()]), lambda: nn.ModuleDict({"class": nn.ReLU()}), nn.Identity, nn.Sequential,
        lambda: nn.DataParallel(Net()), lambda: Net().double(), lambda: Net().half(), lambda: nn.Embedding(3, 4),
        lambda: nn.LSTM(6, 4), lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)),
        lambda: torch.quantization.quantize_dynamic(nn.Sequential(nn.Linear(6, 2))), lambda: nn.Conv2d(3, 4, 3).to(torch.complex64),
    ]  # fmt: skip
    return generator.choice(makers)()


def odd_value(generator: random.Random) -> Any:
    """Something that no parameter expects."""
    return generator.choice(_ODD)()


def odd_tensor(generator: random.Random) -> Any:
    """A tensor or array of an unusual kind."""
    return generator.choice(_TENSORS)()


_TENSORS = (
    lambda: torch.zeros(IMAGE, dtype=torch.complex64),
    lambda: torch.zeros(IMAGE, dtype=torch.bfloat16),
    lambda: torch.zeros(IMAGE, dtype=torch.float16),
    lambda: torch.zeros(IMAGE, dtype=torch.float64),
    lambda: torch.zeros(IMAGE, dtype=torch.uint8),
    lambda: torch.zeros(IMAGE, dtype=torch.bool),
    lambda: torch.zeros(IMAGE, dtype=torch.int64),
    lambda: torch.zeros(IMAGE, dtype=torch.uint16),
    lambda: torch.zeros(IMAGE, dtype=torch.float8_e4m3fn),
    lambda: torch.zeros(IMAGE, device="meta"),
    lambda: torch.zeros((1 << 20, 3, 1 << 10, 1 << 10), device="meta"),
    lambda: torch.zeros(IMAGE).to_sparse(),
    lambda: torch.zeros(4, 4).to_sparse_csr(),
    lambda: torch.quantize_per_tensor(torch.zeros(IMAGE), 0.1, 0, torch.qint8),
    lambda: torch.nested.nested_tensor([torch.zeros(3, 2), torch.zeros(3, 4)]),
    lambda: torch.zeros(0, 3, 6, 6),
    lambda: torch.zeros(1, 0, 6, 6),
    lambda: torch.zeros(()),
    lambda: torch.full(IMAGE, float("nan")),
    lambda: torch.full(IMAGE, float("inf")),
    lambda: torch.full(IMAGE, 3e38),
    lambda: torch.zeros(IMAGE).expand(5, 3, 6, 6),
    lambda: torch.zeros(IMAGE, requires_grad=True),
    lambda: nn.Parameter(torch.zeros(IMAGE)),
    lambda: torch.zeros(IMAGE).to(memory_format=torch.channels_last),
    lambda: np.zeros(IMAGE, ">f4"),
    lambda: np.zeros(IMAGE, ">i2"),
    lambda: np.zeros(IMAGE, np.float16),
    lambda: np.zeros(IMAGE, np.longdouble),
    lambda: np.zeros(IMAGE, np.complex128),
    lambda: np.zeros(IMAGE, "datetime64[s]"),
    lambda: np.zeros(IMAGE, "timedelta64[s]"),
    lambda: np.zeros(IMAGE, "U3"),
    lambda: np.zeros(IMAGE, "S3"),
    lambda: np.zeros(IMAGE, object),
    lambda: np.zeros(IMAGE, [("a", "f4"), ("b", "i2")]),
    lambda: np.zeros(IMAGE, np.uint64) + np.uint64(2**63 + 1),
    lambda: np.zeros((0, 3, 6, 6), np.float32),
    lambda: np.zeros((2, 6, 6, 3), np.float32)[::-1].transpose(0, 3, 1, 2),
    lambda: np.broadcast_to(np.float32(1), (1 << 20, 3, 1 << 12, 1 << 12)),
    lambda: np.ma.masked_array(np.zeros(IMAGE, np.float32)),
    lambda: np.zeros(IMAGE, np.float32).view(np.recarray),
)

_ODD = (
    lambda: None, lambda: True, lambda: 0, lambda: -1, lambda: 1 << 70, lambda: 10**400, lambda: 1.5, lambda: float("nan"),
    lambda: float("inf"), lambda: "", lambda: "x", lambda: "\x1b[31mred", lambda: "a\0b", lambda: "\ud800", lambda: "7" * 5000,
    lambda: b"\xff\xfe", lambda: [], lambda: (), lambda: {}, lambda: set(), lambda: [None], lambda: ["x"], lambda: [[]],
    lambda: {"x": None},
    lambda: {1: 2}, lambda: object(), lambda: object, lambda: int, lambda: (lambda: None), lambda: iter([]), lambda: range(3),
    lambda: Ellipsis, lambda: slice(1), lambda: np.float32(2), lambda: np.array([]), lambda: np.array("x"), lambda: torch.float32,
    lambda: torch.device("cpu"), lambda: torch.Size([1, 2]), lambda: complex(1, 2), lambda: NotImplemented, lambda: Exception("x"),
    lambda: [torch.zeros(IMAGE)], lambda: {"x": torch.zeros(IMAGE)}, lambda: [1, 3, 6, 6], lambda: memoryview(b"abc"),
)  # fmt: skip


def mutate_bytes(generator: random.Random, data: bytes, *, head: int = 0) -> bytes:
    """`data` with a few changes: flips, cuts, repeats; `head`: changes fall into the first bytes mostly."""
    changed = bytearray(data)
    for _ in range(generator.choice((1, 1, 2, 4, 16))):
        if not changed:
            break
        reach = min(head, len(changed)) if head and generator.random() < 0.8 else len(changed)
        at = generator.randrange(reach)
        match generator.randrange(6):
            case 0 | 1:
                changed[at] = generator.randrange(256)
            case 2:
                changed[at] ^= 1 << generator.randrange(8)
            case 3:
                del changed[at : at + generator.choice((1, 2, 8, 100))]
            case 4:
                changed[at:at] = changed[at : at + generator.choice((1, 4, 50))]
            case 5:
                changed[at : at + 8] = generator.choice((b"\0" * 8, b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"99999999"))
    if generator.random() < 0.1:
        del changed[generator.randrange(len(changed) + 1) :]
    return bytes(changed)


_TEXTS = (
    "", "0", "-1", "1e999", "nan", "inf", "7" * 5000, "99999999999", "[]", "[1,2]", "?", "*", "none", "true", "\x1b[31m", "\\",
    '"', "\0", "é",
    "中文", "a" * 300, ";", "=", "{", "}", "(", ")", "%", "@", "#", "//", "\t", "\ud800",
)  # fmt: skip


def odd_text(generator: random.Random) -> str:
    """A token that fits nowhere."""
    return generator.choice(_TEXTS)
