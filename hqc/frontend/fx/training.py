"""Operations that act in training only. Tracing and lowering see the model in eval mode; what is emitted is trained."""

from __future__ import annotations

import inspect
from types import FunctionType
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

IDENTITY_META = "hqc_identity"
"""Key in `node.meta`, true for a call of a user's module, or of a function marked with `fx.wrap`, that returned its first operand
in eval mode and looks at `self.training`."""

_TRAINING = ("training", 2)
_FUNCTIONS: dict[Any, tuple[str, int]] = {
    F.dropout: _TRAINING,
    F.dropout1d: _TRAINING,
    F.dropout2d: _TRAINING,
    F.dropout3d: _TRAINING,
    F.alpha_dropout: _TRAINING,
    F.feature_alpha_dropout: _TRAINING,
    torch.dropout: ("train", 2),
}


def training_argument(node: fx.Node) -> tuple[str, int] | None:
    """Name and position of the argument that says whether a dropout acts, of a call that the trace saw inactive."""
    if node.op != "call_function":
        return None
    argument = _FUNCTIONS.get(node.target) or (_own_argument(node.target) if node.meta.get(IDENTITY_META) else None)
    if argument is None:
        return None
    name, position = argument
    given = node.args[position] if position < len(node.args) else node.kwargs.get(name)
    return argument if given is False else None


def _own_argument(function: Any) -> tuple[str, int] | None:
    """Where a drop path of the user's, marked with `fx.wrap`, takes the mode."""
    names = list(inspect.signature(function).parameters)
    return ("training", names.index("training")) if "training" in names else None


def looks_at_training(module: nn.Module) -> bool:
    """True when the module's own forward reads `self.training`: what it returns in eval mode is not all that it does."""
    forward = getattr(type(module), "forward", None)
    return isinstance(forward, FunctionType) and "training" in forward.__code__.co_names
