"""Completeness: no op of the integer stage without kernel, reference and test."""

from __future__ import annotations

import re
from pathlib import Path

from hqc.backends.bpu.kernels import kernel_names
from hqc.backends.bpu.reference import reference_names
from hqc.ir import Trait, all_ops

# Ops that keep their float declaration in the integer stage and that no trait tells apart from float arithmetic.
SELECTING = {"maximum", "minimum", "where", "cast"}


def runs_on_integers(op) -> bool:
    """True for ops of the integer stage: integer arithmetic, or moving and comparing elements of any type."""
    if op.has(Trait.INTEGER) or op.has(Trait.INTEGER_RESULT) or op.has(Trait.LAYOUT_ONLY):
        return True
    if op.name == "requantize":  # lowered to int_requantize
        return False
    return op.name in SELECTING or op.has(Trait.BOUNDARY) or (op.has(Trait.PASS_THROUGH) and not op.has(Trait.OFF_GRID))


def test_every_integer_stage_op_has_kernel_and_reference_and_nothing_else_has():
    expected = {op.name for op in all_ops() if runs_on_integers(op)}
    assert kernel_names() == expected
    assert reference_names() == expected


def test_every_kernel_is_named_in_an_equality_test():
    text = "".join(path.read_text() for path in Path(__file__).parent.glob("test_bpu_*.py") if path != Path(__file__))
    tested = set(re.findall(r'"([a-z_0-9]+)"', text))
    assert not kernel_names() - tested
