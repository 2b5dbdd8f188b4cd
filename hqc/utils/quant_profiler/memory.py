"""`show_cuda_memory_consumption`: the memory on the accelerator after each module of a forward and backward."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from hqc.errors import InputError
from hqc.utils.quant_profiler.tables import show, table
from hqc.workflow.arguments import as_tuple


def show_cuda_memory_consumption(
    model: nn.Module,
    example_inputs: Any,
    device: Any = "cuda",
    check_leaf_module: Callable[[nn.Module], bool] | None = None,
    out_dir: str | os.PathLike[str] | None = None,
    file_name: str | None = None,
    custom_backward: Callable[[Any], None] | None = None,
) -> list[list[Any]]:
    """Rows of module, stage (forward, backward) and MB allocated after it. `custom_backward`: from the outputs to a backward.

    Written to `mem_info.txt`. `InputError` where torch sees no such device.
    """
    device = torch.device(device)
    if device.type != "cuda" or not torch.cuda.is_available():
        raise InputError(f"show_cuda_memory_consumption measures on a CUDA device; torch sees none to be {device} here")
    is_leaf = check_leaf_module or (lambda module: next(module.children(), None) is None)
    rows: list[list[Any]] = []

    def note(name: str, stage: str) -> None:
        rows.append([name, stage, torch.cuda.memory_allocated(device) / 2**20])

    model = model.to(device)
    handles: list[Any] = []
    for name, module in model.named_modules():
        if name and is_leaf(module):
            handles.append(module.register_forward_hook(lambda *_, name=name: note(name, "forward")))
            handles.append(module.register_full_backward_hook(lambda *_, name=name: note(name, "backward")))
    try:
        moved = pytree.tree_map_only(torch.Tensor, lambda each: each.to(device), list(as_tuple(example_inputs) or ()))
        outputs = model(*moved)
        if custom_backward is not None:
            custom_backward(outputs)
        else:
            total = sum(each.float().sum() for each in pytree.tree_leaves(outputs) if isinstance(each, torch.Tensor))
            if isinstance(total, torch.Tensor) and total.requires_grad:
                total.backward()  # type: ignore[no-untyped-call]
    finally:
        for handle in handles:
            handle.remove()
    show(table(("Module", "Stage", "MB"), rows), out_dir, f"{file_name or 'mem_info'}.txt")
    return rows
