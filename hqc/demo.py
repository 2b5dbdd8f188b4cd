"""The demonstration and the project's yardstick on real data: a small CNN on scikit-learn's handwritten digits.

The network has what makes hybrid compilation interesting: a residual add, a cat, a max pool, an activation that the chip cannot
run (SELU) and a convolution that the user places on the CPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from hqc.checked import SEEDS, check_within
from hqc.distribution import install_command
from hqc.errors import InputError

FORCED_CPU = {"module_name": ["refine"]}


class DigitsNet(nn.Module):
    """`[N,1,8,8]` grey images in [0, 1] -> `[N,10]` logits. Runs on the CPU by nature: `selu`; by request: `refine`."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.stem = _block(1, width, 3)
        self.residual = nn.Sequential(
            _block(width, width, 3), nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        )
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.narrow = _block(width, width, 1)
        self.wide = _block(width, width, 3)
        self.selu = nn.SELU()
        self.refine = nn.Conv2d(2 * width, 2 * width, 1)
        self.head = _block(2 * width, 2 * width, 3)
        self.gap = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(2 * width, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.stem(image)
        x = self.relu(self.residual(x) + x)
        x = self.pool(x)
        x = torch.cat([self.narrow(x), self.wide(x)], dim=1)
        x = self.selu(x)
        x = self.head(self.refine(x))
        logits: torch.Tensor = self.classifier(torch.flatten(self.gap(x), 1))
        return logits


def _block(channels: int, width: int, kernel: int) -> nn.Sequential:
    """Convolution, batch norm, ReLU."""
    conv = nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU())


@dataclass(frozen=True)
class Digits:
    """Images `[N,1,8,8]` float32 in [0, 1] and labels `[N]`, split for training and held-out evaluation."""

    train_x: torch.Tensor
    train_y: torch.Tensor
    test_x: torch.Tensor
    test_y: torch.Tensor


def load_digits(fold: int = 0, folds: int = 5) -> Digits:
    """Fold `fold` of `folds` of scikit-learn's 1,797 digits (shuffled with a fixed seed)."""
    try:
        from sklearn.datasets import load_digits as load
    except ImportError:
        raise InputError(f"the digits data set comes with scikit-learn; install it with: {install_command('demo')}") from None
    data = load()
    images = torch.from_numpy((data.images / 16.0).astype(np.float32))[:, None]
    labels = torch.from_numpy(data.target.astype(np.int64))
    order = np.random.default_rng(0).permutation(len(labels))
    held_out = np.zeros(len(labels), bool)
    held_out[order[fold::folds]] = True
    return Digits(images[~held_out], labels[~held_out], images[held_out], labels[held_out])


def train(
    model: nn.Module, digits: Digits, *, epochs: int = 8, rate: float = 0.05, seed: int = 0, progress: Any = None
) -> None:
    """Train in place with SGD and a cosine schedule; deterministic. `progress(epoch)` is called after each epoch."""
    check_within("seed", seed, SEEDS)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=rate, momentum=0.9, weight_decay=5e-4)
    batches = len(digits.train_y) // 64 + 1
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=epochs * batches)
    model.train()
    for epoch in range(epochs):
        order = torch.randperm(len(digits.train_y), generator=generator)
        for index in torch.tensor_split(order, batches):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(digits.train_x[index]), digits.train_y[index], label_smoothing=0.05)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        if progress is not None:
            progress(epoch)
    model.eval()


def accuracy(logits: npt.ArrayLike | torch.Tensor, labels: torch.Tensor) -> float:
    """Percentage of rows whose largest logit is the label."""
    return float((np.asarray(logits).argmax(axis=1) == labels.numpy()).mean() * 100.0)


def trained_network(digits: Digits, *, seed: int = 0, epochs: int = 8, progress: Any = None) -> DigitsNet:
    """A freshly trained `DigitsNet` in eval mode."""
    check_within("seed", seed, SEEDS)
    torch.manual_seed(seed)
    model = DigitsNet()
    train(model, digits, seed=seed, epochs=epochs, progress=progress)
    return model
