"""YOLOv5s of the v2.0 kind: Focus, BottleneckCSP with LeakyReLU, reshaped and permuted heads. Mirrors x3_yolov5s_focus_reshape."""

from __future__ import annotations

import torch
from torch import Tensor, nn

IMAGE = (3, 672, 672)


class Conv(nn.Module):
    def __init__(self, c1: int, c2: int, k: int = 1, s: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, k, s, k // 2, bias=False)
        self.bn = nn.BatchNorm2d(c2)
        self.act = nn.LeakyReLU(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


class Focus(nn.Module):
    def __init__(self, c1: int, c2: int) -> None:
        super().__init__()
        self.conv = Conv(c1 * 4, c2, 3)

    def forward(self, x: Tensor) -> Tensor:
        parts = [x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]]
        return self.conv(torch.cat(parts, 1))


class Bottleneck(nn.Module):
    def __init__(self, c: int, shortcut: bool) -> None:
        super().__init__()
        self.cv1, self.cv2, self.shortcut = Conv(c, c), Conv(c, c, 3), shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv2(self.cv1(x))
        return x + y if self.shortcut else y


class BottleneckCSP(nn.Module):
    def __init__(self, c1: int, c2: int, n: int, shortcut: bool = True) -> None:
        super().__init__()
        c = c2 // 2
        self.cv1 = Conv(c1, c)
        self.cv2 = nn.Conv2d(c1, c, 1, bias=False)
        self.cv3 = nn.Conv2d(c, c, 1, bias=False)
        self.cv4 = Conv(c2, c2)
        self.bn = nn.BatchNorm2d(c2)
        self.act = nn.LeakyReLU(0.1)
        self.m = nn.Sequential(*(Bottleneck(c, shortcut) for _ in range(n)))

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv3(self.m(self.cv1(x)))
        return self.cv4(self.act(self.bn(torch.cat((y, self.cv2(x)), 1))))


class SPP(nn.Module):
    def __init__(self, c1: int, c2: int) -> None:
        super().__init__()
        c = c1 // 2
        self.cv1, self.cv2 = Conv(c1, c), Conv(c * 4, c2)
        self.m = nn.ModuleList(nn.MaxPool2d(k, 1, k // 2) for k in (5, 9, 13))

    def forward(self, x: Tensor) -> Tensor:
        x = self.cv1(x)
        return self.cv2(torch.cat([x, *(pool(x) for pool in self.m)], 1))


class YoloV5Focus(nn.Module):
    """The exported network: heads of `[1, 255, h, w]`, reshaped to `[1, 3, 85, h, w]` and permuted to `[1, 3, h, w, 85]`."""

    def __init__(self) -> None:
        super().__init__()
        self.focus = Focus(3, 32)
        self.b1, self.c1 = Conv(32, 64, 3, 2), BottleneckCSP(64, 64, 1)
        self.b2, self.c2 = Conv(64, 128, 3, 2), BottleneckCSP(128, 128, 3)
        self.b3, self.c3 = Conv(128, 256, 3, 2), BottleneckCSP(256, 256, 3)
        self.b4, self.spp = Conv(256, 512, 3, 2), SPP(512, 512)
        self.c4 = BottleneckCSP(512, 512, 1, False)
        self.h1 = Conv(512, 256)
        self.n1 = BottleneckCSP(512, 256, 1, False)
        self.h2 = Conv(256, 128)
        self.n2 = BottleneckCSP(256, 128, 1, False)
        self.d1, self.n3 = Conv(128, 128, 3, 2), BottleneckCSP(256, 256, 1, False)
        self.d2, self.n4 = Conv(256, 256, 3, 2), BottleneckCSP(512, 512, 1, False)
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.heads = nn.ModuleList(nn.Conv2d(c, 255, 1) for c in (128, 256, 512))

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.c2(self.b2(self.c1(self.b1(self.focus(x)))))
        p3 = x
        p4 = self.c3(self.b3(p3))
        x = self.h1(self.c4(self.spp(self.b4(p4))))
        low = x
        x = self.h2(self.n1(torch.cat([self.up(x), p4], 1)))
        mid = x
        small = self.n2(torch.cat([self.up(x), p3], 1))
        medium = self.n3(torch.cat([self.d1(small), mid], 1))
        large = self.n4(torch.cat([self.d2(medium), low], 1))
        results = []
        for head, feature in zip(self.heads, (small, medium, large), strict=True):
            y = head(feature)
            n, _, h, w = y.shape
            results.append(y.view(n, 3, 85, h, w).permute(0, 1, 3, 4, 2))
        return results
