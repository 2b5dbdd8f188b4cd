"""A user's model file: a small detector with SiLU, chunk, cat, upsample and a softmax head. What the command line tests compile."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


class SplitBlock(nn.Module):
    """Half of the channels pass through two convolutions, the other half goes around them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.enter = ConvBlock(channels, channels, 1)
        self.first = ConvBlock(channels // 2, channels // 2)
        self.second = ConvBlock(channels // 2, channels // 2)
        self.leave = ConvBlock(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        straight, bent = self.enter(x).chunk(2, dim=1)
        return self.leave(torch.cat([straight, bent + self.second(self.first(bent))], dim=1))


class Head(nn.Module):
    """Box distances as the mean of a distribution over eight bins, and class scores."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.box = nn.Conv2d(channels, 4 * 8, 1)
        self.score = nn.Conv2d(channels, classes, 1)
        self.register_buffer("bins", torch.arange(8, dtype=torch.float32).view(1, 1, 8, 1, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        box = self.box(x)
        n, _, h, w = box.shape
        distribution = F.softmax(box.reshape(n, 4, 8, h, w), dim=2)
        return (distribution * self.bins).sum(dim=2), torch.sigmoid(self.score(x))


class Detector(nn.Module):
    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.stem = ConvBlock(3, 16, stride=2)
        self.down = ConvBlock(16, 32, stride=2)
        self.body = SplitBlock(32)
        self.deep = ConvBlock(32, 32, stride=2)
        self.neck = ConvBlock(64, 32, 1)
        self.head = Head(32, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.body(self.down(self.stem(x)))
        coarse = F.interpolate(self.deep(fine), scale_factor=2.0, mode="nearest")
        return self.head(self.neck(torch.cat([fine, coarse], dim=1)))


example_inputs = (torch.zeros(1, 3, 64, 64),)
