"""Names of quantized dtypes: "qint8" and friends, also accepted as torch.qint8 or IR types."""

from __future__ import annotations

from typing import Any

import torch

from hqc.errors import QConfigError
from hqc.ir import DType

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
    name = _ALIASES.get(dtype, dtype)
    if name not in BITS:
        raise QConfigError(f"dtype {dtype!r} cannot be fake-quantized; use one of: {', '.join(BITS)}")
    return str(name)
