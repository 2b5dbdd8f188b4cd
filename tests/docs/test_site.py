"""The site builds without a warning, no link in it leads nowhere, and user pages have twins in the other language."""

from __future__ import annotations

import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")
    out = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "--config-file",
        str(ROOT / "mkdocs.yml"),
        "--site-dir",
        str(out),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stderr, done.stderr
    return out


class Page(HTMLParser):
    """Links and anchors of a page."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.text: list[str] = []
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.anchors |= {value for key in ("id", "name") if (value := found.get(key))}
        self.links += [value for key in ("href", "src") if (value := found.get(key))]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_every_page_is_there(site: Path) -> None:
    names = {page.name.removesuffix(".md") for page in (ROOT / "docs").glob("*.md")} - {"index"}
    assert len(names) > 25
    assert [name for name in sorted(names) if not (site / name / "index.html").is_file()] == []
    assert "快速上手" in (site / "index.zh" / "index.html").read_text(encoding="utf-8")


def test_user_pages_speak_both_languages() -> None:
    pages = {page.name for page in (ROOT / "docs").glob("*.md")}
    assert {"index", "tutorial", "ptq", "qat", "report", "troubleshooting", "pain_points", "saved_models"} <= {
        name.removesuffix(".zh.md") for name in pages if name.endswith(".zh.md")
    }
    for name in sorted(pages):
        twin = name.replace(".zh.md", ".md") if name.endswith(".zh.md") else name.replace(".md", ".zh.md")
        assert twin not in pages or f"]({twin})" in (ROOT / "docs" / name).read_text(encoding="utf-8"), name


def test_no_link_leads_nowhere(site: Path) -> None:
    pages = {file.resolve(): Page(file) for file in site.rglob("*.html") if file.name != "404.html"}
    broken, checked = [], 0
    for file, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or link.startswith("data:"):
                continue
            checked += 1
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            target = target / "index.html" if target.is_dir() else target
            anchor = unquote(parts.fragment)
            if not target.is_file() or (anchor and target in pages and anchor not in pages[target].anchors):
                broken.append(f"{file.relative_to(site)}: {link}")
    assert checked > 1000 and sorted(set(broken)) == []


def test_the_reference_is_generated_from_the_docstrings(site: Path) -> None:
    page = Page(site / "api" / "index.html")
    assert {"hqc.compile", "hqc.Compiled.simulate", "hqc.quantization.prepare_qat_fx", "hqc.errors.InputError"} <= page.anchors
    assert "What the deployed model computes, bit for bit" in " ".join(" ".join(page.text).split())


def test_no_page_asks_another_machine_for_anything(site: Path) -> None:
    for file in site.rglob("*.html"):
        text = file.read_text(encoding="utf-8")
        assert "fonts.googleapis" not in text and "unpkg.com" not in text and '<script src="http' not in text, file
