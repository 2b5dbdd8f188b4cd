"""Sampling at computed positions in opset-11 ops, which has no GridSample: floors, gathers of whole pixels and weighted sums.

On the CPU the formulas are torch's, in float32. On the BPU coordinates are rounded to fixed point in float64, which holds them and
their weights exactly (docs/arithmetic.md section 8); flavours of hb_mapper's domain have a node of its own there.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hqc import arithmetic, resampling
from hqc.backends.onnx.builder import ELEMENT_TYPES, Builder
from hqc.backends.onnx.domain import DOMAIN, GRID_SAMPLE, VERSION
from hqc.backends.onnx.emitters._fixed_point import F64, real_constant, wide
from hqc.backends.onnx.emitters._operands import cast_to, operand_shape, operand_type, type_of
from hqc.backends.onnx.functions import Appender, FunctionBody
from hqc.backends.onnx.registry import emitter
from hqc.ir import Device, DType, Node
from hqc.ir.types import Shape

F32 = DType.FLOAT32


@dataclass(frozen=True)
class Sampling:
    """What a sampling depends on besides its operands. `image`: `[N,C,H,W]` or `[N,C,D,H,W]`; `grid`: `[N,H',W',2]` or
    `[N,D',H',W',3]`; `fraction_bits`: 0 for torch's own coordinates."""

    image: Shape
    grid: Shape
    mode: str
    padding_mode: str
    align_corners: bool
    fraction_bits: int = 0

    @property
    def dtype(self) -> DType:
        """Type of coordinates and weights."""
        return F64 if self.fraction_bits else F32

    @property
    def name(self) -> str:
        """Name of the function that samples so; one name has one body."""
        corners = "Aligned" if self.align_corners else ""
        n, _, h, w = self.image
        return f"{GRID_SAMPLE}{self.mode.capitalize()}{self.padding_mode.capitalize()}{corners}N{n}H{h}W{w}"

    def size(self, axis: int) -> int:
        """Pixels along x (0), y (1) or z (2)."""
        return self.image[-1 - axis]


Tap = tuple[str, "str | None"]
"""Names of an index (a whole number, within the image) and of its weight; None for a weight of 1."""


class _Axis:
    """The taps along one axis, from the name of its positions -1..1 (`taps`) or of its coordinates in pixels (`taps_at`)."""

    def __init__(self, b: Appender, sampling: Sampling, axis: int) -> None:
        self.b, self.sampling, self.size = b, sampling, sampling.size(axis)

    def number(self, value: float) -> str:
        return self.b.scalar(value, self.sampling.dtype)

    def taps(self, position: str) -> list[Tap]:
        b, size, align = self.b, self.size, self.sampling.align_corners
        ahead = b("Add", position, self.number(1.0))
        if not self.sampling.fraction_bits:  # as torch multiplies
            pixel = b("Mul", ahead, self.number((size - 1) / 2 if align else size / 2))
            return self.taps_at(pixel if align else b("Sub", pixel, self.number(0.5)))
        pixel = b("Mul", ahead, self.number(size - 1 if align else size))
        pixel = b("Mul", pixel if align else b("Sub", pixel, self.number(1.0)), self.number(0.5))
        one = 1 << self.sampling.fraction_bits
        fixed = b("Floor", b("Add", b("Mul", pixel, self.number(one)), self.number(0.5)))
        low, high = arithmetic.bounds(16)
        return self.taps_at(b("Mul", self.clipped(fixed, low, high), self.number(1 / one)))

    def taps_at(self, pixel: str) -> list[Tap]:
        b, mode = self.b, self.sampling.mode
        if mode == "nearest":
            if self.sampling.fraction_bits:
                return [self.bounded(b("Floor", b("Add", self.padded(pixel), self.number(0.5))), None)]
            return [self.bounded(b("Round", self.padded(pixel)), None)]
        if mode == "bilinear":
            pixel = self.padded(pixel)
        low = b("Floor", pixel)
        t = b("Sub", pixel, low)
        if mode == "bilinear":
            near = b("Sub", self.number(1.0), t)
            return [self.bounded(low, near), self.bounded(b("Add", low, self.number(1.0)), t)]
        distances = [
            b("Add", t, self.number(1.0)),
            t,
            b("Sub", self.number(1.0), t),
            b("Sub", self.number(2.0), t),
        ]
        return [
            self.bounded(self.padded(b("Add", low, self.number(offset - 1))), self.cubic(distance, near=offset in (1, 2)))
            for offset, distance in enumerate(distances)
        ]

    def cubic(self, x: str, *, near: bool) -> str:
        """Keys' convolution kernel with torch's a = -0.75, within one pixel or beyond."""
        b, coefficients = self.b, (1.25, -2.25, 0.0, 1.0) if near else (-0.75, 3.75, -6.0, 3.0)
        result = self.number(coefficients[0])
        for coefficient in coefficients[1:]:
            result = b("Mul", result, x)
            result = b("Add", result, self.number(coefficient)) if coefficient else result
        return result

    def clipped(self, x: str, low: float, high: float) -> str:
        return self.b("Min", self.b("Max", x, self.number(low)), self.number(high))

    def padded(self, x: str) -> str:
        """Where positions beside the image are read."""
        b, mode = self.b, self.sampling.padding_mode
        if mode == "zeros":
            return x
        if mode == "reflection":
            low, span = (0.0, self.size - 1.0) if self.sampling.align_corners else (-0.5, float(self.size))
            if span == 0:
                return b("Mul", x, self.number(0.0))
            away = b("Abs", b("Sub", x, self.number(low)))
            turns = b("Floor", b("Div", away, self.number(span)))
            rest = b("Sub", away, b("Mul", turns, self.number(span)))
            half = b("Mul", turns, self.number(0.5))
            even = b("Not", b("Less", b("Floor", half), half))
            x = b("Add", b("Where", even, rest, b("Sub", self.number(span), rest)), self.number(low))
        return self.clipped(x, 0.0, self.size - 1.0)

    def bounded(self, index: str, weight: str | None) -> Tap:
        """The index within the image; beside it, with zeros there, the weight is 0."""
        b = self.b
        if self.sampling.padding_mode == "zeros":
            inside = b("And", b("Less", self.number(-1), index), b("Less", index, self.number(self.size)))
            factor = b("Cast", inside, to=ELEMENT_TYPES[self.sampling.dtype])
            weight = factor if weight is None else b("Mul", weight, factor)
        return self.clipped(index, 0, self.size - 1), weight


def gathered(b: Appender, x: str, dtype: DType, sampling: Sampling, taps: Sequence[list[Tap]]) -> str:
    """The weighted sum of pixels of `x` `[N,C,H,W]`, whose type is `dtype`: `[N,C,H',W']` of the same type. `taps`: along x, then y.

    Volumes `[N,C,D,H,W]` have a third axis.
    """
    n, axes = sampling.image[0], len(taps)
    count = math.prod(sampling.image[2:])
    pixels = b("Reshape", b("Transpose", x, perm=[0, *range(2, axes + 2), 1]), b.ints([n * count, -1]))
    first = None
    if n > 1:
        first = b("Reshape", b.ints([image * count for image in range(n)]), b.ints([n, *(1,) * axes]))
    total = None
    for places in itertools.product(*reversed(taps)):
        flat, weight = places[0]
        for axis, (place, share) in zip(reversed(range(axes - 1)), places[1:], strict=True):
            flat = b("Add", b("Mul", flat, b.scalar(sampling.size(axis), sampling.dtype)), place)
            weight = None if weight is None or share is None else b("Mul", weight, share)
        index = b("Cast", flat, to=ELEMENT_TYPES[DType.INT64])
        part = b("Gather", pixels, index if first is None else b("Add", index, first), axis=0)
        if weight is not None:
            weight = weight if sampling.dtype is dtype else b("Cast", weight, to=ELEMENT_TYPES[dtype])
            part = b("Mul", part, b("Unsqueeze", weight, axes=[axes + 1]))
        total = part if total is None else b("Add", total, part)
    assert total is not None
    return b("Transpose", total, perm=[0, axes + 1, *range(1, axes + 1)])


def _axes_of(b: Appender, grid: str, axes: int) -> list[str]:
    """The grid's x and y (and z), each `[N,H',W']` (`[N,D',H',W']`)."""
    return [b("Gather", grid, b.scalar(axis, DType.INT64), axis=axes + 1) for axis in range(axes)]


def spelled_out(b: Appender, x: str, grid: str, sampling: Sampling) -> str:
    """A sampling of float32 operands in standard ops."""
    if sampling.fraction_bits:
        grid = b("Cast", grid, to=ELEMENT_TYPES[F64])
    names = _axes_of(b, grid, len(sampling.image) - 2)
    return gathered(b, x, F32, sampling, [_Axis(b, sampling, axis).taps(name) for axis, name in enumerate(names)])


def _sampling_of(node: Node, fraction_bits: int = 0) -> Sampling:
    a = node.attributes
    return Sampling(
        operand_shape(node), operand_shape(node, 1), a["mode"], a["padding_mode"], a["align_corners"], fraction_bits
    )


@emitter("grid_sample")
def grid_sample(node: Node, b: Builder) -> str:
    x, grid = (cast_to(b, b.operand(node, index), operand_type(node, index).dtype, F32) for index in (0, 1))
    if node.device is not Device.BPU:
        return cast_to(b, spelled_out(b, x, grid, _sampling_of(node)), F32, type_of(node))
    sampling = _sampling_of(node, resampling.grid_fraction_bits(*operand_shape(node)[2:]))
    if not b.custom_ops:
        return spelled_out(b, x, grid, sampling)
    b.domains[DOMAIN] = VERSION
    op_type = GRID_SAMPLE
    if b.custom_ops == "bodies":
        op_type = sampling.name
        b.functions.setdefault(op_type, _function(sampling))
    attributes: dict[str, Any] = {"mode": sampling.mode, "padding_mode": sampling.padding_mode}
    return b(op_type, x, grid, domain=DOMAIN, what=GRID_SAMPLE, align_corners=int(sampling.align_corners), **attributes)


def _function(sampling: Sampling) -> Any:
    """The body of the domain's GridSample for one shape and one way of sampling."""
    body = FunctionBody()
    result = spelled_out(body, "x", "grid", sampling)
    return body.function(sampling.name, ["x", "grid"], result, "y", ["align_corners", "mode", "padding_mode"])


@emitter("int_grid_sample")
def int_grid_sample(node: Node, b: Builder) -> str:
    """Coordinates from the table, then exact sums in float64."""
    attributes, dtype, kind = node.attributes, type_of(node), type_of(node, 1)
    bits, table = attributes["fraction_bits"], node.operand("table")
    sampling = Sampling(
        operand_shape(node), operand_shape(node, 1), attributes["mode"], attributes["padding_mode"], False, bits
    )
    taps = []
    for axis, name in enumerate(_axes_of(b, b.operand(node, 1), 2)):
        fixed = cast_to(b, name, kind, DType.INT32)
        if table is not None and table.array is not None:
            index = b("Sub", fixed, b.scalar(kind.qmin, DType.INT32))
            fixed = b("Gather", b.constant(table.array[axis], np.int32, "coordinates"), index, axis=0)
        pixel = b("Mul", cast_to(b, fixed, DType.INT32, F64), real_constant(b, 1 / (1 << bits)))
        taps.append(_Axis(b, sampling, axis).taps_at(pixel))
    total = gathered(b, wide(b, b.operand(node, 0), dtype), F64, sampling, taps)
    whole = total if attributes["mode"] == "nearest" else b("Floor", total)
    return b("Cast", whole, to=ELEMENT_TYPES[dtype])
