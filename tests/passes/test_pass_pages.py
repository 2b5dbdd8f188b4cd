"""docs/passes.md is fresh, and every code block of docs/writing_passes.md runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hqc.analysis.pass_reference import passes_page
from hqc.passes import registry

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_of_passes_is_fresh() -> None:
    page = (DOCS / "passes.md").read_text(encoding="utf-8")
    assert page == passes_page(DOCS), "run: python -m hqc.analysis.pass_reference docs"


def test_examples_belong_to_passes() -> None:
    assert {path.stem for path in (DOCS / "passes").glob("*.hqc")} <= set(registry.BUILTIN)


def test_code_of_the_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry.PASSES, "_entries", dict(registry.PASSES.load()))
    text = (DOCS / "writing_passes.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 3
    (tmp_path / "guide.py").write_text("\n".join(blocks), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    __import__("guide")
    assert (tmp_path / "dumps" / "002-limit-relu.diff").is_file()
