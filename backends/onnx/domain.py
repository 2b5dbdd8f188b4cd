"""The `horizon` operator domain: how a fake quantization is written for hb_mapper.

A quantized value is a pair of nodes::

    q = horizon.HzQuantize  (x, scale, zero_point) {bits, axis}    q[i] = sat(round(x[i] / scale))
    y = horizon.HzDequantize(q, scale, zero_point) {bits, axis}    y[i] = q[i] * scale

and an operation that opset 11 lacks is a node of the domain with ONNX's own operands and attributes::

    y = horizon.GridSample  (x, grid) {align_corners, mode, padding_mode}

`scale` is a float32 scalar (`axis` = -1) or one per channel along `axis`; `zero_point` has its shape, the type of `q` and
is always 0; `bits` is 8 or 16. How HzQuantize rounds is a property of the march's runtime and not in the file.
"""

from __future__ import annotations

from dataclasses import dataclass

DOMAIN = "horizon"
VERSION = 1
GRID_SAMPLE = "GridSample"
QUANTIZE = "HzQuantize"
DEQUANTIZE = "HzDequantize"
ATTRIBUTES = ("axis", "bits")

_SUFFIX = {"half_even": "", "half_up": "HalfUp", "half_away": "HalfAway", "floor": "Floor", "off_grid": "OffGrid"}


@dataclass(frozen=True)
class Variant:
    """What a function body depends on. Before IR version 10 an op name has one body, so a variant is a name.

    The plain names stand for 8 bits, one scale, half-even rounding; others carry a suffix (`HzQuantize16Floor`).
    `channel`: (axis, rank) of a per-channel scale, None per tensor. `rounding`: one of `hqc.arithmetic.ROUNDINGS`, or
    `off_grid` for `hqc.arithmetic.quantize_off_grid`; it does not matter to a dequantize.
    """

    bits: int = 8
    rounding: str = "half_even"
    channel: tuple[int, int] | None = None

    def op_type(self, base: str) -> str:
        """Name of the op `base` (HzQuantize or HzDequantize) in this variant."""
        name = base + ("" if self.bits == 8 else str(self.bits))
        if base == QUANTIZE:
            name += _SUFFIX[self.rounding]
        return name if self.channel is None else f"{name}Axis{self.channel[0]}Rank{self.channel[1]}"


def base_op(op_type: str) -> str | None:
    """HzQuantize or HzDequantize for any variant's name, None for another op."""
    return next((base for base in (QUANTIZE, DEQUANTIZE) if op_type.startswith(base)), None)
