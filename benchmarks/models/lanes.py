"""Ultra-Fast-Lane-Detection (Qin et al., Ultra Fast Structure-aware Deep Lane Detection, 2020) on a ResNet-18, 288x800.

Mirrors the log `x3_ufld` (its nodes are numbered in program order).
"""

from __future__ import annotations

import torch
from torch import nn

from .registry import model
from .resnet import BasicBlock, ResNet

GRID = (201, 18, 4)  # cells of a row and "no lane", row anchors, lanes (CULane)


class Backbone(ResNet):
    """ResNet-18 without pool and classifier: `[N,3,H,W]` -> `[N,512,H/32,W/32]`."""

    def __init__(self) -> None:
        super().__init__(BasicBlock, (2, 2, 2, 2))
        del self.avgpool, self.fc

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


class LaneNet(nn.Module):
    """`[N,3,288,800]` -> `[N,201,18,4]`: for every row anchor and lane, a distribution over cells of the row."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Backbone()
        self.pool = nn.Conv2d(512, 8, 1)
        self.cls = nn.Sequential(nn.Linear(1800, 2048), nn.ReLU(), nn.Linear(2048, GRID[0] * GRID[1] * GRID[2]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = self.pool(self.model(x)).view(-1, 1800)
        return self.cls(features).view(-1, *GRID)


@model("ufld", input_shape=(3, 288, 800), log="x3_ufld")
def ufld() -> nn.Module:
    return LaneNet()
