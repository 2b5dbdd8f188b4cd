"""The user pages: every block of code runs, every message of the troubleshooting page is real, both languages show the same code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import hqc.compat
from hqc.errors import HqcError
from hqc.march.state import March, set_march

DOCS = Path(__file__).parents[2] / "docs"
RUN = ("index", "ptq", "qat", "report", "migrating")
TRANSLATED = sorted(page.name.removesuffix(".zh.md") for page in DOCS.glob("*.zh.md"))


def fences(page: str) -> list[tuple[str, str]]:
    """`(language, code)` of every fenced block of a page."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(r"^```([^\n]*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Pages write files, and set the march that is global."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    hqc.compat.uninstall()
    set_march(March.BAYES)


@pytest.mark.parametrize("page", RUN)
def test_every_block_of_the_page_runs_in_order(page: str) -> None:
    if page == "report":
        pytest.importorskip("py_mini_racer", reason="the extra `report` is not installed")
    names: dict[str, object] = {"__name__": page}
    blocks = [code for language, code in fences(f"{page}.md") if language == "python"]
    assert len(blocks) >= 3
    for number, code in enumerate(blocks, start=1):
        exec(compile(code, f"{page}.md#{number}", "exec"), names)


def troubles() -> list[tuple[str, str]]:
    found = fences("troubleshooting.md")
    return [(code, found[index + 1][1]) for index, (language, code) in enumerate(found) if language == "python raises"]


@pytest.mark.parametrize(("code", "message"), troubles(), ids=lambda text: text.strip().splitlines()[-1][:40])
def test_the_message_is_what_a_user_sees(code: str, message: str) -> None:
    names: dict[str, object] = {"__name__": "troubleshooting"}
    exec(compile(next(code for language, code in fences("troubleshooting.md") if language == "python"), "page", "exec"), names)
    pattern = ".*".join(re.escape(part.strip()) for part in message.strip().split("..."))
    with pytest.raises(HqcError, match=pattern):
        exec(compile(code, "page", "exec"), names)


def test_there_are_entries_for_the_usual_troubles() -> None:
    assert len(troubles()) >= 15


@pytest.mark.parametrize("page", TRANSLATED)
def test_both_languages_show_the_same_code_and_structure(page: str) -> None:
    pairs = [[(language, re.sub(r" *#.*", "", code)) for language, code in fences(f"{page}{end}")] for end in (".md", ".zh.md")]
    assert pairs[0] == pairs[1]
    texts = [(DOCS / f"{page}{end}").read_text(encoding="utf-8") for end in (".md", ".zh.md")]
    prose = [re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE) for text in texts]
    shapes = [re.findall(r"^(#+ |\|)", text, re.MULTILINE) for text in prose]
    assert shapes[0] == shapes[1]
