"""Where pools, resizes and grid samples read their operand: divisors, fixed-point coordinates and taps (docs/arithmetic.md, section 8).

Exact, as everything in `hqc.arithmetic`.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from hqc.arithmetic import ArrayI, bounds, rounding_shift_right


def window_counts(
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    output: tuple[int, int],
    *,
    count_include_pad: bool,
) -> ArrayI:
    """`[H, W]` divisors of an average pool: torch's rule, where windows end at the padded border and, without
    `count_include_pad`, count only elements inside the input. `padding`: top, left, bottom, right."""  # fmt: skip
    counts = []
    for axis in range(2):
        start = np.arange(output[axis], dtype=np.int64) * stride[axis] - padding[axis]
        end = np.minimum(start + kernel[axis], size[axis] + padding[2 + axis])
        if not count_include_pad:
            start, end = np.maximum(start, 0), np.minimum(end, size[axis])
        counts.append(np.maximum(end - start, 1))
    return np.outer(counts[0], counts[1])


def adaptive_counts(size: tuple[int, int], output: tuple[int, int]) -> ArrayI:
    """`[H, W]` divisors of an adaptive average pool: window i covers `floor(i*in/out) .. ceil((i+1)*in/out)`."""
    counts = []
    for axis in range(2):
        index = np.arange(output[axis], dtype=np.int64)
        counts.append(-((-(index + 1) * size[axis]) // output[axis]) - (index * size[axis]) // output[axis])
    return np.outer(counts[0], counts[1])


def resize_factor(size_in: int, size_out: int, factor: float | None) -> float | None:
    """The factor that coordinates step by: `factor` where the sizes do not give it exactly, else None (the sizes tell)."""
    return None if factor is None or size_in * factor == size_out else factor


def resize_coordinates(
    size_in: int, size_out: int, *, fraction_bits: int, mode: str, align_corners: bool, factor: float | None = None
) -> ArrayI:
    """Fixed-point source coordinate of every output index, `fraction_bits` fractional bits, not yet clipped.

    `factor`: what the model says, where the sizes do not give it exactly; corners that are aligned go by the sizes alone.
    """
    one = 1 << fraction_bits
    if align_corners and mode == "bilinear":
        step = math.floor((size_in - 1) / (size_out - 1) * one + 0.5) if size_out > 1 else 0
        start = 0
    else:
        step = math.floor((size_in / size_out if factor is None else 1.0 / factor) * one + 0.5)
        start = 0 if mode == "nearest" else (step - one) // 2
    return start + step * np.arange(size_out, dtype=np.int64)


def resize_taps(
    size_in: int, size_out: int, *, fraction_bits: int, mode: str, align_corners: bool, factor: float | None = None
) -> tuple[ArrayI, ArrayI, ArrayI]:
    """Per output index: the first and second source index, and the weight of the second in 1/256 (its top 8 fraction bits)."""
    fixed = resize_coordinates(
        size_in, size_out, fraction_bits=fraction_bits, mode=mode, align_corners=align_corners, factor=factor
    )
    fixed = np.clip(fixed, 0, (size_in - 1) << fraction_bits)
    first = fixed >> fraction_bits
    fraction = (fixed & ((1 << fraction_bits) - 1)) >> (fraction_bits - 8)
    return first, np.minimum(first + 1, size_in - 1), fraction


def grid_fraction_bits(height: int, width: int) -> int:
    """Fraction bits of the int16 coordinates that sample a `height` x `width` image: `min(8, 15 - ceil(log2(max(h, w) + 1)))`."""
    return min(8, 15 - max(height, width).bit_length())


def grid_coordinates(grid: npt.ArrayLike, size: int, *, fraction_bits: int, align_corners: bool) -> npt.NDArray[np.int16]:
    """int16 pixel coordinates, `fraction_bits` fractional bits, of positions (-1..1, float32) along an axis of `size` pixels.

    `floor(pixel * 2^bits + 0.5)` in float64, saturated: all of int16's ends lie beside the image.
    """
    position = np.asarray(grid, np.float32).astype(np.float64)
    pixel = (position + 1.0) * (size - 1) * 0.5 if align_corners else ((position + 1.0) * size - 1.0) * 0.5
    low, high = bounds(16)
    return np.clip(np.floor(pixel * (1 << fraction_bits) + 0.5), low, high).astype(np.int16)


def grid_taps(
    coordinates: npt.NDArray[np.int16], size: int, *, fraction_bits: int, mode: str, padding_mode: str
) -> list[tuple[ArrayI, ArrayI]]:
    """Per tap along one axis (two for bilinear, one for nearest): the source index and its weight.

    Weights count in `2^-fraction_bits` (bilinear) or are 1 (nearest, halves up). With `border` coordinates are clipped to the image, with
    `zeros` taps beside it weigh nothing.
    """
    fixed = coordinates.astype(np.int64)
    if padding_mode == "border":
        fixed = np.clip(fixed, 0, (size - 1) << fraction_bits)
    if mode == "nearest":
        taps = [(rounding_shift_right(fixed, fraction_bits), np.ones_like(fixed))]
    else:
        low, fraction = fixed >> fraction_bits, fixed & ((1 << fraction_bits) - 1)
        taps = [(low, (1 << fraction_bits) - fraction), (low + 1, fraction)]
    return [(np.clip(index, 0, size - 1), np.where((index >= 0) & (index < size), weight, 0)) for index, weight in taps]


def resize_error(
    size_in: int, size_out: int, *, fraction_bits: int, mode: str, align_corners: bool, factor: float | None = None
) -> float:
    """Largest distance, in input pixels, between the fixed-point coordinate and the real one."""
    fixed = resize_coordinates(
        size_in, size_out, fraction_bits=fraction_bits, mode=mode, align_corners=align_corners, factor=factor
    ) / float(1 << fraction_bits)
    index = np.arange(size_out, dtype=np.float64)
    if align_corners and mode == "bilinear":
        real = index * ((size_in - 1) / (size_out - 1)) if size_out > 1 else index * 0.0
    else:
        ratio = size_in / size_out if factor is None else 1.0 / factor
        real = index * ratio if mode == "nearest" else (index + 0.5) * ratio - 0.5
    return float(np.abs(fixed - real).max())
