"""Small models in the style of the public manuals: stubs, FloatFunctionals, a residual block, a float tail."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hqc.nn import DeQuantStub, QuantStub
from hqc.nn.quantized import FloatFunctional


class Block(nn.Module):
    """Convolution, batch norm, addition, ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.add = FloatFunctional()
        self.relu = nn.ReLU(inplace=True)
        self.note = "kept"

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.relu(self.add.add(self.bn(self.conv(x)), x))
        return result


class Residual(nn.Module):
    """`[N,3,H,W]` -> `[N,4]`: what is behind the DeQuantStub is float."""

    def __init__(self) -> None:
        super().__init__()
        self.quant = QuantStub()
        self.stem = nn.Conv2d(3, 8, 3)
        self.block = Block(8)
        self.head = nn.Conv2d(8, 4, 1)
        self.dequant = DeQuantStub()
        self.classes = 4
        self.register_buffer("mean", torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(self.block(self.stem(self.quant(x))))
        return torch.softmax(self.dequant(x), 1).mean((2, 3))

    def describe(self) -> str:
        return f"{self.classes} classes"


class ByShape(nn.Module):
    """Its code loops over the results of a split, whose number depends on the channels: it cannot be traced without shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = QuantStub(), DeQuantStub()
        self.conv = nn.Conv2d(3, 6, 1)
        self.bn = nn.BatchNorm2d(6)
        self.parts = nn.ModuleList(nn.Conv2d(2, 2, 1) for _ in range(3))
        self.join = FloatFunctional()

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        x = self.bn(self.conv(self.quant(x)))
        results = [part(piece) for part, piece in zip(self.parts, x.split(2, dim=1), strict=True)]
        if x.shape[2] > 100:
            results = results[:1]
        result: Tensor = self.dequant(self.join.cat(results, dim=1))
        return result
