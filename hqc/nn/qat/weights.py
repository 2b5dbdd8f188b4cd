"""Fake quants for weights that no layer owns: those of `F.conv2d` and `F.linear`, on parameters or on what is computed from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hqc.quantization.fake_quantize import FakeQuantizeBase, make_weight_fake_quant
from hqc.quantization.torch_arithmetic import fake_quantize_bias

if TYPE_CHECKING:
    from hqc.march.spec import MarchSpec


class FoldedWeightFakeQuantize(nn.Module):
    """For a weight whose result goes through a batch norm or constants, `folded`, which the chip has folded into it.

    What is put on the grid is the folded weight; it is divided by the factor again, as what follows multiplies. `folded`: the module of
    a batch norm, or the factor of every weight.
    """

    _hqc_leaf = True

    def __init__(self, fake_quant: FakeQuantizeBase, folded: nn.Module | Tensor, axis: int) -> None:
        super().__init__()
        self.weight_fake_quant = fake_quant
        self._folded = [folded]  # in a list: a module has its place in the module tree already
        self.axis = axis

    def factor(self, weight: Tensor) -> Tensor:
        """What folding multiplies the weights by, shaped to go with `weight`; 1 where gamma switches a channel off.

        In float64, as folding computes it: weights of one magnitude (a binarized layer's) all lie on the border between two grid points.
        """
        norm: Any = self._folded[0]
        if isinstance(norm, Tensor):
            return torch.where(norm == 0, torch.ones_like(norm), norm).to(weight.device)
        factor = 1 / torch.sqrt(norm.running_var.double() + norm.eps)
        factor = factor if norm.weight is None else factor * norm.weight.double()
        factor = torch.where(factor.abs() < torch.finfo(torch.float32).eps, torch.ones_like(factor), factor)
        shape = [1] * weight.dim()
        shape[self.axis] = -1
        return factor.view(shape)

    def forward(self, weight: Tensor) -> Tensor:
        if not self.weight_fake_quant.quantizes:
            return weight
        factor = self.factor(weight)
        result: Tensor = (self.weight_fake_quant(self.folded(weight)) / factor).to(weight.dtype)
        return result

    def folded(self, weight: Tensor) -> Tensor:
        """The weight that the chip has."""
        return (weight * self.factor(weight)).to(weight.dtype)


class BiasFakeQuantize(nn.Module):
    """Makes the bias of a call what the chip makes of it (int8, one power-of-two scale), while `source`, the weight's, quantizes."""

    _hqc_leaf = True

    def __init__(self, source: FakeQuantizeBase) -> None:
        super().__init__()
        self._source = [source]  # in a list: it has its place in the module tree already

    def forward(self, bias: Tensor) -> Tensor:
        return fake_quantize_bias(bias) if self._source[0].quantizes else bias


def weight_fake_quant(
    factory: Any, march: MarchSpec, weight: Tensor, axis: int, folded: nn.Module | Tensor | None, name: str
) -> nn.Module:
    """The weight fake quant of a qconfig entry for a call's weight, whose output channels lie along `axis`; `folded`: what the chip has
    folded into it."""
    axis %= weight.dim()
    plain = make_weight_fake_quant(factory, march, weight.detach(), axis, name=name)
    if folded is None or (not isinstance(folded, Tensor) and not _fits(folded, weight.shape[axis])):
        return plain
    module = FoldedWeightFakeQuantize(plain, folded, axis)
    with torch.no_grad():
        module.weight_fake_quant.initialize(module.folded(weight))
    return module


def _fits(norm: Any, channels: int) -> bool:
    return norm.running_var is not None and norm.running_var.numel() == channels
