"""The tutorial's code runs as printed, in both languages, and both languages show the same code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


def code_blocks(name: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / name).read_text(encoding="utf-8"), re.DOTALL)


def test_both_languages_show_the_same_code() -> None:
    assert code_blocks("tutorial.md") == code_blocks("tutorial.zh.md")


def test_every_code_block_runs_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "tutorial"}
    for number, block in enumerate(code_blocks("tutorial.md"), start=1):
        # A class body's source must be findable for source locations: compile under the page's name and block number.
        exec(compile(block, f"tutorial.md#{number}", "exec"), names)
    assert (tmp_path / "out" / "net.onnx").is_file()
    assert (tmp_path / "out" / "net.yaml").is_file()
