"""Element-wise ops: forms of operands, broadcasting, constants."""

from __future__ import annotations

import math

from hqc.ir.types import Shape
from hqc.march.facts import Facts, is_scalar, shifted_convolution
from hqc.march.predicates.base import HOLDS, UNKNOWN, Numbers, Outcome, broken, condition, measure


def _pair_form(facts: Facts, shape: Shape, result: Shape) -> str:
    """How the tables write an operand of an element-wise op: `CHW` like the result, `C11`, or `111`."""
    padded = (1,) * (len(result) - len(shape)) + shape
    if padded == result:
        return "CHW"
    if shape and padded[1:] == (result[1], 1, 1):
        return "C11"
    return "111" if math.prod(padded) == 1 else "other"


def _pairs(facts: Facts, allowed: tuple[str, ...]) -> Outcome:
    result = facts.out_shape
    if result is None or facts.data_shapes is None:
        return UNKNOWN
    if len(result) != 4:
        return broken(f"rank {len(result)}", "rank 4")
    forms = [_pair_form(facts, view or (), result) for view in map(facts.view, facts.node.operands)]
    small = [form for form in forms if form != "CHW"]
    shapes = " and ".join(str(list(value.shape or ())) for value in facts.node.operands)
    return broken(shapes) if len(small) > 1 or any(form not in allowed for form in small) else HOLDS


@condition("shape_pairs", "NCHW+NCHW,NCHW+NC11")
def _add_pairs(facts: Facts) -> Outcome:
    """operands NCHW and NCHW, or NCHW and NC11, or a scalar behind a convolution, which takes it in"""
    # See contradictions.py: NC11 may be a constant.
    return _pairs(facts, ("C11", "111") if shifted_convolution(facts.node) is not None else ("C11",))


@condition("shape_pairs", "1CHW*1CHW,1CHW*1C11,1CHW*1111", "1CHW/1CHW,1CHW/1C11,1CHW/1111")
def _mul_pairs(facts: Facts) -> Outcome:
    """operands 1CHW with 1CHW, 1C11 or 1111"""
    if facts.out_shape is not None and len(facts.out_shape) != 4:
        return HOLDS  # these rows have a limit on the rank beside this one
    return _pairs(facts, ("C11", "111"))


@condition("both_inputs", "featuremap")
def _no_constant(facts: Facts) -> Outcome:
    """no constant operand"""
    return broken("a constant operand", "none; multiply by the reciprocal instead") if facts.constants else HOLDS


@condition("const_operand", "False")
def _no_constant_operand(facts: Facts) -> Outcome:
    """no constant operand"""
    return broken("a constant operand", "none") if facts.constants else HOLDS


@measure("constant operands", "const_inputs_max")
def _constant_count(facts: Facts) -> Numbers | None:
    return (len(facts.constants),)


def _operand_shapes(facts: Facts) -> tuple[list[Shape], Shape] | None:
    result = facts.out_shape
    shapes = [facts.view(value) for value in facts.node.operands]
    if result is None or any(shape is None for shape in shapes):
        return None
    rank = len(result)
    return [(1,) * (rank - len(shape)) + shape for shape in shapes if shape is not None], result


def _broadcast_axes(shape: Shape, result: Shape) -> set[int]:
    return {axis for axis, (size, full) in enumerate(zip(shape, result, strict=True)) if size != full}


def _broadcast(facts: Facts, *, first_axis: bool, mutual: bool) -> Outcome:
    found = _operand_shapes(facts)
    if found is None:
        return UNKNOWN
    shapes, result = found
    text = " and ".join(map(str, map(list, shapes)))
    stretched = [
        _broadcast_axes(shape, result) for shape, value in zip(shapes, facts.node.operands, strict=True) if not is_scalar(value)
    ]
    if not first_axis and any(0 in axes and (facts.images(result) or 1) > 1 for axes in stretched):
        return broken(text, "no broadcast along the first axis")
    if not mutual and sum(map(bool, stretched)) > 1:
        return broken(text, "one broadcast operand")
    return HOLDS


@condition("broadcast", "any dim but the first; mutual allowed (NH1C with N1WC)")
def _broadcast_mutual(facts: Facts) -> Outcome:
    """operands broadcast along any axis but the first, each along its own"""
    return _broadcast(facts, first_axis=False, mutual=True)


@condition("broadcast", "one operand only, any dim; not mutual")
def _broadcast_one(facts: Facts) -> Outcome:
    """only one operand is broadcast"""
    return _broadcast(facts, first_axis=True, mutual=False)


@condition("broadcast", "not N; one operand only")
def _broadcast_one_not_first(facts: Facts) -> Outcome:
    """only one operand is broadcast, not along the first axis"""
    return _broadcast(facts, first_axis=False, mutual=False)


def _mergeable(facts: Facts, *, broadcast_merges: bool) -> Outcome:
    found = _operand_shapes(facts)
    if found is None:
        return UNKNOWN
    shapes, result = found
    if len(result) < 5:
        return HOLDS
    patterns = [tuple(shape[axis] != result[axis] for shape in shapes) for axis in range(5)]
    for axis in range(4):
        alike = patterns[axis] == patterns[axis + 1]
        if alike and (broadcast_merges or not any(patterns[axis])):
            return HOLDS
    return broken(" and ".join(map(str, map(list, shapes))), "two neighbouring axes that merge")


@condition("rank5", "must merge neighbouring dims to rank 4; broadcast dims cannot merge")
def _rank5_strict(facts: Facts) -> Outcome:
    """5-D operands have two neighbouring axes without broadcast, which merge into one"""
    return _mergeable(facts, broadcast_merges=False)


@condition("rank5", "must merge neighbouring dims to rank 4")
def _rank5(facts: Facts) -> Outcome:
    """5-D operands have two neighbouring axes that merge into one"""
    return _mergeable(facts, broadcast_merges=True)


@condition("exponent", "single value", "scalar")
def _scalar_exponent(facts: Facts) -> Outcome:
    """the exponent is a single constant"""
    if "exponent" in facts.node.attributes or is_scalar(facts.node.operands[-1]):
        return HOLDS
    return broken(f"an exponent of shape {list(facts.node.operands[-1].shape or ())}", "one value")


def no_zeros(facts: Facts) -> Outcome:
    return broken("a constant with zeros") if facts.has_zero_constant else HOLDS
