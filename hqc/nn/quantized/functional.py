"""Integers and the real values they stand for, as functions of tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from hqc import arithmetic
from hqc.quantization.dtypes import qinfo

_TORCH = {8: torch.int8, 16: torch.int16, 32: torch.int32}


def quantize(input: Tensor, scale: Tensor, zero_point: Any = None, ch_axis: int = -1, dtype: Any = "qint8") -> Tensor:
    """Integers of `input` on the grid of `scale` (`[1]`, or `[C]` along `ch_axis`): round half to even, saturate."""
    del zero_point
    bits, axis = qinfo(dtype).bits, None if ch_axis < 0 else ch_axis
    integers = arithmetic.quantize(_array(input), _array(scale).reshape(-1), bits, axis=axis)
    return torch.from_numpy(np.asarray(integers)).to(_TORCH[bits]).to(input.device)


def dequantize(input: Tensor, scale: Tensor, zero_point: Any = None, ch_axis: int = -1) -> Tensor:
    """`input * scale` in float32."""
    del zero_point
    real = arithmetic.dequantize(input.detach().cpu().numpy(), _array(scale).reshape(-1), None if ch_axis < 0 else ch_axis)
    return torch.from_numpy(np.asarray(real)).to(input.device)


def requantize(input: Tensor, input_scale: Tensor, scale: Tensor, dtype: Any = "qint8") -> Tensor:
    """Integers of one grid on another: through the real values, not through the chip's multiplier."""
    return quantize(dequantize(input, input_scale), scale, dtype=dtype)


def _array(tensor: Any) -> Any:
    return torch.as_tensor(tensor, dtype=torch.float32).detach().cpu().numpy()
