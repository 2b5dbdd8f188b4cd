"""What the decompositions of `torch.export` make of the calls that users write (core ATen), and those calls again.

`ExportedProgram.run_decompositions()` leaves `convolution`, `addmm` with a transposed weight and `max_pool2d_with_indices` where the model
calls `F.conv2d`, `F.linear` and `F.max_pool2d`: as these they are the layers of the model, and run on a BPU.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx

Call = tuple[str, Any, tuple[Any, ...], dict[str, Any]]


def _convolution(bound: dict[str, Any]) -> Call:
    rank = len(bound["stride"])
    tensors = (bound["input"], bound["weight"], bound.get("bias"))
    spaces = [list(bound[name]) for name in ("stride", "padding", "dilation")]
    if not bound["transposed"]:
        function: Any = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
        return "call_function", function, (*tensors, *spaces, bound["groups"]), {}
    function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]
    stride, padding, dilation = spaces
    return "call_function", function, (*tensors, stride, padding, list(bound["output_padding"]), bound["groups"], dilation), {}


def _max_pool(function: Callable[..., Any]) -> Callable[[dict[str, Any]], Call]:
    def call(bound: dict[str, Any]) -> Call:
        names = ("stride", "padding", "dilation", "ceil_mode")
        named = {name: bound[name] for name in names if bound.get(name) not in (None, [])}
        return "call_function", function, (bound["self"], bound["kernel_size"]), named

    return call


def _with(function: Callable[..., Any], *names: str) -> Callable[[dict[str, Any]], Call]:
    """A call of `function` with the arguments of these names, in order."""

    def call(bound: dict[str, Any]) -> Call:
        return "call_function", function, tuple(bound[name] for name in names), {}

    return call


def _elu(bound: dict[str, Any]) -> Call:
    """elu, selu and celu in one: `scale * (x, or alpha * (exp(x * input_scale) - 1) below 0)`."""
    alpha, scale, inner = (float(bound.get(name, 1.0)) for name in ("alpha", "scale", "input_scale"))
    if math.isclose(alpha, 1.6732632423543772, rel_tol=1e-6) and math.isclose(scale, 1.0507009873554805, rel_tol=1e-6):
        return "call_function", F.selu, (bound["self"],), {}
    if scale == inner == 1.0:
        return "call_function", F.elu, (bound["self"], alpha), {}
    return "call_function", torch.ops.aten.elu.default, (bound["self"], alpha, scale, inner), {}


def _hardtanh(bound: dict[str, Any]) -> Call:
    low, high = bound.get("min_val", -1), bound.get("max_val", 1)
    if (low, high) == (0, 6):
        return "call_function", F.relu6, (bound["self"],), {}
    return "call_function", F.hardtanh, (bound["self"], low, high), {}


def _grid_sample(bound: dict[str, Any]) -> Call:
    modes = ("bilinear", "nearest", "bicubic"), ("zeros", "border", "reflection")
    mode, padding = modes[0][bound["interpolation_mode"]], modes[1][bound["padding_mode"]]
    return "call_function", F.grid_sample, (bound["input"], bound["grid"], mode, padding, bool(bound["align_corners"])), {}


def instance_norm(bound: dict[str, Any]) -> Call:
    """A batch norm with the statistics of its input, which decompositions feed with one sample of all channels."""
    state = (None, None, bound.get("weight"), bound.get("bias"))
    return "call_function", F.instance_norm, (bound["input"], *state, True, bound["momentum"], bound["eps"]), {}


def _vector_norm(bound: dict[str, Any]) -> Call:
    named: dict[str, Any] = {name: bound[name] for name in ("ord", "dim", "keepdim") if name in bound}
    return "call_function", torch.linalg.vector_norm, (bound["self"],), named


CORE: dict[str, Callable[[dict[str, Any]], Call]] = {
    "convolution": _convolution,
    "max_pool2d_with_indices": _max_pool(F.max_pool2d),
    "max_pool3d_with_indices": _max_pool(F.max_pool3d),
    "_adaptive_avg_pool2d": _with(F.adaptive_avg_pool2d, "self", "output_size"),
    "_adaptive_avg_pool3d": _with(F.adaptive_avg_pool3d, "self", "output_size"),
    "adaptive_max_pool2d": _with(F.adaptive_max_pool2d, "self", "output_size"),
    "adaptive_max_pool3d": _with(F.adaptive_max_pool3d, "self", "output_size"),
    "_softmax": _with(F.softmax, "self", "dim"),
    "_log_softmax": _with(F.log_softmax, "self", "dim"),
    "elu": _elu,
    "hardtanh": _hardtanh,
    "grid_sampler_2d": _grid_sample,
    "grid_sampler_3d": _grid_sample,
    "linalg_vector_norm": _vector_norm,
}
WITH_INDICES = {name for name in CORE if name.endswith("_with_indices") or name.startswith("adaptive_max")}
"""Calls whose second result are places; where nobody reads them, the ordinary call has none."""


def is_instance_norm(node: fx.Node) -> bool:
    """True for a batch norm by the statistics of its input where that is one sample."""
    value = node.args[0].meta.get("val") if node.args and isinstance(node.args[0], fx.Node) else None
    return isinstance(value, torch.Tensor) and value.ndim > 2 and value.shape[0] == 1


# --- linear layers ------------------------------------------------------------------------------------------------------------


def restore_linear(graph: fx.Graph, shapes: dict[fx.Node, Sequence[Any]]) -> None:
    """Replace `addmm(bias, x, weight.t())` and `mm(x, weight.t())`, with the reshapes around them, by `F.linear(x, weight, bias)`.

    `shapes`: of the results of the nodes, as far as they are known.
    """
    for node in list(graph.nodes):
        found = _linear(node)
        if found is None:
            continue
        x, weight, bias = found
        target, rows = node, x
        readers = list(node.users)
        if len(readers) == 1 and _is_reshape(readers[0]) and _is_reshape(x):
            source, opened = x.args[0], readers[0]
            before, after = shapes.get(source, ()), shapes.get(opened, ())  # type: ignore[arg-type]
            if before and after and list(before[:-1]) == list(after[:-1]) and before[-1] == shapes[x][-1]:
                target, rows = opened, source  # type: ignore[assignment]
        _put(graph, target, F.linear, (rows, weight, bias), shapes)


def restore_products(graph: fx.Graph, shapes: dict[fx.Node, Sequence[Any]]) -> None:
    """Replace `bmm` of operands that were spread over all matrices by the product `a @ b` that it was, or by a linear layer."""
    for node in list(graph.nodes):
        sides = [_spread(item) for item in node.args] if _name(node) == "bmm" and len(node.args) == 2 else []
        known = [item for item in sides if item is not None and len(shapes.get(item, ())) >= 2]
        opened = next(iter(node.users), None)
        if len(known) != 2 or opened is None or len(node.users) != 1 or not _is_reshape(opened) or opened not in shapes:
            continue
        a, b = known
        batch = np.broadcast_shapes(tuple(shapes[a][:-2]), tuple(shapes[b][:-2]))
        if list(shapes[opened]) != [*batch, shapes[a][-2], shapes[b][-1]]:
            continue
        weight = _turned(b)
        if weight is None:
            _put(graph, opened, torch.matmul, (a, b), shapes)
            continue
        added = next(iter(opened.users), None)
        bias = added.args[1] if added is not None and len(opened.users) == 1 and _name(added) == "add" else None
        if added is not None and isinstance(bias, fx.Node) and _is_state(bias) and len(shapes.get(bias, ())) == 1:
            _put(graph, added, F.linear, (a, weight, bias), shapes)
        else:
            _put(graph, opened, F.linear, (a, weight, None), shapes)


def _spread(node: Any) -> fx.Node | None:
    """What `view(expand(x))`, with a copy in between or not, was made of."""
    if not isinstance(node, fx.Node) or not _is_reshape(node):
        return None
    inner = node.args[0]
    if isinstance(inner, fx.Node) and _name(inner) in ("clone", "contiguous"):
        inner = inner.args[0]
    source = inner.args[0] if isinstance(inner, fx.Node) and _name(inner) == "expand" else None
    return source if isinstance(source, fx.Node) else None


def _put(graph: fx.Graph, target: fx.Node, function: Any, args: tuple[Any, ...], shapes: dict[fx.Node, Sequence[Any]]) -> None:
    """Call `function` in the place of `target`, and erase what only that read."""
    with graph.inserting_before(target):
        made = graph.call_function(function, args)
    made.meta.update(target.meta)
    if target in shapes:
        shapes[made] = shapes[target]
    target.replace_all_uses_with(made)
    pending = [target]
    while pending:
        node = pending.pop()
        if not node.users and node.op in ("call_function", "call_method") and not node._erased:
            pending.extend(node.all_input_nodes)
            graph.erase_node(node)


def join_bounds(graph: fx.Graph) -> None:
    """Replace the two steps of a hard sigmoid's clamp, `clamp(clamp(x, 0), max=6)`, by the one that they are."""
    for node in list(graph.nodes):
        inner = node.args[0] if _name(node) == "clamp" and list(node.kwargs) == ["max"] and len(node.args) == 1 else None
        lower = isinstance(inner, fx.Node) and _name(inner) == "clamp" and len(inner.args) == 2 and not inner.kwargs
        if isinstance(inner, fx.Node) and lower and len(inner.users) == 1:
            node.args = inner.args
            graph.erase_node(inner)


def _name(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")


def _linear(node: fx.Node) -> tuple[fx.Node, fx.Node, fx.Node | None] | None:
    name = _name(node)
    if node.op not in ("call_function", "call_method") or name not in ("addmm", "mm") or node.kwargs:
        return None
    bias = node.args[0] if name == "addmm" else None
    x, turned = node.args[-2:]
    if not isinstance(turned, fx.Node) or not isinstance(x, fx.Node) or not (bias is None or _is_state(bias)):
        return None
    weight = _turned(turned)
    return None if weight is None else (x, weight, bias)  # type: ignore[return-value]


def _turned(node: fx.Node) -> fx.Node | None:
    """The parameter that `node` is the transpose of."""
    name = _name(node)
    source = node.args[0] if node.args else None
    turned = name == "t" or (name == "permute" and list(_flat(node.args[1:])) == [1, 0])
    return source if turned and isinstance(source, fx.Node) and _is_state(source) else None


def _flat(args: Sequence[Any]) -> Sequence[Any]:
    return args[0] if len(args) == 1 and isinstance(args[0], (list, tuple)) else args


def _is_state(item: Any) -> bool:
    return isinstance(item, fx.Node) and item.op == "get_attr"


def _is_reshape(node: fx.Node) -> bool:
    return (
        node.op in ("call_function", "call_method") and _name(node) in ("view", "reshape") and isinstance(node.args[0], fx.Node)
    )


def reads_places(node: fx.Node) -> bool:
    """True where somebody reads more than the first result of `node`."""
    return any(user.target is not operator.getitem or user.args[1] != 0 for user in node.users)
