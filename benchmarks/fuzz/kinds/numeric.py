"""The numeric environment: default dtypes, NumPy's error state, doubles, images of integers, other byte orders, empty batches."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import hqc
from benchmarks.fuzz.cases import Attempt, kind
from benchmarks.fuzz.material import MARCHES, image
from hqc.nn import QuantStub
from hqc.quantization import calibrate, convert_fx, get_default_qat_qconfig, prepare_qat_fx


class Small(nn.Module):
    """Layers whose arithmetic has edges: division, exp, log, batch norm, mean, a concatenation."""

    def __init__(self, steps: list[str], gain: float) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        with torch.no_grad():
            self.conv.weight.mul_(gain)
        self.quant, self.steps = QuantStub(), steps

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(self.quant(x)))
        for step in self.steps:
            x = _STEPS[step](x)
        return x


_STEPS: dict[str, Any] = {
    "relu": torch.relu, "exp": torch.exp, "log": torch.log, "sqrt": torch.sqrt, "reciprocal": torch.reciprocal, "square": lambda x: x * x,
    "softmax": lambda x: torch.softmax(x, 1), "mean": lambda x: x.mean((2, 3), keepdim=True), "cat": lambda x: torch.cat([x,
    x * 0], 1)[:, :4],
    "divide": lambda x: x / (x - x), "pow": lambda x: x**7, "sigmoid": torch.sigmoid, "pool": lambda x: nn.functional.avg_pool2d(x, 2, 1),
    "tanh": torch.tanh, "clamp": lambda x: x.clamp(0, 0), "zero": lambda x: x * 0.0,
}  # fmt: skip


@kind("numeric")
def make(generator: random.Random, folder: Path) -> Attempt:
    """Compile or train in one environment, then simulate and export."""
    model = Small(
        generator.sample(sorted(_STEPS), generator.randrange(4)), generator.choice((1.0, 0.0, 1e-30, 1e-45, 1e20, 1e38))
    )
    model = generator.choice((lambda: model, model.double, model.half, model.bfloat16, lambda: model))()
    inputs = _image(generator)
    data = [_image(generator) for _ in range(generator.choice((1, 2)))]
    march = generator.choice(MARCHES)
    default = generator.choice((torch.float32, torch.float32, torch.float64, torch.float16))
    raising = generator.random() < 0.5
    draw = generator.randrange(3)

    def attempt() -> object:
        before = torch.get_default_dtype(), np.geterr()
        try:
            torch.set_default_dtype(default)
            if raising:
                np.seterr(all="raise")
            if draw == 0:
                hqc.set_march(march)
                prepared = prepare_qat_fx(
                    model.eval(), {"": get_default_qat_qconfig()}, hybrid=True, example_inputs=inputs
                ).eval()
                calibrate(prepared, data)
                return convert_fx(prepared)(image())
            compiled = hqc.compile(model, inputs, march=march, calibration_data=data)
            compiled.simulate(_image(generator))
            return compiled.export(folder / "net.onnx") if draw == 1 else compiled.explain()
        finally:
            torch.set_default_dtype(before[0])
            np.seterr(**before[1])

    return attempt


def _image(generator: random.Random) -> Any:
    makers = (
        lambda: image(),
        lambda: image(),
        lambda: image().double(),
        lambda: image().half(),
        lambda: image().bfloat16(),
        lambda: image() * 0,
        lambda: image() * 1e38,
        lambda: image() * 1e-44,
        lambda: image().to(torch.float64) * 1e300,
        lambda: (image() * 100 + 128).to(torch.uint8),
        lambda: (image() * 100).to(torch.int64),
        lambda: image().numpy().astype(">f4"),
        lambda: image().numpy().astype(">f8"),
        lambda: (image().numpy() * 100 + 128).astype(np.uint8),
        lambda: image().numpy().astype(np.float16),
        lambda: image().repeat(3, 1, 1, 1),
        lambda: image()[:0],
        lambda: image().numpy()[:0],
        lambda: image().flip(3),
        lambda: image().numpy()[..., ::-1],
    )
    return generator.choice(makers)()
