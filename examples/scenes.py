"""Data of the examples: scikit-learn's handwritten digits, alone or scattered over a larger picture."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hqc.demo import Digits, load_digits

SIZE = 32


@dataclass(frozen=True)
class Scenes:
    """`images`: `[N,1,32,32]` in [0, 1]. `boxes`: `[N,K,4]`, centre x, centre y, width, height in pixels. `labels`: `[N,K]`.
    `masks`: `[N,32,32]`, 1 where there is ink."""

    images: torch.Tensor
    boxes: torch.Tensor
    labels: torch.Tensor
    masks: torch.Tensor


def make_scenes(count: int, digits: int = 2, seed: int = 0) -> Scenes:
    """`count` pictures of `digits` digits each, at random places that do not overlap."""
    generator = torch.Generator().manual_seed(seed)
    source: Digits = load_digits()
    images, masks = torch.zeros(count, 1, SIZE, SIZE), torch.zeros(count, SIZE, SIZE)
    boxes, labels = torch.zeros(count, digits, 4), torch.zeros(count, digits, dtype=torch.int64)
    for scene in range(count):
        corners = torch.randperm(9, generator=generator)[:digits]
        for index, corner in enumerate(corners.tolist()):
            shift = torch.randint(0, 3, (2,), generator=generator).tolist()
            y, x = 10 * (corner // 3) + shift[0], 10 * (corner % 3) + shift[1]
            chosen = int(torch.randint(0, len(source.train_y), (1,), generator=generator))
            images[scene, 0, y : y + 8, x : x + 8] = source.train_x[chosen, 0]
            masks[scene, y : y + 8, x : x + 8] = (source.train_x[chosen, 0] > 0.4).float()
            boxes[scene, index] = torch.tensor([x + 4.0, y + 4.0, 8.0, 8.0])
            labels[scene, index] = source.train_y[chosen]
    return Scenes(images, boxes, labels, masks)
