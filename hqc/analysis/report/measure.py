"""What a run on data says about each operation, for the page: distances from the float model, histograms, times."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from hqc.ir import Graph, QuantParams

Array = npt.NDArray[Any]
BINS = 48


def histogram(real: Array, quantized: Array, quant: QuantParams | None) -> dict[str, Any] | None:
    """Counts of float and quantized values in the same bins, and the range beyond which values are clipped.

    None where there is nothing to show: whole numbers, empty or non-finite values. `clip` is None where nothing is clipped: per-channel
    and int32 grids, values in real numbers.
    """
    x, y = np.asarray(real).ravel(), np.asarray(quantized).ravel()
    if x.dtype.kind != "f" or not x.size or not np.isfinite(x).all() or not np.isfinite(y.astype(np.float64)).all():
        return None
    low, high = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
    if low == high:
        low, high = low - 0.5, high + 0.5
    clip = None
    if quant is not None and not quant.per_channel and quant.dtype.bits < 32:
        clip = [float(quant.scale) * quant.dtype.qmin, float(quant.scale) * quant.dtype.qmax]
    counts = [np.histogram(each.astype(np.float64), BINS, (low, high))[0].tolist() for each in (x, y)]
    return {"low": low, "high": high, "float": counts[0], "quantized": counts[1], "clip": clip}


def times(rows: list[Any], graph: Graph) -> dict[str, tuple[float, int]]:
    """Node name -> milliseconds of the step it ran in, and how many nodes that step has; of the median of several runs.

    `rows`: one list of profile rows per run; a step over several nodes is called `first..last`.
    """
    order = [node.name for node in graph.nodes]
    place = {name: index for index, name in enumerate(order)}
    found: dict[str, tuple[float, int]] = {}
    for same in zip(*rows, strict=True):
        milliseconds = float(np.median([row.ms for row in same]))
        first, _, last = same[0].node.partition("..")
        covered = (
            order[place[first] : place[last or first] + 1] if first in place and (last or first) in place else [same[0].node]
        )
        for name in covered:
            found.setdefault(name, (milliseconds, len(covered)))
    return found


def finite(value: Any) -> Any:
    """A number as JSON takes it: None for what is infinite or none."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def rounded(values: Mapping[str, Any], digits: int = 6) -> dict[str, Any]:
    """Numbers with as many digits as a reader wants."""
    return {
        key: float(f"{value:.{digits}g}") if isinstance(value, float) and math.isfinite(value) else finite(value)
        for key, value in values.items()
    }
