"""Copies of the user's model."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils import _pytree as pytree

from hqc.frontend.fx.copying import deep_copy

_M = TypeVar("_M", bound=nn.Module)


def copy_model(model: _M) -> _M:
    """A deep copy of `model`. Tensors that a forward left in attributes (a weight that weight_norm computed, a cache) are copied as
    constants: `copy.deepcopy` alone refuses them."""
    memo: dict[int, Any] = {}
    for module in model.modules():
        for leaf in pytree.tree_leaves(dict(vars(module))):
            if isinstance(leaf, torch.Tensor) and not leaf.is_leaf:
                memo[id(leaf)] = leaf.detach().clone()
    return deep_copy(model, memo)
