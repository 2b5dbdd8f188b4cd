"""A small U-Net (Ronneberger et al., 2015) with bilinear upsampling, and the network of the README."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from .registry import model


def _double(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [nn.Conv2d(channels, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


class SmallUNet(nn.Module):
    """Three resolutions; what goes down is concatenated on the way up."""

    def __init__(self, width: int = 16, classes: int = 4) -> None:
        super().__init__()
        self.first, self.second, self.bottom = _double(3, width), _double(width, 2 * width), _double(2 * width, 4 * width)
        self.right, self.last = _double(6 * width, 2 * width), _double(3 * width, width)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.first(x)
        second = self.second(self.pool(first))
        bottom = functional.interpolate(self.bottom(self.pool(second)), scale_factor=2.0, mode="bilinear")
        right = self.right(torch.cat([bottom, second], 1))
        right = functional.interpolate(right, scale_factor=2.0, mode="bilinear")
        return self.head(self.last(torch.cat([right, first], 1)))


class ReadmeNet(nn.Module):
    """The README's network: a 9x9 convolution and SELU, which some chips leave to the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.wide = nn.Conv2d(16, 16, 9, padding=4)
        self.act = nn.SELU()
        self.head = nn.Conv2d(16, 10, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.act(self.wide(self.stem(x)))).softmax(1)


@model("unet_small", input_shape=(3, 128, 128))
def unet_small() -> nn.Module:
    return SmallUNet()


@model("readme_net", input_shape=(3, 64, 64))
def readme_net() -> nn.Module:
    return ReadmeNet()
