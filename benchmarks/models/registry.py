"""Names of the networks and the seeded way to build them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class ModelEntry:
    """One network: how to make it, the shape of its input for one image, and the vendor log it mirrors (or "")."""

    name: str
    factory: Callable[[], nn.Module]
    input_shape: tuple[int, ...]
    log: str = ""


MODELS: dict[str, ModelEntry] = {}


def model(name: str, *, input_shape: tuple[int, ...], log: str = "") -> Callable[..., Callable[[], nn.Module]]:
    """Register the decorated zero-argument factory as `name`."""

    def register(factory: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        if name in MODELS:
            raise ValueError(f"two models are called {name}")
        MODELS[name] = ModelEntry(name, factory, input_shape, log)
        return factory

    return register


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run with torch's generator seeded; its state is restored afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def build(name: str, *, seed: int = 0, batch: int = 1, image: tuple[int, int] | None = None) -> tuple[nn.Module, torch.Tensor]:
    """The network called `name` in eval mode and an example input (float32 in [0, 1), `[batch, C, H, W]`).

    `image` replaces height and width. Batch norms get statistics that keep activations near unit size, so that quantization
    sees realistic ranges. `KeyError` for an unknown name lists the known ones.
    """
    if name not in MODELS:
        raise KeyError(f"there is no model {name!r}; known: {', '.join(sorted(MODELS))}")
    entry = MODELS[name]
    channels, height, width = entry.input_shape[-3:]
    height, width = image or (height, width)
    with seeded(seed):
        network = entry.factory()
        network.eval()
        example = torch.rand(batch, channels, height, width)
        settle_batch_norm(network, torch.rand(2, channels, height, width))
    return network, example


@torch.no_grad()
def settle_batch_norm(network: nn.Module, images: torch.Tensor) -> None:
    """One forward in which every batch norm takes the statistics it sees; afterwards the network is in eval mode."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    if norms:
        network(images)
    for norm in norms:
        norm.eval()
        norm.momentum = 0.1
