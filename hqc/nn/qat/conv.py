"""Convolutions that train quantized, alone and fused with an add and an activation."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from hqc.nn.qat.layer import QATLayer, ResidualCalls


class Conv2d(QATLayer, nn.Conv2d):
    """`[N,C,H,W]` -> `[N,O,H',W']`."""

    float_class = nn.Conv2d

    @staticmethod
    def _arguments(mod: Any) -> dict[str, Any]:
        return {
            "in_channels": mod.in_channels,
            "out_channels": mod.out_channels,
            "kernel_size": mod.kernel_size,
            "stride": mod.stride,
            "padding": mod.padding,
            "dilation": mod.dilation,
            "groups": mod.groups,
            "padding_mode": mod.padding_mode,
        }

    def _compute(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        result: Tensor = self._conv_forward(x, weight, bias)
        return result


class ConvReLU2d(Conv2d):
    """Convolution, ReLU."""

    activation = "relu"


class ConvReLU62d(Conv2d):
    """Convolution, ReLU6."""

    activation = "relu6"


class ConvAdd2d(ResidualCalls, Conv2d):
    """Convolution, plus a residual."""

    residual = True


class ConvAddReLU2d(ConvAdd2d):
    """Convolution, plus a residual, ReLU."""

    activation = "relu"


class ConvAddReLU62d(ConvAdd2d):
    """Convolution, plus a residual, ReLU6."""

    activation = "relu6"


class Conv1d(QATLayer, nn.Conv1d):
    """`[N,C,L]` -> `[N,O,L']`."""

    float_class = nn.Conv1d
    _arguments = staticmethod(Conv2d._arguments)

    def _compute(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        result: Tensor = self._conv_forward(x, weight, bias)
        return result


class ConvReLU1d(Conv1d):
    """Convolution of rows, ReLU."""

    activation = "relu"


class ConvReLU61d(Conv1d):
    """Convolution of rows, ReLU6."""

    activation = "relu6"


class ConvAdd1d(ResidualCalls, Conv1d):
    """Convolution of rows, plus a residual."""

    residual = True


class ConvAddReLU1d(ConvAdd1d):
    """Convolution of rows, plus a residual, ReLU."""

    activation = "relu"


class ConvAddReLU61d(ConvAdd1d):
    """Convolution of rows, plus a residual, ReLU6."""

    activation = "relu6"
