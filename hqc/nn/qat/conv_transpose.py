"""Transposed convolutions that train quantized, alone and fused with an add and an activation."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from hqc.nn.qat.layer import QATLayer, ResidualCalls


class ConvTranspose2d(QATLayer, nn.ConvTranspose2d):  # type: ignore[misc]
    """`[N,C,H,W]` -> `[N,O,H',W']`. The weight `[C,O/groups,kh,kw]` has its scales along axis 1, shared by the groups."""

    float_class = nn.ConvTranspose2d
    channel_axis = 1

    @staticmethod
    def _arguments(mod: Any) -> dict[str, Any]:
        return {
            "in_channels": mod.in_channels,
            "out_channels": mod.out_channels,
            "kernel_size": mod.kernel_size,
            "stride": mod.stride,
            "padding": mod.padding,
            "output_padding": mod.output_padding,
            "groups": mod.groups,
            "dilation": mod.dilation,
            "padding_mode": mod.padding_mode,
        }

    def _of_size(self, x: Tensor, output_size: Any) -> Tensor:
        """The output padding that `output_size` means holds for this call."""
        own = self.output_padding
        sizes: Any = (self.stride, self.padding, self.kernel_size, len(self.kernel_size), self.dilation)
        self.output_padding = tuple(self._output_padding(x, list(output_size), *sizes))
        try:
            return self._linear_part(x)
        finally:
            self.output_padding = own

    def _compute(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv_transpose2d(x, weight, bias, self.stride, self.padding, self.output_padding, self.groups, self.dilation)  # type: ignore[arg-type]


class ConvTransposeReLU2d(ConvTranspose2d):
    """Transposed convolution, ReLU."""

    activation = "relu"


class ConvTransposeReLU62d(ConvTranspose2d):
    """Transposed convolution, ReLU6."""

    activation = "relu6"


class ConvTransposeAdd2d(ResidualCalls, ConvTranspose2d):  # type: ignore[misc]
    """Transposed convolution, plus a residual."""

    residual = True


class ConvTransposeAddReLU2d(ConvTransposeAdd2d):
    """Transposed convolution, plus a residual, ReLU."""

    activation = "relu"


class ConvTransposeAddReLU62d(ConvTransposeAdd2d):
    """Transposed convolution, plus a residual, ReLU6."""

    activation = "relu6"
