"""docs/op_support.md and `hqc ops` come from the rules."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from rich.console import Console

from hqc.analysis.op_support import documented_ops, op_support_markdown, support_table
from hqc.errors import InputError, MarchError
from hqc.march import all_specs
from hqc.march.contradictions import DECISIONS

PAGE = Path(__file__).parents[2] / "docs" / "op_support.md"


def printed(march: str | None, *names: str) -> str:
    console = Console(width=220)
    with console.capture() as capture:
        console.print(support_table(march, names))
    return capture.get()


def test_the_page_is_what_the_rules_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == op_support_markdown(), "stale: run python -m hqc.analysis.op_support"


def test_the_matrix_lists_every_op_for_every_march() -> None:
    text = printed(None)
    assert all(spec.name in text for spec in all_specs())
    assert all(name in text for name in documented_ops())


def test_one_march_shows_the_limits() -> None:
    assert "kernel at most 7x7" in printed("bernoulli2", "conv2d")
    assert "kernel at most 31x31" in printed("bayes", "conv2d")
    assert "BPU on request" in printed("bayes", "softmax")


def test_unknown_names_are_errors_with_near_names() -> None:
    with pytest.raises(InputError, match="no op 'conv'"):
        support_table("bayes", ["conv"])
    with pytest.raises(MarchError, match="did you mean bayes"):
        support_table("baies")


def test_every_decision_about_a_contradiction_points_at_what_carries_it_out() -> None:
    for decision in DECISIONS:
        parts = decision.predicate.split(".")
        for cut in range(len(parts), 0, -1):
            try:
                found = importlib.import_module(".".join(parts[:cut]))
                break
            except ModuleNotFoundError:
                continue
        for name in parts[cut:]:
            found = getattr(found, name)
        assert decision.subject in op_support_markdown()
