"""Linear layers and matrix products."""

from __future__ import annotations

import math
from collections.abc import Callable

from hqc.checked import explained
from hqc.ir.types import Shape
from hqc.march.facts import Facts, absorbed_flatten
from hqc.march.predicates.base import HOLDS, UNKNOWN, Condition, Numbers, Outcome, broken, condition, measure


def _matches(pattern: str, shape: Shape, batch: int) -> bool:
    """`1` in a pattern stands for an axis of one element (or the batch, in first place), a letter for any."""
    return len(pattern) == len(shape) and all(
        letter != "1" or size == 1 or (position == 0 and size == batch)
        for position, (letter, size) in enumerate(zip(pattern, shape, strict=True))
    )


@explained
def product_forms(words: str, kind: str) -> Condition:
    """The condition that operands have one of the forms `A*B` in `words`; `kind`: which operands are constant."""

    def check(facts: Facts) -> Outcome:
        left, right = facts.node.operands[:2]
        kinds = {(False, True): "fm_x_weight", (True, False): "weight_x_fm", (False, False): "fm_x_fm"}
        if kinds.get((left.is_parameter, right.is_parameter)) != kind:
            return HOLDS
        a, b = left.shape, right.shape
        if a is None or b is None:
            return UNKNOWN
        # `linear` stores its weight transposed; its form is that of the product it stands for.
        pairs = [word.split("*") for word in words.split(",")]
        if any(_matches(x, a, facts.batch) and _matches(y, b, facts.batch) for x, y in pairs):
            return HOLDS
        return broken(f"{list(a)} by {list(b)}", words.replace(",", ", "))

    return check


FEATURES = 16384
"""Largest number of input features of a linear layer on bernoulli2."""
_MAP_CHANNELS = 2048


@condition("rule", "lowered to Conv; H,W<=7: Conv limits; H=W=1: C<=16384 else C<=2048")
def _gemm_channels(facts: Facts) -> Outcome:
    """at most 16384 input features, or a flattened map of at most 7x7 and 2048 channels"""
    if facts.weight is None:
        return UNKNOWN
    flattened = absorbed_flatten(facts.node.operands[0].producer)
    if flattened is not None and flattened[2:] != (1, 1):
        return HOLDS if flattened[1] <= _MAP_CHANNELS else broken(flattened[1], _MAP_CHANNELS)
    return HOLDS if facts.weight[1] <= FEATURES else broken(facts.weight[1], FEATURES)


def _gemm_result(facts: Facts, fits: Callable[[float], bool], limit: str) -> Outcome:
    if facts.weight is None:
        return UNKNOWN
    size = facts.weight[0] / 4 / 8  # H * (W / 8) * (C / 4) with H = W = 1
    return HOLDS if fits(size) else broken(f"{size:g}", limit)


@condition("int8_out", "H*(W/8)*(C/4)<=1024")
def _gemm_int8(facts: Facts) -> Outcome:
    """an int8 result of height x width / 8 x channels / 4 at most 1024"""
    return HOLDS if facts.is_tail else _gemm_result(facts, lambda size: size <= 1024, "1024")


@condition("int32_out", "H*(W/8)*(C/4)<2048")
def _gemm_int32(facts: Facts) -> Outcome:
    """an int32 result (at the end of the model) of height x width / 8 x channels / 4 below 2048"""
    return _gemm_result(facts, lambda size: size < 2048, "below 2048") if facts.is_tail else HOLDS


@measure("input features", "in_features")
def _in_features(facts: Facts) -> Numbers | None:
    return None if facts.weight is None else (facts.weight[1],)


@measure("output features", "out_features")
def _out_features(facts: Facts) -> Numbers | None:
    return None if facts.weight is None else (facts.weight[0],)


@condition("equal_rank", "True")
def _equal_rank(facts: Facts) -> Outcome:
    """operands of equal rank, or a constant matrix"""
    # Products with a constant matrix of any rank compile as convolutions; the limit concerns two runtime operands.
    shapes = facts.data_shapes
    if facts.constants:
        return HOLDS
    if shapes is None:
        return UNKNOWN
    ranks = sorted({len(shape) for shape in shapes})
    return HOLDS if len(ranks) == 1 else broken(" and ".join(map(str, ranks)))


@measure("size of the last two axes", "last_two_dims")
def _last_two(facts: Facts) -> Numbers | None:
    shapes = [value.shape for value in facts.node.operands]
    return None if any(shape is None for shape in shapes) else tuple(n for shape in shapes if shape for n in shape[-2:])


@condition("broadcast", "leading dims of one operand all 1, or B non-broadcast dims contiguous from the top")
def _product_broadcast(facts: Facts) -> Outcome:
    """leading axes of one operand all 1, or the second operand's axes equal from the first on, then 1"""
    if facts.constants:
        return HOLDS
    if facts.data_shapes is None:
        return UNKNOWN
    a, b = facts.node.operands[0].shape, facts.node.operands[1].shape
    if a is None or b is None or len(a) != len(b):
        return HOLDS  # a difference of rank is the rule before this one
    lead_a, lead_b = a[:-2], b[:-2]
    same = [x == y for x, y in zip(lead_a, lead_b, strict=True)]
    contiguous = same == sorted(same, reverse=True) and all(y == 1 for y, equal in zip(lead_b, same, strict=True) if not equal)
    if contiguous or all(size == 1 for size in lead_a) or all(size == 1 for size in lead_b):
        return HOLDS
    return broken(f"{list(a)} by {list(b)}")


@condition("bytes", "<1G")
def _product_bytes(facts: Facts) -> Outcome:
    """operands of less than 1 GB"""
    if facts.data_shapes is None:
        return UNKNOWN
    largest = max((math.prod(shape) for shape in facts.data_shapes), default=0)
    return HOLDS if largest < 1 << 30 else broken(largest, "1 GB")
