"""Operations that exporters write as several nodes, read back as the one operation of the IR that torch's models have.

Each pattern is a function of the graph and the last node of the spelling; the result keeps that node's name and place. What canonicalize
does for every front end (SiLU, hardswish, GELU) is not here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from hqc.ir import Graph, Node, Value

Array = npt.NDArray[Any]
Pattern = Callable[[Graph, Node], bool]
_PATTERNS: dict[str, list[Pattern]] = {}


def read_patterns(graph: Graph) -> None:
    """Read the patterns in `graph`, in place."""
    for node in list(graph.nodes):
        patterns = _PATTERNS.get(node.op.name, ())
        if not patterns or node.graph is not graph:
            continue
        name, sources = node.name, node.producers
        beside = [user for value in node.data_operands for user in value.users]
        if any(pattern(graph, node) for pattern in patterns):
            _keep_names(graph, name, node, sources, beside)
    graph.remove_dead_code()


def _keep_names(graph: Graph, name: str, node: Node, sources: list[Node], beside: list[Node]) -> None:
    """The operation called `name` can be called by the names of all that were read as one with it: `node`, what only it read (behind
    `sources`), and what went of `beside`."""
    new = graph.value(name).producer
    assert new is not None
    gone = {node: None, **{each: None for each in beside if each.graph is not graph}}
    waiting = list(sources)
    while waiting:
        each = waiting.pop()
        read = each.graph is graph and any(user not in gone for user in each.users)
        if each in gone or each is new or read or any(graph.is_output(result) for result in each.results):
            continue
        gone[each] = None
        waiting += each.producers
    names = (label for each in gone for label in (each.loc.label, *each.loc.also))
    also = tuple(dict.fromkeys(label for label in names if label and label != new.loc.label))
    new.loc = replace(new.loc, also=(*new.loc.also, *also))


def _reads(*ops: str) -> Callable[[Pattern], Pattern]:
    def register(pattern: Pattern) -> Pattern:
        for op in ops:
            _PATTERNS.setdefault(op, []).append(pattern)
        return pattern

    return register


# --- looking around -----------------------------------------------------------------------------------------------------------


def _constant(value: Value | None) -> Array | None:
    return None if value is None or not value.is_parameter else value.array


def _scalar(value: Value | None) -> float | None:
    array = _constant(value)
    return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None


def _maker(value: Value | None, op: str, *, alone: bool = True) -> Node | None:
    """The node of this op that makes `value`; with `alone`, only where nothing else reads it."""
    node = None if value is None else value.producer
    if value is None or node is None or node.op.name != op:
        return None
    graph = node.graph
    if alone and (len(value.users) != 1 or graph is None or graph.is_output(value)):
        return None
    return node


def _either(node: Node) -> Iterator[tuple[Value, Value]]:
    """The two operands, in both orders."""
    a, b = node.operands
    yield a, b
    yield b, a


def _spell(graph: Graph, node: Node, op: str, inputs: list[Value | None], **attributes: Any) -> None:
    """`op` in the place of `node`, under its name."""
    name = node.name
    graph.rename(node.result, graph.unique_name(f"{name}_spelled"))
    new = graph.add_node(op, inputs, attributes, name=name, loc=node.loc, origin=(name,), before=node)
    graph.replace_uses(node.result, new.result)
    graph.erase(node)


# --- the patterns ---------------------------------------------------------------------------------------------------------------


@_reads("add")
def bias(graph: Graph, node: Node) -> bool:
    """`MatMul(x, W) + b` is a linear layer with a bias."""
    for product, addend in _either(node):
        layer, vector = _maker(product, "linear"), _constant(addend)
        if layer is None or vector is None or layer.operand("bias") is not None or vector.ndim == 0:
            continue
        outputs = layer.result.shape[-1] if layer.result.shape else 0
        if vector.shape[-1] == vector.size == outputs and node.result.shape == layer.result.shape:
            flat = (
                addend
                if vector.ndim == 1
                else graph.add_parameter(graph.unique_name(f"{addend.name}_bias"), vector.reshape(-1))
            )
            _spell(graph, node, "linear", [layer.operand("x"), layer.operand("weight"), flat])
            return True
    return False


@_reads("add")
def normalization_of_tensorflow(graph: Graph, node: Node) -> bool:
    """`x * s + (beta - mean * s)` with `s = gamma / sqrt(variance + eps)`, as TensorFlow writes a layer norm over the last axis."""
    for scaled, rest in _either(node):
        product, shift = _maker(scaled, "mul"), _maker(rest, "add")
        if product is None or shift is None:
            continue
        for (x, gain), (minus, beta) in itertools.product(_either(product), _either(shift)):
            found = _of_tensorflow(x, gain, minus)
            size = x.shape[-1] if x.shape else None
            if found is None or _constant(beta) is None or node.result.shape != x.shape:
                continue
            vectors = [_constant(value) for value in (found[0], beta)]
            if any(array is None or array.size != size or array.shape[-1:] != (size,) for array in vectors):
                continue
            flat = [
                graph.add_parameter(graph.unique_name(f"{value.name}_vector"), array.reshape(-1))
                for value, array in zip((found[0], beta), vectors, strict=True)
                if array is not None
            ]
            _spell(graph, node, "layer_norm", [x, *flat], normalized_ndim=1, eps=found[1])
            return True
    return False


def _of_tensorflow(x: Value, gain: Value, minus: Value) -> tuple[Value, float] | None:
    """gamma and eps where `gain` is `gamma / sqrt(variance + eps)` and `minus` is `-mean * gain`, of `x` over its last axis."""
    made, negative = _maker(gain, "mul", alone=False), _maker(minus, "mul")
    if made is None or negative is None or gain not in negative.operands:
        return None
    opposite = next((value for value in negative.operands if value is not gain), None)
    neg = _maker(opposite, "neg")
    if neg is None or _mean_over_last(neg.operands[0]) is not x:
        return None
    for inverse, gamma in _either(made):
        reciprocal = _maker(inverse, "reciprocal")
        root = _maker(inverse, "rsqrt") if reciprocal is None else _maker(reciprocal.operands[0], "sqrt")
        total = None if root is None else _maker(root.operands[0], "add")
        for variance, eps in () if total is None else _either(total):
            number, square = _scalar(eps), _mean_over_last(variance)
            power = None if square is None else _maker(square, "mul")
            centred = None if power is None or power.operands[0] is not power.operands[1] else power.operands[0].producer
            differs = centred is None or centred.op.name != "sub" or centred.operands != [x, neg.operands[0]]
            if number is not None and not differs:
                return gamma, number
    return None


def _mean_over_last(value: Value) -> Value | None:
    """What `value` is the mean of over the last axis, which stays; TensorFlow's exporter writes it as a global pool of rows."""
    node = value.producer
    if node is None:
        return None
    if node.op.name == "mean":
        x, a = node.operands[0], node.attributes
        rank = len(x.shape or ())
        return x if a["keepdims"] and [axis % max(1, rank) for axis in a["axes"]] == [rank - 1] else None
    pool = _maker(value if node.op.name != "reshape" else node.operands[0], "adaptive_avg_pool2d")
    image = None if pool is None else _maker(pool.operands[0], "reshape")
    if pool is None or image is None or node.op.name != "reshape" or len(image.operands[0].shape or ()) != 3:
        return None
    x = image.operands[0]
    batch, channels, length = x.shape or ()
    rows = tuple(pool.attributes["output_size"]) == (1, 1) and image.result.shape == (batch, channels, 1, length)
    return x if rows and value.shape == (batch, channels, 1) else None


@_reads("div")
def corrected_variance(graph: Graph, node: Node) -> bool:
    """`mean(...) * n / (n - 1)`, as exporters correct a variance, is one product."""
    whole, less = _maker(node.operands[0], "mul"), _scalar(node.operands[1])
    if whole is None or not less:
        return False
    for average, number in _either(whole):
        count = _scalar(number)
        if _maker(average, "mean") is not None and count is not None:
            name = graph.unique_name(f"{node.name}_correction")
            factor = graph.add_parameter(name, np.array(count / less, np.float32))
            _spell(graph, node, "mul", [average, factor])
            return True
    return False


@_reads("matmul")
def attention_scale(graph: Graph, node: Node) -> bool:
    """`(q * s) (k * s)^T`, as exporters write scaled attention, is `(q k^T) * s^2`."""
    left, right = (_maker(value, "mul") for value in node.operands)
    if left is None or right is None:
        return False
    factors = [[(a, _scalar(b)) for a, b in _either(product) if _scalar(b) is not None] for product in (left, right)]
    if any(len(found) != 1 for found in factors):
        return False
    ((q, first),), ((k, second),) = factors
    if first is None or first != second or first <= 0:
        return False
    name = node.name
    scores = graph.add_node(
        "matmul", [q, k], name=graph.unique_name(f"{name}_scores"), loc=node.loc, origin=(f"{name}_scores",), before=node
    )
    factor = graph.add_parameter(graph.unique_name(f"{name}_scale"), np.array(first**2, np.float32))
    _spell(graph, node, "mul", [scores.result, factor])
    return True


@_reads("reshape")
def rows_of_attention(graph: Graph, node: Node) -> bool:
    """A linear layer of rows, `[L * B, E]`, between the product of attention, moved to sequences first, and `[L, B, E]` again, as torch
    writes the last projection, is one of `[L, B, E]`."""
    layer = _maker(node.operands[0], "linear")
    rows = None if layer is None else _maker(layer.operands[0], "reshape")
    moved = None if rows is None else _maker(rows.operands[0], "transpose")
    shape, width = node.result.shape, None if rows is None or rows.result.shape is None else rows.result.shape[-1]
    if layer is None or rows is None or moved is None or _maker(moved.operands[0], "matmul") is None or not shape:
        return False
    before = moved.result.shape
    if layer.result.shape is None or len(layer.result.shape) != 2 or len(shape) not in (2, 3) or before is None:
        return False
    if shape[-1] != layer.result.shape[-1] or before[0] != shape[0] or width is None:
        return False
    if [user.result.shape for user in node.users if user.op.name == "reshape"] == [layer.result.shape]:
        return False  # one sample without a batch
    name = graph.unique_name(f"{node.name}_rows")
    flat = graph.add_node(
        "reshape", [moved.result], {"shape": (*shape[:-1], width)}, name=name, loc=rows.loc, origin=(name,), before=node
    )
    _spell(graph, node, "linear", [flat.result, *layer.inputs[1:]], **layer.attributes)
    return True


@_reads("transpose")
def samples_first(graph: Graph, node: Node) -> bool:
    """What attention with samples first moves behind its last projection is moved before it."""
    layer = _maker(node.operands[0], "linear")
    merged = None if layer is None else _maker(layer.operands[0], "reshape")
    moved = None if merged is None else _maker(merged.operands[0], "transpose")
    if layer is None or merged is None or moved is None or node.attributes["perm"] != (1, 0, 2):
        return False
    product, sizes = moved.operands[0], layer.operands[0].shape
    if _maker(product, "matmul") is None or product.shape is None or sizes is None or len(sizes) != 3:
        return False
    length, samples, width = sizes
    size = product.shape[-1]
    heads = width // size
    apart = (samples, heads, length, size)
    if moved.attributes["perm"] not in ((2, 0, 1, 3), (1, 0, 2)) or math.prod(product.shape) != math.prod(apart):
        return False
    loc, name = moved.loc, node.name
    if product.shape != apart:
        if product.shape != (samples * heads, length, size):
            return False
        of_heads = graph.unique_name(f"{name}_heads")
        product = graph.add_node(
            "reshape", [product], {"shape": apart}, name=of_heads, loc=loc, origin=(of_heads,), before=node
        ).result
    names = [graph.unique_name(f"{name}_{what}") for what in ("moved", "merged")]
    moved = graph.add_node(
        "transpose", [product], {"perm": (0, 2, 1, 3)}, name=names[0], loc=loc, origin=(names[0],), before=node
    )
    merged = graph.add_node(
        "reshape", [moved.result], {"shape": (samples, length, width)}, name=names[1], loc=loc, origin=(names[1],), before=node
    )
    _spell(graph, node, "linear", [merged.result, *layer.inputs[1:]], **layer.attributes)
    return True


@_reads("slice")
def packed_projections(graph: Graph, node: Node) -> bool:
    """`x.unflatten(-1, (n, E)).unsqueeze(0).transpose(0, -2).squeeze(-2)[k]`, as attention takes queries, keys and values of what one
    layer projects, is part k of a split of the last axis."""
    packed = node.operands[0]
    behind = _through_reshapes(graph, packed)
    moved = behind.producer
    if (behind is not packed and len(behind.users) != 1) or moved is None or moved.op.name != "transpose" or not packed.shape:
        return False
    before = moved.operands[0]
    x, sizes, parts = _through_reshapes(graph, before), before.shape, list(packed.users)
    if not x.shape or sizes is None or len(sizes) < 3 or (before is not x and len(before.users) != 1):
        return False
    count, width = packed.shape[0], packed.shape[-1]
    if count < 2 or len(parts) != count or packed.shape != (count, *x.shape[:-1], width) or not all(map(_takes_one, parts)):
        return False
    packing = max((axis for axis in range(len(sizes) - 1) if sizes[axis] != 1), default=0)  # the axis of the n parts
    order = [axis for axis in moved.attributes["perm"] if sizes[axis] != 1]
    if (sizes[packing], sizes[-1]) != (count, width) or order != [packing, *(k for k in sorted(order) if k != packing)]:
        return False
    parts.sort(key=lambda part: int(part.attributes["starts"][0]))
    first = min(parts, key=lambda part: part.order)
    names = [graph.unique_name(f"{part.name}_part") for part in parts]
    attributes = {"axis": len(x.shape) - 1, "sizes": (width,) * count}
    split = graph.add_node("split", [x], attributes, name=names, loc=node.loc, origin=(names[0],), before=first)
    for part, result in zip(parts, split.results, strict=True):
        _spell(graph, part, "reshape", [result], shape=part.result.shape)
    return True


def _through_reshapes(graph: Graph, value: Value) -> Value:
    """What `value` is a reshape of, of a reshape of, and so on; nothing else reads what lies between."""
    while value.producer is not None and value.producer.op.name == "reshape" and not graph.is_output(value):
        inner = value.producer.operands[0]
        if len(inner.users) != 1 and inner.producer is not None and inner.producer.op.name == "reshape":
            break
        value = inner
    return value


def _takes_one(part: Node) -> bool:
    """A slice that takes one element along the first axis."""
    a = part.attributes
    return part.op.name == "slice" and a["axes"] == (0,) and a["ends"][0] - a["starts"][0] == 1 and a["starts"][0] >= 0


@_reads("slice")
def chunks(graph: Graph, node: Node) -> bool:
    """Slices that tile an axis are one split, as `chunk`, `split` and `roll` make them."""
    if _joined(graph, node):
        return True
    x = node.operands[0]
    parts = [user for user in x.users if user.op.name == "slice" and len(user.attributes["axes"]) == 1]
    axis = node.attributes["axes"][0] if len(node.attributes["axes"]) == 1 else None
    size = None if axis is None or x.shape is None else x.shape[axis]
    if size is None or len(parts) < 2 or not all(_is_plain(part, axis) for part in parts):
        return False
    parts.sort(key=lambda part: int(part.attributes["starts"][0]))
    bounds = [0, *(min(part.attributes["ends"][0], size) for part in parts)]
    if bounds[-1] != size or [part.attributes["starts"][0] for part in parts] != bounds[:-1]:
        return False
    first = min(parts, key=lambda part: part.order)
    names = [part.name for part in parts]
    for part in parts:
        graph.rename(part.result, graph.unique_name(f"{part.name}_spelled"))
    attributes = {"axis": axis, "sizes": tuple(end - start for start, end in itertools.pairwise(bounds))}
    split = graph.add_node("split", [x], attributes, name=names, loc=node.loc, origin=(names[0],), before=first)
    for part, result in zip(parts, split.results, strict=True):
        graph.replace_uses(part.result, result)
        graph.erase(part)
    return True


def _joined(graph: Graph, node: Node) -> bool:
    """A slice of a slice along other axes is one slice, as `x[:, 0::2, 1::2]` is (exporters share the first step)."""
    inner = _maker(node.operands[0], "slice", alone=False)
    a = node.attributes
    if inner is None or graph.is_output(inner.result) or not set(a["axes"]).isdisjoint(inner.attributes["axes"]):
        return False
    if any(user.op.name != "slice" for user in inner.result.users):
        return False
    both = {name: (*inner.attributes[name], *a[name]) for name in ("axes", "starts", "ends")}
    both["steps"] = tuple(
        step for each in (inner, node) for step in each.attributes["steps"] or (1,) * len(each.attributes["axes"])
    )
    _spell(graph, node, "slice", [inner.operands[0]], **both)
    return True


def _is_plain(part: Node, axis: int | None) -> bool:
    """A slice along `axis` that keeps it: one whose axis goes takes an element, as indexing does."""
    attributes = part.attributes
    steps = attributes["steps"] or (1,)
    taken = attributes["ends"][0] - attributes["starts"][0] == 1 and [user.op.name for user in part.users] == ["reshape"]
    return attributes["axes"][0] == axis and steps[0] == 1 and attributes["starts"][0] >= 0 and not taken


@_reads("transpose")
def softmax_before_opset_13(graph: Graph, node: Node) -> bool:
    """Softmax over another axis than the last, written with a transpose before and one behind: one transpose (or none) before."""
    for op in ("softmax", "log_softmax"):
        inner = _maker(node.operands[0], op)
        before = None if inner is None else _maker(inner.operands[0], "transpose")
        if inner is None or before is None:
            continue
        first, second = before.attributes["perm"], node.attributes["perm"]
        x, perm, name = before.operands[0], [first[axis] for axis in second], inner.name
        axis = second.index(inner.attributes["axis"] % len(second))
        if perm != sorted(perm):
            moved = graph.unique_name(f"{name}_moved")
            x = graph.add_node("transpose", [x], {"perm": perm}, name=moved, loc=node.loc, origin=(moved,), before=node).result
        _spell(graph, node, op, [x], axis=axis)
        return True
    return False
