"""A small network with something of everything that a report shows, and what its page holds."""

from __future__ import annotations

import base64
import gzip
import json
import re
from typing import Any

import torch
from torch import nn

import hqc

X = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    """The convolutions run on the BPU, the activation on the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1, self.conv2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1)
        self.act = nn.SELU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.conv2(torch.relu(self.bn1(self.conv1(x)))) + x)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.stage = nn.Conv2d(3, 4, 3), nn.Sequential(Block(), Block())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.stage(self.stem(x))
        return torch.sigmoid(y)


def compiled_net() -> hqc.Compiled:
    return hqc.compile(Net(), X, march="bayes", calibration_data=[X, X * 0.5])


def held(page: str, name: str = "data") -> Any:
    """The JSON that a page carries."""
    (found,) = re.findall(rf'<script id="{name}" type="application/gzip">([^<]*)</script>', page)
    return json.loads(gzip.decompress(base64.b64decode(found)))
