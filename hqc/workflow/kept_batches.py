"""A bounded choice of calibration batches that does not depend on the order of the data."""

from __future__ import annotations

import hashlib
from typing import Any

from hqc.workflow.arguments import tensors_of

ELEMENTS = 32 * 3 * 224 * 224
SAMPLES = 256


class KeptBatches:
    """Of all batches that `add` is given, those with the smallest digests of their content, up to some 32 photographs or 256 samples.

    At least two are kept, where there are two: one to fit and one to judge by.
    """

    def __init__(self) -> None:
        self._kept: list[tuple[bytes, tuple[Any, ...]]] = []

    def add(self, arguments: tuple[Any, ...]) -> None:
        """Take one batch, the arguments of forward, into the choice."""
        digest = hashlib.sha256()
        for tensor in tensors_of(arguments):
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        self._kept.append((digest.digest(), arguments))
        self._kept.sort(key=lambda item: item[0])
        while len(self._kept) > 2 and self._too_many():
            self._kept.pop()

    def _too_many(self) -> bool:
        first = [tensors_of(arguments)[0] for _, arguments in self._kept]
        samples = sum(int(tensor.shape[0]) if tensor.dim() else 1 for tensor in first)
        return samples > SAMPLES or sum(tensor.numel() for tensor in first) > ELEMENTS

    @property
    def batches(self) -> list[tuple[Any, ...]]:
        """The choice, in an order that the contents alone decide."""
        return [arguments for _, arguments in self._kept]
