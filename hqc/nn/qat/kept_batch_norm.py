"""Layers whose batch normalization is kept while they train quantized, instead of being folded before.

What the chip gets is the folded layer, so that is what is fake-quantized: the weight times gamma / sqrt(running variance). While
the normalization trains, the convolution's result is divided by that factor again and normalized with the batch's statistics,
which follow the data; in eval mode (or with `bn.eval()`) the layer computes the folded layer exactly.
"""

from __future__ import annotations

from typing import TypeGuard

import torch
from torch import Tensor, nn

from hqc.errors import InputError
from hqc.nn.qat.conv import Conv2d, ConvAdd2d, ConvAddReLU2d, ConvAddReLU62d, ConvReLU2d, ConvReLU62d
from hqc.nn.qat.conv_transpose import (
    ConvTranspose2d,
    ConvTransposeAdd2d,
    ConvTransposeAddReLU2d,
    ConvTransposeAddReLU62d,
    ConvTransposeReLU2d,
    ConvTransposeReLU62d,
)
from hqc.nn.qat.layer import QATLayer

BATCH_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)
"""Batch normalizations of images."""


def can_keep(module: nn.Module | None) -> TypeGuard[nn.BatchNorm2d]:
    """True for a batch normalization of images with statistics that folding can use."""
    return isinstance(module, BATCH_NORMS) and module.running_var is not None


class KeptBatchNorm(QATLayer):
    """Mixin in front of a QAT layer class: the layer's result goes through `bn` before residual and activation."""

    bn: nn.BatchNorm2d
    out_channels: int

    def _own_parts(self) -> None:
        self.bn = nn.BatchNorm2d(self.out_channels, device=self.weight.device, dtype=self.weight.dtype)

    def _take_parts(self, bn: nn.Module | None = None) -> None:
        if not can_keep(bn) or bn.num_features != self.out_channels:
            raise InputError(
                f"{type(self).__name__} needs bn=, a BatchNorm2d of {self.out_channels} channels with running statistics"
            )
        self.bn = bn

    def _factor(self) -> Tensor:
        """`[C]`: what folding multiplies each output channel's weights by."""
        assert self.bn.running_var is not None
        factor = torch.rsqrt(self.bn.running_var + self.bn.eps)
        return factor if self.bn.weight is None else factor * self.bn.weight

    def _along_weight(self, factor: Tensor) -> Tensor:
        """`factor` broadcast along the weight's output channels (which the groups of a transposed convolution split)."""
        if self.channel_axis == 0:
            return factor.view(-1, 1, 1, 1)
        groups: int = self.groups  # type: ignore[assignment]
        per_input = factor.view(groups, -1).repeat_interleave(self.weight.shape[0] // groups, 0)
        return per_input[:, :, None, None]

    def _folded_bias(self, factor: Tensor) -> Tensor:
        assert self.bn.running_mean is not None
        bias = -self.bn.running_mean if self.bias is None else self.bias - self.bn.running_mean
        return bias * factor if self.bn.bias is None else bias * factor + self.bn.bias

    def _folded_weight(self) -> Tensor:
        return (self.weight * self._along_weight(self._factor())).detach()

    def deployed_parameters(self) -> tuple[Tensor, Tensor | None]:
        return self._folded_weight(), self._folded_bias(self._factor()).detach()

    def _linear_part(self, x: Tensor) -> Tensor:
        factor = self._factor()
        if not self.bn.training:
            weight = self.weight_fake_quant(self.weight * self._along_weight(factor))
            return self._compute(x, weight, self._quantized_bias(self._folded_bias(factor)))
        # A channel that gamma switches off is quantized unfolded, as there is no way back from 0.
        factor = torch.where(factor.abs() < torch.finfo(factor.dtype).eps, torch.ones_like(factor), factor)
        weight = self.weight_fake_quant(self.weight * self._along_weight(factor))
        y = self._compute(x, weight, None) / factor.view(1, -1, 1, 1)
        normalized: Tensor = self.bn(y if self.bias is None else y + self.bias.view(1, -1, 1, 1))
        return normalized


class ConvBn2d(KeptBatchNorm, Conv2d):
    """Convolution, batch normalization."""


class ConvBnReLU2d(KeptBatchNorm, ConvReLU2d):
    """Convolution, batch normalization, ReLU."""


class ConvBnReLU62d(KeptBatchNorm, ConvReLU62d):
    """Convolution, batch normalization, ReLU6."""


class ConvBnAdd2d(KeptBatchNorm, ConvAdd2d):
    """Convolution, batch normalization, plus a residual."""


class ConvBnAddReLU2d(KeptBatchNorm, ConvAddReLU2d):
    """Convolution, batch normalization, plus a residual, ReLU."""


class ConvBnAddReLU62d(KeptBatchNorm, ConvAddReLU62d):
    """Convolution, batch normalization, plus a residual, ReLU6."""


class ConvTransposeBn2d(KeptBatchNorm, ConvTranspose2d):  # type: ignore[misc]
    """Transposed convolution, batch normalization."""


class ConvTransposeBnReLU2d(KeptBatchNorm, ConvTransposeReLU2d):  # type: ignore[misc]
    """Transposed convolution, batch normalization, ReLU."""


class ConvTransposeBnReLU62d(KeptBatchNorm, ConvTransposeReLU62d):  # type: ignore[misc]
    """Transposed convolution, batch normalization, ReLU6."""


class ConvTransposeBnAdd2d(KeptBatchNorm, ConvTransposeAdd2d):  # type: ignore[misc]
    """Transposed convolution, batch normalization, plus a residual."""


class ConvTransposeBnAddReLU2d(KeptBatchNorm, ConvTransposeAddReLU2d):  # type: ignore[misc]
    """Transposed convolution, batch normalization, plus a residual, ReLU."""


class ConvTransposeBnAddReLU62d(KeptBatchNorm, ConvTransposeAddReLU62d):  # type: ignore[misc]
    """Transposed convolution, batch normalization, plus a residual, ReLU6."""
