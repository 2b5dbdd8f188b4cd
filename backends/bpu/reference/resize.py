"""Definition of the fixed-point resize."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hqc import resampling
from hqc.backends.bpu.reference import Array, reference
from hqc.ir import Node


@reference("int_resize2d")
def int_resize2d(node: Node, operands: Sequence[Any]) -> Array:
    x = operands[0].astype(np.int64)
    _, _, h, w = x.shape
    bits, mode = node.attributes["fraction_bits"], node.attributes["mode"]
    ho, wo = node.attributes["size"]
    factor_h, factor_w = node.attributes["scale_factor"] or (None, None)

    def coordinates(size_in: int, size_out: int, factor: float | None) -> list[int]:
        found = resampling.resize_coordinates(
            size_in, size_out, fraction_bits=bits, mode=mode, align_corners=node.attributes["align_corners"], factor=factor
        )
        return [min(max(int(c), 0), (size_in - 1) << bits) for c in found]

    out = np.zeros((*x.shape[:2], ho, wo), np.int64)
    for i, y in enumerate(coordinates(h, ho, factor_h)):
        for j, z in enumerate(coordinates(w, wo, factor_w)):
            top, left = y >> bits, z >> bits
            if mode == "nearest":
                out[:, :, i, j] = x[:, :, top, left]
                continue
            bottom, right = min(top + 1, h - 1), min(left + 1, w - 1)
            down, across = (y - (top << bits)) >> (bits - 8), (z - (left << bits)) >> (bits - 8)
            total = x[:, :, top, left] * (256 - down) * (256 - across) + x[:, :, top, right] * (256 - down) * across
            total = total + x[:, :, bottom, left] * down * (256 - across) + x[:, :, bottom, right] * down * across
            out[:, :, i, j] = total >> 16
    return out.astype(operands[0].dtype)
