"""Classification: a MobileNet-like network, quantized after training; chosen operations get int16 or the CPU."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn

import hqc
from hqc.demo import accuracy, load_digits, train
from hqc.quantization import get_default_qconfig


class Inverted(nn.Module):
    """Expand, filter each channel by itself, project; with a shortcut."""

    def __init__(self, channels: int, expansion: int = 2) -> None:
        super().__init__()
        wide = channels * expansion
        self.expand = nn.Sequential(nn.Conv2d(channels, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6())
        self.filter = nn.Sequential(nn.Conv2d(wide, wide, 3, 1, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU6())
        self.project = nn.Sequential(nn.Conv2d(wide, channels, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.project(self.filter(self.expand(x)))


class MobileNet(nn.Module):
    """`[N,1,8,8]` -> `[N,10]`."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU6())
        self.blocks = nn.Sequential(Inverted(channels), Inverted(channels))
        self.head = nn.Conv2d(channels, 10, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.stem(x))).flatten(1)


def main(march: str = "bayes", out: str = "out/classification", epochs: int = 6) -> dict[str, float]:
    """Train, compile in three ways, evaluate; files go to `out`. Returns accuracies in percent."""
    torch.manual_seed(0)
    digits, model = load_digits(), MobileNet()
    train(model, digits, epochs=epochs)
    example, calibration = digits.test_x[:1], digits.train_x[:256].split(64)
    plain = hqc.compile(model, example, march=march, calibration_data=calibration)

    # What runs on the BPU with int8 by default may be told otherwise: by module, by type, by kind of operation.
    careful = get_default_qconfig(activation_observer="percentile")
    tuned = hqc.compile(
        model, example, march=march, calibration_data=calibration,
        qconfig_dict={"": careful}, hybrid_dict={"module_name": ["blocks.1.project"]},
    )  # fmt: skip
    assert tuned.placement.device_of("blocks.1.project") == "cpu"

    with torch.no_grad():
        found = {"float": accuracy(model(digits.test_x), digits.test_y)}
    found["integer"] = accuracy(plain.simulate(digits.test_x), digits.test_y)
    found["integer, one layer on the CPU"] = accuracy(tuned.simulate(digits.test_x), digits.test_y)

    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    plain.export(folder / "mobilenet.onnx")  # and mobilenet.yaml for hb_mapper
    plain.save(folder / "mobilenet.safetensors")  # hqc.load reads it, without torch
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--march", default="bayes")
    parser.add_argument("--out", default="out/classification")
    parser.add_argument("--epochs", type=int, default=6)
    for name, value in main(**vars(parser.parse_args())).items():
        print(f"{name}: {value:.2f} %")
