"""The rewrites of `canonicalize` that deal with how operations follow each other: changes of layout, means, and products with constants.

As in `canonical_rules`, one function each, whose docstring is the rule as documentation shows it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hqc.ir import Graph, Node, Trait, Value
from hqc.ir.ops import conv, layout, pooling, reduction
from hqc.passes.canonical_rules import constant_operand, own_scale, rule, sole_producer
from hqc.passes.lower_to_integer.acceptance import STANDS_FOR_INFINITY
from hqc.passes.rewrite import absorb_origin, drop_unused, morph, only_user


class Earlier:
    """The nodes that one run of the pass has met, by what two equal ones have in common.

    A value that is cut into windows has thousands of readers: each would look at all others.
    """

    def __init__(self) -> None:
        self._met: dict[Any, dict[Node, None]] = {}

    def like(self, node: Node) -> list[Node]:
        """The nodes met before that may equal `node`, in the order in which they were met; `node` itself is met from now on."""
        key = node.op.name, tuple(map(_operand, node.inputs)), _hashable(node.attributes)
        met = self._met.setdefault(key, {})
        found = list(met)
        met[node] = None
        return found


def _operand(value: Value | None) -> Any:
    """The same for what `_are_equal` takes for one operand."""
    if value is None or value.array is None or not _is_number(value):
        return None if value is None else value.name
    return value.type.dtype, value.shape, value.array.tobytes()


def _hashable(attribute: Any) -> Any:
    """Equal for equal attributes; what cannot be hashed counts by its type."""
    if isinstance(attribute, dict):
        return tuple(sorted((key, _hashable(item)) for key, item in attribute.items()))
    if isinstance(attribute, (tuple, list)):
        return tuple(map(_hashable, attribute))
    try:
        hash(attribute)
    except TypeError:
        return type(attribute)
    return attribute


@rule()
def share_equal(graph: Graph, node: Node, earlier: Earlier | None = None) -> bool:
    """What one module computes twice from the same values is computed once, and so is what several modules do that moves elements or has
    several operands (exporters share it too); layers, dropouts and calls that the IR does not look into stay as they are."""
    if not node.inputs or any(node.op.has(trait) for trait in _KEPT_APART) or node.support is not None or own_scale(node):
        return False
    if any(map(graph.is_output, node.results)):
        return False  # every output keeps a node of its own
    if node.origin not in ((), (node.name,)):
        return False  # a step of one call
    operands = [value for value in node.operands if not value.is_parameter]
    uses = min((value._uses for value in operands), key=len, default={})
    met = [] if earlier is None else earlier.like(node)
    for first in met if len(uses) > _FEW and earlier is not None else [user for user, _ in uses.values()]:
        if first is not node and first.graph is graph and first._order < node._order and _are_equal(first, node):
            first.origin = tuple(dict.fromkeys((*(node.origin or (node.name,)), *(first.origin or (first.name,)))))
            for name in node.origin or (node.name,):
                graph.locations.setdefault(name, node.loc)
            for old, new in zip(node.results, first.results, strict=True):
                graph.replace_uses(old, new)
            graph.erase(node)
            return True
    return False


_FEW = 16  # readers that are looked at one by one, as they are now
_KEPT_APART = (Trait.WEIGHTED, Trait.TRAINING, Trait.REMOVED, Trait.OPAQUE, Trait.BOUNDARY, Trait.INTEGER)


def _are_equal(first: Node, second: Node) -> bool:
    """True for one operation with the same operands; constants are the same by their bits."""
    if first.op is not second.op or first.attributes != second.attributes:
        return False
    if first.loc.module != second.loc.module and len(first.inputs) < 2 and not first.op.has(Trait.LAYOUT_ONLY):
        return False  # the activation of a module may have settings of its own
    if (
        len(first.inputs) != len(second.inputs)
        or first.support is not None
        or own_scale(first)
        or first.request != second.request
    ):
        return False
    # A third one joins the two that were joined before it: the model that is written from a graph has them as one, and is read again.
    if first.origin[-1:] not in ((), (first.name,)):
        return False  # a step of one call
    return all(a is b or _same_constant(a, b) for a, b in zip(first.inputs, second.inputs, strict=True))


def _same_constant(a: Value | None, b: Value | None) -> bool:
    """Small constants of equal bits: those that a call holds (`x + 3`) are a parameter for each call."""
    if a is None or b is None or not (a.is_parameter and b.is_parameter) or a.array is None or b.array is None:
        return False
    same = a.type == b.type and _is_number(a) and _is_number(b)
    return same and a.array.tobytes() == b.array.tobytes()


def _is_number(constant: Value) -> bool:
    return constant.quant is None and constant.array is not None and constant.array.size == 1


@rule(layout.reshape)
def join_reshapes(graph: Graph, node: Node) -> bool:
    """A reshape of a reshape that nothing else reads is one reshape."""
    inner = sole_producer(graph, node, layout.reshape)
    if inner is None:
        return False
    target, middle = node.attributes["shape"], inner.attributes["shape"]
    # 0 copies a size of the operand: fine where the inner reshape copied the same one.
    if any(size == 0 and not (index < len(middle) and middle[index] == 0) for index, size in enumerate(target)):
        return False
    absorb_origin(graph, node, inner)
    node.set_input(0, inner.inputs[0])
    graph.erase(inner)
    return True


@rule(layout.transpose)
def join_transposes(graph: Graph, node: Node) -> bool:
    """A transpose of a transpose that nothing else reads is one transpose."""
    inner = sole_producer(graph, node, layout.transpose)
    if inner is None:
        return False
    first, second = inner.attributes["perm"], node.attributes["perm"]
    absorb_origin(graph, node, inner)
    morph(node, layout.transpose, [inner.inputs[0]], {"perm": [first[axis] for axis in second]})
    graph.erase(inner)
    return True


@rule(layout.transpose)
def softmax_between_transposes(graph: Graph, node: Node) -> bool:
    """A softmax between a transpose and its inverse, which only they read, is the softmax along that axis (sums may be rounded in another
    order)."""
    for op in (reduction.softmax, reduction.log_softmax):
        inner = sole_producer(graph, node, op)
        before = None if inner is None else sole_producer(graph, inner, layout.transpose)
        if inner is None or before is None:
            continue
        first, second = before.attributes["perm"], node.attributes["perm"]
        if [first[axis] for axis in second] != list(range(len(first))):
            return False
        absorb_origin(graph, node, inner, before)
        morph(node, op, [before.inputs[0]], {"axis": first[inner.attributes["axis"]]})
        graph.erase(inner)
        graph.erase(before)
        return True
    return False


@rule(reduction.mean)
def mean_to_pool(graph: Graph, node: Node) -> bool:
    """A mean over height and width that keeps the axes is `adaptive_avg_pool2d {output_size=[1,1]}` (so where the rank is unknown)."""
    x = node.inputs[0]
    if x is None or x.type.rank not in (None, 4) or not node.attributes["keepdims"]:
        return False
    if sorted(axis % 4 for axis in node.attributes["axes"]) != [2, 3]:
        return False
    morph(node, pooling.adaptive_avg_pool2d, [x], {"output_size": (1, 1)})
    return True


@rule(layout.transpose)
def transposed_product(graph: Graph, node: Node) -> bool:
    """`(w @ x.T).T` with a constant matrix `w` is `linear` of `x`, where nothing else reads what lies between."""
    product = sole_producer(graph, node, conv.matmul)
    matrix = None if product is None else constant_operand(product, 0)
    data = None if product is None else product.inputs[1]
    before = None if data is None else data.producer
    if (
        product is None
        or matrix is None
        or matrix.ndim != 2
        or data is None
        or before is None
        or before.op is not layout.transpose
    ):
        return False
    if not (_swaps_last_axes(node) and _swaps_last_axes(before)) or only_user(graph, data) is not product or own_scale(before):
        return False
    absorb_origin(graph, node, product, before)
    morph(node, conv.linear, [before.inputs[0], product.inputs[0]])
    graph.erase(product)
    graph.erase(before)
    return True


def _swaps_last_axes(node: Node) -> bool:
    perm = list(node.attributes["perm"])
    return len(perm) >= 2 and perm == [*range(len(perm) - 2), len(perm) - 1, len(perm) - 2]


@rule(conv.matmul)
def matmul_to_linear(graph: Graph, node: Node) -> bool:
    """A product with a constant matrix on the right is `linear` (sums may be rounded in another order)."""
    x, matrix = node.inputs[0], constant_operand(node, 1)
    if x is None or x.is_parameter or matrix is None or matrix.ndim != 2:
        return False
    old = node.inputs[1]
    assert old is not None
    weight = graph.add_parameter(f"{old.name}_transposed", np.ascontiguousarray(matrix.T), of=[old])
    morph(node, conv.linear, [x, weight])
    drop_unused(graph, old)
    return True


@rule(pooling.max_pool2d)
def pool_of_padding(graph: Graph, node: Node) -> bool:
    """A max pool of what was padded with minus infinity (or a number that stands for it, such as -1e4 or the smallest float), which
    nothing else reads, is a max pool with padding, which counts as that.
    """
    image = _image_of_row(graph, node)
    inner = sole_producer(graph, image or node, layout.pad)
    if inner is None or inner.attributes["mode"] != "constant" or inner.attributes["value"] > -STANDS_FOR_INFINITY:
        return False
    rank, height = len(inner.attributes["pads"]) // 2, [] if image is None else [0]
    before, after = inner.attributes["pads"][:rank], inner.attributes["pads"][rank:]
    added = (*height, *before[2:], *height, *after[2:])
    reach = [(size - 1) * step for size, step in zip(node.attributes["kernel"], node.attributes["dilation"], strict=True)]
    padding = [old + new for old, new in zip(node.attributes["padding"], added, strict=True)]
    within = all(new >= 0 and total <= reach[axis % 2] for axis, (new, total) in enumerate(zip(added, padding, strict=True)))
    # In ceil mode, a last window that starts in the padding counts in a pad only; no window may hold nothing but padding.
    if not within or any((*before[:2], *after[:2])) or node.attributes["ceil_mode"]:
        return False
    absorb_origin(graph, node, inner)
    source = inner.inputs[0]
    if image is not None and source is not None and source.shape is not None:
        shape = {"shape": [0, source.shape[1], 1, source.shape[2]]}
        source = graph.add_node(layout.reshape, [source], shape, loc=image.loc, origin=image.origin, before=node).result
    morph(node, pooling.max_pool2d, [source], {**node.attributes, "padding": padding})
    if image is not None:
        name = image.name
        graph.erase(image)
        graph.rename(node.operands[0], name)
    graph.erase(inner)
    return True


def _image_of_row(graph: Graph, node: Node) -> Node | None:
    """The reshape of `[N,C,L]` to `[N,C,1,L]` that `node` alone reads."""
    image = sole_producer(graph, node, layout.reshape)
    row = None if image is None else image.operands[0].shape
    return image if row is not None and len(row) == 3 and node.operands[0].shape == (*row[:2], 1, row[2]) else None
