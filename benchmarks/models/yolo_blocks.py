"""Blocks of the YOLOv8 and YOLO11 detectors, written from the published architecture; attribute names are those of the node
names in the vendor logs (`/model.2/m.0/cv1/conv/Conv`)."""

from __future__ import annotations

import torch
from torch import nn


class Conv(nn.Module):
    """Convolution, batch norm, activation. `act=None` leaves the activation out."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        act: type[nn.Module] | None = nn.SiLU,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(channels_out, eps=1e-3)
        self.act = nn.Identity() if act is None else act()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    """Two 3x3 convolutions, with a shortcut where asked. `ratio`: hidden channels over input channels."""

    def __init__(self, channels: int, act: type[nn.Module], shortcut: bool = True, ratio: float = 1.0) -> None:
        super().__init__()
        hidden = int(channels * ratio)
        self.cv1 = Conv(channels, hidden, 3, act=act)
        self.cv2 = Conv(hidden, channels, 3, act=act)
        self.add = shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.cv2(self.cv1(x))
        return x + out if self.add else out


class C2f(nn.Module):
    """Split in two, run one half through a chain of blocks, concatenate everything that was made on the way."""

    def __init__(self, channels_in: int, channels_out: int, hidden: int, blocks: list[nn.Module], act: type[nn.Module]) -> None:
        super().__init__()
        self.cv1 = Conv(channels_in, 2 * hidden, act=act)
        self.cv2 = Conv((2 + len(blocks)) * hidden, channels_out, act=act)
        self.m = nn.ModuleList(blocks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second = self.cv1(x).chunk(2, 1)
        parts = [first, second]
        for block in self.m:
            parts.append(block(parts[-1]))
        return self.cv2(torch.cat(parts, 1))


class C3k(nn.Module):
    """Two parallel 1x1 convolutions, a chain of two bottlenecks behind the first."""

    def __init__(self, channels: int, act: type[nn.Module]) -> None:
        super().__init__()
        hidden = channels // 2
        self.cv1 = Conv(channels, hidden, act=act)
        self.cv2 = Conv(channels, hidden, act=act)
        self.cv3 = Conv(2 * hidden, channels, act=act)
        self.m = nn.Sequential(*(Bottleneck(hidden, act) for _ in range(2)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class SPPF(nn.Module):
    """Three chained 5x5 max pools, concatenated: pooling at four scales."""

    def __init__(self, channels: int, act: type[nn.Module]) -> None:
        super().__init__()
        self.cv1 = Conv(channels, channels // 2, act=act)
        self.cv2 = Conv(channels * 2, channels, act=act)
        self.m = nn.MaxPool2d(5, 1, padding=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [self.cv1(x)]
        for _ in range(3):
            parts.append(self.m(parts[-1]))
        return self.cv2(torch.cat(parts, 1))


class Attention(nn.Module):
    """Multi-head self-attention over pixels, with a depthwise convolution as position encoding."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.value_size = channels // heads
        self.key_size = self.value_size // 2
        self.scale = self.key_size**-0.5
        self.qkv = Conv(channels, channels + 2 * heads * self.key_size, act=None)
        self.proj = Conv(channels, channels, act=None)
        self.pe = Conv(channels, channels, 3, groups=channels, act=None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, c, h, w = x.shape
        qkv = self.qkv(x).view(n, self.heads, 2 * self.key_size + self.value_size, h * w)
        query, key, value = qkv.split([self.key_size, self.key_size, self.value_size], 2)
        weights = ((query.transpose(-2, -1) @ key) * self.scale).softmax(-1)
        mixed = (value @ weights.transpose(-2, -1)).view(n, c, h, w)
        return self.proj(mixed + self.pe(value.reshape(n, c, h, w)))


class PSABlock(nn.Module):
    """Attention and a two-layer feed-forward network, each with a shortcut."""

    def __init__(self, channels: int, act: type[nn.Module]) -> None:
        super().__init__()
        self.attn = Attention(channels, heads=channels // 64)
        self.ffn = nn.Sequential(Conv(channels, 2 * channels, act=act), Conv(2 * channels, channels, act=None))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(x)
        return x + self.ffn(x)


class C2PSA(nn.Module):
    """Split in two and run one half through attention blocks."""

    def __init__(self, channels: int, depth: int, act: type[nn.Module]) -> None:
        super().__init__()
        half = channels // 2
        self.cv1 = Conv(channels, channels, act=act)
        self.cv2 = Conv(channels, channels, act=act)
        self.m = nn.Sequential(*(PSABlock(half, act) for _ in range(depth)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept, mixed = self.cv1(x).chunk(2, 1)
        return self.cv2(torch.cat((kept, self.m(mixed)), 1))


class Concat(nn.Module):
    """Concatenation of feature maps, as a layer."""

    def forward(self, parts: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat(parts, 1)
