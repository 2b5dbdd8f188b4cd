"""Networks that answer per pixel: segmentation, super-resolution, stereo, keypoints, deconvolution decoders."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .classification import ConvNorm
from .registry import zoo


class DoubleConv(nn.Sequential):
    def __init__(self, cin: int, cout: int) -> None:
        super().__init__(ConvNorm(cin, cout), ConvNorm(cout, cout))


class Up(nn.Module):
    """Upsample, pad to the skip's size, concatenate, convolve."""

    def __init__(self, cin: int, cout: int, bilinear: bool) -> None:
        super().__init__()
        if bilinear:
            self.up: nn.Module = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        else:
            self.up = nn.ConvTranspose2d(cin // 2, cin // 2, kernel_size=2, stride=2)
        self.conv = DoubleConv(cin, cout)

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        x1 = self.up(x1)
        diff_y = x2.size()[2] - x1.size()[2]
        diff_x = x2.size()[3] - x1.size()[3]
        x1 = F.pad(x1, [diff_x // 2, diff_x - diff_x // 2, diff_y // 2, diff_y - diff_y // 2])
        return self.conv(torch.cat([x2, x1], dim=1))


@zoo("unet", (1, 3, 37, 50))
class UNet(nn.Module):
    """An input size that does not divide evenly, so that the decoder really pads."""

    def __init__(self) -> None:
        super().__init__()
        self.inc = DoubleConv(3, 8)
        self.down1 = nn.Sequential(nn.MaxPool2d(2), DoubleConv(8, 16))
        self.down2 = nn.Sequential(nn.MaxPool2d(2), DoubleConv(16, 16))
        self.up1 = Up(32, 8, bilinear=False)
        self.up2 = Up(16, 8, bilinear=True)
        self.outc = nn.Conv2d(8, 3, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        x1 = self.inc(x)
        x2 = self.down1(x1)
        x3 = self.down2(x2)
        return self.outc(self.up2(self.up1(x3, x2), x1))


class ASPPPooling(nn.Sequential):
    def __init__(self, cin: int, cout: int) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Conv2d(cin, cout, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        for mod in self:
            x = mod(x)
        return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


@zoo("deeplab", (1, 3, 48, 48))
class DeepLab(nn.Module):
    """Dilated pyramid, logits upsampled to the input."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(ConvNorm(3, 16, 3, 2), ConvNorm(16, 32, 3, 2))
        self.convs = nn.ModuleList([ConvNorm(32, 16, 1)])
        for rate in (2, 4):
            dilated = nn.Conv2d(32, 16, 3, padding=rate, dilation=rate, bias=False)
            self.convs.append(nn.Sequential(dilated, nn.BatchNorm2d(16), nn.ReLU()))
        self.convs.append(ASPPPooling(32, 16))
        self.project = nn.Sequential(ConvNorm(64, 32, 1), nn.Dropout(0.5))
        self.classifier = nn.Conv2d(32, 5, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        input_shape = x.shape[-2:]
        features = self.backbone(x)
        res = torch.cat([conv(features) for conv in self.convs], dim=1)
        out = self.classifier(self.project(res))
        return {"out": F.interpolate(out, size=input_shape, mode="bilinear", align_corners=False)}


@zoo("super_resolution", (1, 3, 24, 24))
class SuperResolution(nn.Module):
    """Residual blocks with a scale, sub-pixel upsampling, a bicubic skip."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 16, 3, padding=1)
        self.body = nn.ModuleList(
            nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.LeakyReLU(0.1, inplace=True), nn.Conv2d(16, 16, 3, padding=1))
            for _ in range(2)
        )
        self.upsample = nn.Sequential(nn.Conv2d(16, 64, 3, padding=1), nn.PixelShuffle(2))
        self.tail = nn.Conv2d(16, 3, 3, padding=1)
        self.register_buffer("mean", torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        features = res = self.head(x - self.mean)
        for block in self.body:
            res = block(res).mul(0.2) + res
        out = self.tail(self.upsample(res + features))
        return out + F.interpolate(x, scale_factor=2, mode="bicubic", align_corners=False)


@zoo("stereo", (1, 3, 16, 32), (1, 3, 16, 32))
class Stereo(nn.Module):
    """A concatenation cost volume filled slice by slice, 3-D convolutions, soft-argmin over disparities."""

    def __init__(self) -> None:
        super().__init__()
        self.maxdisp = 4
        self.feature = nn.Sequential(ConvNorm(3, 8, 3, 2), nn.Conv2d(8, 4, 3, padding=1))
        self.conv3d = nn.Sequential(
            nn.Conv3d(8, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(inplace=True), nn.Conv3d(4, 1, 3, padding=1)
        )

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        ref, target = self.feature(left), self.feature(right)
        volumes = []
        for i in range(self.maxdisp):
            shifted = F.pad(target[:, :, :, : target.shape[3] - i], (i, 0)) if i > 0 else target
            volumes.append(torch.cat((ref, shifted), dim=1))
        cost = self.conv3d(torch.stack(volumes, dim=2)).squeeze(1)
        prob = F.softmax(cost, dim=1)
        disparities = torch.arange(self.maxdisp, dtype=prob.dtype, device=prob.device).view(1, self.maxdisp, 1, 1)
        disparity = torch.sum(prob * disparities, 1, keepdim=True)
        return F.interpolate(disparity, scale_factor=2, mode="bilinear", align_corners=False) * 2


@zoo("keypoint", (1, 3, 32, 32))
class Keypoint(nn.Module):
    """Heat maps from a deconvolution head, and their expected coordinates."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(ConvNorm(3, 16, 3, 2), ConvNorm(16, 32, 3, 2))
        self.deconv = nn.Sequential(
            nn.ConvTranspose2d(32, 16, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True)
        )
        self.final_layer = nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        heatmaps = self.final_layer(self.deconv(self.backbone(x)))
        n, k, h, w = heatmaps.shape
        prob = F.softmax(heatmaps.reshape(n, k, -1), dim=2).reshape(n, k, h, w)
        xs = torch.linspace(0, 1, w, device=x.device)
        ys = torch.linspace(0, 1, h, device=x.device)
        px = (prob.sum(dim=2) * xs).sum(dim=2)
        py = (prob.sum(dim=3) * ys).sum(dim=2)
        return heatmaps, torch.stack([px, py], dim=-1)
