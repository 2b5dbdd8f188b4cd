"""Detection, YOLO-like: the compiled model gives raw heads; decoding and non-maximum suppression are NumPy, outside of it.

Post-processing inside the graph would run on the CPU anyway, and its coordinates do not fit eight bits.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scenes import SIZE, Scenes, make_scenes
from torch import nn

import hqc

STRIDES = (4, 8)
CLASSES = 10


def conv(channels: int, width: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, width, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(width), nn.SiLU())


class Split(nn.Module):
    """Half of the channels through two convolutions with a shortcut, then joined with the other half."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.left, self.right = conv(channels, half, 1), conv(channels, half, 1)
        self.inner, self.join = nn.Sequential(conv(half, half), conv(half, half)), conv(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left = self.left(x)
        return self.join(torch.cat([left + self.inner(left), self.right(x)], 1))


class Detector(nn.Module):
    """`[N,1,32,32]` -> two maps `[N,5+10,8,8]` and `[N,5+10,4,4]`: objectness, box, classes."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = conv(1, width, 3, 2)
        self.fine = nn.Sequential(conv(width, 2 * width, 3, 2), Split(2 * width))
        self.coarse = nn.Sequential(conv(2 * width, 2 * width, 3, 2), Split(2 * width))
        self.up, self.neck = nn.Upsample(scale_factor=2, mode="nearest"), conv(4 * width, 2 * width)
        self.heads = nn.ModuleList(nn.Conv2d(2 * width, 5 + CLASSES, 1) for _ in STRIDES)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        fine = self.fine(self.stem(image))
        coarse = self.coarse(fine)
        fine = self.neck(torch.cat([fine, self.up(coarse)], 1))
        return self.heads[0](fine), self.heads[1](coarse)


def targets(scenes: Scenes, stride: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Per cell: is a centre in it, offset of the centre and log of the size in strides, and the class."""
    count, cells = len(scenes.images), SIZE // stride
    there, boxes = torch.zeros(count, cells, cells), torch.zeros(count, 4, cells, cells)
    labels = torch.zeros(count, cells, cells, dtype=torch.int64)
    for scene in range(count):
        for box, label in zip(scenes.boxes[scene], scenes.labels[scene], strict=True):
            x, y = (int(each) for each in box[:2] // stride)
            there[scene, y, x], labels[scene, y, x] = 1.0, label
            offset = box[:2] / stride - torch.tensor([x, y]) - 0.5
            boxes[scene, :, y, x] = torch.cat([offset, torch.log(box[2:] / stride)])
    return there, boxes, labels


def loss_of(head: torch.Tensor, wanted: tuple[torch.Tensor, ...]) -> torch.Tensor:
    there, boxes, labels = wanted
    found = nn.functional.binary_cross_entropy_with_logits(head[:, 0], there, pos_weight=torch.tensor(8.0))
    at = there > 0
    place = nn.functional.smooth_l1_loss(head[:, 1:5].movedim(1, -1)[at], boxes.movedim(1, -1)[at])
    kind = nn.functional.cross_entropy(head[:, 5:].movedim(1, -1)[at], labels[at])
    return found + place + kind


def train(model: Detector, steps: int) -> None:
    scenes = make_scenes(768)
    wanted = [targets(scenes, stride) for stride in STRIDES]
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    generator = torch.Generator().manual_seed(0)
    model.train()
    for _ in range(steps):
        batch = torch.randint(0, len(scenes.images), (32,), generator=generator)
        heads = model(scenes.images[batch])
        loss = sum(loss_of(head, tuple(each[batch] for each in want)) for head, want in zip(heads, wanted, strict=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()


def decode(heads: Any, threshold: float = 0.5) -> list[np.ndarray]:
    """Per image the boxes that survive, `[K,6]`: x0, y0, x1, y1, score, class. `heads`: the model's two maps as arrays."""
    found = []
    for maps in zip(*(np.asarray(head) for head in heads), strict=True):
        rows = []
        for cells, stride in zip(maps, STRIDES, strict=True):
            score = 1 / (1 + np.exp(-cells[0]))
            for y, x in zip(*np.nonzero(score > threshold), strict=True):
                dx, dy, w, h = cells[1:5, y, x]
                cx, cy = (x + 0.5 + dx) * stride, (y + 0.5 + dy) * stride
                w, h = np.exp(np.clip([w, h], -4, 4)) * stride / 2
                rows.append([cx - w, cy - h, cx + w, cy + h, score[y, x], cells[5:, y, x].argmax()])
        found.append(suppress(np.array(rows, np.float64).reshape(-1, 6)))
    return found


def suppress(rows: np.ndarray, overlap: float = 0.45) -> np.ndarray:
    """Non-maximum suppression: of boxes that overlap the one with the highest score."""
    rows, kept = rows[np.argsort(-rows[:, 4])], []
    while len(rows):
        kept.append(rows[0])
        rows = rows[1:][intersection_over_union(rows[0], rows[1:]) < overlap]
    return np.array(kept).reshape(-1, 6)


def intersection_over_union(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:4], others[:, 2:4])
    common = np.prod(np.clip(high - low, 0, None), axis=1)
    areas = np.prod(others[:, 2:4] - others[:, :2], axis=1)
    return common / (np.prod(box[2:4] - box[:2]) + areas - common)


def recall(detections: list[np.ndarray], scenes: Scenes) -> float:
    """Percentage of digits that were found at their place (overlap 0.5) with their class."""
    hits = total = 0
    for rows, boxes, labels in zip(detections, scenes.boxes.numpy(), scenes.labels.numpy(), strict=True):
        for (cx, cy, w, h), label in zip(boxes, labels, strict=True):
            real = np.array([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
            total += 1
            hits += bool(len(rows)) and bool(((intersection_over_union(real, rows) > 0.5) & (rows[:, 5] == label)).any())
    return 100.0 * hits / total


def main(march: str = "bayes", out: str = "out/detection", steps: int = 300) -> dict[str, float]:
    """Train, compile, evaluate; files go to `out`. Returns recalls in percent."""
    torch.manual_seed(0)
    model = Detector()
    train(model, steps)
    scenes = make_scenes(64, seed=1)
    compiled = hqc.compile(
        model, scenes.images[:1], march=march, calibration_data=make_scenes(64, seed=2).images.split(16)
    )  # fmt: skip
    with torch.no_grad():
        found = {"float": recall(decode([head.numpy() for head in model(scenes.images)]), scenes)}
    found["integer"] = recall(decode(compiled.simulate(scenes.images)), scenes)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    compiled.export(folder / "detector.onnx")  # for hb_mapper
    compiled.export(folder / "detector_runnable.onnx", flavour="runnable")  # the same in stock onnxruntime
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--march", default="bayes")
    parser.add_argument("--out", default="out/detection")
    parser.add_argument("--steps", type=int, default=300)
    for name, value in main(**vars(parser.parse_args())).items():
        print(f"{name}: {value:.1f} % of the digits found")
