"""Random networks with one planted culprit each: what loses accuracy in them is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

import hqc
from hqc.quantization.fake_quantize import fake_quants
from hqc.workflow.compile import Compiled

KINDS = ("outlier channel", "clipped activation", "cat of unequal ranges")
SIZE = 12
FACTOR = 60.0
LARGEST = 63.0
"""What bernoulli's scales hold, weights and activations alike: 127 steps of 2^-1 (ARITHMETIC section 1)."""


class Network(nn.Module):
    """Convolutions with ReLU; some additions, and a cat of two branches in the middle.

    Depthwise layers behind the places of culprits undo what is planted: their weights have a scale per channel and lose nothing.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        torch.manual_seed(seed)
        self.width = int(rng.choice([6, 8, 12]))
        self.depth = int(rng.integers(2, 4))
        self.added = [bool(rng.integers(2)) for _ in range(self.depth)]
        self.stem = nn.Conv2d(3, self.width, 3, padding=1)
        self.before = nn.ModuleList(nn.Conv2d(self.width, self.width, 3, padding=1) for _ in range(self.depth))
        self.left = nn.Conv2d(self.width, self.width, 3, padding=1)
        self.right = nn.Conv2d(self.width, self.width, 1)
        self.behind_cat = nn.Conv2d(2 * self.width, 2 * self.width, 3, padding=1, groups=2 * self.width)
        self.join = nn.Conv2d(2 * self.width, self.width, 3, padding=1)
        self.behind_join = nn.Conv2d(self.width, self.width, 3, padding=1, groups=self.width)
        self.after = nn.ModuleList(nn.Conv2d(self.width, self.width, 3, padding=1) for _ in range(self.depth))
        self.head = nn.Conv2d(self.width, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        for conv, added in zip(self.before, self.added, strict=True):
            y = torch.relu(conv(x))
            x = y + x if added else y
        x = torch.cat([torch.relu(self.left(x)), torch.relu(self.right(x))], 1)
        x = torch.relu(self.behind_join(torch.relu(self.join(self.behind_cat(x)))))
        for conv, added in zip(self.after, self.added, strict=True):
            y = torch.relu(conv(x))
            x = y + x if added else y
        return self.head(x)


@dataclass
class Planted:
    """`culprit`: traced or module name of the operation that should be blamed; `cause`: for what."""

    compiled: Compiled
    network: nn.Module
    data: list[torch.Tensor]
    culprit: str
    cause: str


def data_for(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(4, 3, SIZE, SIZE, generator=generator) for _ in range(2)]


def plain_network(kind: str, seed: int, march: str = "bayes") -> tuple[Network, Network, dict[str, object]]:
    """A network with one culprit, one of the same function without, and the qconfigs (which clip, where that is the culprit)."""
    network, innocent = (_levelled(seed) for _ in range(2))
    largest = LARGEST if march == "bernoulli" else float("inf")
    rng = np.random.default_rng(1000 + seed)
    with torch.no_grad():
        channel = int(rng.integers(network.width))
        if kind == "outlier channel":  # one channel 60 times the others; what reads it divides again
            factor = min(FACTOR, largest / _reach(network, channel, data_for(seed)))  # larger values would be clipped besides
            network.join.weight[channel] *= factor
            network.join.bias[channel] *= factor
            network.behind_join.weight[channel] /= factor
        if kind == "cat of unequal ranges":  # the left branch 60 times smaller than the right one
            behind = network.behind_cat.weight[: network.width]
            factor = min(FACTOR, largest / float(behind.abs().max()))  # larger weights would bring the cat to the CPU
            network.left.weight /= factor
            network.left.bias /= factor
            behind *= factor
    qconfig: dict[str, object] = {"": hqc.quantization.get_default_qconfig(activation_observer="absolute_min_max")}
    if kind == "clipped activation":
        narrow = {"percentile": 70.0}
        clips = hqc.quantization.get_default_qconfig(activation_observer="percentile", activation_qkwargs=narrow)
        qconfig["module_name"] = {"join": clips}
    return network, innocent, qconfig


def planted(kind: str, seed: int, march: str = "bayes") -> Planted:
    """A compiled network with one culprit; the float function of the network is that of an innocent one."""
    network, _, _ = plain_network(kind, seed, march)
    data = data_for(seed)
    qconfig = {"": hqc.quantization.get_default_qconfig(activation_observer="absolute_min_max")}
    compiled = hqc.compile(network, data[0], march=march, calibration_data=data, qconfig_dict=qconfig)
    culprit = {"outlier channel": "join", "clipped activation": "join", "cat of unequal ranges": "cat"}[kind]
    if kind == "clipped activation":
        compiled = clipped(compiled, "join")
    return Planted(compiled, network, data, culprit, "clipping" if kind == "clipped activation" else "activation rounding")


def _levelled(seed: int) -> Network:
    """Every activation of about one size, so that nothing but the culprit stands out."""
    network = Network(seed).eval()
    with torch.no_grad():
        _level(network, data_for(seed)[0])
    return network


def _reach(network: Network, channel: int, data: list[torch.Tensor]) -> float:
    """The largest value in a channel of what the layer `join` gives its ReLU."""
    seen = [1e-6]
    handle = network.join.register_forward_hook(lambda _m, _i, y: seen.append(float(y[:, channel].max())))
    for x in data:
        network(x)
    handle.remove()
    return max(seen)


def clipped(compiled: Compiled, module: str) -> Compiled:
    """The same model with the range of one layer's result an eighth of what it is."""
    from hqc.workflow.deploy import deploy

    fake_quant = dict(fake_quants(compiled.prepared))[f"{module}.activation_post_process"]
    fake_quant.assign_scale(fake_quant.calculate_qparams()[0] / 8)
    return Compiled(compiled.prepared, deploy(compiled.prepared))


def _level(network: Network, x: torch.Tensor) -> None:
    """Scale every layer so that its result has a standard deviation of 1: the function changes, and no layer stands out."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            seen = []
            handle = module.register_forward_hook(lambda _m, _i, y, seen=seen: seen.append(float(y.std())))
            network(x)
            handle.remove()
            module.weight /= seen[0]
            module.bias /= seen[0]


def main() -> None:
    """How many culprits of 20 networks of each kind are found; `--march` chooses the chip."""
    import argparse

    from hqc.analysis.compare import compare

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--march", default="bayes")
    march = parser.parse_args().march
    for kind in KINDS:
        cases = (planted(kind, seed, march) for seed in range(20))
        firsts = [(case, compare(case.compiled, case.data).ranked()[0]) for case in cases]
        first = sum(row.name.is_called(case.culprit) for case, row in firsts)
        named = sum(row.own is not None and row.own.cause == case.cause for case, row in firsts)
        print(f"{march}, {kind}: first in {first} of 20, its cause right in {named}")  # noqa: T201


if __name__ == "__main__":
    main()
