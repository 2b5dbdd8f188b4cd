"""Reductions, index ops, normalizations; and limits that the tables state in the note of a row."""

from __future__ import annotations

import math

from hqc.checked import explained
from hqc.errors import InputError
from hqc.ir import Trait
from hqc.march.facts import Facts
from hqc.march.predicates.base import HOLDS, NOTES, UNKNOWN, Condition, Numbers, Outcome, broken, condition, measure
from hqc.march.predicates.elementwise import no_zeros


@condition("axes", "2,3")
def _axes_2_3(facts: Facts) -> Outcome:
    """over height and width together"""
    return UNKNOWN if facts.axes is None else HOLDS if facts.axes == (2, 3) else broken(f"axes {list(facts.axes)}", "[2, 3]")


@measure("number of axes", "axes_count")
def _axes_count(facts: Facts) -> Numbers | None:
    return None if facts.axes is None else (len(facts.axes),)


@condition("axes_count", "1, or H+W together")
def _one_axis_or_hw(facts: Facts) -> Outcome:
    """over one axis, or height and width together"""
    if facts.axes is None or facts.shape is None:
        return UNKNOWN
    height_and_width = len(facts.shape) == 4 and facts.axes == (2, 3)
    return HOLDS if len(facts.axes) == 1 or height_and_width else broken(f"axes {list(facts.axes)}")


@measure("size of the reduced axis", "axis_size")
def _axis_size(facts: Facts) -> Numbers | None:
    return None if facts.axes is None or facts.shape is None else tuple(facts.shape[axis] for axis in facts.axes)


@condition("keepdims", "1")
def _keepdims(facts: Facts) -> Outcome:
    """keepdims=True"""
    return HOLDS if facts.node.attributes["keepdims"] else broken("keepdims=False", "keepdims=True, then flatten")


@explained
def named_axes(words: str) -> Condition:
    """The condition that a 4-D reduction runs over axes named in `words` (N, C, H, W) only."""
    if not set(words.split(",")) <= set("NCHW"):
        raise InputError(f"axes are named by the letters N, C, H and W with commas between them, got {words}")
    allowed = {"NCHW".index(letter) for letter in words.split(",")}

    def check(facts: Facts) -> Outcome:
        if facts.axes is None:
            return UNKNOWN
        return HOLDS if set(facts.axes) <= allowed else broken(f"axes {list(facts.axes)}", words)

    return check


@condition("position", "model output")
def _at_output(facts: Facts) -> Outcome:
    """at the end of the model"""
    return HOLDS if facts.is_tail else broken("in the middle of the model")


@condition("normalized_HW", "<16384")
def _normalized(facts: Facts) -> Outcome:
    """less than 16384 normalized elements"""
    if facts.shape is None:
        return UNKNOWN
    size = math.prod(facts.shape[-facts.node.attributes["normalized_ndim"] :])
    return HOLDS if size < 16384 else broken(size, 16383)


def _index_at_output(facts: Facts) -> Outcome:
    return _at_output(facts) if facts.node.op.has(Trait.INTEGER_RESULT) else HOLDS


NOTES.add("operand values must not be zero", ("a constant operand has no zeros", no_zeros))
NOTES.add("model output only; value and index packed as two channels", ("at the end of the model", _at_output))
NOTES.add("index only as model output", ("an index is computed at the end of the model", _index_at_output))
