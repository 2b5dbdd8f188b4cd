"""Stubs that train quantized."""

from __future__ import annotations

from torch import Tensor, nn

from hqc.checked import numeric
from hqc.nn.stubs import DeQuantStub

__all__ = ["DeQuantStub", "QuantStub"]


@numeric
class QuantStub(nn.Module):
    """The value is put on its grid here, by the fake quant `activation_post_process`."""

    _hqc_leaf = True

    def __init__(self, activation_post_process: nn.Module) -> None:
        super().__init__()
        self.activation_post_process = activation_post_process

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.activation_post_process(x)
        return result
