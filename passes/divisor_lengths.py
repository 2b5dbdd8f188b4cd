"""Context rules of the support analysis about divisors and logarithms that an eps keeps from 0.

An int8 grid rounds an eps to 0. What the BPU computes of it there is defined; the CPU divides by 0. So where the CPU divides, the eps is
added there too, and the length or deviation in front of it, which int8 rounds to 0 as often, is that of the float model.
"""

from __future__ import annotations

from hqc.ir import Node, OpDef, Reason, Trait, get_op
from hqc.ir.ops import activation, elementwise, reduction
from hqc.passes.canonical_forms import number_of
from hqc.passes.support_context import Placement, context_rule

HALF_STEP = 0.5 / 128
"""Of an int8 grid that reaches from -1 to 1: what is smaller is 0 on most grids."""

_EPS = (elementwise.add, elementwise.maximum, activation.clamp)
_REDUCTIONS = (reduction.mean, reduction.sum_, *map(get_op, ("reduce_l1", "reduce_l2", "reduce_sum_square")))
_PRODUCTS = (elementwise.mul, elementwise.div)
_SQUARES = (elementwise.mul, get_op("pow_scalar"))


def _is_step(op: OpDef) -> bool:
    return op in _EPS or op in _REDUCTIONS or op in _PRODUCTS or op.has(Trait.LAYOUT_ONLY)


@context_rule(lambda op, spec: op in _EPS, through=_is_step)
def eps_of_a_divisor(placement: Placement, node: Node) -> Reason | None:
    """An eps that an int8 grid rounds to 0 is added on the CPU, where only the CPU reads the sum and divides by it or takes its root or
    logarithm."""
    number = _eps(node)
    if (
        number is None
        or not _alone_on_cpu(placement, node)
        or not all(_is_singular(placement, node, user) for user in node.users)
    ):
        return None
    return Reason(
        "an eps that an int8 grid rounds to 0 is added where the division by it runs",
        f"{number:g} for {node.users[0].name} on the CPU",
        f"{HALF_STEP:g}",
        step="context",
        id="context",
    )


@context_rule(lambda op, spec: op.has(Trait.LUT))
def function_as_divisor(placement: Placement, node: Node) -> Reason | None:
    """A function (a root, an exponential) of which only divisions on the CPU read the result, as their divisor, is computed there too."""
    if not _alone_on_cpu(placement, node) or not all(_is_divisor(placement, node, user) for user in node.users):
        return None
    return Reason(
        "a function is computed where the division by it runs, as int8 rounds small divisors to 0",
        f"{node.users[0].name} is on the CPU",
        step="context",
        id="context",
    )


@context_rule(lambda op, spec: op in _PRODUCTS, through=lambda op: op in _PRODUCTS)
def product_before_logarithm(placement: Placement, node: Node) -> Reason | None:
    """A product or quotient that an eps keeps from 0 is computed on the CPU where only a logarithm, a root or a division there reads it."""
    if not _alone_on_cpu(placement, node) or all(_eps(producer) is None for producer in node.producers):
        return None
    if not all(_is_singular(placement, node, user) for user in node.users):
        return None
    return Reason(
        "what an eps keeps from 0 is computed where 0 is no operand, as int8 rounds small values to 0",
        f"{node.users[0].name} is on the CPU",
        step="context",
        id="context",
    )


@context_rule(lambda op, spec: op in _REDUCTIONS or op in _SQUARES or op.has(Trait.LAYOUT_ONLY), through=_is_step)
def length_of_a_divisor(placement: Placement, node: Node) -> Reason | None:
    """A length or deviation that only such a sum reads is computed on the CPU with it."""
    if not _is_length(placement, node):
        return None
    return Reason(
        "a length or deviation is computed where the division by it runs, as int8 rounds small ones to 0",
        f"{node.users[0].name} is on the CPU",
        step="context",
        id="context",
    )


def _eps(node: Node) -> float | None:
    """The small positive number that `node` adds, or keeps its result from falling below."""
    if node.op is activation.clamp:
        number = node.attributes["min"]
    else:
        numbers = (number_of(node, index) for index in range(len(node.inputs)) if len(node.inputs) == 2)
        number = next((each for each in numbers if each is not None), None)
    return None if number is None or not 0 < number < HALF_STEP else float(number)


def _alone_on_cpu(placement: Placement, node: Node) -> bool:
    return bool(node.users) and not placement.is_output(node) and not placement.has_bpu_user(node)


def _is_divisor(placement: Placement, node: Node, reader: Node) -> bool:
    """Whether `reader` divides by the result of `node` on the CPU."""
    if placement.on_bpu(reader):
        return False
    if reader.op.has(Trait.LAYOUT_ONLY):
        return _alone_on_cpu(placement, reader) and all(_is_divisor(placement, reader, user) for user in reader.users)
    return reader.op is elementwise.div and reader.inputs[1] in node.results and reader.inputs[0] not in node.results


def _is_singular(placement: Placement, node: Node, reader: Node) -> bool:
    """Whether `reader` divides by the result of `node` on the CPU, or computes something else there that 0 is no operand of; a product or
    quotient hands a 0 on."""
    if placement.on_bpu(reader):
        return False
    if reader.op.has(Trait.LUT) and reader.op.has(Trait.SINGULAR):
        return True
    if reader.op is elementwise.mul or (reader.op is elementwise.div and reader.inputs[1] not in node.results):
        return _alone_on_cpu(placement, reader) and all(_is_singular(placement, reader, user) for user in reader.users)
    return _is_divisor(placement, node, reader)


def _is_length(placement: Placement, node: Node) -> bool:
    """Whether `node` is a step of a length of which only the CPU reads the sum with an eps."""
    if not _alone_on_cpu(placement, node):
        return False
    if node.op in _SQUARES:
        exponent = node.attributes.get("exponent", 2.0)
        if exponent != 2.0 or (node.op is elementwise.mul and node.inputs[0] is not node.inputs[1]):
            return False
        return all(user.op in _REDUCTIONS and not placement.on_bpu(user) and _is_length(placement, user) for user in node.users)
    if node.op in _REDUCTIONS or node.op.has(Trait.LAYOUT_ONLY):
        return all(_ends_length(placement, user) for user in node.users)
    return False


def _ends_length(placement: Placement, user: Node) -> bool:
    if placement.on_bpu(user):
        return False
    if user.op.has(Trait.LAYOUT_ONLY):
        return _is_length(placement, user)
    return user.op in _EPS and eps_of_a_divisor(placement, user) is not None
