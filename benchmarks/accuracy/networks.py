"""Six small networks with the traits that make quantization hard, each in the form that is usual for it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv_bn(
    c_in: int, c_out: int, kernel: int = 3, stride: int = 1, groups: int = 1, act: nn.Module | None = None
) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(c_out),
    ]
    return nn.Sequential(*layers, *([] if act is None else [act]))


class InvertedResidual(nn.Module):
    """Expand, depthwise, project; a residual where sizes allow it."""

    def __init__(self, c_in: int, c_out: int, stride: int, act: Callable[[], nn.Module], squeeze: bool = False) -> None:
        super().__init__()
        hidden = 4 * c_in
        self.residual = stride == 1 and c_in == c_out
        self.expand = conv_bn(c_in, hidden, 1, act=act())
        self.depthwise = conv_bn(hidden, hidden, 3, stride, hidden, act=act())
        self.squeeze = SqueezeExcite(hidden) if squeeze else nn.Identity()
        self.project = conv_bn(hidden, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.squeeze(self.depthwise(self.expand(x))))
        return x + y if self.residual else y


class SqueezeExcite(nn.Module):
    """Channels weighed by what their means say."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, max(channels // 4, 4), 1)
        self.widen = nn.Conv2d(max(channels // 4, 4), channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * F.hardsigmoid(self.widen(F.relu(self.reduce(F.adaptive_avg_pool2d(x, 1)))))


class MobileNetLike(nn.Module):
    """ReLU6 everywhere; `spread` makes its linear bottlenecks differ by orders of magnitude from channel to channel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(1, 16, act=nn.ReLU6())
        shapes = [(16, 16, 1), (16, 24, 2), (24, 24, 1), (24, 32, 2), (32, 32, 1)]
        self.blocks = nn.Sequential(*(InvertedResidual(i, o, s, nn.ReLU6) for i, o, s in shapes))
        self.last = conv_bn(32, 96, 1, act=nn.ReLU6())
        self.head = nn.Conv2d(96, 10, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.adaptive_avg_pool2d(self.last(self.blocks(self.stem(x))), 1)).flatten(1)

    @torch.no_grad()
    def spread(self, seed: int = 0) -> None:
        """Scale the channels of the linear bottlenecks by 10^U(-0.6, 0.6), and undo it in the layers that read them: the function stays.

        Each of the two chains of bottlenecks that additions tie together has factors of its own.
        """
        generator = torch.Generator().manual_seed(seed)
        one, two, three, four = list(self.blocks)[1:]
        for made, read in (((one, two), (two.expand, three.expand)), ((three, four), (four.expand, self.last))):
            factor = 10 ** (torch.rand(made[0].project[1].weight.numel(), generator=generator) * 1.2 - 0.6)
            for block in made:
                block.project[1].weight *= factor
                block.project[1].bias *= factor
            for layer in read:
                layer[0].weight /= factor.view(1, -1, 1, 1)


class HardswishNet(nn.Module):
    """MobileNetV3's pieces: hardswish, squeeze and excite."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(1, 16, act=nn.Hardswish())
        shapes = [(16, 16, 1), (16, 24, 2), (24, 24, 1), (24, 32, 2)]
        self.blocks = nn.Sequential(*(InvertedResidual(i, o, s, nn.Hardswish, squeeze=True) for i, o, s in shapes))
        self.last = conv_bn(32, 96, 1, act=nn.Hardswish())
        self.head = nn.Conv2d(96, 10, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.adaptive_avg_pool2d(self.last(self.blocks(self.stem(x))), 1)).flatten(1)


class UNetLike(nn.Module):
    """Cats of encoder and decoder values of different ranges; the result is a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.down1 = nn.Sequential(conv_bn(1, 16, act=nn.ReLU()), conv_bn(16, 16, act=nn.ReLU()))
        self.down2 = nn.Sequential(conv_bn(16, 32, act=nn.ReLU()), conv_bn(32, 32, act=nn.ReLU()))
        self.bottom = nn.Sequential(conv_bn(32, 48, act=nn.ReLU()), conv_bn(48, 48, act=nn.ReLU()))
        self.up2 = nn.ConvTranspose2d(48, 32, 2, 2)
        self.join2 = conv_bn(64, 32, act=nn.ReLU())
        self.up1 = nn.ConvTranspose2d(32, 16, 2, 2)
        self.join1 = conv_bn(32, 16, act=nn.ReLU())
        self.head = nn.Conv2d(16, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.down1(x)
        b = self.down2(F.max_pool2d(a, 2))
        c = self.bottom(F.max_pool2d(b, 2))
        b = self.join2(torch.cat([self.up2(c), b], 1))
        a = self.join1(torch.cat([self.up1(b), a], 1))
        return self.head(a)


class CSP(nn.Module):
    """Half of the channels go through bottlenecks, half around them."""

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        half = channels // 2
        self.left, self.right = conv_bn(channels, half, 1, act=nn.SiLU()), conv_bn(channels, half, 1, act=nn.SiLU())
        self.inner = nn.ModuleList(conv_bn(half, half, act=nn.SiLU()) for _ in range(depth))
        self.join = conv_bn(channels, channels, 1, act=nn.SiLU())

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.left(x), self.right(x)
        for conv in self.inner:
            left = left + conv(left)
        return self.join(torch.cat([left, right], 1))


class CSPNet(nn.Module):
    """What YOLO backbones are made of: SiLU and CSP blocks, pooling of several sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(1, 16, act=nn.SiLU())
        self.one, self.down, self.two = CSP(16, 1), conv_bn(16, 32, 3, 2, act=nn.SiLU()), CSP(32, 2)
        self.reduce, self.widen = conv_bn(32, 16, 1, act=nn.SiLU()), conv_bn(48, 32, 1, act=nn.SiLU())
        self.head = nn.Conv2d(32, 10, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.reduce(self.two(self.down(self.one(self.stem(x)))))
        pools = [x, F.max_pool2d(x, 3, 1, 1), F.max_pool2d(x, 5, 1, 2)]
        return self.head(F.adaptive_avg_pool2d(self.widen(torch.cat(pools, 1)), 1)).flatten(1)


class Attention(nn.Module):
    """Softmax attention with layer norms, as in a vision transformer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.width = heads, width
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 3 * width), nn.Linear(3 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        scores = torch.softmax(q @ k.transpose(-2, -1) * (c // self.heads) ** -0.5, -1)
        x = x + self.out((scores @ v).transpose(1, 2).reshape(n, t, c))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class TransformerLike(nn.Module):
    """Patches of 4x4, two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, 48, 4, 4)
        self.place = nn.Parameter(torch.randn(1, 16, 48) * 0.1)
        self.blocks = nn.Sequential(Attention(48, 3), Attention(48, 3))
        self.norm, self.head = nn.LayerNorm(48), nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2) + self.place
        return self.head(self.norm(self.blocks(x)).mean(1))


class SuperResolution(nn.Module):
    """Twice the size by pixel shuffle; every pixel counts."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 32, 5, padding=2)
        self.body = nn.ModuleList(nn.Conv2d(32, 32, 3, padding=1) for _ in range(4))
        self.last = nn.Conv2d(32, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.first(x))
        for conv in self.body:
            y = y + F.relu(conv(y))
        return F.pixel_shuffle(self.last(y), 2) + F.interpolate(x, scale_factor=2.0, mode="nearest")


NETWORKS: dict[str, type[nn.Module]] = {
    "mobilenet": MobileNetLike,
    "hardswish-se": HardswishNet,
    "unet": UNetLike,
    "csp-silu": CSPNet,
    "transformer": TransformerLike,
    "super-resolution": SuperResolution,
}
