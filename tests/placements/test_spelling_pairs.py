"""Networks whose parts are spelled at random in one of many equal ways get equal plans: from torch, and from what torch.onnx writes."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import onnx
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn
from torch.nn import functional as F

import hqc
from hqc.ir import Trait
from hqc.march import all_specs

MARCHES = [spec.name for spec in all_specs()]
OPSETS = (11, 13, 17)
Spelling = Callable[["Parts", Tensor], Tensor]
IMAGE, ROWS = (1, 8, 8, 8), (4, 16)


class Parts(nn.Module):
    """What the spellings of one block may use."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.layer, self.norm = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(16, 16), nn.BatchNorm2d(8)
        nn.init.uniform_(self.norm.running_var, 0.5, 2.0)
        self.matrix, self.vector = nn.Parameter(torch.randn(16, 16)), nn.Parameter(torch.randn(16))
        self.gain, self.shift = nn.Parameter(torch.rand(1, 8, 1, 1) + 0.5), nn.Parameter(torch.randn(8, 1, 1))


def _norm_by_hand(n: Parts, y: Tensor) -> Tensor:
    scale = n.norm.weight / torch.sqrt(n.norm.running_var + n.norm.eps)
    return y * scale.view(1, -1, 1, 1) + (n.norm.bias - n.norm.running_mean * scale).view(1, -1, 1, 1)


def _attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(-2, -1) * (q.shape[-1] ** -0.5)).softmax(-1) @ v


def _bins(y: Tensor) -> Tensor:
    """As a distance head has them: `[N, bins, 4, places]`."""
    return y.reshape(-1, 4, 2, 64).transpose(1, 2).softmax(1)


IMAGES: dict[str, list[Spelling]] = {
    "relu": [
        lambda n, y: F.relu(n.conv(y)), lambda n, y: n.conv(y).clamp(min=0), lambda n, y: torch.clamp_min(n.conv(y), 0),
        lambda n, y: torch.maximum(n.conv(y), torch.zeros(())),
    ],
    "relu6": [
        lambda n, y: F.relu6(n.conv(y)), lambda n, y: n.conv(y).clamp(0, 6), lambda n, y: F.hardtanh(n.conv(y), 0, 6),
    ],
    "relu by comparison": [
        lambda n, y: F.relu(y), lambda n, y: F.threshold(y, 0.0, 0.0), lambda n, y: torch.where(y > 0, y, torch.zeros(())),
    ],
    "leaky": [
        lambda n, y: F.leaky_relu(y, 0.1), lambda n, y: torch.maximum(y, y * 0.1), lambda n, y: torch.where(y > 0, y, y * 0.1),
    ],
    "silu": [
        lambda n, y: F.silu(y), lambda n, y: y * torch.sigmoid(y), lambda n, y: y.sigmoid().mul(y), lambda n, y: y / (1 + torch.exp(-y)),
    ],
    "sigmoid": [lambda n, y: torch.sigmoid(y), lambda n, y: 1 / (1 + torch.exp(-y)), lambda n, y: F.sigmoid(y)],
    "softplus": [lambda n, y: F.softplus(y), lambda n, y: torch.log(1 + torch.exp(y)), lambda n, y: torch.log1p(torch.exp(y))],
    "square": [lambda n, y: torch.square(y), lambda n, y: y * y],
    "root": [lambda n, y: torch.sqrt(y.abs() + 1), lambda n, y: (y.abs() + 1) ** 0.5],
    "one over a root": [
        lambda n, y: torch.rsqrt(y.abs() + 1), lambda n, y: (y.abs() + 1) ** -0.5, lambda n, y: 1 / torch.sqrt(y.abs() + 1),
        lambda n, y: torch.sqrt(y.abs() + 1).reciprocal(),
    ],
    "one over": [lambda n, y: 1 / (y.abs() + 1), lambda n, y: (y.abs() + 1).reciprocal(), lambda n, y: (y.abs() + 1) ** -1],
    "largest of an image": [
        lambda n, y: y * F.adaptive_max_pool2d(y, 1), lambda n, y: y * F.max_pool2d(y, 8), lambda n, y: y * y.amax((2, 3), keepdim=True),
        lambda n, y: y * y.flatten(2).max(2)[0].view(1, 8, 1, 1),
    ],
    "mean over channels": [
        lambda n, y: y * y.mean(1, keepdim=True), lambda n, y: y * y.mean(1)[:, None], lambda n, y: y.mean(1).unsqueeze(1) * y,
    ],
    "padding": [lambda n, y: F.pad(y, (1, 1, 1, 1))[:, :, :8, :8], lambda n, y: nn.ZeroPad2d(1)(y)[:, :, :8, :8]],
    "upsample": [
        lambda n, y: F.interpolate(y, scale_factor=2)[:, :, :8, :8], lambda n, y: F.interpolate(y, size=(16, 16))[:, :, :8, :8],
        lambda n, y: nn.UpsamplingNearest2d(scale_factor=2)(y)[:, :, :8, :8],
    ],
    "softmax by hand": [
        lambda n, y: (lambda e: e / e.sum(1, keepdim=True))(torch.exp(y - y.amax(1, keepdim=True))),
        lambda n, y: (lambda e: e / torch.sum(e, 1, True))((y - torch.max(y, 1, keepdim=True)[0]).exp()),
    ],
    "hardswish": [
        lambda n, y: F.hardswish(y), lambda n, y: y * F.relu6(y + 3) / 6, lambda n, y: y * (F.relu6(3 + y) * (1 / 6)),
        lambda n, y: y * F.hardsigmoid(y), lambda n, y: y / 6 * (y + 3).clamp(0, 6), lambda n, y: y * F.hardtanh(y + 3, 0, 6).div(6.0),
        lambda n, y: y * (y / 6 + 0.5).clamp(0, 1),
    ],
    "gelu": [
        lambda n, y: F.gelu(y), lambda n, y: y * 0.5 * (1.0 + torch.erf(y / 2**0.5)), 
        lambda n, y: y * ((torch.erf(y / 1.4142135) + 1) * 0.5), lambda n, y: 0.5 * y * (1 + torch.erf(y * 0.70710678)),
    ],
    "gelu by tanh": [
        lambda n, y: F.gelu(y, approximate="tanh"),
        lambda n, y: 0.5 * y * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (y + 0.044715 * y**3))),
        lambda n, y: 0.5 * y * (1 + torch.tanh(0.7978845608 * y * (1 + 0.044715 * y * y))),
    ],
    "mish": [lambda n, y: F.mish(y), lambda n, y: y * torch.tanh(F.softplus(y)), lambda n, y: F.softplus(y).tanh() * y],
    "affine": [
        lambda n, y: n.norm(n.conv(y)), lambda n, y: _norm_by_hand(n, n.conv(y)), lambda n, y: n.conv(y) * n.gain + n.shift,
        lambda n, y: (n.conv(y) - n.shift) / 3.3, lambda n, y: 0.5 * n.conv(y), lambda n, y: n.conv(y).sub(0.2), lambda n, y: n.conv(y),
    ],
    "quotient": [
        lambda n, y: torch.sigmoid(y) * 0.3, lambda n, y: torch.sigmoid(y) / 3.33, lambda n, y: 0.3 * torch.sigmoid(y),
        lambda n, y: torch.true_divide(torch.sigmoid(y), 3.3),
    ],
    "shift": [lambda n, y: torch.sigmoid(y) + n.shift, lambda n, y: torch.sigmoid(y) - n.shift, lambda n, y: n.shift + torch.sigmoid(y)],
    "residual": [
        lambda n, y: F.relu(n.conv(y) + y), lambda n, y: F.relu(torch.add(y, n.conv(y))), lambda n, y: n.conv(y).add(y).clamp(min=0),
        lambda n, y: F.relu(F.dropout(n.conv(y), 0.5, n.training) + y),
    ],
    "squeeze": [
        lambda n, y: y * torch.sigmoid(n.conv(y.mean((2, 3), keepdim=True))),
        lambda n, y: torch.sigmoid(n.conv(F.adaptive_avg_pool2d(y, 1))) * y,
        lambda n, y: y * torch.sigmoid(n.conv(y.mean((-1, -2))[..., None, None])),
        lambda n, y: y * torch.sigmoid(n.conv(y.mean((2, 3)).view(-1, 8, 1, 1))),
        lambda n, y: y * torch.sigmoid(n.conv(F.avg_pool2d(y, 8))),
        lambda n, y: y * torch.sigmoid(n.conv(y.mean(3, keepdim=True).mean(2, keepdim=True))),
        lambda n, y: y * torch.sigmoid(n.conv(y.mean(3).mean(2).view(-1, 8, 1, 1))),
        lambda n, y: y * torch.sigmoid(n.conv(y.flatten(2).mean(2)[..., None, None])),
    ],
    "cat": [
        lambda n, y: torch.cat((y, n.conv(y)), 1)[:, 4:12], lambda n, y: torch.hstack((y, n.conv(y))).narrow(1, 4, 8),
        lambda n, y: torch.concat([y, n.conv(y)], dim=-3)[:, 4:12],
    ],
    "halves": [
        lambda n, y: torch.cat(y.chunk(2, 1)[::-1], 1), lambda n, y: torch.cat(y.split(4, 1)[::-1], 1),
        lambda n, y: torch.cat((y[:, 4:], y[:, :4]), 1), lambda n, y: torch.cat((y.narrow(1, 4, 4), y.narrow(1, 0, 4)), 1),
    ],
    "focus": [
        lambda n, y: F.interpolate(torch.cat((y[..., ::2, ::2], y[..., 1::2, ::2]), 1)[:, :8], scale_factor=2),
        lambda n, y: F.interpolate(torch.cat((y[:, :, 0::2][..., 0::2], y[:, :, 1::2, 0::2]), 1).narrow(1, 0, 8), size=(8, 8)),
    ],
    "softmax": [
        lambda n, y: y.softmax(1), lambda n, y: F.softmax(y, dim=-3), lambda n, y: y.permute(0, 2, 3, 1).softmax(-1).permute(0, 3, 1, 2),
    ],
    "distances": [
        lambda n, y: F.conv2d(_bins(y), torch.arange(2.0).view(1, 2, 1, 1)).view(-1, 4, 8, 8).repeat(1, 2, 1, 1),
        lambda n, y: F.conv2d(_bins(y), torch.arange(2.0)[None, :, None, None]).reshape(-1, 4, 8, 8).repeat(1, 2, 1, 1),
    ],
}  # fmt: skip
"""Blocks on images of eight channels; only what follows a convolution may fold into it."""

MATRICES: dict[str, list[Spelling]] = {
    "matrix": [
        lambda n, x: x @ n.matrix.T, lambda n, x: (n.matrix @ x.T).T, lambda n, x: torch.einsum("bi,oi->bo", x, n.matrix),
        lambda n, x: F.linear(x, n.matrix), lambda n, x: torch.mm(x, n.matrix.t()),
    ],
    "bias": [
        lambda n, x: F.linear(x, n.matrix, n.vector), lambda n, x: x @ n.matrix.T + n.vector,
        lambda n, x: torch.addmm(n.vector, x, n.matrix.T), lambda n, x: (n.matrix @ x.T).T + n.vector,
    ],
    "two tensors": [lambda n, x: n.layer(x) @ x.T @ x, lambda n, x: torch.einsum("bi,ci->bc", n.layer(x), x) @ x],
    "residual": [lambda n, x: n.layer(x) + x, lambda n, x: torch.add(x, n.layer(x))],
    "norm": [
        lambda n, x: F.layer_norm(x, (16,), n.vector, n.vector), lambda n, x: F.layer_norm(x, [x.shape[-1]], n.vector, n.vector),
        lambda n, x: (x - x.mean(-1, True)) / torch.sqrt(x.var(-1, False, True) + 1e-5) * n.vector + n.vector,
        lambda n, x: (lambda d: d / torch.sqrt((d * d).mean(-1, keepdim=True) + 1e-5) * n.vector + n.vector)(x - x.mean(-1, True)),
        lambda n, x: (lambda d: d * torch.rsqrt(d.pow(2).mean(-1, keepdim=True) + 1e-5) * n.vector + n.vector)(x - x.mean(-1, True)),
    ],
    "normalized": [
        lambda n, x: F.normalize(x), lambda n, x: x / x.norm(dim=1, keepdim=True).clamp(min=1e-12),
        lambda n, x: x / x.norm(2, 1, True).clamp_min(1e-12).expand_as(x),
        lambda n, x: x / torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp_min(1e-12),
    ],
    "attention": [
        lambda n, x: F.scaled_dot_product_attention(*(y[None, None] for y in (n.layer(x), x, x)))[0, 0],
        lambda n, x: _attention(*(y[None, None] for y in (n.layer(x), x, x)))[0, 0],
    ],
}  # fmt: skip
"""Blocks on matrices."""

DIFFERENT = {
    "relu6 and relu, then a bound": "two calls of torch, of which the convolution takes in the first",
    "x ** 2 and x * x": "a power is a look-up table on the chips, a product another operation; the logs list both",
    "x - y and x + (-y)": "Sub is on the CPU on bernoulli2 and Neg on every march, Add is not",
    "-x and x * -1": "Neg is on the CPU in every table, a product with a constant is a convolution",
    "1 - x and -x + 1": "as above",
    "a mean and a sum divided by the count": "ReduceSum has rows of its own, and its eight bits another range",
    "a sum weighted by constants and a convolution": "a product and a ReduceSum, each with its rows",
    "a linear layer between permutes and a 1x1 convolution": "it is exported as a product of matrices, around which bernoulli2 reshapes",
    "upsampling by repeat_interleave": "it is exported as Gather or Tile, not as Resize",
    "a hand-written softmax and softmax": "the pieces run on the BPU of bayes-e, softmax on request alone (logs)",
    "x.var() and its steps": "one call of torch is placed as a whole, a file has four nodes",
}
"""Spellings that look alike and keep their own plans, and why."""


class Net(nn.Module):
    """Blocks, each in one spelling, behind a first layer and before a last one."""

    def __init__(self, spellings: list[Spelling], images: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = (nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)) if images else (nn.Linear(16, 16), nn.Linear(16, 4))
        self.parts, self.spellings = nn.ModuleList(Parts() for _ in spellings), spellings

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        for part, spelling in zip(self.parts, self.spellings, strict=True):
            x = torch.tanh(spelling(part, x))  # type: ignore[arg-type]
        return self.last(x)


def plan(model: Any, example: Tensor | None, march: str) -> Counter[tuple[str, str]]:
    """What computes, and where. A quotient by a constant is a product, and a mean is a pool."""
    same = {
        "div": "mul",
        "sub": "add",
        "mean": "adaptive_avg_pool2d",
        "gain_pool2d": "adaptive_avg_pool2d",
        "avg_pool2d": "adaptive_avg_pool2d",
        "max_pool2d": "adaptive_max_pool2d",
    }  # a window that is the whole map
    graph = hqc.explain(model, example, march=march).graph
    return Counter(
        (same.get(node.op.name, node.op.name), str(node.device and node.device.value))
        for node in graph.nodes
        if not node.op.has(Trait.LAYOUT_ONLY) and not node.op.has(Trait.BOUNDARY)
    )


def exported(net: nn.Module, example: Tensor, opset: int) -> onnx.ModelProto | None:
    """The network as torch.onnx writes it; None where it refuses."""
    file = io.BytesIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(net, (example,), file, opset_version=opset, dynamo=False)
        except torch.onnx.errors.UnsupportedOperatorError:  # einsum before opset 12, attention before 14
            return None
    return onnx.load_from_string(file.getvalue())


@st.composite
def pairs(draw: st.DrawFn) -> tuple[list[Spelling], list[Spelling], bool]:
    """Two spellings of up to three blocks."""
    images = draw(st.booleans())
    blocks = IMAGES if images else MATRICES
    names = draw(st.lists(st.sampled_from(sorted(blocks)), min_size=1, max_size=3))
    both = [[draw(st.sampled_from(blocks[name])) for name in names] for _ in range(2)]
    return both[0], both[1], images


@settings(max_examples=20, deadline=None)
@given(pairs(), st.sampled_from(OPSETS), st.sampled_from(MARCHES))
def test_random_spellings_have_one_plan(pair: tuple[list[Spelling], list[Spelling], bool], opset: int, march: str) -> None:
    *spellings, images = pair
    example = torch.zeros(IMAGE if images else ROWS)
    first, second = (Net(each, images).eval() for each in spellings)  # type: ignore[arg-type]
    wanted = plan(first, example, march)
    assert wanted and plan(second, example, march) == wanted
    proto = exported(second, example, opset)
    assert proto is None or plan(proto, None, march) == wanted


@pytest.mark.parametrize(
    "name", [f"{kind}:{name}" for kind, blocks in (("image", IMAGES), ("matrix", MATRICES)) for name in blocks]
)
def test_every_spelling_has_the_plan_of_the_first(name: str) -> None:
    kind, _, block = name.partition(":")
    images = kind == "image"
    example = torch.zeros(IMAGE if images else ROWS)
    nets = [Net([spelling], images).eval() for spelling in (IMAGES if images else MATRICES)[block]]
    for march in MARCHES:
        plans = [plan(net, example, march) for net in nets]
        assert plans[0] and plans == [plans[0]] * len(plans), march
    file = exported(nets[-1], example, 17)
    assert file is not None and plan(file, None, "bayes") == plan(nets[0], example, "bayes")
