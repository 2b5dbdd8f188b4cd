"""Names of quantized dtypes: "qint8" and friends, also accepted as torch.qint8 or IR types."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from hqc.arithmetic import bounds
from hqc.checked import checked
from hqc.errors import QConfigError
from hqc.ir import DType


class QuantDType(str):
    """A quantized dtype: the string that is its name."""

    __slots__ = ()


qint8, qint16, qint32 = QuantDType("qint8"), QuantDType("qint16"), QuantDType("qint32")
BITS = {"qint8": 8, "qint16": 16}
IR_DTYPES = {"qint8": DType.INT8, "qint16": DType.INT16, "qint32": DType.INT32}
_ALIASES: dict[Any, str] = {
    torch.qint8: "qint8",
    torch.int8: "qint8",
    torch.int16: "qint16",
    DType.INT8: "qint8",
    DType.INT16: "qint16",
    "int8": "qint8",
    "int16": "qint16",
}


def dtype_name(dtype: Any) -> str:
    """The canonical name of a fake quant's dtype; `QConfigError` for one the hardware has no activations or weights in."""
    try:
        name = _ALIASES.get(dtype, dtype)
        known = name in BITS
    except TypeError:  # a list, which is no key
        known = False
    if not known:
        raise QConfigError(f"dtype {dtype!r} cannot be fake-quantized; use one of: {', '.join(BITS)}")
    return str(name)


class QuantInfo(NamedTuple):
    """The integers of a quantized dtype, as `torch.iinfo` has them."""

    dtype: QuantDType
    bits: int
    min: int
    max: int


@checked
def qinfo(dtype: Any) -> QuantInfo:
    """Bits and range of a quantized dtype (qint8, qint16, qint32, or torch's names of them); `QConfigError` for another."""
    wide = isinstance(dtype, (str, torch.dtype)) and dtype in ("qint32", "int32", torch.qint32, torch.int32)
    name, bits = ("qint32", 32) if wide else (dtype_name(dtype), BITS[dtype_name(dtype)])
    return QuantInfo(QuantDType(name), bits, *bounds(bits))


def check_range(dtype: str, quant_min: int | None, quant_max: int | None) -> tuple[int, int]:
    """Smallest and largest integer of a dtype; `QConfigError` where other ones are asked for."""
    low, high = bounds(BITS[dtype])
    if quant_min not in (None, low) or quant_max not in (None, high):
        raise QConfigError(f"quant_min={quant_min}, quant_max={quant_max}: the chip saturates {dtype} at {low} and {high}")
    return low, high


def check_symmetric(qscheme: torch.qscheme | None, ch_axis: int) -> torch.qscheme:
    """`qscheme` checked against `ch_axis`, or the one that goes with it."""
    expected = torch.per_channel_symmetric if ch_axis >= 0 else torch.per_tensor_symmetric
    if qscheme not in (None, expected):
        raise QConfigError(
            f"qscheme {qscheme} does not go with ch_axis={ch_axis}; the BPU quantizes symmetrically: use {expected}"
        )
    return expected
