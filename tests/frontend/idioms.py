# ruff: noqa: RUF046, RUF059  (as published code does)
"""Small programs in the styles of published vision, detection and transformer code, one per idiom that tracing must take.

`IDIOMS`: name -> (module, positional inputs, keyword inputs). All are plain torch, written for these tests.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import Tensor, fx, nn

IDIOMS: dict[str, tuple[nn.Module, tuple[Any, ...], dict[str, Any]]] = {}
PLAIN: set[str] = set()
"""Idioms that stock FX traces too, under the same names."""


def image(batch: int = 2, channels: int = 4, height: int = 8, width: int = 12) -> Tensor:
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(batch + channels + height))


def idiom(*inputs: Any, plain: bool = False, **named: Any) -> Callable[[Any], Any]:
    """Register a module class, or a function as a module."""

    def register(item: Any) -> Any:
        module = item() if isinstance(item, type) else OneFunction(item)
        IDIOMS[item.__name__] = (module.eval(), inputs or (image(),), named)
        if plain:
            PLAIN.add(item.__name__)
        return item

    return register


class OneFunction(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


# --- sizes ---------------------------------------------------------------------------------------------------------------


@idiom()
def pad_to_multiple(x: Tensor) -> Tensor:
    h, w = x.shape[-2:]
    if h % 16 != 0 or w % 16 != 0:
        x = F.pad(x, (0, (16 - w % 16) % 16, 0, (16 - h % 16) % 16))
    return x * 2


@idiom(image(2, 4, 7, 9))
class PadsToTheSkip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(4, 4, 2, stride=2)

    def forward(self, skip: Tensor) -> Tensor:
        x = self.up(F.max_pool2d(skip, 2))
        dy, dx = skip.size()[2] - x.size()[2], skip.size()[3] - x.size()[3]
        x = F.pad(x, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])
        return torch.cat([skip, x], dim=1)


@idiom()
def resize_unless_equal(x: Tensor) -> Tensor:
    y = F.avg_pool2d(x, 2)
    if y.shape[2:] != x.shape[2:]:
        y = F.interpolate(y, size=x.shape[2:], mode="nearest")
    return y + x


@idiom()
def length_of_batch(x: Tensor) -> Tensor:
    return x.reshape(len(x), -1)


@idiom()
def list_of_chunks(x: Tensor) -> Tensor:
    y = list(x.chunk(2, 1))
    y.extend(step(y[-1]) for step in (torch.relu, torch.sigmoid))
    return torch.cat(y, 1)


@idiom()
def loop_over_unbind(x: Tensor) -> Tensor:
    total = 0.0
    for plane in x.unbind(1):
        total = total * 0.5 + plane
    return total


@idiom()
def loop_over_range_of_a_size(x: Tensor) -> Tensor:
    return torch.stack([x[:, i] * (i + 1) for i in range(x.shape[1])], dim=1)


@idiom()
def enumerate_split(x: Tensor) -> Tensor:
    return torch.cat([part + i for i, part in enumerate(torch.split(x, 2, dim=1))], 1)


@idiom()
def zip_of_splits(x: Tensor) -> Tensor:
    return sum(a * b for a, b in zip(x.split(1, 1), reversed(x.split(1, 1)), strict=True))


@idiom()
def int_of_size(x: Tensor) -> Tensor:
    b, c = int(x.size(0)), int(x.size(1))
    return x.view(b, c, -1).mean(-1)


@idiom(image(2, 4, 8, 8))
def window_partition_and_reverse(x: Tensor) -> Tensor:
    size = 4
    x = x.permute(0, 2, 3, 1)
    b, h, w, c = x.shape
    windows = x.view(b, h // size, size, w // size, size, c).permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, size, size, c)
    windows = windows.softmax(-1)
    back = int(windows.shape[0] / (h * w / size / size))
    y = windows.view(back, h // size, w // size, size, size, -1)
    return y.permute(0, 1, 3, 2, 4, 5).contiguous().view(back, h, w, -1)


@idiom()
def asserts_about_shapes(x: Tensor) -> Tensor:
    assert x.dim() == 4, f"expected four dimensions, got {x.dim()}"
    assert x.shape[1] == 4 and x.shape[2] % 2 == 0, "an even height"
    b, c, h, w = x.shape
    assert h == 8 and w == 12, f"input size ({h}*{w}) does not match"
    torch._assert(c == 4, "channels")
    return x.flatten(2).transpose(1, 2)


@idiom()
def asks_torch_about_a_tensor(x: Tensor) -> Tensor:
    if not torch.is_floating_point(x) or torch.is_complex(x) or x.is_complex() or x.is_mkldnn:
        raise TypeError
    x = x.to(torch.result_type(x, 1.0)) * torch.numel(x[0]) / x[0].nelement()
    return x + len(x.stride()) if x.is_cpu else x


@idiom()
def whole_numbers_of_a_tensor_of_sizes(x: Tensor) -> Tensor:
    size = torch.tensor(x.shape[-2:])
    steps = int(size.prod()) // 8
    return x * steps + float(size.float().mean())


@idiom()
def remembers_only_in_training(x: Tensor) -> Tensor:
    return x * 3 if torch.is_grad_enabled() else x * 2


@idiom()
def rank_decides(x: Tensor) -> Tensor:
    if x.ndim == 3:
        x = x.unsqueeze(0)
    elif x.dim() != 4:
        raise ValueError(f"bad rank {x.dim()}")
    return x.mean((2, 3)) if len(x.shape) > 3 else x


@idiom()
def checks_the_type(x: Tensor) -> Tensor:
    features = [x, x * 2] if isinstance(x, torch.Tensor) else x
    if not torch.is_tensor(features[0]) or isinstance(features[0], (list, tuple)):
        raise TypeError
    return torch.cat(features, 1)


@idiom()
def asks_jit_for_the_type(x: Tensor, skip: Tensor | None = None) -> Tensor:
    if torch.jit.isinstance(x, list[Tensor]) or not torch.jit.isinstance(x, torch.Tensor):
        raise TypeError
    return x * 2 if skip is None else x


class Backend:
    """As libraries that work with several frameworks: the class that knows a tensor is looked for among the subclasses."""

    def knows(self, x: Any) -> bool:
        raise NotImplementedError


class OfNumpy(Backend):
    def knows(self, x: Any) -> bool:
        return isinstance(x, np.ndarray)


class OfTorch(Backend):
    def knows(self, x: Any) -> bool:
        return isinstance(x, torch.Tensor)

    def flat(self, x: Any) -> Any:
        return x.reshape(len(x), -1)


def backend_of(x: Any) -> Any:
    for kind in Backend.__subclasses__():
        if kind().knows(x):
            return kind()
    raise RuntimeError(f"no framework has {type(x)}")


@idiom()
def class_found_among_subclasses(x: Tensor) -> Tensor:
    return backend_of(x).flat(x)


@idiom()
class ModulesMadeInForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 1)
        self.shortcut = functools.partial(self.smaller, planes=8)
        self.acts = [nn.ReLU(), nn.Sequential(nn.Hardtanh(0, 6), nn.Identity())]

    def smaller(self, x: Tensor, planes: int) -> Tensor:
        out = nn.AvgPool2d(1, stride=2)(x)
        return torch.cat([out, torch.zeros(out.size(0), planes - out.size(1), *out.shape[2:])], 1)

    def forward(self, x: Tensor) -> Tensor:
        y = nn.MaxPool2d(2)(self.acts[0](self.conv(x))) + self.shortcut(x)
        return nn.Softmax(dim=1)(nn.UpsamplingNearest2d(scale_factor=2)(self.acts[1](y)))


@idiom()
def types_by_name(x: Tensor) -> Tensor:
    grid = torch.arange(x.shape[-1]).type(x.type()) + torch.arange(12).type(x.type())
    return (x * 2).type(x.type()).type(torch.FloatTensor) + grid


@idiom()
def sizes_through_helpers(x: Tensor) -> Tensor:
    return F.pad(x, same_padding(x.shape[-2:], 3, 2))


def same_padding(size: Any, kernel: int, stride: int) -> tuple[int, ...]:
    amounts: list[int] = []
    for item in reversed(size):
        need = max((math.ceil(item / stride) - 1) * stride + kernel - item, 0)
        amounts += [need // 2, need - need // 2]
    return tuple(amounts)


@idiom()
def sizes_in_numpy(x: Tensor) -> Tensor:
    scale = np.sqrt(x.shape[1] * x.shape[2])
    grid = np.linspace(0, 1, x.shape[3]).astype(np.float32)
    return x / float(scale) + torch.from_numpy(grid)


@idiom()
def float_of_size(x: Tensor) -> Tensor:
    return x * float(x.shape[-1]) ** -0.5


@idiom(image(1, 4, 8, 8))
def square_token_map(x: Tensor) -> Tensor:
    tokens = x.flatten(2).transpose(1, 2)
    b, n, c = tokens.shape
    side = int(math.sqrt(n))
    return tokens.transpose(1, 2).reshape(b, c, side, side)


@idiom()
def scaled_size(x: Tensor) -> Tensor:
    h, w = x.shape[2], x.shape[3]
    return F.interpolate(x, size=(int(h * 1.5), int(round(w * 0.5))), mode="bilinear", align_corners=False)


@idiom()
def divmod_and_minmax(x: Tensor) -> Tensor:
    rows, rest = divmod(x.shape[3], 5)
    return x[..., : min(x.shape[2], x.shape[3])] * (rows + max(rest, 1))


@idiom()
def chained_comparison(x: Tensor) -> Tensor:
    return x * 2 if 4 < x.shape[2] <= 8 else x


@idiom()
def membership(x: Tensor) -> Tensor:
    return x + 1 if x.shape[1] in (1, 3, 4) else x


@idiom()
def size_as_dictionary_key(x: Tensor) -> Tensor:
    return x * {4: 0.5, 8: 0.25}[x.shape[1]]


@idiom()
def size_into_fstring(x: Tensor) -> Tensor:
    return x * {"8x12": 3.0}.get(f"{x.shape[2]}x{x.shape[3]:d}", 1.0)


@idiom(image(2, 6, 4, 4))
def channel_shuffle(x: Tensor) -> Tensor:
    b, c, h, w = x.data.size()
    groups = 3
    assert c % groups == 0
    x = x.view(b, groups, c // groups, h, w)
    return torch.transpose(x, 1, 2).contiguous().view(b, -1, h, w)


@idiom(plain=True)
def sizes_as_arguments_only(x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    return x.view(b, c, h * w).transpose(1, 2).reshape(x.size(0), h, w, c)


@idiom()
def while_loop_over_sizes(x: Tensor) -> Tensor:
    while x.shape[-1] > 3:
        x = F.max_pool2d(x, 2)
    return x


@idiom()
def starred_unpacking(x: Tensor) -> Tensor:
    batch, *rest = x.shape
    return x.reshape(batch, rest[0], -1)


@idiom()
def numel_and_stride(x: Tensor) -> Tensor:
    return x.reshape(-1, x.numel() // x.shape[0]) if x.numel() > 10 and x.is_contiguous() else x


@idiom()
def halves_by_size(x: Tensor) -> Tensor:
    half = x.size(1) // 2
    return torch.cat([x[:, half:], x[:, :half].relu()], 1)


# --- factories ---------------------------------------------------------------------------------------------------------


@idiom()
def meshgrid_of_sizes(x: Tensor) -> Tensor:
    h, w = x.shape[-2:]
    ys, xs = torch.meshgrid(torch.arange(h, device=x.device), torch.arange(w, device=x.device), indexing="ij")
    grid = torch.stack((xs, ys), 0).float().unsqueeze(0)
    return x[:, :2] + grid.to(x.dtype)


@idiom()
def new_tensors(x: Tensor) -> Tensor:
    ones = x.new_ones(x.shape[0], 1, *x.shape[2:])
    zeros = x.new_zeros((x.size(0), 1, x.size(2), x.size(3)))
    return torch.cat([x, ones, zeros, x.new_full((x.shape[0], 1, 8, 12), 0.5)], 1) + x.new_tensor([1.0])


@idiom()
def like_tensors(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, torch.zeros_like(x)) + torch.ones_like(x) * torch.full_like(x, 2.0)


@idiom()
def constants_of_a_size(x: Tensor) -> Tensor:
    b, c = x.shape[:2]
    return x + torch.zeros(b, c, 1, 1, dtype=x.dtype, device=x.device) + torch.ones((c, 1, 1)).type_as(x)


@idiom()
def linspace_grid(x: Tensor) -> Tensor:
    return x * torch.linspace(-1, 1, x.shape[-1], device=x.device, dtype=x.dtype)


# --- arguments ---------------------------------------------------------------------------------------------------------


@idiom()
class OptionalArguments(nn.Module):
    def forward(self, x: Tensor, mask: Tensor | None = None, *args: Any, scale: float = 2.0, **kwargs: Any) -> Tensor:
        if mask is not None:
            x = x * mask
        for extra in args:
            x = x + extra
        if kwargs.get("twice", False) or "thrice" in kwargs:
            x = x * 2
        return self.inner(x * scale, *args, **kwargs)

    def inner(self, x: Tensor, offset: float = 1.0) -> Tensor:
        return x + offset


@idiom(image(), image(2, 1), scale=3.0)
class GivenArguments(OptionalArguments):
    pass


@idiom(image(), image(2, 1), image(2, 4))
class VariableArguments(nn.Module):
    def forward(self, *inputs: Tensor) -> Tensor:
        assert len(inputs) == 3
        total = inputs[0]
        for item in inputs[1:]:
            total = total + item
        return total


@idiom([image(), image(2, 4, 4, 6)])
class ListInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(4, 4, 1) for _ in range(2))

    def forward(self, inputs: list[Tensor]) -> tuple[Tensor, ...]:
        assert len(inputs) == len(self.convs)
        laterals = [conv(inputs[i]) for i, conv in enumerate(self.convs)]
        for i in range(len(laterals) - 1, 0, -1):
            laterals[i - 1] = laterals[i - 1] + F.interpolate(laterals[i], size=laterals[i - 1].shape[2:], mode="nearest")
        return tuple(laterals)


@idiom({"image": image(), "mask": image(2, 1), "flag": True})
class DictInput(nn.Module):
    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        x = batch["image"]
        if batch.get("mask") is not None and batch["flag"]:
            x = x * batch["mask"]
        return {key: value * 2 for key, value in zip(["a", "b"], x.chunk(2, 1), strict=True)}


class Pair(NamedTuple):
    left: Tensor
    right: Tensor


@idiom(Pair(image(), image(2, 4, 8, 12) * 2))
class NamedTupleInput(nn.Module):
    def forward(self, pair: Pair) -> Pair:
        left, right = pair
        return Pair(left + pair.right, right - pair.left)


@dataclasses.dataclass
class Sample:
    image: Tensor
    scale: float = 1.0
    names: tuple[str, ...] = ()


@idiom(Sample(image(), 2.0))
class DataclassInput(nn.Module):
    def forward(self, sample: Sample) -> dict[str, Tensor]:
        x = sample.image
        if sample.scale != 1.0:
            x = x * sample.scale
        return OrderedDict(out=x, aux=x.relu())


@idiom(torch.tensor([[1, 2, 3], [3, 0, 1]]), torch.tensor([[True, False, True], [True, True, True]]))
class IntegerAndBoolInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(4, 5)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        assert ids.dtype == torch.long and mask.dtype is torch.bool
        return self.embedding(ids).masked_fill(~mask.unsqueeze(-1), 0.0).mean(1)


# --- modules -----------------------------------------------------------------------------------------------------------


def drop_path(x: Tensor, drop_prob: float = 0.0, training: bool = False, scale_by_keep: bool = True) -> Tensor:
    if drop_prob == 0.0 or not training:
        return x
    keep = 1 - drop_prob
    mask = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep)
    return x * (mask.div_(keep) if scale_by_keep else mask)


class DropPath(nn.Module):
    def __init__(self, drop_prob: float = 0.2) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        return drop_path(x, self.drop_prob, self.training)


@idiom()
class ResidualWithDropPath(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.drop_path = DropPath(0.1)
        self.gamma = nn.Parameter(0.1 * torch.ones(4))
        self.use_checkpoint = True

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.use_checkpoint:
            return torch.utils.checkpoint.checkpoint(self.block, x, use_reentrant=False)
        return self.block(x)

    def block(self, x: Tensor) -> Tensor:
        gamma = self.gamma.view(1, -1, 1, 1) if self.gamma is not None else 1.0
        return x + self.drop_path(gamma * self.conv(x))


@idiom()
class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.utils.checkpoint.checkpoint(self.conv, x, use_reentrant=False)
        return torch.utils.checkpoint.checkpoint(lambda y: self.conv(y).relu(), x, use_reentrant=True)


class Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        result = x * torch.sigmoid(x)
        ctx.save_for_backward(x)
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        sigmoid = torch.sigmoid(x)
        return grad * (sigmoid * (1 + x * (1 - sigmoid)))


@idiom()
def custom_autograd_function(x: Tensor) -> Tensor:
    return Swish.apply(x)


@idiom()
class ReadsWhatHooksCollect(nn.Module):
    """Features of inner layers, kept by hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1))
        self.found: list[Tensor] = []
        self.named: dict[str, Tensor] = {}
        self.layers[0].register_forward_hook(self.collect)
        self.layers[2].register_forward_pre_hook(functools.partial(self.note, "last"))

    def collect(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.found.append(output)

    def note(self, name: str, module: nn.Module, inputs: tuple[Tensor]) -> None:
        self.named[name] = inputs[0]

    def forward(self, x: Tensor) -> Tensor:
        self.found.clear()
        y = self.layers(x)
        return y + sum(self.found).mean((2, 3), keepdim=True) * self.named["last"]


@idiom()
class HooksThatReturn(nn.Module):
    """Before and behind layers of torch.nn: what they return is part of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.seen: list[Tensor] = []
        self.conv.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 2,))
        self.norm.register_forward_hook(self.limited, with_kwargs=True)

    def limited(self, module: nn.Module, inputs: Any, named: Any, output: Tensor) -> Tensor:
        self.seen.append(output)
        return output.clamp(min=0)

    def forward(self, x: Tensor) -> Tensor:
        self.seen.clear()
        y = self.norm(self.conv(x).sigmoid())
        return y - self.seen[0] * len(self.seen)


@idiom()
def fills_what_is_empty(x: Tensor) -> Tensor:
    out, pairs = torch.empty_like(x), x.new_empty(x.shape[0], 2)
    out[..., ::2], out[..., 1::2] = x[..., ::2].cos(), x[..., 1::2].sin()
    pairs.copy_(x[:, :2, 0, 0])
    return out + pairs.sum()


@idiom()
class CacheKeyedByShape(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.grids: dict[Any, Tensor] = {}
        self.shape: Any = None
        self.anchors = torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        key = (x.shape[2], x.shape[3])
        if key not in self.grids:
            self.grids[key] = torch.arange(x.shape[3]).float()
        if self.shape != x.shape:
            self.anchors = make_anchors(x.shape[2], x.shape[3])
            self.shape = x.shape
        return x + self.grids[key] + self.anchors


@functools.lru_cache(maxsize=4)
def make_anchors(h: int, w: int) -> Tensor:
    return torch.arange(h * w).view(h, w) / (h * w)


@idiom()
class NoGradForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            weights = self.pool(x)
        return x * weights


@idiom()
def autocast_contexts(x: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        y = x.float() * 2
    with torch.autocast(device_type=x.device.type, enabled=False):
        return y + 1


@torch.jit.script_if_tracing
def scripted_if_tracing(x: Tensor, size: int) -> Tensor:
    return x[:, :size]


@torch.jit.ignore
def ignored(x: Tensor) -> Tensor:
    return x + 1


@torch.jit.script
def jit_swish(x: Tensor) -> Tensor:
    return x * x.sigmoid()


@idiom()
class JitDecorations(nn.Module):
    __constants__ = ("scale",)
    scale: int

    def __init__(self) -> None:
        super().__init__()
        self.scale = 2

    @torch.jit.unused
    def slow(self, x: Tensor) -> Tensor:
        return x / 0

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.jit.annotate(list[Tensor], [])
        for i in range(self.scale):
            parts.append(x * i)
        if torch.jit.is_scripting() or torch.jit.is_tracing() or torch.onnx.is_in_onnx_export():
            return self.slow(x)
        return jit_swish(ignored(scripted_if_tracing(torch.cat(parts, 1), 3)))


@idiom()
class ReparametrizedBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense, self.point = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.identity: nn.Module | None = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        if hasattr(self, "fused"):
            return self.fused(x)
        identity = 0 if self.identity is None else self.identity(x)
        return F.relu(self.dense(x) + self.point(x) + identity)


@idiom()
class AnchorHead(nn.Module):
    """Decodes in eval with a grid that is made anew when the size changes."""

    def __init__(self) -> None:
        super().__init__()
        self.strides = torch.tensor([8.0, 16.0])
        self.grid = [torch.empty(0) for _ in range(2)]
        self.layers = nn.ModuleList(nn.Conv2d(4, 6, 1, stride=s) for s in (1, 2))

    def forward(self, x: Tensor) -> Tensor:
        results = []
        for i, layer in enumerate(self.layers):
            y = layer(x)
            b, _, h, w = y.shape
            y = y.view(b, 1, 6, h, w).permute(0, 1, 3, 4, 2).contiguous()
            if not self.training:
                if self.grid[i].shape[2:4] != y.shape[2:4]:
                    self.grid[i] = self.make_grid(w, h).to(x.device)
                xy = (y[..., 0:2].sigmoid() * 2.0 - 0.5 + self.grid[i]) * self.strides[i]
                results.append(torch.cat((xy, y[..., 2:]), -1).view(b, -1, 6))
        return torch.cat(results, 1)

    @staticmethod
    def make_grid(nx: int = 20, ny: int = 20) -> Tensor:
        ys, xs = torch.meshgrid([torch.arange(ny), torch.arange(nx)], indexing="ij")
        return torch.stack((xs, ys), 2).view((1, 1, ny, nx, 2)).float()


@idiom(image(2, 16, 4, 4))
def distribution_focal_decode(x: Tensor) -> Tensor:
    b, _, a = x.flatten(2).shape
    weights = torch.arange(4, dtype=torch.float).view(1, 4, 1, 1)
    return (x.view(b, 4, 4, a).transpose(2, 1).softmax(1) * weights).sum(1)


@idiom(image(1, 4, 6, 6))
class Attention(nn.Module):
    def __init__(self, dim: int = 4, heads: int = 2) -> None:
        super().__init__()
        self.heads, self.scale = heads, (dim // heads) ** -0.5
        self.qkv, self.proj = nn.Linear(dim, dim * 3), nn.Linear(dim, dim)
        self.position = nn.Parameter(torch.zeros(1, 37, dim))
        self.token = nn.Parameter(torch.zeros(1, 1, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat((self.token.expand(x.shape[0], -1, -1), x), dim=1)
        if x.shape[1] != self.position.shape[1]:
            raise ValueError("resize the positions first")
        x = x + self.position[:, : x.size(1)]
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        weights = ((q @ k.transpose(-2, -1)) * self.scale).softmax(dim=-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(b, n, c))[:, 0]


@idiom(image(2, 4, 8, 8))
class ShiftedWindow(nn.Module):
    """Shifts by a roll, with a mask made of sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.window, self.shift = 4, 2
        self.norm = nn.LayerNorm(4)

    def mask(self, h: int, w: int) -> Tensor:
        regions = torch.zeros((1, h, w, 1))
        slices = (slice(0, -self.window), slice(-self.window, -self.shift), slice(-self.shift, None))
        count = 0
        for rows in slices:
            for columns in slices:
                regions[:, rows, columns, :] = count
                count += 1
        return regions

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        b, h, w, c = x.shape
        shift = 0 if min(h, w) <= self.window else self.shift
        if shift > 0:
            x = torch.roll(x, shifts=(-shift, -shift), dims=(1, 2))
        return self.norm(x) + self.mask(int(h), int(w))


@idiom()
class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        weights = x.mean((2, 3), keepdim=True)
        weights = self.expand(self.act(self.reduce(weights)))
        return x * weights.sigmoid()


@idiom()
class SameConvolution(nn.Conv2d):
    """Pads by its input's size, as TensorFlow does."""

    def __init__(self) -> None:
        super().__init__(4, 4, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        ih, iw = x.size()[-2:]
        kh, kw = self.weight.size()[-2:]
        oh, ow = math.ceil(ih / self.stride[0]), math.ceil(iw / self.stride[1])
        ph, pw = max((oh - 1) * self.stride[0] + kh - ih, 0), max((ow - 1) * self.stride[1] + kw - iw, 0)
        if ph > 0 or pw > 0:
            x = F.pad(x, [pw // 2, pw - pw // 2, ph // 2, ph - ph // 2])
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


@idiom()
class WithMethodReplaced(nn.Module):
    """`forward` was replaced on the instance, as some libraries do for export."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)
        self.forward = self.forward_features

    def forward_features(self, x: Tensor) -> Tensor:
        return self.conv(x).relu()


@idiom()
class OddNames(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({"class": nn.Conv2d(4, 2, 1), "it's": nn.Conv2d(4, 2, 1), 'a"b': nn.Conv2d(4, 2, 1)})
        self.add_module("lambda", nn.ReLU())

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {name: getattr(self, "lambda")(head(x)) for name, head in self.heads.items()}


@idiom()
class Parametrized(nn.Module):
    class Symmetric(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return weight.triu() + weight.triu(1).transpose(-1, -2)

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 1))
        self.linear = nn.Linear(12, 12)
        nn.utils.parametrize.register_parametrization(self.linear, "weight", self.Symmetric())

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.conv(x))


class LayerNorm2d(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


@idiom()
class ChannelsFirstNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = LayerNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


@idiom()
class MemoryBankOfFeatures(nn.Module):
    """Keeps features in a list and a dictionary on the way, and returns some of them."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleDict({"a": nn.Conv2d(4, 4, 1), "b": nn.Conv2d(4, 4, 1, stride=2)})
        self.features: list[Tensor] = []

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        self.features.clear()
        out: dict[str, Tensor] = OrderedDict()
        for name, stage in self.stages.items():
            x = stage(x)
            self.features.append(x)
            out[name] = x
        return self.features[-1], out


@idiom(image(1, 4, 4, 4))
def einsum_with_sizes(x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    q = x.reshape(b, c, h * w)
    return torch.einsum("bcn,bcm->bnm", q, q) / math.sqrt(c)


@idiom()
def shape_dependent_kernel(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, kernel_size=x.size()[2:])


@idiom()
def shape_compared_with_a_tuple(x: Tensor) -> Tensor:
    return x * 2 if x.shape == (2, 4, 8, 12) and tuple(x.shape[1:]) == (4, 8, 12) else x


@idiom()
def dtype_and_device_branches(x: Tensor) -> Tensor:
    if x.dtype == torch.float16 or x.is_cuda or x.requires_grad:
        return x.float() * 0
    return x.to(device=x.device, dtype=x.dtype) + 1


@idiom()
def walks_a_generator_of_parts(x: Tensor) -> Tensor:
    return torch.cat([part.mean(1, keepdim=True) for part in torch.tensor_split(x, 2, dim=1)] + list(x.split([1, 3], 1)), 1)


@idiom()
def pairs_of_results(x: Tensor) -> tuple[Tensor, ...]:
    best = x.topk(2, dim=1)
    values, _ = best
    return x.max(dim=1).values, best.values, values * 2, x.max(1)[0]


@idiom()
def applies_to_levels(x: Tensor) -> Any:
    levels = [x, F.avg_pool2d(x, 2)]
    results = map(lambda level, stride: ((level * stride).sigmoid(), level.exp()), levels, [8, 16])
    return tuple(map(list, zip(*results, strict=True)))


@idiom()
def sine_positions(x: Tensor) -> Tensor:
    b, _, h, w = x.shape
    embed = (~torch.zeros(b, h, w).bool().to(x.device)).cumsum(1, dtype=torch.float32)
    frequencies = 10000 ** (2 * torch.div(torch.arange(4, dtype=torch.float32), 2, rounding_mode="floor") / 4)
    position = embed[:, :, :, None] / frequencies
    position = torch.stack((position[..., 0::2].sin(), position[..., 1::2].cos()), 4).flatten(3)
    return x + position.permute(0, 3, 1, 2)


@idiom()
def shifts_in_time(x: Tensor) -> Tensor:
    fold = x.shape[1] // 3
    out = torch.zeros_like(x)
    out[:-1, :fold] = x[1:, :fold]
    out[1:, fold : 2 * fold] = x[:-1, fold : 2 * fold]
    out[:, 2 * fold :] = x[:, 2 * fold :]
    return out


@idiom()
def square_by_resizing(x: Tensor) -> Tensor:
    if x.size(2) != x.size(3):
        x = F.interpolate(x, size=(max(x.shape[2:]),) * 2)
    y = torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2]], 1)
    return torch.cat([y, torch.zeros((y.shape[0], 1, *tuple(y.shape[2:])), dtype=y.dtype, device=y.device)], 1)


_CUTS: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "expand": lambda table, n: table[:1].expand(n, 6),
    "new_zeros": lambda table, n: table.new_zeros(n, 6) + table[:1],
    "new_ones": lambda table, n: table.new_ones((n, 6)),
    "new_full": lambda table, n: table.new_full((n, 6), 2.0),
    "new_empty": lambda table, n: torch.zeros_like(table.new_empty(n, 6)),
    "repeat": lambda table, n: table[:1].repeat(n, 1),
    "tile": lambda table, n: table[:1].tile((n, 1)),
    "narrow": lambda table, n: table.narrow(0, 1, n),
    "roll": lambda table, n: table.roll(n, 0)[:1],
    "torch_roll": lambda table, n: torch.roll(table, (n, n), (0, 1))[:1],
    "split": lambda table, n: table.split(n)[0],
    "split_sizes": lambda table, n: table.split([n, 8 - n])[0],
    "chunk": lambda table, n: table.reshape(-1).chunk(n)[0][:6],
    "unflatten": lambda table, n: table[:1].unflatten(0, (1, n // n)).sum(1),
    "repeat_interleave": lambda table, n: table[:1].repeat_interleave(n, 0),
    "diagonal": lambda table, n: table.diagonal(n - n).sum()[None],
    "triu": lambda table, n: table.triu(n)[:1],
    "interpolate": lambda table, n: F.interpolate(table[None, None], size=(n, 6), mode="nearest")[0, 0],
    "pool": lambda table, n: F.adaptive_avg_pool2d(table[None], (n, 6))[0],
    "one_hot": lambda table, n: F.one_hot(torch.zeros(1).long(), n + 3)[..., :1],
}


def _cut(name: str) -> None:
    class CutsATable(nn.Module):
        """A constant table, by a size of the input."""

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.arange(48.0).reshape(8, 6))

        def forward(self, x: Tensor) -> Tensor:
            return x * _CUTS[name](self.table, x.shape[0])

    CutsATable.__name__ = f"table_by_{name}"
    idiom(torch.randn(2, 6, generator=torch.Generator().manual_seed(1)))(CutsATable)


for _name in _CUTS:
    _cut(_name)


# --- what C++ asks, assertions, and tensors without elements -------------------------------------------------------------


def _autocast_unless_off(device_type: str, enabled: bool = False) -> Any:
    if torch.is_autocast_enabled(device_type) or enabled:
        return torch.autocast(device_type, enabled=enabled)
    return contextlib.nullcontext()


@idiom()
def asks_about_the_device(x: Tensor) -> Tensor:
    with _autocast_unless_off(x.device.type):
        return x.float() * 2


@idiom()
def least_number_of_a_dtype(x: Tensor) -> Tensor:
    dtype = torch.promote_types(x.dtype, torch.float32)
    return torch.where(x > 0, x, torch.finfo(dtype).min / 1e38 + torch.finfo(x.dtype).eps).to(dtype)


@idiom()
def checks_for_the_compiler(x: Tensor) -> Tensor:
    torch._check(x.shape[1] == 4)
    torch._check(x.shape[2] > 1, lambda: "too small")
    torch._check_tensor_all(x < 1e9, lambda: f"too large: {x}")
    torch._check_with(ValueError, x.shape[-1] > 2, lambda: "too small")
    return x + 1


_NOTHING: dict[str, Any] = {
    "part": lambda x: x[:, 4:],
    "repeat": lambda x: x[:, -1:].repeat(1, x.shape[1] - 4, 1, 1),
    "interleaved": lambda x: x.repeat_interleave(0, 1),
    "list": lambda x: x[:, []],
    "factory": lambda x: x.new_zeros(x.shape[0], 0, *x.shape[2:]),
}
for _kind, _nothing in _NOTHING.items():

    def _pads_by_nothing(x: Tensor, nothing: Any = _nothing) -> Tensor:
        """As frame-wise outputs are padded to a length that they have."""
        rows = nothing(x)
        rows = (rows.unsqueeze(0).squeeze(0) * 2 + rows).flip(1).softmax(-1)
        return torch.cat([x, rows.flatten(2).view(rows.shape)], 1)

    IDIOMS[f"pads_by_{_kind}_of_nothing"] = (OneFunction(_pads_by_nothing).eval(), (image(),), {})


class TurnsAllButThePrefix(nn.Module):
    """An attention block of which `prefix` tokens are no patches: often none."""

    def __init__(self, prefix: int, by: str) -> None:
        super().__init__()
        self.prefix, self.by = prefix, by
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 8))

    def forward(self, x: Tensor) -> Tensor:
        n = self.prefix
        if self.by == "split":
            first, rest = x.split([n, x.shape[1] - n], dim=1)
        elif self.by == "narrow":
            first, rest = x.narrow(1, 0, n), x.narrow(1, n, x.shape[1] - n)
        elif self.by == "tensor_split":
            first, rest = x.tensor_split([n], dim=1)
        else:
            first, rest = x[:, :n], x[:, n:]
        rest = rest * self.scale + torch.stack([-rest[..., 1::2], rest[..., ::2]], -1).reshape(rest.shape)
        return torch.cat([(first * self.scale + 1).relu(), rest], dim=1)


_TOKENS = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(3))
for _prefix in (0, 2):
    for _by in ("slice", "split", "narrow", "tensor_split"):
        IDIOMS[f"turns_all_but_{_prefix}_by_{_by}"] = (
            TurnsAllButThePrefix(_prefix, _by).eval(),
            (torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(3)),),
            {},
        )


def _fitted(window: list[int], shift: list[int], sizes: tuple[int, ...]) -> tuple[list[int], list[int]]:
    for axis, size in enumerate(sizes):
        if size <= window[axis]:
            window[axis], shift[axis] = size, 0
    return window, shift


fx.wrap("_fitted")


@idiom()
def lists_that_a_wrapped_function_changes(x: Tensor) -> Tensor:
    window, shift = _fitted([16, 4], [2, 2], tuple(x.shape[2:]))
    return torch.roll(x, (-shift[0], -shift[1]), (2, 3)) * window[0]


# --- masks that nobody gave ----------------------------------------------------------------------------------------------


def _mask_unless_given(x: Tensor, mask: Tensor | None = None) -> Tensor:
    return torch.ones(x.shape[0], x.shape[1]) if mask is None else mask


@idiom()
def masks_only_what_is_masked(x: Tensor) -> Tensor:
    mask = _mask_unless_given(x)
    if ((mask == 0) | (mask < 0) & torch.ones_like(mask).bool()).any():
        x = x.masked_fill(mask[:, :, None, None] == 0, -1e4)
    if mask.sum().item() == mask.numel() and torch.equal(mask, torch.ones_like(mask)):
        x = x * 2
    return x + mask.min() if not (mask < 0).any() else x


@idiom()
class GlobalTokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kinds", torch.tensor([0, 1, 0, 1]))

    def forward(self, x: Tensor) -> Tensor:
        is_global = self.kinds.expand(x.shape[0], -1) > 0
        if is_global.flatten().any().item():
            x = x + is_global[:, :, None, None].to(x.dtype)
        return x


@idiom()
class PadsByAComputedAmount(nn.Module):
    """The amount is a tensor, made of buffers and a size."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("stride", torch.tensor(5))

    def forward(self, x: Tensor) -> Tensor:
        frames = torch.ceil(x.shape[-1] / self.stride).to(torch.int64)
        y = F.pad(x, (0, frames * self.stride - x.shape[-1]))
        return y * y.shape[-1] if y.shape[-1] != x.shape[-1] else y


@idiom()
def rows_that_are_not_masked(x: Tensor) -> Tensor:
    mask = torch.ones(2, 3)
    places = mask.nonzero(as_tuple=False)
    for row in places[:, 0].unique():
        x = x + row
    return x


@idiom()
def fills_a_constant_of_its_own(x: Tensor) -> Tensor:
    y = torch.zeros(2, 6, 8, 12)
    y[:, 1:5] = x
    y[:, 6:] = 1.0
    y[:, :0] = x[:, :0]
    return y[:, :4] + x


@idiom()
def fills_no_part_of_a_copy(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, 4:] = 1.0
    y[:, :, 9:20] = x[:, :, :0]
    return y * 2


@idiom()
class DrawsBeforeItAsksWhetherItTrains(nn.Module):
    """Layer drop as many transformers write it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(4, 4, 1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            draw = torch.rand(x.shape[0], 1, 1, 1)
            keep = draw.add_(0.9).floor_() / 0.9
            if self.training and bool(draw.mean() < 0.5):
                continue
            x = x + (layer(x) * keep if self.training else layer(x))
        return x


@idiom()
def wrapped_in_variables(x: Tensor) -> Tensor:  # as code from before torch 0.4 has it
    made = torch.autograd.Variable(torch.ones(x.size()))
    return torch.autograd.Variable(x) * torch.autograd.Variable(data=made)


@idiom()
class PartsOfASequence(nn.Module):
    """A slice of a Sequential is a module that forward makes, of layers that the model has (guided diffusion's residual blocks)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.GroupNorm(2, 4), nn.SiLU(), nn.Dropout(0.1), nn.Conv2d(4, 4, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        norm, rest = self.layers[0], self.layers[1:]
        made = nn.ModuleList(self.layers[1:3])
        return rest(norm(x) * 2) + made[0](x) + nn.Sequential(*self.layers)(x)


@idiom()
class ConstantsMovedToTheInput(nn.Module):
    """Restoration networks cast what they subtract and keep the result (SwinIR, DAT, EDSR); sizes are asked for behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.tensor([0.4, 0.5, 0.6, 0.7]).view(1, 4, 1, 1)
        self.register_buffer("shift", torch.full((1, 4, 1, 1), 2.0))

    def forward(self, x: Tensor) -> Tensor:
        self.mean = self.mean.type_as(x)
        self.shift = self.shift.to(x)
        x = (x - self.mean) * self.shift
        b, c, h, w = x.shape
        return x.view(b, c, h * w).transpose(1, 2) if h > 4 else x
