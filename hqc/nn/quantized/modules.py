"""The parts of a converted model: for each operation of the integer graph, where it stands in the user's module tree.

They hold the integers and scales that were compiled, for printing and for looking at. What computes is the program of the whole model.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hqc.checked import numeric
from hqc.errors import InputError


@numeric
class QuantizedModule(nn.Module):
    """One part. Buffers, where the operation has them: `weight` (integers), `weight_scale`, `bias`, `scale`, `zero_point`.

    `described`: what printing shows of the float module.
    """

    def __init__(self, described: str = "", **tensors: torch.Tensor | None) -> None:
        super().__init__()
        self.described = described
        for name, tensor in tensors.items():
            if tensor is not None:
                self.register_buffer(name, tensor, persistent=False)

    result_dtype = "qint8"

    def _load_from_state_dict(self, *args: Any) -> None:
        """Nothing: what a converted model loads, its parts are made from."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise InputError(f"{self._get_name()} runs as a part of its converted model; call that model")

    def _get_name(self) -> str:
        return f"Quantized{type(self).__name__}"

    def extra_repr(self) -> str:
        parts = [self.described] if self.described else []
        if "scale" in self._buffers:
            scale = self.get_buffer("scale")
            shown = f"{float(scale):.6g}" if scale.numel() == 1 else f"[{float(scale[0]):.6g}, ...]"
            parts.append(f"scale={shown}, zero_point=0, dtype={self.result_dtype}")
        return ", ".join(parts)


class Quantize(QuantizedModule):
    """Real values become integers."""


class DeQuantize(QuantizedModule):
    """Integers become real values."""


class Conv2d(QuantizedModule):
    """A convolution, or a layer fused with it: `weight` has its integers."""


class Linear(QuantizedModule):
    """A linear layer, or a layer fused with it."""


class ReLU(QuantizedModule):
    """ReLU on integers."""


class AvgPool2d(QuantizedModule):
    """Average pool on integers."""


class Interpolate(QuantizedModule):
    """Resize on integers."""


class Upsample(QuantizedModule):
    """Resize on integers."""


class UpsamplingBilinear2d(QuantizedModule):
    """Bilinear resize on integers."""


class SegmentLUT(QuantizedModule):
    """A function of one input, by a table."""


class QFunctional(QuantizedModule):
    """An operation between tensors, of a FloatFunctional."""


class Operation(QuantizedModule):
    """Any other operation of the BPU."""

    def _get_name(self) -> str:
        return "QuantizedOperation"
