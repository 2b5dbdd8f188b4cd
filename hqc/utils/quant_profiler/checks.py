"""Checks of a model's structure: what was not fused, what is called how often, and with which qconfig."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from hqc.checked import checked
from hqc.errors import InputError
from hqc.ir import Node, Trait
from hqc.quantization.fake_quantize import FakeQuantizeBase, fake_quant_of
from hqc.utils.quant_profiler.tables import show, table
from hqc.workflow.arguments import as_tuple, given_to
from hqc.workflow.deferred import refuse_waiting
from hqc.workflow.explain import explain_model
from hqc.workflow.options import CompileOptions
from hqc.workflow.prepared import ObservedGraphModule


@checked
def check_unfused_operations(
    model: nn.Module, example_inputs: Any, print_tabulate: bool = True, out_dir: str | os.PathLike[str] | None = None
) -> list[list[str]]:
    """Names of operations that stand behind a convolution or linear layer, could be fused with it, and are not, with that layer first.

    `model`: float or prepared. Written to `unfused_pattern.txt`.
    """
    from hqc.march import get_march

    refuse_waiting(model, "check_unfused_operations")
    if isinstance(model, ObservedGraphModule):
        options, model = model.preparation.options, model.preparation.float_model
    else:
        options = CompileOptions(get_march(), form="ptq", hybrid=True)
    graph = explain_model(model, as_tuple(example_inputs), options).graph
    found = [chain for node in graph.nodes if node.op.has(Trait.CONV_LIKE) and len(chain := _chain(node)) > 1]
    show(
        table(("Unfused", "Operations"), [[" + ".join(chain), len(chain)] for chain in found]),
        out_dir,
        "unfused_pattern.txt",
        printed=print_tabulate,
    )
    return found


def _chain(node: Node) -> list[str]:
    """`node` and the operations behind it that its layer would have taken in if nothing else read what is between them."""
    names = [node.name]
    while True:
        if node.attributes.get("activation", "none") != "none":
            return names
        behind = [user for user in node.users if user.op.has(Trait.ACTIVATION) or user.op.name in ("batch_norm", "add")]
        if not behind:
            return names
        node = behind[0]
        names.append(node.name)


@checked
def get_module_called_count(
    model: nn.Module,
    example_inputs: Any,
    check_leaf_module: Callable[[nn.Module], bool] | None = None,
    print_tabulate: bool = True,
) -> dict[str, int]:
    """How often each leaf module runs in one forward. More than once shares one observer, never means that it is not used.

    `check_leaf_module`: which modules count as leaves (default: those without children).
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"get_module_called_count takes a torch.nn.Module, got {type(model).__name__}")
    is_leaf = check_leaf_module or (lambda module: next(module.children(), None) is None)
    counts = {name: 0 for name, module in model.named_modules() if name and is_leaf(module)}
    handles = []
    for name, module in model.named_modules():
        if name in counts:
            handles.append(module.register_forward_hook(lambda *_, name=name: counts.__setitem__(name, counts[name] + 1)))
    try:
        arguments = as_tuple(example_inputs) or ()
        with given_to(arguments):
            model(*arguments)
    finally:
        for handle in handles:
            handle.remove()
    if print_tabulate:
        rows = [[name, count] for name, count in counts.items() if count != 1]
        show(table(("name", "called times"), rows), None, "called_count.txt")
    return counts


QCONFIG_HEADER = ("Module Name", "Module Type", "Output dtype", "Observer", "Scale")


@checked
def check_qconfig(
    model: nn.Module,
    example_inputs: Any,
    prefixes: Sequence[str] = (),
    types: Sequence[type] = (),
    custom_check_func: Callable[[nn.Module], Any] | None = None,
    out_dir: str | os.PathLike[str] | None = None,
) -> tuple[list[list[Any]], list[str], list[str]]:
    """`(rows, high_precision, unusual)`: the quantization of every layer and fake quant; layers without an output grid; those to look at.

    Unusual are fake quants with a fixed scale, one that is switched off, or one for which `custom_check_func` returns something true.
    `prefixes`, `types`: only modules whose path begins so, or of these classes. Printed, and written to `qconfig_info.txt`.
    `example_inputs`: for a model that was prepared without shapes.
    """
    refuse_waiting(model, "check_qconfig")
    if not isinstance(model, ObservedGraphModule):
        raise InputError(f"check_qconfig takes a model from prepare_*_fx or prepare_qat, got {type(model).__name__}")
    if model.preparation.inputs is None:
        from hqc.workflow.replan import settle_plan

        settle_plan(model, as_tuple(example_inputs) or ())
    rows: list[list[Any]] = []
    high_precision, unusual = [], []
    for path, module in model.named_modules():
        wanted = path.startswith(tuple(prefixes)) if prefixes else not types
        if not wanted and type(module) not in types:
            continue
        has_output = "activation_post_process" in module._modules and not isinstance(module, FakeQuantizeBase)
        owned = has_output or (isinstance(module, FakeQuantizeBase) and path.endswith("_activation_post_process"))
        if not owned:
            continue
        fake_quant = fake_quant_of(module if not has_output else module._modules["activation_post_process"])
        if fake_quant is None:
            if isinstance(getattr(module, "weight_fake_quant", None), FakeQuantizeBase):
                rows.append([path, type(module).__name__, "qint32", "", None])
                high_precision.append(path)
            continue
        scale = float(fake_quant.calculate_qparams()[0].detach().max()) if fake_quant.calibrated else None
        rows.append([path, type(module).__name__, fake_quant.dtype, type(fake_quant.activation_post_process).__name__, scale])
        if fake_quant.fixed or not fake_quant.quantizes or (custom_check_func is not None and custom_check_func(module)):
            unusual.append(path)
    text = table(QCONFIG_HEADER, rows)
    text += f"\nhigh-precision outputs: {', '.join(high_precision) or 'none'}\nto look at: {', '.join(unusual) or 'none'}\n"
    show(text, out_dir, "qconfig_info.txt")
    return rows, high_precision, unusual
