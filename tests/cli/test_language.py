"""Chinese on the command line: chosen by option or by locale; the pages are those of the commands."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from hqc.cli import main
from hqc.cli.language import tr
from hqc.cli.reference import page

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def english(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LC_ALL", "C.UTF-8")


@pytest.mark.parametrize("way", ["--lang zh", "--lang=zh", "locale"])
def test_chinese_by_option_and_by_locale(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if way == "locale":
        monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    options = [] if way == "locale" else way.split()
    for command in ([], ["explain"]):
        shown = CliRunner().invoke(main, [*options, *command, "--help"]).output
        assert "用法:" in shown and "选项" in shown and "Options" not in shown
    refused = CliRunner().invoke(main, [*options, "explain", "nofile.py:Net"])
    assert refused.exit_code == 1 and refused.stderr.startswith("错误:没有文件 nofile.py")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    shown = CliRunner().invoke(main, ["explain", "--help"]).output
    assert "Usage: hqc explain" in shown and "Options:" in shown and tr("calibrating") == "calibrating"


def test_the_option_is_stronger_than_the_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    assert "Usage: " in CliRunner().invoke(main, ["--lang", "en", "--help"]).output


@pytest.mark.parametrize(("lang", "file"), [("en", "cli.md"), ("zh", "cli.zh.md")])
def test_the_pages_are_those_of_the_commands(lang: str, file: str) -> None:
    text = (ROOT / "docs" / file).read_text(encoding="utf-8")
    assert text == page(lang), "stale: run python -m hqc.cli.reference docs"
    assert all(f"\n## hqc {name}\n" in text for name in main.list_commands())
