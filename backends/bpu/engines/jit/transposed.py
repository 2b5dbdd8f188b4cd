"""Transposed convolutions as ordinary ones.

Output pixels whose row and column leave the same residues modulo the stride see the same taps of the kernel: they are the results of a
convolution of stride 1 with these taps. Each such convolution writes its results where they belong, so nothing is added up twice and no
zero is multiplied.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hqc.backends.bpu.engines import ConvSpec, TransposeSpec
from hqc.backends.bpu.engines.jit.problems import Place


@dataclass(frozen=True)
class _Phase:
    """Along one axis: output `residue + i * stride`, for `count` values of `i`, sums taps `taps[j]` of input `i + first + j * apart`."""

    residue: int
    count: int
    taps: tuple[int, ...]
    first: int
    apart: int


def _phases(kernel: int, stride: int, dilation: int, padding: int, size: int) -> list[_Phase]:
    """All phases of an axis with `size` outputs. One that no tap reaches has no taps."""
    found = []
    for residue in range(min(stride, size)):
        offsets = {
            (residue + padding - tap * dilation) // stride: tap
            for tap in _reaching(kernel, stride, dilation, residue + padding)
        }
        seen = sorted(offsets)
        apart = seen[1] - seen[0] if len(seen) > 1 else 1
        taps = tuple(offsets[offset] for offset in seen)
        found.append(_Phase(residue, -(-(size - residue) // stride), taps, seen[0] if seen else 0, apart))
    return found


def _reaching(kernel: int, stride: int, dilation: int, position: int) -> list[int]:
    return [tap for tap in range(kernel) if (position - tap * dilation) % stride == 0]


def as_convolutions(spec: TransposeSpec) -> list[tuple[ConvSpec, Place]]:
    """Convolutions whose results make up the output, each with the place of its results."""
    channels, per_group, kh, kw = spec.weight.shape
    grouped = spec.weight.reshape(spec.groups, channels // spec.groups, per_group, kh, kw).transpose(0, 2, 1, 3, 4)
    weight: npt.NDArray[Any] = grouped.reshape(spec.groups * per_group, channels // spec.groups, kh, kw)
    _, height, width, _ = spec.out_shape
    rows = _phases(kh, spec.stride[0], spec.dilation[0], spec.padding[0], height)
    columns = _phases(kw, spec.stride[1], spec.dilation[1], spec.padding[1], width)
    found = []
    for down in rows:
        for across in columns:
            seen = weight[:, :, down.taps][:, :, :, across.taps]
            if not seen.size:  # only the bias: one tap of zero
                seen = np.zeros((*weight.shape[:2], 1, 1), weight.dtype)
            conv = ConvSpec(
                x_shape=spec.x_shape,
                out_shape=(spec.out_shape[0], down.count, across.count, spec.out_shape[3]),
                weight=np.ascontiguousarray(seen),
                stride=(1, 1),
                padding=(-down.first, -across.first, 0, 0),
                dilation=(down.apart, across.apart),
                groups=spec.groups,
                x_range=spec.x_range,
                x_dtype=spec.x_dtype,
            )
            found.append((conv, Place(height, width, (down.residue, across.residue), spec.stride)))
    return found
