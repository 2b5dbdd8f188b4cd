"""From accumulators to results: bias, residual, requantization and fused clipping of a tile, bit for bit `hqc.arithmetic`.

`hqc.arithmetic.requantize` never decreases with the accumulator. So there are accumulators `lo` and `hi` beyond which the
clipped result does not change, found here per channel by bisection *with* `requantize`. Between them, provided the middle value
needs no saturation (checked), the formula is `((acc >> p) * M + 2^(n-1)) >> n` in 32 bits, n = S - p. Clipping the accumulator to
[lo, hi] first therefore replaces both saturations, leaves int32 arithmetic that cannot overflow (checked), and gives the same bits.
Whatever does not fit this pattern (int16 results, parameters per position) goes through `requantize` itself.

Every step is one pass over the tile, 0.15 to 0.4 ns an element, so steps are saved where that is exact: multipliers are brought to
one n for all channels (`M << (N - n)`), so half and shift are scalars; a float product can have `2^-p` and the bias in its weights
(`weight_scale`, `bias`), so that its accumulator comes `scaled` and `biased`, and the pre-shift is the conversion to int32. float32
accumulators stay floats until the result where `line` proves that exact: it spares the conversion, the shift and a pass of clipping.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hqc import arithmetic
from hqc.backends.bpu.line import find_line
from hqc.backends.bpu.ranges import Range
from hqc.backends.bpu.workers import Scratch

Array = npt.NDArray[Any]
_INT32 = (-(2**31), 2**31 - 1)
# Elements of a block: smaller blocks pay for more NumPy calls, larger ones fall out of the cache.
_BLOCK = 1 << 16
# Elements of the runs that steps go over. Per-channel constants are repeated to this length: shorter ones pay for more inner loops,
# and with constants as long as a block every layer would bring another megabyte of them into the cache (2x slower, measured).
_RUN = 1 << 12
_SHORT_RUN = 1 << 10


def parameters(requant: Array | None, mode: str) -> arithmetic.RequantParams:
    """Rows M, p, S of the integer IR as `RequantParams`."""
    rows = np.zeros((3, 1), np.int64) if requant is None else np.asarray(requant, np.int64).reshape(3, -1)
    return arithmetic.RequantParams(rows[0], rows[1], rows[2], mode)


def result_bounds(attributes: Mapping[str, Any]) -> Range:
    """Smallest and largest result: the dtype's bounds and the fused activation's."""
    dtype = attributes["dtype"]
    return max(dtype.qmin, attributes["clip_min"]), min(dtype.qmax, attributes["clip_max"])


def requantize_exactly(acc: npt.ArrayLike, params: arithmetic.RequantParams, attributes: Mapping[str, Any]) -> Array:
    """The definition: `requantize`, then the fused clip. `params` must broadcast with `acc`; the result has the op's dtype."""
    dtype = attributes["dtype"]
    return np.clip(arithmetic.requantize(acc, params, dtype.bits), *result_bounds(attributes)).astype(dtype.numpy)


def _smallest_reaching(target: int, params: arithmetic.RequantParams, bits: int, within: Range) -> npt.NDArray[np.int64]:
    """Per channel the smallest accumulator in `within` whose result is at least `target` (the upper end if none is)."""
    low = np.full(params.multiplier.shape, within[0], np.int64)
    high = np.full(params.multiplier.shape, within[1], np.int64)
    guess = np.clip(_first_by_formula(target, params), low, high)
    tried = [guess, np.maximum(guess - 1, low)]  # where the formula holds the answer lies between these two
    while (low < high).any():
        middle = tried.pop(0) if tried else (low + high) >> 1
        reached = arithmetic.requantize(middle, params, bits) >= target
        high = np.where(reached, np.minimum(middle, high), high)
        low = np.where(reached, low, np.minimum(np.maximum(middle + 1, low), high))
    return high


def _first_by_formula(target: int, params: arithmetic.RequantParams) -> npt.NDArray[np.int64]:
    """The smallest accumulator per channel whose result is at least `target` while nothing saturates (somewhere, where S < p)."""
    n = np.maximum(params.post_shift - params.pre_shift, 0)
    half = (1 << n) >> 1 if params.mode == "multiply" else np.int64(0)
    return np.asarray(-((half - (target << n)) // np.maximum(params.multiplier, 1)) << params.pre_shift)


@dataclass(frozen=True)
class _Steps:
    """Constants of the 32-bit formula or of the line for one run of elements; None where a step does nothing."""

    bias: Array | None
    residual_factor: Array | None
    low: Array | None = None
    high: Array | None = None
    floor: bool = False
    pre_shift: Array | None = None
    multiplier: Array | None = None
    half: Array | None = None
    shift: Array | None = None
    scale: Array | None = None
    slope: Array | None = None
    offset: Array | None = None
    results: tuple[Array, Array] | None = None
    floor_result: bool = False


def _run_rows(rows: int, width: int) -> int:
    """Rows of one run: a divisor of `rows`, so that nothing is left over, unless its runs were too short."""
    most = max(1, min(rows, _RUN // width))
    divisor = next(count for count in range(most, 0, -1) if rows % count == 0)
    return divisor if divisor * width >= _SHORT_RUN else most


class Epilogue:
    """Requantization of accumulator tiles `[rows, channels]`.

    `requant`: the IR's `[3]` or `[3, C]` rows (None in mode `none`). `acc_range`: proven bounds of the accumulator with bias and
    residual. `bias`: `[C]` integers, added first. `residual_requant`: rows of the residual's scaling, `residual` is then an
    operand of every call.
    """

    def __init__(
        self,
        requant: Array | None,
        attributes: Mapping[str, Any],
        *,
        channels: int,
        acc_range: Range = _INT32,
        bias: Array | None = None,
        residual_requant: Array | None = None,
        residual_range: Range = (-128, 127),
    ) -> None:
        self.attributes = attributes
        self.channels = channels
        self.acc_range = acc_range
        self.params = parameters(requant, attributes["mode"])
        self.bias = None if bias is None or not bias.any() else bias.astype(np.int64)
        self.residual = None if residual_requant is None else parameters(residual_requant, "multiply")
        self.residual_small = self.residual is not None and self._residual_fits_float32(residual_range)
        self._shift = self.params.post_shift - self.params.pre_shift  # n per channel
        self._common_shift = int(self._shift.max())
        self._bounds = self._find_bounds()
        self.line = None
        if self._bounds is not None and self.params.mode == "multiply":
            self.line = find_line(self.params, self._bounds, acc_range, result_bounds(attributes))
        self._cache: dict[tuple[int, int, int, bool, bool, bool], _Steps] = {}

    # --- compile time --------------------------------------------------------------------------------------------

    def _residual_fits_float32(self, residual_range: Range) -> bool:
        """`floor(q * M / 2^S + 1/2)` is exact in float32: the numerator needs at most 24 bits."""
        assert self.residual is not None
        shift = self.residual.post_shift
        largest = max(-residual_range[0], residual_range[1]) * int(self.residual.multiplier.max())
        return bool((shift >= 0).all()) and largest + (1 << max(0, int(shift.max()) - 1)) <= 1 << 24

    def _find_bounds(self) -> tuple[Array, Array] | None:
        """Accumulator bounds of the 32-bit formula, or None when it does not apply."""
        mode, (y_low, y_high) = self.attributes["mode"], result_bounds(self.attributes)
        bits = self.attributes["dtype"].bits
        within = max(self.acc_range[0], _INT32[0]), min(self.acc_range[1], _INT32[1])
        if within != (self.acc_range[0], self.acc_range[1]) or within[0] > within[1]:
            return None
        if mode in ("none", "clip"):
            low, high = max(within[0], y_low), min(within[1], y_high)
            return (np.array([low]), np.array([high])) if low <= high else None
        if mode == "multiply64" or bits != 8:
            return None
        highest = _smallest_reaching(y_high, self.params, bits, within)
        low_limit = _smallest_reaching(y_low + 1, self.params, bits, within)
        # one below the first accumulator that leaves y_low, unless none does
        left = arithmetic.requantize(low_limit, self.params, bits) > y_low
        lowest = np.maximum(np.where(left, low_limit - 1, low_limit), within[0])
        lowest = np.minimum(lowest, highest)
        ends = np.stack([lowest, highest])
        expected = np.clip(arithmetic.requantize(ends, self.params, bits), y_low, y_high)
        return (lowest, highest) if self._formula_holds(ends, expected) else None

    def _formula_holds(self, ends: Array, expected: Array) -> bool:
        shift = self.params.post_shift
        if self.params.mode == "shift":
            return bool((shift <= 31).all() and ((ends >> shift) == expected).all())
        middle, n = ends >> self.params.pre_shift, self._common_shift
        fits = (np.abs(middle) <= 32767).all() and (self._shift >= 1).all() and n <= 30 and (self.params.pre_shift <= 31).all()
        if not fits:
            return False
        total = middle * self._common_multiplier() + (1 << (n - 1))
        return bool((np.abs(total) < 2**31).all() and ((total >> n) == expected).all())

    def _common_multiplier(self) -> npt.NDArray[np.int64]:
        """`M << (N - n)`: the multiplier that goes with the largest shift of all channels."""
        return self.params.multiplier << (self._common_shift - self._shift)

    @property
    def weight_scale(self) -> npt.NDArray[np.float64] | None:
        """Per channel `2^-p`, by which an engine may scale float weights (then `scaled=True`); None where it must not.

        A residual is rounded at the accumulator's own scale, so it forbids this.
        """
        if self._bounds is None or self.residual is not None or self.params.mode != "multiply":
            return None
        return np.broadcast_to(np.ldexp(1.0, -self.params.pre_shift.astype(np.int32)), (self.channels,))

    def _steps(self, repeat: int, channels: slice, is_float: bool, scaled: bool, biased: bool) -> _Steps:
        """Constants cut to `channels` and repeated `repeat` times, cached."""
        key = (repeat, channels.start, channels.stop, is_float, scaled, biased)
        found = self._cache.get(key)
        if found is None:
            found = self._cache[key] = self._make_steps(repeat, channels, is_float, scaled, biased)
        return found

    def _make_steps(self, repeat: int, channels: slice, is_float: bool, scaled: bool, biased: bool) -> _Steps:
        assert self._bounds is not None
        dtype = np.float32 if is_float else np.int32
        factor: Any = self.weight_scale if scaled else 1

        def spread(array: Array, dtype: npt.DTypeLike) -> Array:
            full = np.broadcast_to(array, (self.channels,))[channels]
            return np.tile(full.astype(dtype), repeat)

        residual_factor = None
        if self.residual is not None:
            ratio = np.ldexp(self.residual.multiplier.astype(np.float64), -self.residual.post_shift)
            residual_factor = spread(ratio, np.float32)
        bias = None if self.bias is None or biased else spread(self.bias * factor, dtype)
        if is_float and self.line is not None:
            low, high = result_bounds(self.attributes)
            shifted = bool(self.params.pre_shift.any())
            scale = np.ldexp(1.0, -self.params.pre_shift.astype(np.int32))
            return _Steps(
                bias=bias,
                residual_factor=residual_factor,
                scale=spread(scale, np.float32) if shifted and not scaled else None,
                floor=shifted,
                slope=spread(self.line[0], np.float32),
                offset=spread(self.line[1], np.float32),
                results=(np.array(low, np.float32), np.array(high, np.float32)),
                floor_result=low < 0,
            )
        pre = multiplier = half = shift = None
        if self.params.mode == "multiply":
            pre = spread(self.params.pre_shift, np.int32) if self.params.pre_shift.any() and not scaled else None
            multiplier = spread(self._common_multiplier(), np.int32)
            half, shift = np.array(1 << (self._common_shift - 1), np.int32), np.array(self._common_shift, np.int32)
        elif self.params.mode == "shift" and self._shift.any():
            shift = spread(self._shift, np.int32)
        return _Steps(
            bias=bias,
            residual_factor=residual_factor,
            low=spread(self._bounds[0] * factor, dtype),
            high=spread(self._bounds[1] * factor, dtype),
            floor=scaled and bool((self._bounds[0] < 0).any()),
            pre_shift=pre,
            multiplier=multiplier,
            half=half,
            shift=shift,
        )

    # --- run time ------------------------------------------------------------------------------------------------

    def apply(
        self,
        acc: Array,
        out: Array,
        scratch: Scratch,
        *,
        channels: slice | None = None,
        residual: Array | None = None,
        scaled: bool = False,
        biased: bool = False,
    ) -> None:
        """Write the results of `acc[rows, C]` (float32, int32 or float64; overwritten) to `out[rows, C]`.

        `channels`: which of the layer's channels the tile holds. `scaled`: `acc` is float32 and times `weight_scale`. `biased`: the
        bias is in it already (only where `scaled` is allowed). float32 accumulators must be exact *with* bias and residual.
        """
        channels = channels or slice(0, self.channels)
        fits = self._bounds is not None and acc.dtype.itemsize == 4
        if not fits or (residual is not None and not (self.residual_small and acc.dtype.kind == "f")):
            self._apply_exactly(acc, out, channels, residual)
            return
        rows, width = acc.shape
        run = _run_rows(rows, width)
        block, whole = max(1, _BLOCK // (run * width)) * run, rows // run * run
        steps = self._steps(run, channels, acc.dtype.kind == "f", scaled, biased)
        blocks = [slice(start, min(start + block, whole)) for start in range(0, whole, block)]
        if whole < rows:
            blocks.append(slice(whole, rows))
        for where in blocks:
            addend = None if residual is None else residual[where]
            self._apply_block(acc[where], out[where], steps, scratch, addend)

    @staticmethod
    def _apply_block(acc: Array, out: Array, steps: _Steps, scratch: Scratch, residual: Array | None) -> None:
        """All steps on rows that fit the cache: whole runs of the constants' length, or the start of one."""
        assert steps.slope is not None or (steps.low is not None and steps.high is not None)
        length = len(steps.slope if steps.slope is not None else steps.low)  # type: ignore[arg-type]
        size = min(length, acc.size)

        def cut(constant: Array) -> Array:
            return constant if constant.ndim == 0 else constant[:size]

        runs = acc.reshape(-1, size)
        if steps.bias is not None:
            np.add(runs, cut(steps.bias), out=runs)
        if residual is not None and steps.residual_factor is not None:
            term = scratch.take("residual", acc.shape, np.float32)
            np.copyto(term, residual)
            term = term.reshape(-1, size)
            np.multiply(term, cut(steps.residual_factor), out=term)
            np.add(term, np.float32(0.5), out=term)
            np.floor(term, out=term)
            np.add(runs, term, out=runs)
        if steps.slope is not None and steps.offset is not None and steps.results is not None:
            if steps.scale is not None:
                np.multiply(runs, cut(steps.scale), out=runs)
            if steps.floor:
                np.floor(runs, out=runs)
            np.multiply(runs, cut(steps.slope), out=runs)
            np.add(runs, cut(steps.offset), out=runs)
            np.clip(runs, *steps.results, out=runs)
            if steps.floor_result:  # what conversion to int8, which truncates, does not do below zero
                np.floor(runs, out=runs)
            np.copyto(out, acc, casting="unsafe")
            return
        assert steps.low is not None and steps.high is not None
        np.maximum(runs, cut(steps.low), out=runs)
        np.minimum(runs, cut(steps.high), out=runs)
        if steps.floor:  # what conversion to int32, which truncates, does not do below zero
            np.floor(runs, out=runs)
        if steps.shift is None and steps.multiplier is None:
            np.copyto(out, acc, casting="unsafe")
            return
        integers = runs
        if acc.dtype.kind == "f":
            integers = scratch.take("integers", runs.shape, np.int32)
            np.copyto(integers, runs, casting="unsafe")
        if steps.pre_shift is not None:
            np.right_shift(integers, cut(steps.pre_shift), out=integers)
        if steps.multiplier is not None and steps.half is not None:
            np.multiply(integers, cut(steps.multiplier), out=integers)
            np.add(integers, steps.half, out=integers)
        if steps.shift is not None:
            np.right_shift(integers, cut(steps.shift), out=integers)
        np.copyto(out, integers.reshape(acc.shape), casting="unsafe")

    def _apply_exactly(self, acc: Array, out: Array, channels: slice, residual: Array | None) -> None:
        def cut(array: Array) -> Array:
            return np.broadcast_to(array, (self.channels,))[channels]

        total = acc.astype(np.int64)
        if self.bias is not None:
            total += cut(self.bias)
        if residual is not None:
            assert self.residual is not None
            scaled = residual.astype(np.int64) * cut(self.residual.multiplier)
            total += arithmetic.rounding_shift_right(scaled, cut(self.residual.post_shift))
        params = arithmetic.RequantParams(
            cut(self.params.multiplier), cut(self.params.pre_shift), cut(self.params.post_shift), self.params.mode
        )
        np.copyto(out, requantize_exactly(total, params, self.attributes))
