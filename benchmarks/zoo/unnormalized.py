"""A residual network without normalization, padded as TensorFlow does: weights are standardized instead."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .classification import SqueezeExcite
from .registry import zoo


def same_padding(x: Tensor, kernel: int, stride: int, value: float = 0.0) -> Tensor:
    """Padding by what the last window lacks, more of it behind than in front."""
    lacks = [max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in x.shape[-2:]]
    (top, bottom), (left, right) = ((lack // 2, lack - lack // 2) for lack in lacks)
    return F.pad(x, [left, right, top, bottom], value=value)


class StandardizedConv(nn.Conv2d):
    """A convolution whose filters have mean 0 and a trained gain; each is standardized as an image is by a batch norm."""

    def __init__(self, cin: int, cout: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(cin, cout, kernel, stride, groups=groups)
        self.gain = nn.Parameter(torch.ones(cout, 1, 1, 1))
        self.fan = self.weight[0].numel()

    def forward(self, x: Tensor) -> Tensor:
        rows = self.weight.reshape(1, self.out_channels, -1)
        scale = (self.gain * self.fan**-0.5).view(-1)
        weight = F.batch_norm(rows, None, None, weight=scale, training=True, momentum=0.0, eps=1e-6).reshape_as(self.weight)
        x = same_padding(x, self.kernel_size[0], self.stride[0])
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class NormFreeBlock(nn.Module):
    def __init__(self, cin: int, cout: int, stride: int, beta: float) -> None:
        super().__init__()
        self.beta = beta
        self.downsample = StandardizedConv(cin, cout, 1) if cin != cout or stride > 1 else None
        self.stride = stride
        self.conv1 = StandardizedConv(cin, cout // 2, 1)
        self.conv2 = StandardizedConv(cout // 2, cout // 2, 3, stride, groups=2)
        self.conv3 = StandardizedConv(cout // 2, cout, 1)
        self.attend = SqueezeExcite(cout, 4)
        self.skip_gain = nn.Parameter(torch.full((), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(x).mul_(1.7139588594436646) * self.beta
        shortcut = x
        if self.downsample is not None:
            pooled = F.avg_pool2d(out, 2, 2, ceil_mode=True, count_include_pad=False) if self.stride > 1 else out
            shortcut = self.downsample(pooled)
        out = self.conv2(F.relu(self.conv1(out)))
        out = self.attend(self.conv3(F.relu(out))) * 2.0
        out.mul_(self.skip_gain)
        return out * 0.2 + shortcut


@zoo("nfnet", (1, 3, 31, 31))
class NFNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = StandardizedConv(3, 16, 3, 2)
        self.blocks = nn.Sequential(
            NormFreeBlock(16, 32, 1, 1.0), NormFreeBlock(32, 32, 1, 0.98), NormFreeBlock(32, 48, 2, 0.96)
        )
        self.head = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.max_pool2d(same_padding(x, 3, 2, value=-float("inf")), 3, 2)
        return self.head(F.relu(self.blocks(x)).mean((2, 3)))
