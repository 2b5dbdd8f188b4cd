"""Example inputs: which placeholder each belongs to, and what it says about types."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import fx, nn

from hqc.errors import InputError, LoweringError
from hqc.frontend.fx.context import LoweringContext
from hqc.frontend.fx.examples import ExampleInputs, argument_examples
from hqc.frontend.fx.locations import value_name
from hqc.ir import DType, TensorType
from hqc.structures import leaves, map_structure, named_leaves

_CONSTANTS = (bool, int, float, type(None))


def add_inputs(
    ctx: LoweringContext, placeholders: list[fx.Node], example_inputs: ExampleInputs, *, images: bool = False
) -> dict[fx.Node, Any]:
    """Create the graph inputs; returns what each placeholder stands for: values, or a constant for one left out.

    `images`: take the inputs of a model with 2-D convolutions for `[N,C,H,W]` where no example says what they are.
    """
    given = _bind(ctx.root, placeholders, example_inputs) if example_inputs is not None else {}
    images = images and any(isinstance(m, (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d)) for m in ctx.root.modules())
    result: dict[fx.Node, Any] = {}
    for node in placeholders:
        name = str(node.target)
        if node in given:
            fixed = given[node] is None or (isinstance(given[node], str) and not node.users)
            result[node] = given[node] if fixed else _add(ctx, node, given[node])
        elif node.args and (example_inputs is not None or not node.users):
            result[node] = node.args[0]
        elif example_inputs is not None and not node.users:  # a constant of the trace
            result[node] = None
        elif name.startswith("*") and (example_inputs is not None or not node.users):
            result[node] = {} if name.startswith("**") else ()
        else:
            result[node] = ctx.graph.add_input(value_name(node), TensorType(DType.FLOAT32, (None,) * 4 if images else None))
    return result


def _add(ctx: LoweringContext, node: fx.Node, example: Any) -> Any:
    if isinstance(example, (torch.Tensor, np.ndarray)):
        return ctx.graph.add_input(value_name(node), _type_of(ctx, node, example))
    strange = next((leaf for leaf in leaves(example) if not isinstance(leaf, (torch.Tensor, np.ndarray, *_CONSTANTS))), None)
    if strange is not None:
        raise InputError(f"the example input {node.target} is a {type(strange).__name__}, not a tensor")
    names = iter([name for name, _ in named_leaves(example, node.name)])

    def add(leaf: Any) -> Any:
        name = next(names)
        is_tensor = isinstance(leaf, (torch.Tensor, np.ndarray))
        return ctx.graph.add_input(ctx.free_name(name), _type_of(ctx, node, leaf)) if is_tensor else leaf

    return map_structure(example, add)


def _type_of(ctx: LoweringContext, node: fx.Node, example: Any) -> TensorType:
    tensor = torch.from_numpy(example) if isinstance(example, np.ndarray) else example
    try:
        return TensorType(ctx.ir_dtype(tensor.dtype), tuple(tensor.shape))
    except LoweringError:
        raise InputError(f"the example input {node.target} has dtype {tensor.dtype}; hqc works on float32 models") from None


def _bind(root: nn.Module, placeholders: list[fx.Node], example_inputs: ExampleInputs) -> dict[fx.Node, Any]:
    """The example of each placeholder that is given, by the signature of the traced module."""
    by_name = {str(node.target).lstrip("*"): node for node in placeholders}
    examples = (
        argument_examples(root, example_inputs, optional=[name for name, node in by_name.items() if not node.users]) or {}
    )
    return {by_name[name]: example for name, example in examples.items()}
