"""Pages generated from the declarations are fresh, and the examples in docs/ir.md are real."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from hqc.ir import parse, verify
from hqc.ir.reference import op_reference, rule_table, with_rule_table
from hqc.ir.sidecar import content_hash

DOCS = Path(__file__).parents[2] / "docs"


def test_rule_table_is_fresh() -> None:
    page = (DOCS / "ir.md").read_text()
    assert page == with_rule_table(page), "run python -m hqc.ir.reference docs"


def test_op_reference_is_fresh() -> None:
    assert (DOCS / "ops.md").read_text() == op_reference(), "run python -m hqc.ir.reference docs"


def test_every_op_says_what_it_computes() -> None:
    rows = [line for line in op_reference().splitlines() if line.startswith("| `")]
    assert [row for row in rows if row.endswith("|  |")] == []


def test_every_rule_has_a_statement() -> None:
    assert all(len(row.split(" | ")[2]) > 10 for row in rule_table().splitlines()[2:])


def test_a_page_without_markers_is_an_error() -> None:
    with pytest.raises(ValueError, match="has lost its markers"):
        with_rule_table("# page")


def test_examples_on_the_page_are_graphs() -> None:
    examples = re.findall(r"^```hqc\n(.*?)^```", (DOCS / "ir.md").read_text(), re.S | re.M)
    weight = np.zeros((6, 3, 3, 3), np.float32)
    assert len(examples) == 2
    graph = parse(examples[0], parameters={"conv.weight": weight})
    assert str(graph) == examples[0]
    assert content_hash(weight) in examples[0]
    verify(graph)
    verify(parse(examples[1]))
