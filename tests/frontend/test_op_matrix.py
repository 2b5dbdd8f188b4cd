"""Every op of the IR has what it needs in every room; what is missing is listed here with its reason, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import test_lowering_against_torch as torch_tests
import test_surface_against_torch as surface_tests

from hqc.backends.bpu.kernels import runs_on_integers
from hqc.backends.bpu.reference import REFERENCES
from hqc.backends.onnx.registry import has_emitter
from hqc.frontend.fx.forms import has_torch_form
from hqc.ir import OpDef, Trait, all_ops
from hqc.march.bindings import BINDINGS
from hqc.passes.lower_to_integer import lowering_of

BY_TORCH = {
    word
    for table in (torch_tests.MODULES, torch_tests.FUNCTIONS, torch_tests.BINARY, surface_tests.FUNCTIONS, surface_tests.ROWS)
    for *_, ops in table.values()
    for word in ops.split()
}
"""Ops that some torch code lowers to, each compared with torch in the tests that expect it."""

MADE_BY_PASSES = "passes make it; no torch code means it"
NO_BPU_ROW = "every row of the chips' tables says CPU"
SCALE_OF_THE_VALUE = "its scale is the value's, which no card sees; the back ends round"


def is_float_op(op: OpDef) -> bool:
    return not op.has(Trait.INTEGER)


def is_of_the_model(op: OpDef) -> bool:
    return is_float_op(op) and not op.has(Trait.BOUNDARY)


def may_run_on_a_bpu(op: OpDef) -> bool:
    binding = BINDINGS.get(op.name)
    return binding is not None and not binding.never and not binding.internal and bool(binding.onnx or binding.torch)


def is_on_integers(op: OpDef) -> bool:
    return any(op.has(trait) for trait in (Trait.INTEGER, Trait.SELECTS, Trait.BOUNDARY))


def multiplies_matrices(op: OpDef) -> bool:
    """By the family of the op, or of the float op that it is the integer form of; an opaque call may."""
    float_op = next((other for other in all_ops() if f"int_{other.name}" == op.name), op)
    return float_op.family == "conv" or op.has(Trait.OPAQUE)


def holds_what_its_operands_hold(op: OpDef) -> bool:
    return (op.has(Trait.SELECTS) and not op.has(Trait.INTEGER_RESULT)) or op.has(Trait.INTEGER)


COLUMNS: dict[str, tuple[Callable[[OpDef], bool], Callable[[OpDef], bool]]] = {
    # column: (which ops it is about, whether the op has it)
    "card: what it computes": (is_float_op, lambda op: op.compute is not None),
    "card: MACs": (multiplies_matrices, lambda op: op.macs is not None),
    "card: range": (holds_what_its_operands_hold, lambda op: op.bounds is not None),
    "card: sentence": (lambda op: True, lambda op: bool(op.doc)),
    "lowering from torch": (is_of_the_model, lambda op: op.name in BY_TORCH),
    "torch form": (is_of_the_model, lambda op: has_torch_form(op.name)),
    "binding to the march tables": (lambda op: True, lambda op: op.name in BINDINGS),
    "ONNX emitter": (lambda op: True, lambda op: has_emitter(op.name)),
    "integer lowering": (may_run_on_a_bpu, lambda op: lowering_of(op) is not None),
    "runs in the simulator": (is_on_integers, runs_on_integers),
    "reference in the simulator": (is_on_integers, lambda op: op.name in REFERENCES),
}

HOLES: dict[tuple[str, str], str] = {
    ("lowering from torch", "gain_pool2d"): MADE_BY_PASSES,
    ("card: what it computes", "opaque"): "only the model's framework can run it",
    ("card: what it computes", "quantize"): SCALE_OF_THE_VALUE,
    ("card: what it computes", "dequantize"): SCALE_OF_THE_VALUE,
    ("card: what it computes", "requantize"): SCALE_OF_THE_VALUE,
    ("card: range", "cast"): "a conversion to a narrower type wraps around",
    ("lowering from torch", "requantize"): MADE_BY_PASSES,
    ("torch form", "requantize"): "a BPU's change of scale, which a fake quant stands for",
    ("torch form", "opaque"): "its FX call is its form",
    ("integer lowering", "cast"): NO_BPU_ROW,
    **{("integer lowering", f"reduce_{name}"): NO_BPU_ROW for name in ("l1", "l2", "sum_square", "log_sum", "log_sum_exp")},
    **{("lowering from torch", f"reduce_{name}"): "ONNX alone has one operation for it" for name in ("sum_square", "log_sum")},
    ("integer lowering", "group_norm"): NO_BPU_ROW,
    ("integer lowering", "instance_norm"): NO_BPU_ROW,
    ("integer lowering", "log_softmax"): NO_BPU_ROW,
    ("integer lowering", "lp_normalize"): NO_BPU_ROW,
}


@pytest.mark.parametrize("column", COLUMNS)
def test_column_is_complete(column: str) -> None:
    concerned, has = COLUMNS[column]
    missing = {op.name for op in all_ops() if concerned(op) and not has(op)}
    assert missing == {op for hole, op in HOLES if hole == column}


def test_nothing_has_what_it_is_not_about() -> None:
    for column in ("card: MACs", "torch form", "runs in the simulator", "reference in the simulator"):
        concerned, has = COLUMNS[column]
        assert not {op.name for op in all_ops() if has(op) and not concerned(op)}, column


def test_what_lowers_by_trait_runs_on_integers_by_its_card() -> None:
    by_trait = {op.name for op in all_ops() if op.has(Trait.PASS_THROUGH) and lowering_of(op) is lowering_of_moving()}
    assert {op.name for op in all_ops() if op.has(Trait.LAYOUT_ONLY)} - by_trait == {"cat", "pad"}
    assert all(op.has(Trait.SELECTS) for op in all_ops() if op.name in by_trait)


def lowering_of_moving() -> object:
    return lowering_of(next(op for op in all_ops() if op.name == "reshape"))


def test_reasons_are_given_for_existing_ops() -> None:
    assert {op for _, op in HOLES} <= {op.name for op in all_ops()}
    assert all(HOLES.values())
