"""Histogram of magnitudes in constant memory, whatever range the data turns out to have.

The range is always a power of two larger than every magnitude, and the bins divide it evenly. When a larger value arrives the
range doubles and neighbouring bins merge, which is exact; so the histogram depends on the data and not on its order, and
merging two of them gives the histogram of all their data.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

from hqc import arithmetic
from hqc.checked import numeric
from hqc.errors import QConfigError
from hqc.quantization import torch_arithmetic
from hqc.quantization.observers.base import ObserverBase, checked_constant

BINS = 2048  # at least 1024 of them are in use, 8 per step of an int8 grid
_LOWEST_EXPONENT = -126
_LOWEST_FLOAT32 = -100
_PART = 1 << 15
_HIGHEST_EXPONENT = 127  # of an edge that float32 holds; what lies above it counts in the last bin
_LARGEST = float(torch.finfo(torch.float32).max)


@numeric
class HistogramObserver(ObserverBase):
    """Base of observers that choose a clip from a histogram of |x| (the BPU quantizes symmetrically).

    Subclasses give `clip(histogram, edges, largest) -> float`: the magnitude that maps to the end of the grid.
    Buffers: `calib_hist` int64 `[2048]`, `calib_bin_edges` float32 `[2049]` (both empty before the first batch), `max_val`
    float32 `[1]`: the largest magnitude. `fixed_clip` float32 `[1]`: a scale from elsewhere, as the magnitude it can hold
    (0: none).
    """

    calib_bin_edges: Tensor
    calib_hist: Tensor
    max_val: Tensor
    fixed_clip: Tensor
    cheap = False

    def __init__(
        self, *, averaging_constant: float | None = None, bins: int = BINS, update_interval: int = 1, **options: Any
    ) -> None:
        """`averaging_constant` None: all data counts, in any order. Otherwise `m += c (x - m)` over the clips of the batches; 0 freezes.

        `bins` and `update_interval` trade time for accuracy elsewhere, and change nothing here.
        """
        super().__init__(**options)
        del bins, update_interval
        self.averaging_constant = None if averaging_constant is None else checked_constant(averaging_constant)
        for name in ("calib_bin_edges", "max_val", "fixed_clip"):
            self.register_buffer(name, torch.empty(0, dtype=torch.float32))
        self.register_buffer("calib_hist", torch.empty(0, dtype=torch.float32))
        self.reset()

    def reset(self) -> None:
        self.calib_bin_edges = self.calib_bin_edges.new_empty(0)
        self.calib_hist = self.calib_hist.new_empty(0)
        self.max_val = self.max_val.new_zeros(1)
        self.fixed_clip = self.fixed_clip.new_zeros(1)

    @property
    def calibrated(self) -> bool:
        return self.calib_hist.numel() > 0 or bool(self.fixed_clip > 0)

    # --- observing -----------------------------------------------------------------------------------------------------

    def _observe(self, x: Tensor) -> None:
        if self.averaging_constant is None:
            self._count(x)
        elif self.averaging_constant > 0.0 or not self.calibrated:
            before = self.fixed_clip.clone() if self.calib_hist.numel() == 0 else self._reach()
            self.reset()
            self._count(x)
            reach = self._reach()
            self.reset()
            self.fixed_clip.copy_(before.lerp(reach, self.averaging_constant) if bool(before > 0) else reach)

    def _count(self, x: Tensor) -> None:
        """Take `x` into the histogram."""
        magnitude = x.abs().flatten()
        largest = magnitude.max().view(1) if magnitude.numel() else magnitude.new_zeros(1)
        if self._synchronized():
            dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        peak = float(largest)  # calibration may wait for the device; NaN and infinity must not enter the histogram
        if not math.isfinite(peak):
            raise self._not_finite()
        exponent = min(max(_exponent_above(peak), self._exponent()), _HIGHEST_EXPONENT)
        counts = _counts(magnitude, exponent)
        if self._synchronized():
            dist.all_reduce(counts)
        self._grow(exponent)
        self.calib_hist += counts
        self.max_val.copy_(torch.maximum(self.max_val, largest))
        self.fixed_clip.zero_()

    def _exponent(self) -> int:
        """The range is [0, 2^exponent)."""
        if self.calib_hist.numel() == 0:
            return _LOWEST_EXPONENT
        return math.frexp(float(self.calib_bin_edges[-1]))[1] - 1

    def _grow(self, exponent: int) -> None:
        """Make the range [0, 2^exponent), which is at least the present one, merging bins."""
        if self.calib_hist.numel() == 0:
            self.calib_hist = torch.zeros(BINS, dtype=torch.int64, device=self.max_val.device)
        elif exponent > self._exponent():
            span = 1 << min(exponent - self._exponent(), 11)
            merged = self.calib_hist.view(-1, span).sum(1)
            self.calib_hist = torch.cat([merged, merged.new_zeros(BINS - len(merged))])
        edges = torch.arange(BINS + 1, dtype=torch.float64) * math.ldexp(1.0, exponent - 11)
        self.calib_bin_edges = edges.float().to(self.max_val.device)

    def merge(self, other: HistogramObserver) -> None:
        self._check_mergeable(other)
        if other.calib_hist.numel() == 0:
            return
        incoming = HistogramObserver(dtype=self.dtype)
        incoming.max_val, incoming.calib_hist = other.max_val.to(self.max_val.device), other.calib_hist.to(self.max_val.device)
        incoming.calib_bin_edges = other.calib_bin_edges
        exponent = max(self._exponent(), incoming._exponent())
        self._grow(exponent)
        incoming._grow(exponent)
        self.calib_hist += incoming.calib_hist
        self.max_val.copy_(torch.maximum(self.max_val, incoming.max_val))
        self.fixed_clip.zero_()

    # --- answering -----------------------------------------------------------------------------------------------------

    def clip(self, histogram: npt.NDArray[np.float64], edges: npt.NDArray[np.float64], largest: float) -> float:
        """The magnitude to be mapped to the end of the grid; `largest` is greater than 0."""
        raise NotImplementedError

    def scale(self) -> Tensor:
        self._require_calibrated()
        reach = self.fixed_clip if self.calib_hist.numel() == 0 else self._reach()
        return torch_arithmetic.scale_from_range(-reach, reach, self.bits)

    def _reach(self) -> Tensor:
        return torch.full_like(self.max_val, self._chosen_clip())

    def _chosen_clip(self) -> float:
        largest = float(self.max_val)
        if largest == 0.0:
            return 0.0
        histogram = self.calib_hist.cpu().numpy().astype(np.float64)
        edges = self.calib_bin_edges.cpu().numpy().astype(np.float64)
        return min(self.clip(histogram, edges, largest), _LARGEST)

    def assign_scale(self, scale: Tensor) -> None:
        self.reset()
        self.fixed_clip.copy_(torch_arithmetic.range_from_scale(scale.detach(), self.bits)[1].reshape(1))

    def extra_repr(self) -> str:
        return f"{type(self).__name__}() calib_bin_edges={self.calib_bin_edges} calib_hist={self.calib_hist}"


def _counts(magnitude: Tensor, exponent: int) -> Tensor:
    """How many elements fall into each of the bins of [0, 2^exponent); what lies above counts in the last one.

    A product with a power of two is exact for normal numbers, so equal values fall into equal bins in every batch; ranges that are too
    small for a factor in float32 are counted in float64. (torch.ldexp of torch 2.4 makes its power in float32.) On a CPU, parts that
    stay in its cache take an eighth of the time.
    """
    wide = magnitude.dtype != torch.float32 or exponent < _LOWEST_FLOAT32
    counts = torch.zeros(BINS, dtype=torch.int64, device=magnitude.device)
    for part in torch.split(magnitude, _PART if magnitude.device.type == "cpu" else max(magnitude.numel(), 1)):
        index = ((part.double() if wide else part) * math.ldexp(1.0, 11 - exponent)).to(torch.int32).clamp_(max=BINS - 1)
        counts += torch.bincount(index, minlength=BINS)
    return counts


def _exponent_above(peak: float) -> int:
    """Smallest e with peak < 2^e (not below the smallest range)."""
    return max(math.frexp(peak)[1], _LOWEST_EXPONENT) if peak > 0 else _LOWEST_EXPONENT


# --- clips -----------------------------------------------------------------------------------------------------------------


def percentile_clip(
    histogram: npt.NDArray[np.float64], edges: npt.NDArray[np.float64], largest: float, percentile: float
) -> float:
    """The magnitude that `percentile` % of the values do not exceed, interpolated inside its bin."""
    if percentile >= 100.0:
        return largest
    total = np.cumsum(histogram)
    wanted = total[-1] * percentile / 100.0
    index = int(np.searchsorted(total, wanted))
    before = total[index - 1] if index else 0.0
    inside = (wanted - before) / histogram[index]
    return float(edges[index] + inside * (edges[index + 1] - edges[index]))


def squared_error(
    histogram: npt.NDArray[np.float64],
    edges: npt.NDArray[np.float64],
    clips: npt.NDArray[Any],
    bits: int,
    rounding: str = "half_even",
) -> npt.NDArray[np.float64]:
    """Squared quantization error of the bin centres, summed over the histogram, for each clip."""
    met = np.flatnonzero(histogram)  # small tensors have values in few of the bins, and none has any above its range
    centres = (edges[met] + edges[met + 1]) / 2.0
    scales = clips[:, None] / ((1 << (bits - 1)) - 0.5)
    errors = np.asarray(centres / scales)  # one array for all steps: fresh memory for each costs more than the arithmetic
    (np.floor if rounding == "floor" else np.rint)(errors, out=errors)
    np.minimum(errors, (1 << (bits - 1)) - 1, out=errors)
    errors *= scales
    np.subtract(centres, errors, out=errors)
    errors *= errors
    return np.asarray(errors @ histogram[met])


FINER = 6
"""Powers of two that are tried below the one that holds the range."""


def power_of_two_clips(largest: float, bits: int) -> npt.NDArray[np.float64]:
    """The magnitudes at the end of the grid of every power-of-two scale that may suit a range, the widest first."""
    reach = (1 << (bits - 1)) - 0.5
    widest = float(arithmetic.power_of_two_scale(largest / reach))
    scales = np.ldexp(widest, -np.arange(FINER + 1))
    return np.asarray(scales[arithmetic.power_of_two_scale(scales) == scales] * reach)


@numeric
class SearchingObserver(HistogramObserver):
    """Base of observers that weigh errors: of several clips, the one with the smallest cost; the widest wins ties.

    Where scales are powers of two, every clip that such a scale gives is tried: rounding up whatever fits a free scale best would lose
    up to a bit. Subclasses give `clips` and `costs`.
    """

    def clips(
        self, histogram: npt.NDArray[np.float64], edges: npt.NDArray[np.float64], largest: float
    ) -> npt.NDArray[np.float64]:
        """Candidates, the widest first."""
        raise NotImplementedError

    def costs(
        self, histogram: npt.NDArray[np.float64], edges: npt.NDArray[np.float64], clips: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float64]:
        """What each clip costs; the squared error."""
        return squared_error(histogram, edges, clips, self.bits, self.rounding)

    def clip(self, histogram: npt.NDArray[np.float64], edges: npt.NDArray[np.float64], largest: float) -> float:
        clips = self.candidates(histogram, edges, largest)
        best = float(clips[int(np.argmin(self.costs(histogram, edges, clips)))])
        # The range itself, where the widest was chosen: its power of two is the same, and other dtypes can be told the range.
        return min(best, largest) if self.power_of_two else best

    def candidates(
        self, histogram: npt.NDArray[np.float64], edges: npt.NDArray[np.float64], largest: float
    ) -> npt.NDArray[np.float64]:
        """`clips` by the march's rule for scales, and before them the one that puts the largest value on the grid.

        The end of the grid is half a step beyond its last point: where many values equal the largest (a ReLU6), that half step counts.
        """
        if self.power_of_two:
            return power_of_two_clips(largest, self.bits)
        last = (1 << (self.bits - 1)) - 1
        return np.concatenate([[largest * (last + 0.5) / last], self.clips(histogram, edges, largest)])


@numeric
class PercentileObserver(HistogramObserver):
    """Clips so that `percentile` % of the magnitudes fit."""

    def __init__(self, percentile: float = 99.99, **options: Any) -> None:
        super().__init__(**options)
        self.percentile = _checked_percentile(percentile)

    def clip(self, histogram: npt.NDArray[np.float64], edges: npt.NDArray[np.float64], largest: float) -> float:
        return min(percentile_clip(histogram, edges, largest, self.percentile), largest)


@numeric
class MSEObserver(SearchingObserver):
    """Clips at the one of 100 evenly spaced candidates (every `stride`-th) with the smallest squared error."""

    def __init__(self, stride: int = 1, **options: Any) -> None:
        super().__init__(**options)
        if not (isinstance(stride, int) and 1 <= stride <= 100):
            raise QConfigError(f"stride must be a whole number from 1 to 100, got {stride}")
        self.stride = stride

    def clips(
        self, histogram: npt.NDArray[np.float64], edges: npt.NDArray[np.float64], largest: float
    ) -> npt.NDArray[np.float64]:
        return np.asarray(largest * np.arange(100, 0, -self.stride) / 100.0)


@numeric
class MixObserver(SearchingObserver):
    """Chooses for this tensor the percentile with the smallest squared (L2) error; `chosen` is that percentile.

    Where scales are powers of two it chooses among those, and `chosen` is the share of magnitudes, in percent, that the scale holds.
    """

    PERCENTILES = (100.0, 99.999, 99.99, 99.95, 99.9, 99.5, 99.0)

    def __init__(self, percentiles: tuple[float, ...] = PERCENTILES, **options: Any) -> None:
        super().__init__(**options)
        self.percentiles = tuple(_checked_percentile(percentile) for percentile in percentiles)
        self.chosen: float | None = None

    def clips(
        self, histogram: npt.NDArray[np.float64], edges: npt.NDArray[np.float64], largest: float
    ) -> npt.NDArray[np.float64]:
        clips = [percentile_clip(histogram, edges, largest, percentile) for percentile in self.percentiles]
        return np.asarray(np.minimum(clips, largest))

    def clip(self, histogram: npt.NDArray[np.float64], edges: npt.NDArray[np.float64], largest: float) -> float:
        best = super().clip(histogram, edges, largest)
        if self.power_of_two:
            self.chosen = float(100.0 * histogram[edges[:-1] < best].sum() / histogram.sum())
        else:
            self.chosen = (100.0, *self.percentiles)[self.candidates(histogram, edges, largest).tolist().index(best)]
        return best

    def extra_repr(self) -> str:
        text = super().extra_repr()
        return text if self.chosen is None else f"{text} percentile={self.chosen}"


def _checked_percentile(percentile: float) -> float:
    if not 0.0 < percentile <= 100.0:
        raise QConfigError(f"a percentile must lie above 0 and at most at 100, got {percentile}")
    return float(percentile)


class CalibObserver(MixObserver):
    """What calibration models hold by default: a histogram, and per tensor the percentile with the smallest error."""
