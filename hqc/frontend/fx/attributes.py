"""What a model's code may ask about a tensor without computing: attributes and methods whose answer is no tensor."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from hqc.frontend.fx.context import LoweringContext, to_torch_dtype
from hqc.frontend.fx.shapes import UnknownShape, UnknownSize
from hqc.ir import Value

TENSOR_ATTRIBUTES = frozenset({"T", "mT", "H", "mH", "data", "real"})  # the other attributes are no tensors
QUERY_METHODS = frozenset(
    {"size", "dim", "ndimension", "numel", "nelement", "is_floating_point", "is_contiguous", "element_size"}
)


def query_nodes(graph: fx.Graph) -> set[fx.Node]:
    """Nodes of a traced graph whose result is no tensor: what is asked about one (`x.shape`, `x.size(0)`), and what is computed
    from nothing but such answers."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        asks = (node.op == "call_method" and node.target in QUERY_METHODS) or (
            node.op == "call_function" and node.target is getattr and node.args[1] not in TENSOR_ATTRIBUTES
        )
        inputs = node.all_input_nodes
        if asks or (node.op in ("call_function", "call_method") and inputs and found.issuperset(inputs)):
            found.add(node)
    return found


def tensor_attribute(ctx: LoweringContext, value: Value, name: str) -> Any:
    """`x.shape`, `x.dtype`, ... of an IR value."""
    if name == "shape":
        return _shape(ctx, value)
    if name == "ndim":
        return ctx.rank(value)
    if name in ("T", "mT", "H", "mH"):
        if name in ("T", "H") and ctx.rank(value) != 2:
            raise ctx.error(f".{name} of a tensor of rank {ctx.rank(value)}; use .mT or permute")
        rank = ctx.rank(value)
        return ctx.emit("transpose", value, perm=(*range(rank - 2), rank - 1, rank - 2))
    if name in ("data", "real"):
        return value
    constants = {
        "dtype": to_torch_dtype(value.type.dtype),
        "device": torch.device("cpu"),
        "requires_grad": False,
        "is_cuda": False,
        "is_quantized": False,
        "is_sparse": False,
        "layout": torch.strided,
        "grad": None,
        "itemsize": value.type.dtype.bits // 8,
    }
    if name in constants:
        return constants[name]
    shape = ctx.shape(value) or ()
    answer = getattr(torch.empty([size or 0 for size in shape], dtype=to_torch_dtype(value.type.dtype)), name, value)
    if not name.startswith("is_") or not isinstance(answer, bool):
        raise ctx.error(f"the attribute .{name} of a tensor is not supported")
    return answer  # what kind of tensor it is: a plain one in the memory of a CPU


def tensor_query(
    ctx: LoweringContext, value: Value, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[bool, Any]:
    """`(True, answer)` when the method `name` asks about the tensor instead of computing one."""
    if name == "size":
        shape = _shape(ctx, value)
        dim = kwargs.get("dim", args[0] if args else None)
        return True, shape if dim is None else shape[dim]
    if name in ("dim", "ndimension"):
        return True, ctx.rank(value)
    if name in ("numel", "nelement"):
        shape = ctx.shape(value)
        if shape is None or None in shape:
            return True, UnknownSize(f"{value.name}.numel()")
        return True, math.prod(ctx.known_shape(value))
    if name == "is_floating_point":
        return True, value.type.dtype.is_float
    if name == "is_contiguous":
        return True, True
    if name == "is_complex":
        return True, False
    if name == "element_size":
        return True, value.type.dtype.bits // 8
    if name in ("item", "tolist", "numpy", "cpu().numpy", "__len__"):
        raise ctx.error(f".{name}() needs the values of a tensor, which are known only when the model runs")
    return False, None


def _shape(ctx: LoweringContext, value: Value) -> Any:
    shape = ctx.shape(value)
    if shape is None:
        return UnknownShape(value.name)
    sizes = ctx.sizes(value)
    if all(isinstance(size, int) for size in sizes):
        return torch.Size(sizes)  # type: ignore[arg-type]
    return sizes
