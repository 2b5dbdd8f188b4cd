"""Batch normalization that stands alone, without a convolution to fold into."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hqc.errors import InputError


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalization whose result goes through the fake quant `activation_post_process`."""

    _hqc_leaf = True

    def __init__(self, *args: Any, activation_post_process: nn.Module, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.activation_post_process = activation_post_process

    @classmethod
    def from_float(cls, mod: nn.BatchNorm2d, activation_post_process: nn.Module) -> BatchNorm2d:
        """A twin with the parameters and statistics of `mod` (shared, not copied)."""
        if not isinstance(mod, nn.BatchNorm2d):
            raise InputError(f"BatchNorm2d.from_float needs a BatchNorm2d, got {type(mod).__name__}")
        twin = cls(
            mod.num_features,
            mod.eps,
            mod.momentum,
            mod.affine,
            mod.track_running_stats,
            device=torch.device("meta"),
            activation_post_process=activation_post_process,
        )
        twin._parameters.update(mod._parameters)
        twin._buffers.update(mod._buffers)
        twin.train(mod.training)
        return twin

    def forward(self, input: Tensor) -> Tensor:
        result: Tensor = self.activation_post_process(super().forward(input))
        return result
