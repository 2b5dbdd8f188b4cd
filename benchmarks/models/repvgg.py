"""RepVGG in its deployed form (Ding et al., Making VGG-style ConvNets Great Again, 2021): one 3x3 convolution and a ReLU per block.

Mirrors the log `x5_repvgg_a2_chk`. That log's model calls itself A2 and has the depths of the B series (4, 6, 16, 1); so has this.
"""

from __future__ import annotations

import torch
from torch import nn

from .registry import model

DEPTHS = (4, 6, 16, 1)
WIDTHS = (96, 192, 384, 1408)


class RepVGGBlock(nn.Module):
    """The reparametrized block."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.rbr_reparam = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1)
        self.nonlinearity = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.nonlinearity(self.rbr_reparam(x))


class RepVGG(nn.Module):
    """Stem, four stages, global average pool, classifier."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.stage0 = RepVGGBlock(3, 64, 2)
        channels = 64
        stages = []
        for depth, width in zip(DEPTHS, WIDTHS, strict=True):
            stages.append(
                nn.Sequential(*(RepVGGBlock(channels if i == 0 else width, width, 2 if i == 0 else 1) for i in range(depth)))
            )
            channels = width
        self.stage1, self.stage2, self.stage3, self.stage4 = stages
        self.gap = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(channels, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stage4(self.stage3(self.stage2(self.stage1(self.stage0(x)))))
        return self.linear(torch.flatten(self.gap(x), 1))


@model("repvgg_a2", input_shape=(3, 224, 224), log="x5_repvgg_a2_chk")
def repvgg_a2() -> nn.Module:
    return RepVGG()
