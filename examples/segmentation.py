"""Segmentation: a U-Net, calibrated, then trained with fake quantization, then evaluated in the chip's integers."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from scenes import make_scenes
from torch import nn

from hqc.march import March, set_march
from hqc.nn import DeQuantStub, QuantStub
from hqc.quantization import (
    FakeQuantState,
    convert_fx,
    get_default_calib_qconfig,
    get_default_qat_out_qconfig,
    get_default_qat_qconfig,
    prepare_calibration_fx,
    prepare_qat_fx,
    set_fake_quantize,
)
from hqc.utils.onnx_helper import export_to_onnx


def double(channels: int, width: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs in (channels, width):
        layers += [nn.Conv2d(inputs, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """`[N,1,32,32]` -> logits `[N,1,32,32]` of ink."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.quant, self.dequant = QuantStub(), DeQuantStub()
        self.down1, self.down2, self.bottom = double(1, width), double(width, 2 * width), double(2 * width, 2 * width)
        self.pool, self.up = nn.MaxPool2d(2), nn.Upsample(scale_factor=2, mode="nearest")
        self.up2, self.up1 = double(4 * width, width), double(2 * width, width)
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        high = self.down1(self.quant(image))
        middle = self.down2(self.pool(high))
        low = self.bottom(self.pool(middle))
        x = self.up2(torch.cat([self.up(low), middle], 1))
        x = self.up1(torch.cat([self.up(x), high], 1))
        return self.dequant(self.head(x))


def train(model: nn.Module, steps: int, rate: float) -> None:
    scenes = make_scenes(192, digits=4)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    generator = torch.Generator().manual_seed(0)
    model.train()
    for _ in range(steps):
        batch = torch.randint(0, len(scenes.images), (16,), generator=generator)
        noisy = (scenes.images[batch] + 0.2 * torch.randn(16, 1, 32, 32, generator=generator)).clamp(0, 1)
        loss = nn.functional.binary_cross_entropy_with_logits(model(noisy)[:, 0], scenes.masks[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()


def overlap(logits: torch.Tensor, masks: torch.Tensor) -> float:
    """Intersection over union of the ink, in percent."""
    found, real = logits.detach().numpy()[:, 0] > 0, masks.numpy() > 0
    return 100.0 * float(np.logical_and(found, real).sum() / max(np.logical_or(found, real).sum(), 1))


def main(march: str = "bayes", out: str = "out/segmentation", steps: int = 150) -> dict[str, float]:
    """Train in float and quantized, convert, evaluate; files go to `out`. Returns overlaps in percent."""
    set_march(March(march))
    torch.manual_seed(0)
    model, scenes = UNet(), make_scenes(48, digits=4, seed=1)
    train(model, steps, 5e-3)

    calibration = prepare_calibration_fx(
        model, {"": get_default_calib_qconfig()}, hybrid=True, example_inputs=scenes.images[:1]
    )
    calibration.eval()
    with torch.no_grad():
        for batch in make_scenes(64, digits=4, seed=2).images.split(16):
            calibration(batch)

    qconfig = {"": get_default_qat_qconfig(), "module_name": [("head", get_default_qat_out_qconfig())]}
    qat = prepare_qat_fx(calibration, qconfig, hybrid=True)  # takes the scales over
    train(qat, max(steps // 5, 1), 5e-4)
    set_fake_quantize(qat, FakeQuantState.VALIDATION)
    integers = convert_fx(qat)

    with torch.no_grad():
        found = {
            "float": overlap(model(scenes.images), scenes.masks),
            "QAT": overlap(qat(scenes.images), scenes.masks),
            "integer": overlap(integers(scenes.images), scenes.masks),
        }
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(qat.state_dict(), folder / "unet.pt")
    export_to_onnx(qat, scenes.images[:1], folder / "unet.onnx")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--march", default="bayes")
    parser.add_argument("--out", default="out/segmentation")
    parser.add_argument("--steps", type=int, default=150)
    for name, value in main(**vars(parser.parse_args())).items():
        print(f"{name}: overlap {value:.1f} %")
