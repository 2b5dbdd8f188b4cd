"""Arithmetic between tensors as methods of a module, so that the operation has a name, a qconfig and a place of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hqc.checked import numeric
from hqc.errors import InputError


@numeric
class FloatFunctional(nn.Module):
    """Each method is the torch function of its name, followed by `activation_post_process`. Use one instance per call.

    In graphs its methods are method calls on it.
    """

    _hqc_leaf = True
    _hqc_functional = True

    def __init__(self) -> None:
        super().__init__()
        self.activation_post_process: nn.Module = nn.Identity()

    def forward(self, x: Any) -> Any:
        raise InputError("FloatFunctional is not called itself; use its methods, for example `self.add.add(x, y)`")

    def _result(self, x: Tensor) -> Tensor:
        result: Tensor = self.activation_post_process(x)
        return result

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        return self._result(torch.add(x, y))

    def sub(self, x: Tensor, y: Tensor) -> Tensor:
        return self._result(torch.sub(x, y))

    def mul(self, x: Tensor, y: Tensor) -> Tensor:
        return self._result(torch.mul(x, y))

    def div(self, x: Tensor, y: Tensor) -> Tensor:
        return self._result(torch.div(x, y))

    def matmul(self, x: Tensor, y: Tensor, x_trans: bool = False, y_trans: bool = False) -> Tensor:
        """`x @ y`; `x_trans`, `y_trans`: with the last two axes of that operand exchanged."""
        left, right = (each.transpose(-1, -2) if trans else each for each, trans in ((x, x_trans), (y, y_trans)))
        return self._result(torch.matmul(left, right))

    def maximum(self, x: Tensor, y: Tensor) -> Tensor:
        return self._result(torch.maximum(x, y))

    def minimum(self, x: Tensor, y: Tensor) -> Tensor:
        return self._result(torch.minimum(x, y))

    def add_relu(self, x: Tensor, y: Tensor) -> Tensor:
        return self._result(torch.relu(torch.add(x, y)))

    def add_scalar(self, x: Tensor, y: float) -> Tensor:
        return self._result(torch.add(x, y))

    def mul_scalar(self, x: Tensor, y: float) -> Tensor:
        return self._result(torch.mul(x, y))

    def cat(self, x: Sequence[Tensor], dim: int = 0) -> Tensor:
        given: object = x
        if isinstance(given, Tensor):
            raise InputError("cat takes a list of tensors, got one tensor")
        return self._result(torch.cat(tuple(x), dim=dim))

    def sum(self, x: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
        return self._result(torch.sum(x, dim=dim, keepdim=keepdim))

    def mean(self, x: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
        return self._result(torch.mean(x, dim=dim, keepdim=keepdim))
