"""Fake quants for weights that no layer owns: those of `F.conv2d` and `F.linear`, on parameters or on what is computed from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hqc.quantization.fake_quantize import FakeQuantizeBase, make_weight_fake_quant
from hqc.quantization.torch_arithmetic import fake_quantize_bias

if TYPE_CHECKING:
    from hqc.march.spec import MarchSpec


class FoldedWeightFakeQuantize(nn.Module):
    """For a weight whose result goes through batch norms or constants, which the chip has folded into it.

    What is put on the grid is the folded weight; it is divided by the factor again, as what follows multiplies. `folded`: the eps of
    each batch norm, whose statistics are operands of forward (running variance and gamma of one after the other; gamma may be None), so
    that a model may compute them; or the factor of every weight, a constant.
    """

    _hqc_leaf = True

    def __init__(self, fake_quant: FakeQuantizeBase, folded: Sequence[float] | Tensor, axis: int) -> None:
        super().__init__()
        self.weight_fake_quant = fake_quant
        self._folded = folded
        self.axis = axis

    def factor(self, weight: Tensor, *statistics: Tensor | None) -> Tensor:
        """What folding multiplies the weights by, shaped to go with `weight`; 1 where gamma switches a channel off.

        In float64, as folding computes it: weights of one magnitude (a binarized layer's) all lie on the border between two grid points.
        """
        if isinstance(self._folded, Tensor):
            return torch.where(self._folded == 0, torch.ones_like(self._folded), self._folded).to(weight.device)
        factor = torch.ones((), dtype=torch.float64, device=weight.device)
        for eps, variance, gamma in zip(self._folded, statistics[::2], statistics[1::2], strict=True):
            assert variance is not None
            gain = 1 / torch.sqrt(variance.double() + eps)
            factor = factor * (gain if gamma is None else gain * gamma.double())
        factor = torch.where(factor.abs() < torch.finfo(torch.float32).eps, torch.ones_like(factor), factor)
        shape = [1] * weight.dim()
        shape[self.axis] = -1
        groups = factor.numel() // weight.shape[self.axis]
        if groups > 1:  # a transposed convolution's `[C, O/groups, ...]`: input channels of one group after those of the other
            factor = factor.view(groups, -1).repeat_interleave(weight.shape[0] // groups, 0)
            return factor.view(*factor.shape, *shape[2:])
        return factor.view(shape)

    def forward(self, weight: Tensor, *statistics: Tensor | None) -> Tensor:
        if not self.weight_fake_quant.quantizes:
            return weight
        folded = self.folded(weight, *statistics)
        result: Tensor = (self.weight_fake_quant(folded) / self.factor(weight, *statistics)).to(weight.dtype)
        return result

    def folded(self, weight: Tensor, *statistics: Tensor | None) -> Tensor:
        """The weight that the chip has."""
        return (weight * self.factor(weight, *statistics)).to(weight.dtype)


class BiasFakeQuantize(nn.Module):
    """Makes the bias of a call what the chip makes of it (int8, one power-of-two scale), while `source`, the weight's, quantizes."""

    _hqc_leaf = True

    def __init__(self, source: FakeQuantizeBase) -> None:
        super().__init__()
        self._source = [source]  # in a list: it has its place in the module tree already

    def forward(self, bias: Tensor) -> Tensor:
        return fake_quantize_bias(bias) if self._source[0].quantizes else bias


Norm = tuple[float, Tensor, Tensor | None]
"""What of a batch norm folding multiplies a weight by: eps, running variance and gamma."""


def weight_fake_quant(
    factory: Any, march: MarchSpec, weight: Tensor, axis: int, folded: Sequence[Norm] | Tensor | None, name: str
) -> nn.Module:
    """The weight fake quant of a qconfig entry for a call's weight, whose output channels lie along `axis`; `folded`: what the chip has
    folded into it, batch norms or the factor of every weight."""
    axis %= weight.dim()
    plain = make_weight_fake_quant(factory, march, weight.detach(), axis, name=name)
    if folded is None:
        return plain
    norms = () if isinstance(folded, Tensor) else folded
    module = FoldedWeightFakeQuantize(plain, folded if isinstance(folded, Tensor) else [eps for eps, _, _ in norms], axis)
    with torch.no_grad():
        module.weight_fake_quant.initialize(module.folded(weight, *(each for _, *pair in norms for each in pair)))
    return module
