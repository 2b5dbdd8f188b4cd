"""What users bring as a model, turned into a float32 torch module that can be traced."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import torch
from torch import fx, nn

from hqc.checked import explained
from hqc.errors import InputError
from hqc.frontend.fx.copying import deep_copy
from hqc.frontend.fx.exported import is_aten, module_of, plain
from hqc.frontend.fx.scripted import opened

_RESERVED = frozenset({*dir(fx.GraphModule), "meta", "preparation"} - {*dir(nn.Module)})
"""Names at the top of a model that a traced model has for itself."""
_CONVERTED = (torch.float16, torch.bfloat16, torch.float64)


@explained
def as_traceable(model: Any) -> tuple[nn.Module, list[str]]:
    """The module to trace, and what should be said about it.

    A `torch.export.ExportedProgram` becomes a GraphModule of ordinary torch calls that shares its parameters; a compiled module
    the module behind it; a model with half, bfloat16 or double tensors a float32 copy. Other modules are returned as they are.
    Scripted and traced modules become Python again. `InputError` for lazy modules that were never run.
    """
    if isinstance(model, torch.export.ExportedProgram):
        return as_traceable(module_of(model))
    if isinstance(model, torch.jit.ScriptModule):
        return as_traceable(opened(model))
    refuse_untraceable(model)
    if "torch._dynamo" in sys.modules and isinstance(model, torch._dynamo.OptimizedModule):
        return as_traceable(model._orig_mod)
    return _as_float32(_in_ordinary_calls(model))


def _in_ordinary_calls(model: nn.Module) -> nn.Module:
    """The model with the graphs of ATen operators in it (`torch.export.export(...).module()`), and with what torch.jit scripted or traced,
    written in torch's ordinary calls.

    Where there are such parts it is a copy, which shares parameters and buffers.
    """
    if isinstance(model, fx.GraphModule) and is_aten(model.graph):
        return plain(model)
    foreign: dict[str, nn.Module] = {}
    for path, module in model.named_modules():
        inside = any(path.startswith(f"{outer}.") for outer in foreign)
        scripted = isinstance(module, torch.jit.ScriptModule)
        if not inside and (scripted or (isinstance(module, fx.GraphModule) and is_aten(module.graph))):
            foreign[path] = module
    if not foreign:
        return model
    memo: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    for path, module in foreign.items():
        memo[id(module)] = plain(module, is_part=True) if isinstance(module, fx.GraphModule) else opened(module, path)
    return deep_copy(model, memo)


def refuse_untraceable(model: Any) -> None:
    """Raise `InputError` for what has no Python code or no sizes yet."""
    if isinstance(model, torch.jit.ScriptFunction):
        raise InputError("the model is a ScriptFunction of torch.jit; call it in the forward of a torch.nn.Module")
    if not isinstance(model, nn.Module):
        raise InputError(f"the model must be a torch.nn.Module or a torch.export.ExportedProgram, got {type(model).__name__}")
    taken = sorted(_RESERVED & {*model._modules, *model._parameters, *model._buffers})
    if taken:
        raise InputError(
            f"{type(model).__name__} has a layer or tensor called {taken[0]!r}, which is a name of torch.fx.GraphModule, that the traced "
            "model is; call it otherwise, or put the model into a module of its own"
        )
    lazy = [name for name, module in model.named_modules() if _is_unborn(module)]
    if lazy:
        names = ", ".join(filter(None, lazy[:5])) or type(model).__name__
        raise InputError(f"{names}: lazy modules whose sizes are not known yet; run the model once, then give it to hqc")


def _is_unborn(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.lazy.LazyModuleMixin) and module.has_uninitialized_params()


def _as_float32(model: nn.Module) -> tuple[nn.Module, list[str]]:
    tensors = (*model.named_parameters(), *model.named_buffers())
    counts = Counter(tensor.dtype for _, tensor in tensors if tensor.dtype in _CONVERTED)
    if not counts:
        return model, []
    found = ", ".join(f"{count} in {str(dtype).removeprefix('torch.')}" for dtype, count in counts.items())
    return deep_copy(model).float(), [
        f"the model has tensors that are not float32 ({found}); hqc works on a float32 copy of it"
    ]
