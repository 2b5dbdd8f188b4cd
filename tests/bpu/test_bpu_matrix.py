"""Completeness: no op of the integer stage without kernel, reference and test."""

from __future__ import annotations

import re
from pathlib import Path

from hqc.backends.bpu.kernels import KERNELS, runs_on_integers
from hqc.backends.bpu.reference import REFERENCES
from hqc.ir import Trait, all_ops


def is_integer_stage_op(op) -> bool:
    """True for ops of the integer stage: integer arithmetic, or moving, selecting and comparing elements of any type."""
    return any(op.has(trait) for trait in (Trait.INTEGER, Trait.SELECTS, Trait.BOUNDARY))


def test_every_integer_stage_op_runs_and_nothing_else_does():
    expected = {op.name for op in all_ops() if is_integer_stage_op(op)}
    assert {op.name for op in all_ops() if runs_on_integers(op)} == expected
    assert set(KERNELS) <= expected


def test_every_kernel_and_every_card_on_integers_has_a_slow_definition():
    """What runs on integers is compared with a definition that shares no code with it."""
    assert set(REFERENCES) == {op.name for op in all_ops() if is_integer_stage_op(op)}


def test_moving_and_comparing_declares_what_it_computes():
    moving = {op.name for op in all_ops() if op.has(Trait.LAYOUT_ONLY) or op.has(Trait.INTEGER_RESULT)}
    assert all(op.has(Trait.SELECTS) and op.compute is not None for op in all_ops() if op.name in moving)


def test_everything_on_integers_is_named_in_an_equality_test():
    text = "".join(path.read_text() for path in Path(__file__).parent.glob("test_bpu_*.py") if path != Path(__file__))
    tested = set(re.findall(r'"([a-z_0-9]+)"', text))
    assert not set(REFERENCES) - tested
