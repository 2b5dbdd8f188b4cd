"""Custom autograd functions and checkpointing: traced through, since torch runs them in C++, which takes no proxies."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from hqc.frontend.fx.patches import Patches
from hqc.frontend.fx.proxies import find_proxy


class _Context:
    """The `ctx` of a forward that is traced: whatever is stored in it is for a backward that the graph does not have."""

    needs_input_grad: tuple[bool, ...] = ()

    def save_for_backward(self, *tensors: Any) -> None:
        self.saved_tensors = tensors

    save_for_forward = save_for_backward

    def mark_dirty(self, *tensors: Any) -> None: ...

    def mark_non_differentiable(self, *tensors: Any) -> None: ...

    def set_materialize_grads(self, value: bool) -> None: ...


def open_autograd_functions(patches: Patches) -> None:
    """While tracing, `Function.apply` on proxies runs the function's forward, whose operations are recorded.

    `torch.utils.checkpoint` is one of these functions: the graph has what was checkpointed.
    """
    original: Any = vars(torch.autograd.Function)["apply"]  # a classmethod; compiled in torch 2.15

    def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
        if find_proxy((args, kwargs)) is None:
            return original.__get__(None, cls)(*args, **kwargs)
        if cls is torch.utils.checkpoint.CheckpointFunction:
            function, _, *operands = args
            return function(*operands)
        if cls.setup_context is not torch.autograd.function._SingleLevelFunction.setup_context:
            return cls.forward(*args, **kwargs)
        context = _Context()
        context.needs_input_grad = (False,) * len(args)
        return cls.forward(context, *args, **kwargs)

    patches.attribute(torch.autograd.Function, "apply", classmethod(apply))


def open_variables(patches: Patches) -> None:
    """While tracing, `Variable(x)` of a proxy is the proxy: since torch 0.4 a variable is the tensor that it was made of."""
    cls: Any = torch.autograd.Variable
    original = cls.__new__

    def new(cls: Any, *args: Any, **kwargs: Any) -> Any:
        held = args[0] if args else kwargs.get("data")
        return held if isinstance(held, fx.Proxy) else original(cls, *args, **kwargs)

    patches.attribute(cls, "__new__", staticmethod(new))
