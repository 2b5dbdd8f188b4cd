"""FloatFunctional that trains quantized."""

from __future__ import annotations

from torch import nn

from hqc.nn.quantized.float_functional import FloatFunctional as _FloatFunctional


class FloatFunctional(_FloatFunctional):
    """Each method's result goes through the fake quant `activation_post_process`."""

    def __init__(self, activation_post_process: nn.Module) -> None:
        super().__init__()
        self.activation_post_process = activation_post_process
