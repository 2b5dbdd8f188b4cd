"""The zoo's entries: one small network per published family, and what it is fed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.models.registry import seeded


@dataclass(frozen=True)
class ZooEntry:
    """One network: how to make it, and the shapes of its inputs for one sample with batch 1.

    `integers`: for inputs of integers their upper bound, by position. `chosen`: outputs, by position, that hang on a choice among
    near equals (what stands at the k-th best place), which one rounding may turn over. `likeness`: least cosine of the simulator
    and the fake-quantized model; dozens of layers of random weights amplify single roundings, which trained ones do not.
    """

    name: str
    factory: Callable[[], nn.Module]
    shapes: tuple[tuple[int, ...], ...]
    integers: tuple[tuple[int, int], ...] = ()
    chosen: tuple[int, ...] = ()
    likeness: float = 0.98

    def inputs(self, seed: int) -> tuple[Tensor, ...]:
        """Inputs of a seed: reals in [-1, 1), integers below their bound."""
        generator, bounds = torch.Generator().manual_seed(seed), dict(self.integers)
        return tuple(
            torch.randint(0, bounds[i], shape, generator=generator)
            if i in bounds
            else torch.rand(shape, generator=generator) * 2 - 1
            for i, shape in enumerate(self.shapes)
        )

    def build(self) -> nn.Module:
        """The network in eval mode with seeded weights and settled batch norms."""
        with seeded(0):
            network = self.factory()
        settle(network, [self.inputs(seed) for seed in range(20, 24)])
        return network.eval()


ZOO: dict[str, ZooEntry] = {}


def zoo(
    name: str,
    *shapes: tuple[int, ...],
    integers: dict[int, int] | None = None,
    chosen: tuple[int, ...] = (),
    likeness: float = 0.98,
) -> Callable[[Any], Any]:
    """Register the decorated factory (or module class without arguments) as `name`."""

    def register(factory: Any) -> Any:
        if name in ZOO:
            raise ValueError(f"two networks of the zoo are called {name}")
        ZOO[name] = ZooEntry(name, factory, shapes, tuple((integers or {}).items()), chosen, likeness)
        return factory

    return register


@torch.no_grad()
def settle(network: nn.Module, batches: list[tuple[Tensor, ...]]) -> None:
    """Batch norms take the statistics of one large batch made of `batches`."""
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    network.eval()
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    if norms:
        network(*(torch.cat(parts) for parts in zip(*batches, strict=True)))
    for norm in norms:
        norm.eval()
        norm.momentum = 0.1
