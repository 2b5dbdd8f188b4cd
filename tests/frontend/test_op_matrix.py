"""Every op of the IR has what it needs in every room; what is missing is listed here with its reason, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import test_lowering_against_torch as torch_tests
import test_surface_against_torch as surface_tests

from hqc.backends.bpu.kernels import kernel_names
from hqc.backends.onnx.registry import has_emitter
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


def is_float_op(op: OpDef) -> bool:
    return not op.has(Trait.INTEGER)


def may_run_on_a_bpu(op: OpDef) -> bool:
    binding = BINDINGS.get(op.name)
    return binding is not None and not binding.never and not binding.internal and bool(binding.onnx or binding.torch)


COLUMNS: dict[str, tuple[Callable[[OpDef], bool], Callable[[OpDef], bool]]] = {
    # column: (which ops it is about, whether the op has it)
    "lowering from torch": (lambda op: is_float_op(op) and not op.has(Trait.BOUNDARY), lambda op: op.name in BY_TORCH),
    "binding to the march tables": (lambda op: True, lambda op: op.name in BINDINGS),
    "ONNX emitter": (lambda op: True, lambda op: has_emitter(op.name)),
    "integer lowering": (may_run_on_a_bpu, lambda op: lowering_of(op) is not None),
    "simulator kernel": (lambda op: op.has(Trait.INTEGER), lambda op: op.name in kernel_names()),
}

HOLES: dict[tuple[str, str], str] = {
    ("lowering from torch", "gain_pool2d"): MADE_BY_PASSES,
    ("lowering from torch", "requantize"): MADE_BY_PASSES,
    ("integer lowering", "cast"): NO_BPU_ROW,
    ("integer lowering", "group_norm"): NO_BPU_ROW,
    ("integer lowering", "instance_norm"): NO_BPU_ROW,
    ("integer lowering", "log_softmax"): NO_BPU_ROW,
}


@pytest.mark.parametrize("column", COLUMNS)
def test_column_is_complete(column: str) -> None:
    concerned, has = COLUMNS[column]
    missing = {op.name for op in all_ops() if concerned(op) and not has(op)}
    assert missing == {op for hole, op in HOLES if hole == column}


def test_reasons_are_given_for_existing_ops() -> None:
    assert {op for _, op in HOLES} <= {op.name for op in all_ops()}
    assert all(HOLES.values())
