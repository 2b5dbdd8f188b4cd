"""docs/onnx.md says what the code does."""

from __future__ import annotations

from pathlib import Path

from hqc.backends.onnx.audit import RULES
from hqc.backends.onnx.flavours import FLAVOURS

PAGE = (Path(__file__).parents[2] / "docs" / "onnx.md").read_text()


def test_the_audit_table_is_generated_from_the_rules() -> None:
    lines = PAGE.splitlines()
    start = lines.index("| rule | severity | what must hold |") + 2
    end = next(i for i in range(start, len(lines)) if not lines[i].startswith("|"))
    assert lines[start:end] == [f"| `{rule.name}` | {rule.severity} | {rule.statement} |" for rule in RULES]


def test_every_flavour_is_described() -> None:
    assert all(f"| `{flavour}` |" in PAGE for flavour in FLAVOURS)
