"""Small networks: two of the vendor's examples, and two shapes that break partitioners.

* `simplenet` mirrors the log `x5_simplenet`, `cifar_image_classifier` the log `x3_cifar_imageclassifier`.
* `hrnet_small`: parallel resolutions that exchange features (Sun et al., HRNet, 2019): every fusion has paths in both directions.
* `densenet_small`: nested concatenations (Huang et al., DenseNet, 2017): every layer's output is a member of many cats.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from .registry import model


class SimpleNet(nn.Module):
    """Conv, ReLU, global average pool, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(16, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.flatten(self.pool(self.relu(self.conv(x))), 1))


class CifarImageClassifier(nn.Module):
    """Four 5x5 convolutions with batch norm, one max pool, a linear layer of 2,400 inputs (over X3's 2,048)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 12, 5, padding=1)
        self.bn1 = nn.BatchNorm2d(12)
        self.conv2 = nn.Conv2d(12, 12, 5, padding=1)
        self.bn2 = nn.BatchNorm2d(12)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv4 = nn.Conv2d(12, 24, 5, padding=1)
        self.bn4 = nn.BatchNorm2d(24)
        self.conv5 = nn.Conv2d(24, 24, 5, padding=1)
        self.bn5 = nn.BatchNorm2d(24)
        self.fc1 = nn.Linear(2400, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        x = functional.relu(self.bn2(self.conv2(x)))
        x = self.pool(x)
        x = functional.relu(self.bn4(self.conv4(x)))
        x = functional.relu(self.bn5(self.conv5(x)))
        return self.fc1(x.view(-1, 2400))


def conv_bn(channels_in: int, channels_out: int, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, stride, padding=kernel // 2, bias=False), nn.BatchNorm2d(channels_out)
    )


class Exchange(nn.Module):
    """One block per resolution, then every resolution gets the sum of all, resampled to its size."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(conv_bn(w, w), nn.ReLU(), conv_bn(w, w)) for w in widths)
        self.routes = nn.ModuleList(
            nn.ModuleList(self._route(widths, source, target) for source in range(len(widths))) for target in range(len(widths))
        )

    @staticmethod
    def _route(widths: tuple[int, ...], source: int, target: int) -> nn.Module:
        if source == target:
            return nn.Identity()
        if source > target:  # finer target: match channels, then enlarge
            enlarge = nn.Upsample(scale_factor=float(2 ** (source - target)), mode="nearest")
            return nn.Sequential(conv_bn(widths[source], widths[target], kernel=1), enlarge)
        steps: list[nn.Module] = []
        for step in range(source, target):
            last = step + 1 == target
            steps.append(conv_bn(widths[source], widths[target] if last else widths[source], stride=2))
            if not last:
                steps.append(nn.ReLU())
        return nn.Sequential(*steps)

    def forward(self, features: list[torch.Tensor]) -> list[torch.Tensor]:
        made = [torch.relu(block(x) + x) for block, x in zip(self.blocks, features, strict=True)]
        fused = []
        for routes in self.routes:
            total = routes[0](made[0])
            for source in range(1, len(made)):
                total = total + routes[source](made[source])
            fused.append(torch.relu(total))
        return fused


class SmallHRNet(nn.Module):
    """Stem, two exchanges over two resolutions, two over three, a heat-map head on the finest."""

    def __init__(self, joints: int = 17) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, 16, 2), nn.ReLU(), conv_bn(16, 16, 2), nn.ReLU())
        self.split2 = nn.Sequential(conv_bn(16, 32, 2), nn.ReLU())
        self.stage2 = nn.ModuleList(Exchange((16, 32)) for _ in range(2))
        self.split3 = nn.Sequential(conv_bn(32, 64, 2), nn.ReLU())
        self.stage3 = nn.ModuleList(Exchange((16, 32, 64)) for _ in range(2))
        self.head = nn.Conv2d(16, joints, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = [self.stem(x)]
        features.append(self.split2(features[0]))
        for exchange in self.stage2:
            features = exchange(features)
        features.append(self.split3(features[-1]))
        for exchange in self.stage3:
            features = exchange(features)
        return self.head(features[0])


class DenseLayer(nn.Module):
    """Batch norm, ReLU, 1x1; batch norm, ReLU, 3x3: adds `growth` channels to what it got."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, parts: list[torch.Tensor]) -> torch.Tensor:
        x = self.conv1(torch.relu(self.norm1(torch.cat(parts, 1))))
        return self.conv2(torch.relu(self.norm2(x)))


class DenseBlock(nn.Module):
    """Layers of which each reads the results of all before it."""

    def __init__(self, channels: int, growth: int, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DenseLayer(channels + index * growth, growth) for index in range(depth))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [x]
        for layer in self.layers:
            parts.append(layer(parts))
        return torch.cat(parts, 1)


class SmallDenseNet(nn.Module):
    """Stem, three dense blocks with halving transitions, global average pool, classifier."""

    def __init__(self, growth: int = 12, depth: int = 4, classes: int = 10) -> None:
        super().__init__()
        channels = 24
        stages: list[nn.Module] = [nn.Conv2d(3, channels, 3, padding=1, bias=False)]
        for index in range(3):
            stages.append(DenseBlock(channels, growth, depth))
            channels += growth * depth
            stages += [nn.BatchNorm2d(channels), nn.ReLU()]
            if index < 2:
                stages += [nn.Conv2d(channels, channels // 2, 1, bias=False), nn.AvgPool2d(2)]
                channels //= 2
        self.features = nn.Sequential(*stages)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.adaptive_avg_pool2d(self.features(x), 1)
        return self.classifier(torch.flatten(x, 1))


@model("simplenet", input_shape=(3, 224, 224), log="x5_simplenet")
def simplenet() -> nn.Module:
    return SimpleNet()


@model("cifar_image_classifier", input_shape=(3, 32, 32), log="x3_cifar_imageclassifier")
def cifar_image_classifier() -> nn.Module:
    return CifarImageClassifier()


@model("hrnet_small", input_shape=(3, 128, 128))
def hrnet_small() -> nn.Module:
    return SmallHRNet()


@model("densenet_small", input_shape=(3, 32, 32))
def densenet_small() -> nn.Module:
    return SmallDenseNet()
