"""Models drawn from a grammar: layers of every kind, forwards that do what tracing must see or refuse, odd weights, odd results."""

from __future__ import annotations

import functools
import random
from collections import OrderedDict, namedtuple
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import hqc
from benchmarks.fuzz.cases import Attempt, kind
from benchmarks.fuzz.material import MARCHES, UserError, image
from hqc.nn import QuantStub
from hqc.quantization import calibrate, convert_fx, get_default_qat_qconfig, prepare_qat_fx

Pair = namedtuple("Pair", ("first", "second"))
_LAYERS: tuple[Any, ...] = (
    lambda: nn.Conv2d(3, 3, 3, padding=1), lambda: nn.Conv2d(3, 3, 1, bias=False), lambda: nn.Conv2d(3, 3, 3, padding="same"),
    lambda: nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"), lambda: nn.Conv2d(3, 3, 3, padding=1, groups=3),
    lambda: nn.ConvTranspose2d(3, 3, 2, 2), lambda: nn.BatchNorm2d(3), lambda: nn.BatchNorm2d(3, affine=False),
    lambda: nn.BatchNorm2d(3, track_running_stats=False), lambda: nn.InstanceNorm2d(3), lambda: nn.GroupNorm(1, 3), nn.ReLU, nn.ReLU6,
    nn.SiLU, nn.GELU, nn.PReLU, nn.Dropout, nn.Identity, nn.Softmax2d, lambda: nn.MaxPool2d(2, 1), lambda: nn.AvgPool2d(3, 1, 1),
    lambda: nn.AdaptiveAvgPool2d(4), lambda: nn.Upsample(scale_factor=2), lambda: nn.LazyConv2d(3, 1), lambda: nn.LazyBatchNorm2d(),
    lambda: nn.Linear(6, 6), lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 1)),
    lambda: nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 3, 1)), lambda: torch.jit.script(nn.Conv2d(3, 3, 1)),
    lambda: torch.jit.trace(nn.Conv2d(3, 3, 1), image()), lambda: nn.Conv2d(3, 3, 1).half(), lambda: nn.Conv2d(3, 3, 1).double(),
    lambda: nn.Conv2d(3, 3, 1).to("meta"), lambda: torch.ao.quantization.QuantStub(), lambda: torch.ao.nn.quantized.ReLU6(),
    lambda: torch.ao.nn.quantized.dynamic.Linear(6, 6), lambda: nn.Sequential(), lambda: nn.ModuleList([nn.ReLU()]), lambda: nn.Flatten(),
    lambda: nn.Unflatten(1, (3, 1)), lambda: nn.ZeroPad2d(1), lambda: nn.PixelShuffle(1), lambda: nn.Hardswish(inplace=True),
    lambda: nn.MultiheadAttention(6, 2), lambda: nn.GRU(6, 3), lambda: nn.Embedding(4, 2), lambda: nn.CosineSimilarity(),
    lambda: nn.Module(), lambda: nn.Conv2d(3, 3, 7), lambda: nn.Conv2d(4, 3, 1), lambda: nn.LayerNorm((6, 6)), lambda: nn.Bilinear(6, 6, 2),
)  # fmt: skip


class _Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def _counted(model: Any, x: Tensor) -> Tensor:
    model.calls = getattr(model, "calls", 0) + 1
    return x * model.calls


def _raises(error: BaseException) -> Any:
    def step(model: Any, x: Tensor) -> Tensor:
        raise error

    return step


_STEPS: tuple[Any, ...] = (
    lambda m, x: x.relu_(),
    lambda m, x: x + 1,
    lambda m, x: 2 / (x + 3),
    lambda m, x: x.permute(0, 2, 3, 1),
    lambda m, x: x.view(-1),
    lambda m, x: x.reshape(x.shape[0], -1),
    lambda m, x: x[:, :, ::2],
    lambda m, x: x[..., None],
    lambda m, x: x[:, 0],
    lambda m, x: x[x > 0],
    lambda m, x: x.detach(),
    lambda m, x: x.clone().zero_(),
    lambda m, x: torch.from_numpy(x.numpy() * 2),
    lambda m, x: x.item(),
    lambda m, x: torch.tensor(x.tolist()),
    lambda m, x: x if x.mean() > 0 else -x,
    lambda m, x: x if x.shape[1] == 3 else -x,
    lambda m, x: x * x.shape[2],
    lambda m, x: x.to(torch.float64),
    lambda m, x: x.half(),
    lambda m, x: x.int(),
    lambda m, x: x.to(torch.complex64),
    lambda m, x: x.cuda(),
    lambda m, x: x.to("meta"),
    lambda m, x: torch.rand_like(x),
    lambda m, x: x + torch.randn(1),
    lambda m, x: F.dropout(x),
    lambda m, x: F.dropout(x, training=False),
    lambda m, x: F.interpolate(x, scale_factor=2),
    lambda m, x: F.interpolate(x, size=(0, 3)),
    lambda m, x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    lambda m, x: F.pad(x, (-1, -1)),
    lambda m, x: F.grid_sample(x, x[:, :2].permute(0, 2, 3, 1)),
    lambda m, x: torch.cat([x, x], 1)[:, :3],
    lambda m, x: torch.cat([x]),
    lambda m, x: torch.stack([x, x]),
    lambda m, x: x.split(1, 1)[0],
    lambda m, x: x.chunk(5, 1)[0],
    lambda m, x: x.max(),
    lambda m, x: x.max(1).values,
    lambda m, x: x.topk(1, 1)[0],
    lambda m, x: x.sort(1)[0],
    lambda m, x: torch.einsum("nchw->nhwc", x),
    lambda m, x: x @ x,
    lambda m, x: x.mean(),
    lambda m, x: x.sum((2, 3), keepdim=True),
    lambda m, x: x**2,
    lambda m, x: x**x,
    lambda m, x: torch.where(x > 0, x, 0.0),
    lambda m, x: x.masked_fill(x > 0, float("-inf")),
    lambda m, x: x / 0,
    lambda m, x: x // 2,
    lambda m, x: x % 2,
    lambda m, x: -x,
    lambda m, x: x == x,
    lambda m, x: x.bool(),
    lambda m, x: ~(x > 0),
    lambda m, x: torch.zeros(1 << 40),
    lambda m, x: x.expand(1 << 12, 3, 6, 6),
    lambda m, x: x.repeat(1, 1, 1, 2),
    lambda m, x: x.unsqueeze(9),
    lambda m, x: x.squeeze(),
    lambda m, x: x[9],
    lambda m, x: x.reshape(7, 7),
    lambda m, x: torch.nonzero(x),
    lambda m, x: x.unique(),
    lambda m, x: x.cumsum(1),
    lambda m, x: torch.fft.fft(x).real,
    lambda m, x: torch.linalg.norm(x),
    lambda m, x: _Square.apply(x),
    lambda m, x: checkpoint(torch.relu, x, use_reentrant=False),
    lambda m, x: m.nothing(x),
    lambda m, x: eval("x"),
    lambda m, x: m(x),
    lambda m, x: x.nothing(),
    lambda m, x: F.conv2d(x, x),
    lambda m, x: F.conv2d(x, m.weight),
    lambda m, x: F.linear(x, m.weight[0, 0]),
    lambda m, x: F.batch_norm(x, torch.zeros(3), torch.ones(3), training=True),
    lambda m, x: m.weight.data.zero_() + x[:1, :1, :1, :1],
    lambda m, x: setattr(m, "kept", x) or x,
    lambda m, x: x + getattr(m, "kept", 0),
    _counted,
    _raises(UserError("own")),
    _raises(SystemExit(2)),
    _raises(RecursionError("own")),
    lambda m, x: [x, x],
    lambda m, x: {"a": x},
    lambda m, x: None,
    lambda m, x: 3,
    lambda m, x: "text",
    lambda m, x: torch.no_grad()(torch.relu)(x),
    lambda m, x: torch.func.vmap(torch.relu)(x),
    lambda m, x: functools.partial(torch.add, x)(x),
    lambda m, x: print(x) or x,
    lambda m, x: x.requires_grad_(),
    lambda m, x: x.backward(),
    lambda m, x: x.register_hook(print) and x,
    lambda m, x: x.sum().backward(),
    lambda m, x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8).dequantize(),
    lambda m, x: x.to_sparse(),
    lambda m, x: x.__setitem__((0, 0), 0.0) or x,
    lambda m, x: x.T,
)
_RESULTS: tuple[Any, ...] = (
    lambda x: x,
    lambda x: x,
    lambda x: x,
    lambda x: (x, x),
    lambda x: [x],
    lambda x: {"out": x, 3: x},
    lambda x: Pair(x, x + 1),
    lambda x: (x, None),
    lambda x: {"a": {"b": [x, (x,)]}},
    lambda x: (x, "name", 3),
    lambda x: OrderedDict(a=x),
    lambda x: (),
    lambda x: {},
    lambda x: x.shape,
    lambda x: {x: x},
    lambda x: (y for y in (x, x)),
    lambda x: torch.Size((1,)),
    lambda x: {"a\nb": x, "": x},
    lambda x: {None: x},
    lambda x: {1.5: x},
)


class Drawn(nn.Module):
    """Layers and steps in the drawn order."""

    def __init__(self, generator: random.Random) -> None:
        super().__init__()
        torch.manual_seed(generator.randrange(100))
        self.quant = QuantStub()
        self.weight = nn.Parameter(torch.randn(3, 3, 1, 1))
        self.body = nn.ModuleDict()
        self.steps: list[Any] = []
        for index in range(generator.randrange(1, 5)):
            if generator.random() < 0.5:
                self.body[str(index)] = generator.choice(_LAYERS)()
                self.steps.append(str(index))
            else:
                self.steps.append(generator.choice(_STEPS))
        self.result = generator.choice(_RESULTS)

    def forward(self, x: Any, *more: Any, scale: Any = None, **named: Any) -> Any:
        x = self.quant(x)
        for step in self.steps:
            x = self.body[step](x) if isinstance(step, str) else step(self, x)
        return self.result(x)


@kind("models")
def make(generator: random.Random, folder: Path) -> Attempt:
    """Explained, compiled or trained, then run and written."""
    model: Any = Drawn(generator)
    weights = list(model.parameters())
    if generator.random() < 0.2:
        weight = generator.choice(weights)
        if not isinstance(weight, nn.parameter.UninitializedParameter) and not weight.is_meta:
            weight.data.fill_(generator.choice((0.0, float("nan"), float("inf"), 3e4)))
    wrapped: tuple[Any, ...] = (
        lambda: model, lambda: model, lambda: model, lambda: model, lambda: model.eval(), lambda: nn.Sequential(model, nn.ReLU()),
        lambda: nn.DataParallel(model), lambda: torch.compile(model, backend="eager"),
        lambda: torch.fx.symbolic_trace(nn.Sequential(nn.ReLU())),
        lambda: model.half(), lambda: torch.no_grad()(model.forward) and model,
        lambda: hooked(model), lambda: nn.Sequential(OrderedDict(a=model, b=model)),
    )  # fmt: skip
    model = generator.choice(wrapped)()
    inputs = generator.choice(
        (image(), image(), image(), (image(),), None, image().repeat(2, 1, 1, 1), (image(), image()), {"x": image()})
    )
    march, draw = generator.choice(MARCHES), generator.randrange(5)

    def attempt() -> object:
        hqc.set_march(march)
        if draw == 0:
            return str(hqc.explain(model, inputs, march=march))
        if draw == 1:
            prepared = prepare_qat_fx(model, {"": get_default_qat_qconfig()}, hybrid=True, example_inputs=inputs).eval()
            calibrate(prepared, [image()])
            return convert_fx(prepared)(image())
        compiled = hqc.compile(model, inputs, march=march, calibration_data=[image()])
        if draw == 2:
            return compiled.export(folder / "net.onnx", flavour=generator.choice(("horizon", "runnable", "qdq", "integer")))
        if draw == 3:
            return hqc.load(compiled.save(folder / "net.safetensors")).simulate(image())
        return compiled.simulate(image()), compiled.fake_quant(image()), compiled.report(folder / "net.html")

    return attempt


def hooked(model: nn.Module) -> nn.Module:
    """With a hook that changes the result."""
    model.register_forward_hook(lambda module, args, result: result)
    model.register_forward_pre_hook(lambda module, args: args)
    return model
