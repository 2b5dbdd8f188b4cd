"""Detectors and trackers: pyramids, anchors, decoded boxes, centres, correlation."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .classification import ConvNorm
from .registry import zoo


class Bottleneck(nn.Module):
    def __init__(self, channels: int, shortcut: bool) -> None:
        super().__init__()
        self.cv1 = ConvNorm(channels, channels, 3, act=nn.SiLU)
        self.cv2 = ConvNorm(channels, channels, 3, act=nn.SiLU)
        self.add = shortcut

    def forward(self, x: Tensor) -> Tensor:
        return x + self.cv2(self.cv1(x)) if self.add else self.cv2(self.cv1(x))


class C2f(nn.Module):
    """Split, a chain of bottlenecks that all are kept, concatenation."""

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = False) -> None:
        super().__init__()
        self.c = c2 // 2
        self.cv1 = ConvNorm(c1, 2 * self.c, 1, act=nn.SiLU)
        self.cv2 = ConvNorm((2 + n) * self.c, c2, 1, act=nn.SiLU)
        self.m = nn.ModuleList(Bottleneck(self.c, shortcut) for _ in range(n))

    def forward(self, x: Tensor) -> Tensor:
        y = list(self.cv1(x).chunk(2, 1))
        y.extend(m(y[-1]) for m in self.m)
        return self.cv2(torch.cat(y, 1))


class SPPF(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cv1 = ConvNorm(channels, channels // 2, 1, act=nn.SiLU)
        self.cv2 = ConvNorm(channels * 2, channels, 1, act=nn.SiLU)
        self.m = nn.MaxPool2d(kernel_size=5, stride=1, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        y = [self.cv1(x)]
        y.extend(self.m(y[-1]) for _ in range(3))
        return self.cv2(torch.cat(y, 1))


class DFL(nn.Module):
    """Expected distance of a distribution over bins, by a fixed convolution."""

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(bins, 1, 1, bias=False).requires_grad_(False)
        self.conv.weight.data[:] = torch.arange(bins, dtype=torch.float).view(1, bins, 1, 1)
        self.c1 = bins

    def forward(self, x: Tensor) -> Tensor:
        b, _, a = x.shape
        return self.conv(x.view(b, 4, self.c1, a).transpose(2, 1).softmax(1)).view(b, 4, a)


class Detect(nn.Module):
    """Decoupled heads per level; boxes decoded from anchor points that are cached by shape."""

    shape: Any = None

    def __init__(self, classes: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.nc, self.nl, self.reg_max = classes, len(widths), 8
        self.no = classes + self.reg_max * 4
        self.cv2 = nn.ModuleList(
            nn.Sequential(ConvNorm(w, 16, act=nn.SiLU), nn.Conv2d(16, 4 * self.reg_max, 1)) for w in widths
        )
        self.cv3 = nn.ModuleList(nn.Sequential(ConvNorm(w, 16, act=nn.SiLU), nn.Conv2d(16, classes, 1)) for w in widths)
        self.dfl = DFL(self.reg_max)
        self.stride = torch.tensor([8.0, 16.0])

    def forward(self, x: list[Tensor]) -> Tensor:
        for i in range(self.nl):
            x[i] = torch.cat((self.cv2[i](x[i]), self.cv3[i](x[i])), 1)
        shape = x[0].shape
        if self.shape != shape:
            self.anchors, self.strides = (item.transpose(0, 1) for item in make_anchors(x, self.stride, 0.5))
            self.shape = shape
        x_cat = torch.cat([xi.view(shape[0], self.no, -1) for xi in x], 2)
        box, cls = x_cat.split((self.reg_max * 4, self.nc), 1)
        dbox = dist2bbox(self.dfl(box), self.anchors.unsqueeze(0)) * self.strides
        return torch.cat((dbox, cls.sigmoid()), 1)


def make_anchors(feats: list[Tensor], strides: Tensor, offset: float) -> tuple[Tensor, Tensor]:
    points, sizes = [], []
    for i, stride in enumerate(strides):
        _, _, h, w = feats[i].shape
        sx = torch.arange(end=w, dtype=torch.float32, device=feats[i].device) + offset
        sy = torch.arange(end=h, dtype=torch.float32, device=feats[i].device) + offset
        gy, gx = torch.meshgrid(sy, sx, indexing="ij")
        points.append(torch.stack((gx, gy), -1).view(-1, 2))
        sizes.append(torch.full((h * w, 1), float(stride), device=feats[i].device))
    return torch.cat(points), torch.cat(sizes)


def dist2bbox(distance: Tensor, points: Tensor) -> Tensor:
    lt, rb = distance.chunk(2, 1)
    x1y1, x2y2 = points - lt, points + rb
    return torch.cat(((x1y1 + x2y2) / 2, x2y2 - x1y1), 1)


@zoo("pan_detector", (1, 3, 64, 64))
class PanDetector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            ConvNorm(3, 8, 3, 2, act=nn.SiLU), ConvNorm(8, 16, 3, 2, act=nn.SiLU), ConvNorm(16, 16, 3, 2, act=nn.SiLU)
        )
        self.c3 = C2f(16, 16, 1, True)
        self.down = ConvNorm(16, 32, 3, 2, act=nn.SiLU)
        self.c4 = nn.Sequential(C2f(32, 32, 2, True), SPPF(32))
        self.upsample = nn.Upsample(None, 2, "nearest")
        self.fuse_up = C2f(48, 16)
        self.down2 = ConvNorm(16, 16, 3, 2, act=nn.SiLU)
        self.fuse_down = C2f(48, 32)
        self.detect = Detect(4, (16, 32))

    def forward(self, x: Tensor) -> Tensor:
        p3 = self.c3(self.stem(x))
        p4 = self.c4(self.down(p3))
        n3 = self.fuse_up(torch.cat([self.upsample(p4), p3], 1))
        n4 = self.fuse_down(torch.cat([self.down2(n3), p4], 1))
        return self.detect([n3, n4])


@zoo("fpn", (1, 3, 64, 64))
class FeaturePyramid(nn.Module):
    """Lateral convolutions, a top-down path that interpolates to the finer map's size, an ordered dict of levels."""

    def __init__(self) -> None:
        super().__init__()
        self.c2, self.c3, self.c4 = ConvNorm(3, 16, 3, 4), ConvNorm(16, 24, 3, 2), ConvNorm(24, 32, 3, 2)
        self.inner_blocks = nn.ModuleList(nn.Conv2d(width, 16, 1) for width in (16, 24, 32))
        self.layer_blocks = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = [self.c2(x)]
        for layer in (self.c3, self.c4):
            features.append(layer(features[-1]))
        last_inner = self.inner_blocks[-1](features[-1])
        results = [self.layer_blocks[-1](last_inner)]
        for idx in range(len(features) - 2, -1, -1):
            lateral = self.inner_blocks[idx](features[idx])
            top_down = F.interpolate(last_inner, size=lateral.shape[-2:], mode="nearest")
            last_inner = lateral + top_down
            results.insert(0, self.layer_blocks[idx](last_inner))
        results.append(F.max_pool2d(results[-1], 1, 2, 0))
        return {f"p{i + 2}": level for i, level in enumerate(results)}


@zoo("ssd", (1, 3, 64, 64))
class SSD(nn.Module):
    """Heads per level, permuted, flattened and joined; a learned L2 scale on the first map."""

    def __init__(self) -> None:
        super().__init__()
        self.block1 = nn.Sequential(ConvNorm(3, 16, 3, 2), ConvNorm(16, 32, 3, 2))
        self.block2 = ConvNorm(32, 32, 3, 2)
        self.scale_weight = nn.Parameter(torch.ones(32) * 4)
        self.loc = nn.ModuleList(nn.Conv2d(32, 4 * 3, 3, padding=1) for _ in range(2))
        self.conf = nn.ModuleList(nn.Conv2d(32, 3 * 5, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first = self.block1(x)
        sources = [self.scale_weight.view(1, -1, 1, 1) * F.normalize(first), self.block2(first)]
        loc, conf = [], []
        for source, head_l, head_c in zip(sources, self.loc, self.conf):  # noqa: B905
            loc.append(head_l(source).permute(0, 2, 3, 1).contiguous())
            conf.append(head_c(source).permute(0, 2, 3, 1).contiguous())
        locs = torch.cat([o.view(o.size(0), -1) for o in loc], 1)
        confs = torch.cat([o.view(o.size(0), -1) for o in conf], 1)
        return locs.view(locs.size(0), -1, 4), F.softmax(confs.view(confs.size(0), -1, 5), dim=-1)


@zoo("centernet", (1, 3, 64, 64), chosen=(1,))
class CenterNet(nn.Module):
    """Peaks of a heat map by max pooling, the best of them by topk, sizes gathered there."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(ConvNorm(3, 16, 3, 2), ConvNorm(16, 32, 3, 2))
        self.hm = nn.Sequential(nn.Conv2d(32, 16, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(16, 3, 1))
        self.wh = nn.Sequential(nn.Conv2d(32, 16, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(16, 2, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.backbone(x)
        heat = torch.sigmoid(self.hm(features))
        wh = self.wh(features)
        hmax = F.max_pool2d(heat, (3, 3), stride=1, padding=1)
        heat = heat * (hmax == heat).float()
        batch, cat, height, width = heat.size()
        scores, inds = torch.topk(heat.view(batch, cat, -1), 5)
        inds = inds % (height * width)
        topk_score, topk_ind = torch.topk(scores.view(batch, -1), 5)
        inds = inds.view(batch, -1, 1).gather(1, topk_ind.unsqueeze(2))
        wh = wh.permute(0, 2, 3, 1).contiguous().view(batch, -1, 2)
        return topk_score, wh.gather(1, inds.expand(batch, 5, 2))


class FastFusion(nn.Module):
    """Weighted sums whose non-negative weights are normalized."""

    def __init__(self, channels: int, count: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(count))
        self.conv = ConvNorm(channels, channels, 3, groups=channels, act=None)
        self.epsilon = 1e-4

    def forward(self, *inputs: Tensor) -> Tensor:
        w = F.relu(self.w)
        weight = w / (torch.sum(w, dim=0) + self.epsilon)
        x = sum(weight[i] * inputs[i] for i in range(len(inputs)))
        return self.conv(x * torch.sigmoid(x))


@zoo("bifpn", (1, 3, 64, 64))
class BiFPN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.p3, self.p4 = ConvNorm(3, 16, 3, 4), ConvNorm(16, 16, 3, 2)
        self.fuse_up, self.fuse_down = FastFusion(16, 2), FastFusion(16, 3)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.extra = nn.Conv2d(16, 16, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        p3 = self.p3(x)
        p4 = self.p4(p3)
        out3 = self.fuse_up(p3, F.interpolate(p4, scale_factor=2, mode="nearest"))
        return out3, self.fuse_down(p4, self.extra(p4), self.pool(out3))


@zoo("siamese_tracker", (1, 3, 32, 32), (1, 3, 64, 64))
class SiameseTracker(nn.Module):
    """The template's features are the kernels of a depthwise correlation over the search region."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(ConvNorm(3, 16, 3, 2), ConvNorm(16, 16, 3, 2), nn.Conv2d(16, 16, 3))
        self.cls = nn.Conv2d(16, 2, 1)

    def forward(self, template: Tensor, search: Tensor) -> Tensor:
        kernel, x = self.backbone(template), self.backbone(search)
        batch, channel = kernel.size(0), kernel.size(1)
        x = x.view(1, batch * channel, x.size(2), x.size(3))
        kernel = kernel.view(batch * channel, 1, kernel.size(2), kernel.size(3))
        out = F.conv2d(x, kernel, groups=batch * channel)
        out = out.view(batch, channel, out.size(2), out.size(3)) / math.sqrt(channel)
        return self.cls(out)
