"""Functions of one input as modules, so that each has a name, a qconfig and a place of its own.

They are opened when a model is traced: what is planned is the torch function, which the BPU computes by a table where its march has one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hqc.checked import numeric


@numeric
class _Function(nn.Module):
    """The torch function `function` of one tensor."""

    function: ClassVar[Callable[[Tensor], Tensor]]

    def forward(self, input: Tensor) -> Tensor:
        return type(self).function(input)


def _module(name: str, function: Callable[[Tensor], Tensor], doc: str) -> type[_Function]:
    return type(name, (_Function,), {"function": staticmethod(function), "__doc__": doc, "__module__": __name__})


Acos = _module("Acos", torch.acos, "`acos(x)`.")
Acosh = _module("Acosh", torch.acosh, "`acosh(x)`.")
Asin = _module("Asin", torch.asin, "`asin(x)`.")
Asinh = _module("Asinh", torch.asinh, "`asinh(x)`.")
Atan = _module("Atan", torch.atan, "`atan(x)`.")
Atanh = _module("Atanh", torch.atanh, "`atanh(x)`.")
Ceil = _module("Ceil", torch.ceil, "`ceil(x)`.")
Cos = _module("Cos", torch.cos, "`cos(x)`.")
Cosh = _module("Cosh", torch.cosh, "`cosh(x)`.")
Erf = _module("Erf", torch.erf, "`erf(x)`.")
Exp = _module("Exp", torch.exp, "`exp(x)`.")
Floor = _module("Floor", torch.floor, "`floor(x)`.")
Reciprocal = _module("Reciprocal", torch.reciprocal, "`1 / x`.")
Selu = _module("Selu", F.selu, "`selu(x)`.")
Sin = _module("Sin", torch.sin, "`sin(x)`.")
Sinh = _module("Sinh", torch.sinh, "`sinh(x)`.")
Sqrt = _module("Sqrt", torch.sqrt, "`sqrt(x)`.")
Tan = _module("Tan", torch.tan, "`tan(x)`.")


@numeric
class HardLog(nn.Module):
    """`log(x)` of what is at least `eps`."""

    def __init__(self, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, input: Tensor) -> Tensor:
        return torch.log(torch.clamp(input, min=self.eps))


@numeric
class Pow(nn.Module):
    """`x ** exponent`."""

    def forward(self, data: Tensor, exponent: float | Tensor) -> Tensor:
        return torch.pow(data, exponent)


@numeric
class Div(nn.Module):
    """`x / y`."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.div(x, y)
