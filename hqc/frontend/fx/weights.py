"""Which argument of a function is the weight of a convolution or product, and along which axis its output channels lie."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.nn import functional as F

from hqc.frontend.fx.forms import products


@dataclass(frozen=True)
class WeightArgument:
    """`name` and `position` of the weight in the call; `axis`: of its output channels; `bias`: the same of the bias, if any, `data`:
    of what is multiplied with the weight. `is_matrix`: the weight is a plain matrix `[K,O]`, the right operand of a product."""

    name: str
    position: int
    axis: int = 0
    bias: tuple[str, int] | None = None
    data: tuple[str, int] = ("input", 0)
    is_matrix: bool = False

    def of(self, node: fx.Node) -> Any:
        """The weight that `node` is called with."""
        return _argument(node, self.name, self.position)

    def bias_of(self, node: fx.Node) -> Any:
        """The bias that `node` is called with."""
        return None if self.bias is None else _argument(node, *self.bias)

    def data_of(self, node: fx.Node) -> Any:
        """What `node` multiplies with the weight."""
        return _argument(node, *self.data)

    @staticmethod
    def factors(node: fx.Node) -> tuple[float, float]:
        """By what `addmm` multiplies the weight, and by what the bias; 1 elsewhere."""
        alpha: Any = node.kwargs.get("alpha", 1)
        beta: Any = node.kwargs.get("beta", 1)
        return alpha, beta


def _argument(node: fx.Node, name: str, position: int) -> Any:
    return node.args[position] if position < len(node.args) else node.kwargs.get(name)


_CONV = WeightArgument("weight", 1, bias=("bias", 2))
_TRANSPOSED = WeightArgument("weight", 1, axis=1, bias=("bias", 2))
_PRODUCT = WeightArgument("other", 1, is_matrix=True)
_MATRICES = WeightArgument("mat2", 1, is_matrix=True)
_SUM = WeightArgument("mat2", 2, bias=("input", 0), data=("mat1", 1), is_matrix=True)
_FUNCTIONS: dict[Any, WeightArgument] = {
    products.conv2d: _CONV,
    products.conv_transpose2d: _TRANSPOSED,
    products.conv3d: _CONV,
    products.conv_transpose3d: _TRANSPOSED,
    products.linear: _CONV,
    torch.conv1d: _CONV,
    torch.conv2d: _CONV,
    torch.conv3d: _CONV,
    F.linear: _CONV,
    torch.conv_transpose1d: _TRANSPOSED,
    torch.conv_transpose2d: _TRANSPOSED,
    torch.conv_transpose3d: _TRANSPOSED,
    torch.matmul: _PRODUCT,
    operator.matmul: _PRODUCT,
    torch.mm: _MATRICES,
    torch.addmm: _SUM,
}
_METHODS = {"matmul": _PRODUCT, "mm": _MATRICES, "addmm": _SUM}


def weight_argument(node: fx.Node) -> WeightArgument | None:
    """The weight of a call, or None for a call that has none."""
    table: dict[Any, WeightArgument] = {"call_function": _FUNCTIONS, "call_method": _METHODS}.get(node.op, {})
    return table.get(node.target)
