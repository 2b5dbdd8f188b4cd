"""Linear layers that train quantized, alone and fused with an add and an activation."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from hqc.nn.qat.layer import QATLayer, ResidualCalls


class Linear(QATLayer, nn.Linear):  # type: ignore[misc]
    """`[..., K]` -> `[..., O]`."""

    float_class = nn.Linear

    @staticmethod
    def _arguments(mod: Any) -> dict[str, Any]:
        return {"in_features": mod.in_features, "out_features": mod.out_features}

    def _compute(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)


class LinearReLU(Linear):
    """Linear, ReLU."""

    activation = "relu"


class LinearReLU6(Linear):
    """Linear, ReLU6."""

    activation = "relu6"


class LinearAdd(ResidualCalls, Linear):  # type: ignore[misc]
    """Linear, plus a residual."""

    residual = True


class LinearAddReLU(LinearAdd):
    """Linear, plus a residual, ReLU."""

    activation = "relu"


class LinearAddReLU6(LinearAdd):
    """Linear, plus a residual, ReLU6."""

    activation = "relu6"
