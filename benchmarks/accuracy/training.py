"""Data for the networks, from scikit-learn's digits, and their training: some seconds each, kept in a folder."""

from __future__ import annotations

import hashlib
import inspect
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.accuracy import networks
from benchmarks.accuracy.networks import NETWORKS, MobileNetLike

CALIBRATION, TEST = 64, 256


@dataclass(frozen=True)
class Task:
    """`inputs`, `targets`: training data; the first 64 inputs calibrate. `test`: other inputs, for the figures; `labels`: of them."""

    inputs: Tensor
    targets: Tensor
    test: Tensor
    labels: Tensor

    @property
    def calibration(self) -> list[Tensor]:
        """Eight batches of eight."""
        return list(self.inputs[:CALIBRATION].split(8))


@cache
def task_of(name: str) -> Task:
    """16x16 images: digits on a ramp with noise, to be named, cut out, or doubled in size."""
    from sklearn.datasets import load_digits

    data = load_digits()
    rng = np.random.default_rng(0)
    order = rng.permutation(len(data.images))
    images = torch.from_numpy(data.images[order].astype(np.float32) / 16.0).unsqueeze(1)
    labels = torch.from_numpy(data.target[order].astype(np.int64))
    large = F.interpolate(images, scale_factor=2.0, mode="bilinear")
    noise = torch.from_numpy(rng.normal(0, 0.15, large.shape).astype(np.float32))
    ramp = torch.linspace(-0.5, 0.5, 16).view(1, 1, 1, 16) * torch.from_numpy(
        rng.normal(0, 1, (len(large), 1, 1, 1)).astype(np.float32)
    )
    inputs, targets = large + noise + ramp, labels
    if name == "unet":
        targets = (large > 0.4).float()
    if name == "super-resolution":
        inputs, targets = F.avg_pool2d(large, 2) * 2 - 1, large * 2 - 1
    return Task(inputs[:-TEST], targets[:-TEST], inputs[-TEST:], targets[-TEST:])


def loss_of(name: str, output: Tensor, target: Tensor) -> Tensor:
    if name == "unet":
        return F.binary_cross_entropy_with_logits(output, target)
    if name == "super-resolution":
        return F.mse_loss(output, target)
    return F.cross_entropy(output, target)


def train(model: nn.Module, name: str, *, epochs: int, rate: float, seed: int = 0) -> None:
    """Adam with a falling rate, in place."""
    task = task_of(name)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), rate)
    steps = epochs * (len(task.inputs) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    model.train()
    for _ in range(epochs):
        order = torch.randperm(len(task.inputs), generator=generator)
        for batch in order[: len(order) // 64 * 64].split(64):
            optimizer.zero_grad()
            loss_of(name, model(task.inputs[batch]), task.targets[batch]).backward()
            optimizer.step()
            schedule.step()
    model.eval()


def trained(name: str, folder: Path) -> nn.Module:
    """The network, trained or read from `folder`, where it is kept under a name that changes with its code."""
    code = inspect.getsource(networks) + inspect.getsource(inspect.getmodule(trained) or networks)
    path = folder / f"{name}-{hashlib.sha256(code.encode()).hexdigest()[:10]}.pt"
    torch.manual_seed(0)
    model = NETWORKS[name]()
    if path.exists():
        model.load_state_dict(torch.load(path, weights_only=True))
    else:
        train(model, name, epochs=30 if name == "transformer" else 8, rate=3e-3 if name == "transformer" else 5e-3)
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(model.state_dict(), path)
    if isinstance(model, MobileNetLike):
        model.spread()
    return model.eval()


def quality(name: str, output: np.ndarray) -> float:
    """Accuracy in percent; for the mask, pixels; for super-resolution, PSNR in dB."""
    target = task_of(name).labels.numpy()
    if name == "super-resolution":
        return float(10 * np.log10(4.0 / ((output - target) ** 2).mean()))
    if name == "unet":
        return float(100 * ((output > 0) == (target > 0.5)).mean())
    return float(100 * (output.argmax(1) == target).mean())
