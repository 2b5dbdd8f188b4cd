"""How far two arrays are apart, over any number of batches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hqc.checked import explained

Array = npt.NDArray[Any]


def decibels(signal: float, noise: float) -> float:
    """`10 log10(signal / noise)`; infinite without noise, and minus infinite for noise without a signal."""
    if noise == 0.0:
        return math.inf
    return 10.0 * math.log10(signal / noise) if signal > 0.0 else -math.inf


@explained
@dataclass(frozen=True)
class Distance:
    """A second array beside a first. `cosine`: of the angle between them (1 where both are zero). `sqnr`: dB. `max_error`: the
    largest difference, `max_steps`: the same in steps of the value's grid (`max|a| / 127.5` where it has none)."""

    cosine: float
    sqnr: float
    max_error: float
    max_steps: float


class DistanceSum:
    """Takes in pairs of arrays; `step` None: of the first array's range."""

    def __init__(self, step: float | None = None) -> None:
        self.step = step
        self.first = self.second = self.both = self.noise = 0.0
        self.largest = self.reach = 0.0

    def add(self, a: npt.ArrayLike, b: npt.ArrayLike) -> None:
        x, y = np.asarray(a, np.float64).ravel(), np.asarray(b, np.float64).ravel()
        difference = x - y
        self.first += float(x @ x)
        self.second += float(y @ y)
        self.both += float(x @ y)
        self.noise += float(difference @ difference)
        self.largest = max(self.largest, float(np.abs(difference).max(initial=0.0)))
        self.reach = max(self.reach, float(np.abs(x).max(initial=0.0)))

    @property
    def distance(self) -> Distance:
        norms = math.sqrt(self.first * self.second)
        cosine = self.both / norms if norms > 0 else float(self.first == self.second)
        step = self.step or max(self.reach / 127.5, 1e-30)
        return Distance(min(max(cosine, -1.0), 1.0), decibels(self.first, self.noise), self.largest, self.largest / step)


class NoiseSum:
    """Energy of a signal and of noises on it, by name."""

    def __init__(self) -> None:
        self.signal = 0.0
        self.noises: dict[str, float] = {}

    def add(self, signal: Array, **noises: Array) -> None:
        self.signal += _energy(signal)
        for name, noise in noises.items():
            self.noises[name] = self.noises.get(name, 0.0) + _energy(noise)

    def sqnr(self, name: str) -> float:
        return decibels(self.signal, self.noises.get(name, 0.0))

    def shares(self, *names: str) -> tuple[float, ...]:
        """What each noise has of their sum; zeros where there is none."""
        total = sum(self.noises.get(name, 0.0) for name in names)
        return tuple(self.noises.get(name, 0.0) / total if total else 0.0 for name in names)


def _energy(x: Array) -> float:
    flat = np.asarray(x, np.float64).ravel()
    return float(flat @ flat)
