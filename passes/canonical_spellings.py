"""The rewrites of `canonicalize` that read functions spelled out in elementary operations: activations and layer norms.

As in `canonical_rules`, one function each, whose docstring is the rule as documentation shows it. The last node of a spelling becomes the
function; what it is made of goes, where nothing else reads it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hqc.ir import Graph, Node, Value, get_op
from hqc.ir.ops import activation, elementwise
from hqc.passes.canonical_rules import constant_operand, is_scalar, own_scale, rule, sole_producer
from hqc.passes.rewrite import absorb_origin, drop_unused, morph, only_user

_GATED = {"sigmoid": "silu", "hardsigmoid": "hardswish"}
_SOFTPLUS, _TANH, _ERF, _SQRT = get_op("softplus"), get_op("tanh"), get_op("erf"), get_op("sqrt")


@rule(elementwise.mul)
def gate(graph: Graph, node: Node) -> bool:
    """`x * sigmoid(x)` is `silu` and `x * hardsigmoid(x)` is `hardswish`, where nothing else reads the gate."""
    for index in (0, 1):
        value, x = node.inputs[index], node.inputs[1 - index]
        if value is None or x is None or value.producer is None:
            continue
        inner = value.producer
        if inner.op.name in _GATED and inner.inputs[0] is x and only_user(graph, value) is node and not own_scale(inner):
            absorb_origin(graph, node, inner)
            morph(node, _GATED[inner.op.name], [x])
            graph.erase(inner)
            return True
    return False


@rule(elementwise.mul, elementwise.div)
def spelled_out_hardsigmoid(graph: Graph, node: Node) -> bool:
    """`clamp(x + 3, 0, 6) / 6` is `hardsigmoid` and `x * clamp(x + 3, 0, 6) / 6` is `hardswish` (1/6 may be rounded first)."""
    product = _Product.of(graph, node)
    if not math.isclose(product.factor, 1 / 6, rel_tol=1e-6) or len(product.terms) not in (1, 2):
        return False
    for index, term in enumerate(product.terms):
        gated = term.producer
        if (
            gated is None
            or gated.op is not activation.clamp
            or (gated.attributes["min"], gated.attributes["max"]) != (0.0, 6.0)
        ):
            continue
        shifted = sole_producer(graph, gated, elementwise.add)
        if shifted is None or not is_scalar(shifted, 1, 3.0):
            continue
        x, rest = shifted.inputs[0], [*product.terms[:index], *product.terms[index + 1 :]]
        if x is not None and all(other is x for other in rest) and _alone(graph, node, product, gated):
            _spell(graph, node, "hardswish" if rest else "hardsigmoid", x, [shifted, gated, *product.nodes])
            return True
    return False


@rule(activation.clamp)
def scaled_hardsigmoid(graph: Graph, node: Node) -> bool:
    """`clamp(x / 6 + 0.5, 0, 1)` is `hardsigmoid` (1/6 may be rounded first)."""
    if (node.attributes["min"], node.attributes["max"]) != (0.0, 1.0):
        return False
    shifted = sole_producer(graph, node, elementwise.add)
    product = None if shifted is None or not is_scalar(shifted, 1, 0.5) else _product_behind(graph, shifted)
    if shifted is None or product is None or len(product.terms) != 1 or not math.isclose(product.factor, 1 / 6, rel_tol=1e-6):
        return False
    _spell(graph, node, "hardsigmoid", product.terms[0], [*product.nodes, shifted, node])
    return True


@rule(elementwise.mul)
def spelled_out_mish(graph: Graph, node: Node) -> bool:
    """`x * tanh(softplus(x))` is `mish`, where nothing else reads what lies between."""
    for index in (0, 1):
        gated, x = node.inputs[index], node.inputs[1 - index]
        outer = None if gated is None or gated.producer is None or gated.producer.op is not _TANH else gated.producer
        inner = None if outer is None else sole_producer(graph, outer, _SOFTPLUS)
        if outer is None or inner is None or x is None or inner.inputs[0] is not x:
            continue
        if only_user(graph, outer.result) is node and not own_scale(outer) and _is_plain(inner):
            _spell(graph, node, "mish", x, [inner, outer, node])
            return True
    return False


def _is_plain(node: Node) -> bool:
    """A softplus as `mish` has it: with the attributes that it has by default."""
    return node.attributes == node.op.complete_attributes({})


def _half_by_raised(product: _Product) -> Iterator[tuple[Value, Node]]:
    """Of a product `x * 0.5 * (1 + ...)`, which both forms of GELU are, `x` and the sum."""
    if not math.isclose(product.factor, 0.5, rel_tol=1e-6) or len(product.terms) != 2:
        return
    for x, term in (product.terms, product.terms[::-1]):
        raised = term.producer
        if raised is not None and raised.op is elementwise.add and is_scalar(raised, 1, 1.0):
            yield x, raised


@rule(elementwise.mul, elementwise.div)
def spelled_out_gelu_by_tanh(graph: Graph, node: Node) -> bool:
    """`x * 0.5 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3)))`, or with `x * (1 + 0.044715 * x^2)`, is `gelu {approximate=tanh}`."""
    product = _Product.of(graph, node)
    for x, raised in _half_by_raised(product):
        curve = sole_producer(graph, raised, _TANH)
        inner = None if curve is None else _product_behind(graph, curve)
        if curve is None or inner is None or not math.isclose(inner.factor, math.sqrt(2 / math.pi), rel_tol=1e-5):
            continue
        cubic = _cubic(graph, inner, x)
        if cubic is not None and _alone(graph, node, product, raised):
            _spell(graph, node, "gelu", x, [*cubic, *inner.nodes, curve, raised, *product.nodes], approximate="tanh")
            return True
    return False


_CUBIC = 0.044715


def _cubic(graph: Graph, product: _Product, x: Value) -> list[Node] | None:
    """The nodes behind the terms of `product` that make them `x + 0.044715 x^3`, or `x` and `1 + 0.044715 x^2`; None for others."""
    terms = list(product.terms)
    power = 3
    if len(terms) == 2 and x in terms:  # x * (1 + ...)
        terms.remove(x)
        power = 2
    total = terms[0].producer if len(terms) == 1 else None
    if (
        total is None
        or total.op is not elementwise.add
        or only_user(graph, total.result) not in product.nodes
        or own_scale(total)
    ):
        return None
    for index in (0, 1):
        first, second = total.inputs[index], total.inputs[1 - index]
        plain = first is x if power == 3 else is_scalar(total, index, 1.0)
        found = None if second is None or second.producer is None else _Product.of(graph, second.producer)
        if not plain or found is None or only_user(graph, found.nodes[0].result) is not total or own_scale(found.nodes[0]):
            continue
        powers = _powers(graph, found, x)
        if powers is not None and powers[0] == power and math.isclose(found.factor, _CUBIC, rel_tol=1e-4):
            return [*powers[1], *found.nodes, total]
    return None


def _powers(graph: Graph, product: _Product, x: Value) -> tuple[float, list[Node]] | None:
    """The power of `x` that `product` is but for its factor, with the nodes of powers in it; None where it is none."""
    total, nodes = 0.0, list[Node]()
    for term in product.terms:
        power = term.producer
        if term is x:
            total += 1
        elif (
            power is not None
            and power.op.name == "pow_scalar"
            and power.inputs[0] is x
            and only_user(graph, term) in product.nodes
        ):
            total += power.attributes["exponent"]
            nodes.append(power)
        else:
            return None
    return total, nodes


@rule(elementwise.mul, elementwise.div)
def spelled_out_gelu(graph: Graph, node: Node) -> bool:
    """`x * 0.5 * (1 + erf(x / sqrt(2)))` is `gelu`, however its factors are grouped (constants may be rounded first)."""
    product = _Product.of(graph, node)
    for x, raised in _half_by_raised(product):
        error = sole_producer(graph, raised, _ERF)
        scaled = None if error is None else error.inputs[0]
        inner = None if scaled is None or scaled.producer is None else _Product.of(graph, scaled.producer)
        if error is None or inner is None or inner.terms != [x] or not _alone(graph, node, product, raised):
            continue
        if math.isclose(inner.factor, math.sqrt(0.5), rel_tol=1e-6) and only_user(graph, inner.nodes[0].result) is error:
            _spell(graph, node, "gelu", x, [*inner.nodes, error, raised, *product.nodes])
            return True
    return False


@dataclass(frozen=True)
class _Product:
    """A product with what only it reads multiplied out: values that are no constants, their constant factor, and its nodes."""

    terms: list[Value]
    factor: float
    nodes: list[Node]

    @classmethod
    def of(cls, graph: Graph, node: Node) -> _Product:
        factor, nodes = 1.0, [node]
        terms: list[Value] = []
        for index, value in enumerate(node.inputs):
            if value is None or node.op not in (elementwise.mul, elementwise.div):
                return cls([], 1.0, [node])
            constant = constant_operand(node, index)
            divides = index == 1 and node.op is elementwise.div
            if constant is not None and constant.size == 1 and constant.ndim == 0:
                number = float(constant)
                if divides and number == 0.0:
                    return cls([], 1.0, [node])
                factor = factor / number if divides else factor * number
                continue
            inner = value.producer
            of_product = inner is not None and not divides and inner.op in (elementwise.mul, elementwise.div)
            if inner is not None and of_product and only_user(graph, value) is node and not own_scale(inner):
                part = cls.of(graph, inner)
                factor, terms = factor * part.factor, [*terms, *part.terms]
                nodes += part.nodes
                continue
            if divides:
                return cls([], 1.0, [node])
            terms.append(value)
        return cls(terms, factor, nodes)


def _product_behind(graph: Graph, node: Node) -> _Product | None:
    """The product that operand 0 of `node` is, when `node` alone reads it."""
    value = node.inputs[0]
    inner = None if value is None else value.producer
    if value is None or inner is None or only_user(graph, value) is not node or own_scale(inner):
        return None
    return _Product.of(graph, inner)


def _alone(graph: Graph, node: Node, product: _Product, part: Node) -> bool:
    """True when nothing but the product reads the result of `part`, and no value on the way has a scale of its own."""
    return only_user(graph, part.result) in product.nodes and not any(map(own_scale, [part, *product.nodes[1:]]))


def _spell(graph: Graph, node: Node, op: str, x: Value, parts: Sequence[Node], **attributes: Any) -> None:
    """`node` becomes `op` of `x` and the other parts, which only it read, go."""
    others = [part for part in dict.fromkeys(parts) if part is not node]
    constants = [value for part in (node, *others) for value in part.operands if value.is_parameter]
    absorb_origin(graph, node, *others)
    morph(node, op, [x], attributes)
    for part in sorted(others, key=lambda part: part._order, reverse=True):
        graph.erase(part)
    drop_unused(graph, *constants)
