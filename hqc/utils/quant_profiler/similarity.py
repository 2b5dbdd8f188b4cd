"""`featuremap_similarity`: two stages of one network beside each other, operation by operation."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from hqc.analysis.compare.distances import DistanceSum
from hqc.checked import checked
from hqc.errors import InputError
from hqc.utils.quant_profiler.stages import Array, features
from hqc.utils.quant_profiler.tables import show, table

HEADER = ("Index", "Module Name", "Module Type", "Similarity", "qscale", "Acc Error(float atol)", "Acc Error(N out_qscale)")


def _distance(a: Array, b: Array) -> Any:
    total = DistanceSum()
    total.add(a, b)
    return total.distance


def _kl(a: Array, b: Array) -> float:
    """Kullback-Leibler divergence of the softmax of the second from that of the first, over the last axis, mean."""
    first, second = (torch.log_softmax(torch.as_tensor(each, dtype=torch.float64), -1) for each in (a, b))
    return float((first.exp() * (first - second)).sum(-1).mean())


FUNCTIONS: dict[str, Callable[[Array, Array], float]] = {
    "Cosine": lambda a, b: float(_distance(a, b).cosine),
    "MSE": lambda a, b: float(np.mean((np.asarray(a, np.float64) - b) ** 2)),
    "L1": lambda a, b: float(np.mean(np.abs(np.asarray(a, np.float64) - b))),
    "KL": _kl,
    "SQNR": lambda a, b: float(_distance(a, b).sqnr),
}


def similarity_function(name: str | Callable[[Any, Any], Any]) -> Callable[[Array, Array], float]:
    """A similarity by name, or the user's own function of two tensors."""
    if callable(name):
        return lambda a, b: float(name(torch.as_tensor(a), torch.as_tensor(b)))
    if name not in FUNCTIONS:
        raise InputError(f"similarity_func must be one of {', '.join(FUNCTIONS)} or a function, got {name!r}")
    return FUNCTIONS[name]


@checked
def featuremap_similarity(
    model1: nn.Module,
    model2: nn.Module,
    inputs: Any,
    similarity_func: str | Callable[[Any, Any], Any] = "Cosine",
    threshold: float | None = None,
    devices: Any = None,
    out_dir: str | os.PathLike[str] | None = None,
) -> list[list[Any]]:
    """One row per operation that both models have: index, module, operation, similarity, scale, largest difference, the same in steps.

    The models are two stages of one network: float, calibrated, trained, converted. `threshold`: rows beyond it end in a mark (below it
    for Cosine and SQNR, above it for the others; default 0.99 for Cosine). Printed, and written to `similarity.txt` in `out_dir`.
    `devices`: accepted; the models stay where they are.
    """
    del devices
    measure = similarity_function(similarity_func)
    limit = 0.99 if threshold is None and similarity_func == "Cosine" else threshold
    first, second = features([model1, model2], inputs)
    rows: list[list[Any]] = []
    marks = []
    for name, feature in second.items():
        other = first.get(name)
        if other is None or other.data.shape != feature.data.shape:
            continue
        difference = float(np.abs(np.asarray(other.data, np.float64) - feature.data).max(initial=0.0))
        scale = None if feature.scale is None else float(feature.scale.max())
        value = measure(other.data, feature.data)
        rows.append(
            [len(rows), feature.module, feature.op, value, scale, difference, None if scale is None else difference / scale]
        )
        falls = similarity_func in ("Cosine", "SQNR")
        marks.append("" if limit is None or (value >= limit if falls else value <= limit) else "<- beyond the threshold")
    show(table((*HEADER, ""), [[*row, mark] for row, mark in zip(rows, marks, strict=True)]), out_dir, "similarity.txt")
    return rows
