"""Chinese on the command line: every text has a translation, chosen by option or by locale; the pages are those of the commands."""

from __future__ import annotations

import ast
import string
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from hqc.cli import main
from hqc.cli.language import catalogue, key_of, tr
from hqc.cli.reference import page

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "hqc" / "cli").rglob("*.py"))


def help_texts() -> set[str]:
    commands = [main, *(main.get_command(None, name) for name in main.list_commands())]
    found = {text for command in commands if command for text in (command.help, command.short_help, command.epilog)}
    found |= {param.help for command in commands if command for param in command.params if isinstance(param, click.Option)}
    return {key_of(text) for text in found if text}


def spoken_texts() -> set[str]:
    """First arguments of `tr(...)`, which must be literals."""
    found = set()
    for file in SOURCES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            literal = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "tr"
            if literal and isinstance(node.args[0], ast.Constant):
                found.add(node.args[0].value)
    return found


@pytest.fixture(autouse=True)
def english(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LC_ALL", "C.UTF-8")


def test_every_text_of_the_command_line_has_a_translation() -> None:
    missing = sorted((help_texts() | spoken_texts()) - set(catalogue()))
    assert missing == [], "add these to hqc/cli/zh.json"


def test_translations_keep_the_fields_and_are_chinese() -> None:
    def fields(text: str) -> set[str]:
        return {name for _, name, _, _ in string.Formatter().parse(text) if name and name.isidentifier()}

    for text, chinese in catalogue().items():
        if text in spoken_texts():
            assert fields(text) == fields(chinese), text
        assert any("\u4e00" <= character <= "\u9fff" for character in chinese), text


def test_the_catalogue_holds_nothing_that_nobody_says() -> None:
    assert set(catalogue()) - help_texts() - spoken_texts() <= {"Options", "Commands", "Show this message and exit."}


@pytest.mark.parametrize("way", ["--lang zh", "--lang=zh", "locale"])
def test_chinese_by_option_and_by_locale(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if way == "locale":
        monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    options = [] if way == "locale" else way.split()
    for command in ([], ["explain"]):
        shown = CliRunner().invoke(main, [*options, *command, "--help"]).output
        assert "用法:" in shown and "选项" in shown and "Options" not in shown
    refused = CliRunner().invoke(main, [*options, "explain", "nofile.py:Net"])
    assert refused.exit_code == 1 and refused.stderr.startswith("错误:there is no file nofile.py")
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
