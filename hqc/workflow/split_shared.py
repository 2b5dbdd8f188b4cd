"""`split_shared`: a module that is called several times becomes several modules."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from torch import fx, nn

from hqc.checked import checked_but
from hqc.errors import InputError
from hqc.frontend.fx.copying import deep_copy
from hqc.frontend.fx.tracing import trace
from hqc.workflow.model_copy import copy_model
from hqc.workflow.plain_torch import plain_torch

logger = logging.getLogger("hqc")
SPLIT_META = "hqc_split"
"""Key in `graph_module.meta`: the path of a module that was split -> the paths of its copies, in the order of the calls."""


@checked_but("model")
@plain_torch()
def split_shared(model: nn.Module, example_inputs: Any = None, *, leaf_modules: Sequence[Any] = ()) -> fx.GraphModule:
    """A copy of `model`, as its traced graph, in which every call of a layer with parameters has a layer of its own.

    The first call keeps the module at its path; copies for the others stand beside it (`conv_1`, `conv_2`, ...), with equal values to
    begin with. Scales of weights, entries of a qconfig_dict and corrections of weights and biases are then per call, and training goes
    on apart. Modules without parameters stay shared, as their calls are observed one by one anyway, and so do parameters that several
    modules share. `result.meta["hqc_split"]` maps each path to its copies; `model` is left alone.

    `example_inputs`, `leaf_modules`: as for `hqc.lower`. `InputError` for what is no module, `TraceError` for what cannot be traced.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"split_shared takes a torch.nn.Module, got {type(model).__name__}")
    traced = trace(copy_model(model), example_inputs, leaf_modules=leaf_modules)
    split: dict[str, list[str]] = {}
    called: set[str] = set()
    for node in traced.graph.nodes:
        if node.op != "call_module":
            continue
        path = str(node.target)
        module = traced.get_submodule(path)
        if path in called and any(True for _ in module.parameters()):
            copies = split.setdefault(path, [])
            node.target = _placed(traced, path, deep_copy(module), len(copies) + 1)
            copies.append(node.target)
        called.add(path)
    traced.recompile()
    traced.meta[SPLIT_META] = {path: tuple(copies) for path, copies in split.items()}
    for path, copies in split.items():
        logger.info("%s is called %d times: copies are %s", path, len(copies) + 1, ", ".join(copies))
    return traced


def _placed(root: nn.Module, path: str, module: nn.Module, number: int) -> str:
    """Put `module` beside the one at `path`; its path there."""
    parent_path, _, name = path.rpartition(".")
    parent = root.get_submodule(parent_path)
    while hasattr(parent, f"{name}_{number}"):
        number += 1
    parent.add_module(f"{name}_{number}", module)
    return f"{parent_path}.{name}_{number}" if parent_path else f"{name}_{number}"
