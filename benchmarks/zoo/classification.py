"""Image classifiers: residual, grouped, squeezed, shuffled, ghosted, re-parametrized."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.models import densenet_small, hrnet_small, mobilenet_v2, resnet18

from .registry import zoo

zoo("resnet", (1, 3, 64, 64))(resnet18)
zoo("mobilenet_v2", (1, 3, 96, 96), likeness=0.9)(mobilenet_v2)  # each layer by itself: tests/e2e/test_models.py
zoo("densenet", (1, 3, 32, 32))(densenet_small)
zoo("hrnet", (1, 3, 64, 64))(hrnet_small)


def make_divisible(value: float, divisor: int = 8) -> int:
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


class ConvNorm(nn.Sequential):
    def __init__(self, cin: int, cout: int, kernel: int = 3, stride: int = 1, groups: int = 1, act: Any = nn.ReLU) -> None:
        layers: list[nn.Module] = [
            nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(cout),
        ]
        super().__init__(*layers, *([act(inplace=True)] if act is not None else []))


class SqueezeExcite(nn.Module):
    """Global pool, two 1x1 convolutions, a gate."""

    def __init__(self, channels: int, reduced: int, gate: Any = nn.Sigmoid) -> None:
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, reduced, 1)
        self.relu = nn.ReLU(inplace=True)
        self.fc2 = nn.Conv2d(reduced, channels, 1)
        self.gate = gate()

    def forward(self, x: Tensor) -> Tensor:
        scale = self.fc2(self.relu(self.fc1(self.avg_pool(x))))
        return x * self.gate(scale)


# --- ResNeXt with squeeze-and-excitation ------------------------------------------------------------------------------------


class SEResNeXtBlock(nn.Module):
    expansion = 2

    def __init__(self, cin: int, width: int, stride: int = 1) -> None:
        super().__init__()
        cout = width * self.expansion
        self.conv1 = ConvNorm(cin, width, 1)
        self.conv2 = ConvNorm(width, width, 3, stride, groups=4)
        self.conv3 = ConvNorm(width, cout, 1, act=None)
        self.se = SqueezeExcite(cout, cout // 4)
        self.downsample = ConvNorm(cin, cout, 1, stride, act=None) if stride != 1 or cin != cout else None

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.se(self.conv3(self.conv2(self.conv1(x))))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return F.relu(out)


@zoo("se_resnext", (1, 3, 48, 48))
class SEResNeXt(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(ConvNorm(3, 16, 7, 2), nn.MaxPool2d(3, 2, 1))
        self.layer1 = nn.Sequential(SEResNeXtBlock(16, 16), SEResNeXtBlock(32, 16))
        self.layer2 = nn.Sequential(SEResNeXtBlock(32, 32, 2), SEResNeXtBlock(64, 32))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer2(self.layer1(self.stem(x)))
        return self.fc(torch.flatten(self.avgpool(x), 1))


@zoo("vgg", (1, 3, 64, 64))
class VGG(nn.Module):
    """Plain convolutions, then linear layers with more inputs than a BPU's linear takes."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        cin = 3
        for width in (16, "M", 32, "M", 64, 64, "M"):
            if width == "M":
                layers.append(nn.MaxPool2d(2, 2))
            else:
                layers += [nn.Conv2d(cin, int(width), 3, padding=1), nn.ReLU(inplace=True)]
                cin = int(width)
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((7, 7))
        self.classifier = nn.Sequential(
            nn.Linear(64 * 7 * 7, 128),
            nn.ReLU(True),
            nn.Dropout(),
            nn.Linear(128, 64),
            nn.ReLU(True),
            nn.Dropout(),
            nn.Linear(64, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.avgpool(self.features(x))
        x = x.view(x.size(0), -1)
        return self.classifier(x)


class InceptionBlock(nn.Module):
    def __init__(self, cin: int, width: int) -> None:
        super().__init__()
        self.branch1x1 = ConvNorm(cin, width, 1)
        self.branch5x5_1 = ConvNorm(cin, width, 1)
        self.branch5x5_2 = ConvNorm(width, width, 5)
        self.branch7_1 = nn.Conv2d(cin, width, (1, 7), padding=(0, 3))
        self.branch7_2 = nn.Conv2d(width, width, (7, 1), padding=(3, 0))
        self.branch_pool = ConvNorm(cin, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        branch5 = self.branch5x5_2(self.branch5x5_1(x))
        branch7 = F.relu(self.branch7_2(F.relu(self.branch7_1(x))))
        pooled = F.avg_pool2d(x, kernel_size=3, stride=1, padding=1)
        return torch.cat([self.branch1x1(x), branch5, branch7, self.branch_pool(pooled)], 1)


@zoo("inception", (1, 3, 40, 40))
class Inception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(3, 16, 3, 2)
        self.mixed1 = InceptionBlock(16, 8)
        self.mixed2 = InceptionBlock(32, 12)
        self.dropout = nn.Dropout(0.4)
        self.fc = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.stem(x), 3, stride=2)
        x = self.mixed2(self.mixed1(x))
        x = F.adaptive_avg_pool2d(x, (1, 1))
        return self.fc(torch.flatten(self.dropout(x), 1))


# --- mobile networks ---------------------------------------------------------------------------------------------------------


@zoo("mobilenet_v1", (1, 3, 48, 48))
def mobilenet_v1() -> nn.Module:
    def separable(cin: int, cout: int, stride: int) -> nn.Sequential:
        return nn.Sequential(ConvNorm(cin, cin, 3, stride, groups=cin), ConvNorm(cin, cout, 1))

    return nn.Sequential(
        ConvNorm(3, 16, 3, 2), separable(16, 32, 1), separable(32, 64, 2), separable(64, 64, 1), nn.AvgPool2d(12), nn.Flatten(),
        nn.Linear(64, 10),
    )  # fmt: skip


class BatchNormAct2d(nn.BatchNorm2d):
    """Norm and activation in one module, with the checks that image-model libraries have in their forward."""

    def __init__(self, channels: int, act: nn.Module | None = None) -> None:
        super().__init__(channels)
        self.drop = nn.Identity()
        self.act = act if act is not None else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        torch._assert(x.ndim == 4, f"expected 4D input (got {x.ndim}D input)")
        assert x.shape[1] == self.num_features, "wrong number of channels"
        exponential_average_factor = 0.0 if self.momentum is None else self.momentum
        bn_training = self.training or (self.running_mean is None and self.running_var is None)
        x = F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, bn_training, exponential_average_factor, self.eps
        )
        return self.act(self.drop(x))


class InvertedResidualV3(nn.Module):
    def __init__(self, cin: int, expanded: int, cout: int, kernel: int, stride: int, use_se: bool, act: Any) -> None:
        super().__init__()
        self.conv_pw = nn.Conv2d(cin, expanded, 1, bias=False)
        self.bn1 = BatchNormAct2d(expanded, act())
        self.conv_dw = nn.Conv2d(expanded, expanded, kernel, stride, kernel // 2, groups=expanded, bias=False)
        self.bn2 = BatchNormAct2d(expanded, act())
        reduced = make_divisible(expanded // 4)
        self.se = SqueezeExcite(expanded, reduced, nn.Hardsigmoid) if use_se else nn.Identity()
        self.conv_pwl = nn.Conv2d(expanded, cout, 1, bias=False)
        self.bn3 = BatchNormAct2d(cout)
        self.has_skip = stride == 1 and cin == cout

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        x = self.bn1(self.conv_pw(x))
        x = self.se(self.bn2(self.conv_dw(x)))
        x = self.bn3(self.conv_pwl(x))
        return shortcut + x if self.has_skip else x


@zoo("mobilenet_v3", (1, 3, 48, 48))
class MobileNetV3(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv_stem = nn.Conv2d(3, 16, 3, 2, 1, bias=False)
        self.bn1 = BatchNormAct2d(16, nn.Hardswish())
        self.blocks = nn.Sequential(
            InvertedResidualV3(16, 16, 16, 3, 2, True, nn.ReLU),
            InvertedResidualV3(16, 72, 24, 3, 2, False, nn.ReLU),
            InvertedResidualV3(24, 88, 24, 5, 1, True, nn.Hardswish),
        )
        self.conv_head = nn.Conv2d(24, 64, 1)
        self.act2 = nn.Hardswish()
        self.classifier = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.bn1(self.conv_stem(x)))
        x = self.act2(self.conv_head(x.mean((2, 3), keepdim=True)))
        return self.classifier(x.flatten(1))


class ShuffleUnit(nn.Module):
    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        half = cout // 2
        if stride > 1:
            self.branch1 = nn.Sequential(ConvNorm(cin, cin, 3, stride, groups=cin, act=None), ConvNorm(cin, half, 1))
        self.branch2 = nn.Sequential(
            ConvNorm(cin if stride > 1 else half, half, 1),
            ConvNorm(half, half, 3, stride, groups=half, act=None),
            ConvNorm(half, half, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            x1, x2 = x.chunk(2, dim=1)
            out = torch.cat((x1, self.branch2(x2)), dim=1)
        else:
            out = torch.cat((self.branch1(x), self.branch2(x)), dim=1)
        return channel_shuffle(out, 2)


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    batchsize, num_channels, height, width = x.size()
    x = x.view(batchsize, groups, num_channels // groups, height, width)
    x = torch.transpose(x, 1, 2).contiguous()
    return x.view(batchsize, num_channels, height, width)


@zoo("shufflenet_v2", (1, 3, 48, 48))
class ShuffleNetV2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = ConvNorm(3, 16, 3, 2)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.stage2 = nn.Sequential(ShuffleUnit(16, 32, 2), ShuffleUnit(32, 32, 1), ShuffleUnit(32, 32, 1))
        self.conv5 = ConvNorm(32, 64, 1)
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv5(self.stage2(self.maxpool(self.conv1(x))))
        x = x.mean([2, 3])
        return self.fc(x)


def drop_path(x: Tensor, drop_prob: float = 0.0, training: bool = False) -> Tensor:
    """Stochastic depth, a no-op in inference."""
    if drop_prob == 0.0 or not training:
        return x
    keep = 1 - drop_prob
    shape = (x.shape[0],) + (1,) * (x.ndim - 1)
    mask = x.new_empty(shape).bernoulli_(keep)
    return x * mask.div_(keep)


class DropPath(nn.Module):
    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        return drop_path(x, self.drop_prob, self.training)


class MBConv(nn.Module):
    def __init__(self, cin: int, cout: int, stride: int, expand: int = 4) -> None:
        super().__init__()
        mid = cin * expand
        self.expand = ConvNorm(cin, mid, 1, act=nn.SiLU)
        self.depthwise = ConvNorm(mid, mid, 3, stride, groups=mid, act=nn.SiLU)
        self.se = SqueezeExcite(mid, max(1, cin // 4))
        self.project = ConvNorm(mid, cout, 1, act=None)
        self.drop_path = DropPath(0.2)
        self.skip = stride == 1 and cin == cout

    def forward(self, x: Tensor) -> Tensor:
        out = self.project(self.se(self.depthwise(self.expand(x))))
        return self.drop_path(out) + x if self.skip else out


@zoo("efficientnet", (1, 3, 48, 48))
def efficientnet() -> nn.Module:
    return nn.Sequential(
        ConvNorm(3, 16, 3, 2, act=nn.SiLU), MBConv(16, 24, 2), MBConv(24, 24, 1), MBConv(24, 32, 2), ConvNorm(32, 64, 1, act=nn.SiLU),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Dropout(0.2), nn.Linear(64, 10),
    )  # fmt: skip


class GhostModule(nn.Module):
    def __init__(self, cin: int, cout: int, relu: bool = True) -> None:
        super().__init__()
        self.cout = cout
        primary = math.ceil(cout / 2)
        self.primary_conv = ConvNorm(cin, primary, 1, act=nn.ReLU if relu else None)
        self.cheap_operation = ConvNorm(primary, primary, 3, groups=primary, act=nn.ReLU if relu else None)

    def forward(self, x: Tensor) -> Tensor:
        x1 = self.primary_conv(x)
        x2 = self.cheap_operation(x1)
        out = torch.cat([x1, x2], dim=1)
        return out[:, : self.cout, :, :]


@zoo("ghostnet", (1, 3, 48, 48))
class GhostNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(3, 16, 3, 2)
        self.ghost1 = GhostModule(16, 25)
        self.ghost2 = GhostModule(25, 16, relu=False)
        self.se = SqueezeExcite(16, 8, nn.Hardsigmoid)
        self.down = ConvNorm(16, 16, 3, 2, groups=16, act=None)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.ghost2(self.ghost1(x)) + x
        x = self.down(self.se(x))
        return self.head(F.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1))


class RepVGGBlock(nn.Module):
    """The training form: three branches that deployment would merge."""

    def __init__(self, cin: int, cout: int, stride: int = 1) -> None:
        super().__init__()
        self.rbr_identity = nn.BatchNorm2d(cin) if cin == cout and stride == 1 else None
        self.rbr_dense = ConvNorm(cin, cout, 3, stride, act=None)
        self.rbr_1x1 = ConvNorm(cin, cout, 1, stride, act=None)
        self.nonlinearity = nn.ReLU()

    def forward(self, inputs: Tensor) -> Tensor:
        id_out: Any = 0 if self.rbr_identity is None else self.rbr_identity(inputs)
        return self.nonlinearity(self.rbr_dense(inputs) + self.rbr_1x1(inputs) + id_out)


@zoo("repvgg", (1, 3, 48, 48))
class RepVGG(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([RepVGGBlock(3, 16, 2), RepVGGBlock(16, 16), RepVGGBlock(16, 32, 2), RepVGGBlock(32, 32)])
        self.gap = nn.AdaptiveAvgPool2d(output_size=1)
        self.linear = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.stages:
            x = stage(x)
        out = self.gap(x)
        out = out.view(out.size(0), -1)
        return self.linear(out)


class ECA(nn.Module):
    """Channel attention by a 1-D convolution over the pooled channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        kernel = int(abs((math.log2(channels) + 1) / 2)) | 1
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.conv = nn.Conv1d(1, 1, kernel_size=kernel, padding=(kernel - 1) // 2, bias=False)
        self.sigmoid = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        y = self.avg_pool(x)
        y = self.conv(y.squeeze(-1).transpose(-1, -2)).transpose(-1, -2).unsqueeze(-1)
        return x * self.sigmoid(y).expand_as(x)


@zoo("eca", (1, 3, 32, 32))
def eca() -> nn.Module:
    return nn.Sequential(
        ConvNorm(3, 16, 3, 2),
        ConvNorm(16, 32),
        ECA(32),
        ConvNorm(32, 32),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )
