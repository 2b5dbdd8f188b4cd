"""Sequences: a small transformer encoder reads a digit row by row. A hybrid model: softmax runs on the BPU only on request."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn

import hqc
from hqc.analysis.picture import draw
from hqc.demo import accuracy, load_digits, train


class Attention(nn.Module):
    """Self-attention with `heads` heads, written out."""

    def __init__(self, width: int, heads: int = 2) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.project, self.join = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        count, steps, width = x.shape
        q, k, v = self.project(x).reshape(count, steps, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * self.scale).softmax(-1)
        return self.join((weights @ v).transpose(1, 2).reshape(count, steps, width))


class Layer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2, self.attention = nn.LayerNorm(width), nn.LayerNorm(width), Attention(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Encoder(nn.Module):
    """`[N,1,8,8]`, read as 8 steps of 8 numbers -> `[N,10]`."""

    def __init__(self, width: int = 32, layers: int = 2) -> None:
        super().__init__()
        self.embed, self.place = nn.Linear(8, width), nn.Parameter(0.02 * torch.randn(1, 8, width))
        self.layers, self.head = nn.Sequential(*(Layer(width) for _ in range(layers))), nn.Linear(8 * width, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(self.embed(image.flatten(1, 2)) + self.place).flatten(1))


def main(march: str = "bayes", out: str = "out/sequence", epochs: int = 15) -> dict[str, float]:
    """Train, plan twice, compile, evaluate; files go to `out`. Returns accuracies in percent and numbers of crossings."""
    torch.manual_seed(0)
    digits, model = load_digits(), Encoder()
    train(model, digits, epochs=epochs, rate=0.02)
    example = digits.test_x[:1]

    # Before any data: what splits the graph, and what asking for softmax would change.
    plain = hqc.explain(model, example, march=march)
    wish = {"bpu": {"op": ["softmax"]}}
    asked = hqc.explain(model, example, march=march, hybrid_dict=wish)
    found = {
        "crossings": plain.placement.totals.crossings,
        "crossings with softmax on the BPU": asked.placement.totals.crossings,
    }

    compiled = hqc.compile(
        model, example, march=march, calibration_data=digits.train_x[:256].split(64), hybrid_dict=wish
    )  # fmt: skip
    with torch.no_grad():
        found["float"] = accuracy(model(digits.test_x), digits.test_y)
    found["integer"] = accuracy(compiled.simulate(digits.test_x), digits.test_y)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    compiled.export(folder / "encoder.onnx")
    draw(compiled.graph, folder / "encoder.dot", depth=2)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--march", default="bayes")
    parser.add_argument("--out", default="out/sequence")
    parser.add_argument("--epochs", type=int, default=15)
    for name, value in main(**vars(parser.parse_args())).items():
        print(f"{name}: {value:g}")
