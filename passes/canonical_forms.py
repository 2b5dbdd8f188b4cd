"""The rewrites of `canonicalize` that give bounds, powers, reductions and norms that are spelled in several ways one form.

As in `canonical_rules`, one function each, whose docstring is the rule as documentation shows it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from hqc.ir import Graph, Node, Value, get_op
from hqc.ir.ops import activation, elementwise, layout, pooling, reduction
from hqc.passes.canonical_rules import constant_operand, is_scalar, own_scale, rule, sole_producer
from hqc.passes.rewrite import absorb_origin, drop_unused, morph, only_user

_WHERE, _GREATER, _GREATER_EQUAL = get_op("where"), get_op("greater"), get_op("greater_equal")
_POW, _SQRT, _RSQRT, _RECIPROCAL = get_op("pow_scalar"), get_op("sqrt"), get_op("rsqrt"), get_op("reciprocal")
_EXP, _LOG, _LOG1P, _NEG, _THRESHOLD = (get_op(name) for name in ("exp", "log", "log1p", "neg", "threshold"))
_LEAKY, _SILU, _SOFTPLUS, _SIGMOID = get_op("leaky_relu"), get_op("silu"), get_op("softplus"), get_op("sigmoid")
_NORMS = (get_op("reduce_l1"), get_op("reduce_l2"))


# --- helpers -----------------------------------------------------------------------------------------------------------------


def number_of(node: Node, index: int) -> float | None:
    """The number that operand `index` is, where broadcasting with it leaves the other operand's shape alone."""
    array = constant_operand(node, index)
    number = None if array is None or array.size != 1 or array.dtype.kind != "f" else float(array.reshape(()))
    return number if number is not None and is_scalar(node, index, number) else None


def _either(node: Node) -> Iterator[tuple[int, Value, Value]]:
    """The two operands in both orders, with the position of the first."""
    for index in (0, 1):
        a, b = node.inputs[index], node.inputs[1 - index]
        if a is not None and b is not None:
            yield index, a, b


def _made_alone(graph: Graph, value: Value | None, reader: Node, *ops: Any) -> Node | None:
    """The node of one of these ops that makes `value`, which `reader` alone reads."""
    maker = None if value is None else value.producer
    if value is None or maker is None or maker.op not in ops or only_user(graph, value) is not reader or own_scale(maker):
        return None
    return maker


def _become(
    graph: Graph, node: Node, op: Any, inputs: Sequence[Value | None], parts: Sequence[Node], **attributes: Any
) -> bool:
    """`node` becomes `op` of `inputs`, and the parts, which only it read, go."""
    others = sorted({part for part in parts if part is not node}, key=lambda part: part._order, reverse=True)
    constants = [value for part in (node, *others) for value in part.operands if value.is_parameter]
    absorb_origin(graph, node, *others)
    morph(node, op, inputs, attributes)
    for part in others:
        graph.erase(part)
    drop_unused(graph, *constants)
    return True


# --- bounds ------------------------------------------------------------------------------------------------------------------


@rule(elementwise.maximum, elementwise.minimum)
def bound_by_a_number(graph: Graph, node: Node) -> bool:
    """The maximum or minimum of `x` and a finite number is a clamp."""
    number = number_of(node, 1)
    if number is None or not math.isfinite(number) or own_scale(node):
        return False
    ends = {"min": number} if node.op is elementwise.maximum else {"max": number}
    return _become(graph, node, activation.clamp, [node.inputs[0]], [], **ends)


@rule(_THRESHOLD)
def threshold_to_relu(graph: Graph, node: Node) -> bool:
    """A threshold at 0 with the value 0 is `relu`."""
    if node.attributes["bound"] != 0.0 or node.attributes["value"] != 0.0:
        return False
    morph(node, activation.relu, node.inputs)
    return True


@rule(elementwise.maximum)
def leaky_maximum(graph: Graph, node: Node) -> bool:
    """The maximum of `x` and `x * a`, with `a` between 0 and 1, is `leaky_relu`."""
    for _, x, scaled in _either(node):
        product = _made_alone(graph, scaled, node, elementwise.mul)
        slope = None if product is None else number_of(product, 1)
        if product is not None and product.inputs[0] is x and slope is not None and 0.0 < slope < 1.0 and not own_scale(node):
            return _become(graph, node, _LEAKY, [x], [product], slope=slope)
    return False


@rule(_WHERE)
def chosen_by_sign(graph: Graph, node: Node) -> bool:
    """`where(x > 0, x, x * a)` is `leaky_relu`, and with 0 in the place of the product `relu`."""
    condition, x, other = node.inputs
    asked = _made_alone(graph, condition, node, _GREATER, _GREATER_EQUAL)
    if asked is None or x is None or asked.inputs[0] is not x or number_of(asked, 1) != 0.0 or own_scale(node):
        return False
    zero = constant_operand(node, 2)
    if zero is not None:
        if zero.size != 1 or zero.ndim > (x.type.rank or 0) or float(zero.reshape(())) != 0.0:
            return False
        return _become(graph, node, activation.relu, [x], [asked])
    product = _made_alone(graph, other, node, elementwise.mul)
    slope = None if product is None else number_of(product, 1)
    if product is None or product.inputs[0] is not x or slope is None:
        return False
    return _become(graph, node, _LEAKY, [x], [asked, product], slope=slope)


# --- powers and exponentials ---------------------------------------------------------------------------------------------------

_ROOTS = {0.5: _SQRT, -0.5: _RSQRT, -1.0: _RECIPROCAL}


@rule(_POW)
def power_to_root(graph: Graph, node: Node) -> bool:
    """Powers of 0.5, -0.5 and -1 are `sqrt`, `rsqrt` and `reciprocal` (the last bit may differ)."""
    op = _ROOTS.get(node.attributes["exponent"])
    return op is not None and not own_scale(node) and _become(graph, node, op, node.inputs, [])


@rule(elementwise.div)
def one_over(graph: Graph, node: Node) -> bool:
    """`1 / x` is `reciprocal`."""
    if number_of(node, 0) != 1.0 or own_scale(node):
        return False
    return _become(graph, node, _RECIPROCAL, [node.inputs[1]], [])


@rule(_RECIPROCAL)
def one_over_root(graph: Graph, node: Node) -> bool:
    """`1 / sqrt(x)` is `rsqrt`, where nothing else reads the root (the last bit may differ)."""
    root = sole_producer(graph, node, _SQRT)
    return root is not None and not own_scale(node) and _become(graph, node, _RSQRT, root.inputs, [root])


def _one_plus_exp(graph: Graph, value: Value | None, reader: Node) -> tuple[Value, list[Node]] | None:
    """x and the nodes of `1 + exp(x)`, which `reader` alone reads."""
    total = _made_alone(graph, value, reader, elementwise.add)
    raised = None if total is None or number_of(total, 1) != 1.0 else sole_producer(graph, total, _EXP)
    x = None if raised is None else raised.inputs[0]
    return None if total is None or raised is None or x is None else (x, [raised, total])


def _logistic(graph: Graph, value: Value | None, reader: Node) -> tuple[Value, list[Node]] | None:
    """x and the nodes of `1 + exp(-x)`, which `reader` alone reads."""
    found = _one_plus_exp(graph, value, reader)
    if found is None:
        return None
    negative = _made_alone(graph, found[0], found[1][0], _NEG)
    x = None if negative is None else negative.inputs[0]
    return None if negative is None or x is None else (x, [negative, *found[1]])


@rule(_RECIPROCAL)
def spelled_out_sigmoid(graph: Graph, node: Node) -> bool:
    """`1 / (1 + exp(-x))` is `sigmoid` (the last bits may differ; it never overflows)."""
    found = None if own_scale(node) else _logistic(graph, node.inputs[0], node)
    return found is not None and _become(graph, node, _SIGMOID, [found[0]], found[1])


@rule(elementwise.div)
def spelled_out_silu(graph: Graph, node: Node) -> bool:
    """`x / (1 + exp(-x))` is `silu` (the last bits may differ; it never overflows)."""
    found = None if own_scale(node) else _logistic(graph, node.inputs[1], node)
    if found is None or found[0] is not node.inputs[0]:
        return False
    return _become(graph, node, _SILU, [found[0]], found[1])


@rule(_LOG, _LOG1P)
def spelled_out_softplus(graph: Graph, node: Node) -> bool:
    """`log(1 + exp(x))` is `softplus` (the last bits may differ; it never overflows)."""
    if own_scale(node):
        return False
    if node.op is _LOG1P:
        raised = sole_producer(graph, node, _EXP)
        return raised is not None and _become(graph, node, _SOFTPLUS, raised.inputs, [raised])
    found = _one_plus_exp(graph, node.inputs[0], node)
    return found is not None and _become(graph, node, _SOFTPLUS, [found[0]], found[1])


# --- reductions ----------------------------------------------------------------------------------------------------------------

_KEPT = (reduction.mean, reduction.sum_, reduction.reduce_max, reduction.reduce_min)


@rule(reduction.mean, reduction.reduce_max)
def join_reductions(graph: Graph, node: Node) -> bool:
    """A mean of a mean (a maximum of a maximum) over other axes, which nothing else reads, is one over all of them (sums may be rounded in
    another order)."""
    inner = sole_producer(graph, node, node.op)
    x = None if inner is None else inner.inputs[0]
    if inner is None or x is None or x.type.rank is None or own_scale(node):
        return False
    keep = bool(inner.attributes["keepdims"])
    first, second = ([int(axis) for axis in each.attributes["axes"]] for each in (inner, node))
    if not first or not second or keep is not bool(node.attributes["keepdims"]):
        return False
    first = [axis % x.type.rank for axis in first]
    left = list(range(x.type.rank)) if keep else [axis for axis in range(x.type.rank) if axis not in first]
    second = [left[axis % len(left)] for axis in second]
    if set(first) & set(second):
        return False
    return _become(graph, node, node.op, [x], [inner], axes=tuple(sorted((*first, *second))), keepdims=keep)


@rule(reduction.mean, reduction.reduce_max)
def reduce_image_not_rows(graph: Graph, node: Node) -> bool:
    """A mean or maximum over the last axis of `[N,C,H*W]`, which is `[N,C,H,W]` reshaped, is one over height and width (sums may be rounded
    in another order)."""
    inner = sole_producer(graph, node, layout.reshape)
    x = None if inner is None else inner.inputs[0]
    flat = None if inner is None else inner.result.shape
    if inner is None or x is None or x.shape is None or flat is None or node.attributes["keepdims"] or own_scale(node):
        return False
    if len(x.shape) != 4 or len(flat) != 3 or None in x.shape or flat[:2] != x.shape[:2]:
        return False
    if [axis % 3 for axis in node.attributes["axes"]] != [2]:
        return False
    return _become(graph, node, node.op, [x], [inner], axes=(2, 3), keepdims=False)


@rule(layout.reshape)
def keep_reduced_axes(graph: Graph, node: Node) -> bool:
    """A reshape that puts back the axes that a reduction took, where nothing else reads that, is the reduction that keeps them."""
    inner = next((found for op in _KEPT if (found := sole_producer(graph, node, op)) is not None), None)
    x = None if inner is None else inner.inputs[0]
    if inner is None or x is None or x.shape is None or inner.attributes["keepdims"] or own_scale(node):
        return False
    axes = {axis % len(x.shape) for axis in inner.attributes["axes"]}
    kept = tuple(1 if axis in axes else size for axis, size in enumerate(x.shape))
    if not axes or node.result.shape != kept:
        return False
    return _become(graph, node, inner.op, [x], [inner], axes=tuple(sorted(axes)), keepdims=True)


@rule(reduction.reduce_max)
def maximum_to_pool(graph: Graph, node: Node) -> bool:
    """A maximum over height and width that keeps the axes is `adaptive_max_pool2d {output_size=[1,1]}`."""
    x = node.inputs[0]
    if x is None or x.type.rank != 4 or not x.type.dtype.is_float or not node.attributes["keepdims"]:
        return False
    if sorted(axis % 4 for axis in node.attributes["axes"]) != [2, 3]:
        return False
    morph(node, pooling.adaptive_max_pool2d, [x], {"output_size": (1, 1)})
    return True


# --- norms ---------------------------------------------------------------------------------------------------------------------


@rule(elementwise.div)
def spelled_out_normalize(graph: Graph, node: Node) -> bool:
    """`x / max(norm(x), eps)`, the norm spread over the shape of `x` or not, is `lp_normalize`."""
    x, size = node.inputs
    spread = _made_alone(graph, size, node, layout.expand)
    bound = _made_alone(graph, size if spread is None else spread.inputs[0], spread or node, activation.clamp)
    norm = None if bound is None else _made_alone(graph, bound.inputs[0], bound, *_NORMS)
    if bound is None or norm is None or x is None or norm.inputs[0] is not x or own_scale(node):
        return False
    if not norm.attributes["keepdims"] or bound.attributes["max"] is not None or x.type.rank is None:
        return False
    axes = tuple(norm.attributes["axes"]) or tuple(range(x.type.rank))
    parts = [part for part in (norm, bound, spread) if part is not None]
    order = 1 + _NORMS.index(norm.op)
    return _become(graph, node, "lp_normalize", [x], parts, axes=axes, p=order, eps=float(bound.attributes["min"] or 0.0))


@rule(elementwise.add, elementwise.mul, elementwise.div)
def spelled_out_layer_norm(graph: Graph, node: Node) -> bool:
    """`(x - mean) / sqrt(mean((x - mean)^2) + eps)` over the last axes, times a weight and plus a bias where they are, is `layer_norm`."""
    parts: list[Node] = [node]
    bias = _constant_of(node) if node.op is elementwise.add else None
    core = node if bias is None else _inner(graph, node, elementwise.mul, elementwise.div)
    if core is None or (node.op is elementwise.add and bias is None):
        return False
    weight = _constant_of(core) if core.op is elementwise.mul else None
    quotient = core if weight is None else _inner(graph, core, elementwise.mul, elementwise.div)
    found = None if quotient is None else _standardized(quotient)
    if quotient is None or found is None:
        return False
    x, axes, eps, inside = found
    parts += [core, quotient, *inside]
    normalized = (x.shape or ())[len(x.shape or ()) - len(axes) :]
    if any(value is not None and value.shape != normalized for value in (weight, bias)) or _is_read_on(graph, node, normalized):
        return False
    own = set(parts)
    for part in own - {node}:
        if own_scale(part) or graph.is_output(part.result) or any(user not in own for user in part.result.users):
            return False
    return _become(graph, node, "layer_norm", [x, weight, bias], parts, normalized_ndim=len(axes), eps=eps)


def _constant_of(node: Node) -> Value | None:
    """The one operand that is a constant of more than one number."""
    found = [
        value
        for index, value in enumerate(node.inputs)
        if value is not None and (array := constant_operand(node, index)) is not None and array.ndim
    ]
    return found[0] if len(found) == 1 else None


def _inner(graph: Graph, node: Node, *ops: Any) -> Node | None:
    """The node of one of these ops behind the operand that is no constant."""
    return next((made for value in node.inputs if (made := _made_alone(graph, value, node, *ops)) is not None), None)


def _is_read_on(graph: Graph, node: Node, normalized: tuple[int | None, ...]) -> bool:
    """True where a weight or bias follows, whose node will read the whole."""
    following = None if node.op is elementwise.add else only_user(graph, node.result)
    if following is None or following.op not in (elementwise.add, elementwise.mul):
        return False
    constant = _constant_of(following)
    ends = node.op is elementwise.mul and _constant_of(node) is not None  # a weight is there
    return constant is not None and constant.shape == normalized and (following.op is elementwise.add or not ends)


def _standardized(quotient: Node) -> tuple[Value, tuple[int, ...], float, list[Node]] | None:
    """x, the axes, eps and the nodes of `(x - mean) / sqrt(variance + eps)`, or with `* rsqrt(...)`, over the last axes."""
    for _, top, bottom in _either(quotient):
        centred, root = top.producer, bottom.producer
        wanted = _SQRT if quotient.op is elementwise.div else _RSQRT
        if (
            centred is None
            or root is None
            or root.op is not wanted
            or (quotient.op is elementwise.div and quotient.inputs[0] is not top)
        ):
            continue
        shifted = root.inputs[0].producer if root.inputs[0] is not None else None
        eps = None if shifted is None or shifted.op is not elementwise.add else number_of(shifted, 1)
        variance = None if shifted is None or shifted.inputs[0] is None else shifted.inputs[0].producer
        mean = _distance(centred)
        square = None if variance is None or variance.inputs[0] is None else variance.inputs[0].producer
        base = None if square is None else _squared(square)
        if eps is None or shifted is None or variance is None or square is None or mean is None or base is None:
            continue
        again = _distance(base)
        x = centred.inputs[0]
        if again is None or x is None or base.inputs[0] is not x or variance.op is not reduction.mean:
            continue
        axes = [_last_axes(each, x) for each in (mean, again)]
        over = tuple(sorted(axis % (x.type.rank or 1) for axis in variance.attributes["axes"]))
        if axes[0] is None or axes[0] != axes[1] or over != axes[0] or not variance.attributes["keepdims"]:
            continue
        return x, axes[0], eps, [root, shifted, variance, square, centred, mean, base, again]
    return None


def _distance(node: Node) -> Node | None:
    """The mean of x that `x - mean` is made with."""
    x, mean = (node.inputs[0], node.inputs[1]) if node.op is elementwise.sub else (None, None)
    maker = None if mean is None else mean.producer
    return maker if maker is not None and maker.op is reduction.mean and maker.inputs[0] is x else None


def _squared(node: Node) -> Node | None:
    """The node whose square `node` is."""
    twice = node.op is elementwise.mul and node.inputs[0] is node.inputs[1]
    power = node.op is _POW and node.attributes["exponent"] == 2.0
    return node.inputs[0].producer if (twice or power) and node.inputs[0] is not None else None


def _last_axes(mean: Node, x: Value) -> tuple[int, ...] | None:
    """The axes of a mean that keeps them, where they are the last ones of `x`."""
    rank = x.type.rank
    if rank is None or not mean.attributes["keepdims"] or not mean.attributes["axes"]:
        return None
    axes = tuple(sorted(int(axis) % rank for axis in mean.attributes["axes"]))
    return axes if axes == tuple(range(rank - len(axes), rank)) else None
