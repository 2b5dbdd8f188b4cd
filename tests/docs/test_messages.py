"""Everything that hqc says has Chinese, and is punctuated as one sentence. What is said is read from the sources."""

from __future__ import annotations

import json
import re
import string
from functools import cache

import pytest

from hqc.language import catalogue
from tools.messages import NOT_SAID, PO, ROOT, TABLE, Message, _Reader, help_texts, messages, table_of, translated


@cache
def spoken() -> dict[str, Message]:
    return {message.text: message for message in messages()}


def fields(template: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}


def test_every_message_has_chinese() -> None:
    known = catalogue()
    missing = [f"{each.file}:{each.line}: {text!r}" for text, each in spoken().items() if text not in known]
    missing += [repr(text) for text in sorted(help_texts() - set(known))]
    assert missing == [], "run `python -m tools.messages`, put the Chinese into hqc/language/zh.po, and run it again"


def test_the_catalogue_holds_nothing_that_nobody_says() -> None:
    stale = sorted(set(catalogue()) - set(spoken()) - help_texts())
    assert stale == [], "run `python -m tools.messages`"


def test_the_table_is_that_of_the_catalogue() -> None:
    assert json.loads(TABLE.read_text(encoding="utf-8")) == table_of(translated()), (
        f"run `python -m tools.messages` after {PO.name}"
    )


def test_translations_keep_the_places_and_are_chinese() -> None:
    said = {text: chinese for text, chinese in catalogue().items() if text in spoken()}
    assert [text for text, chinese in said.items() if fields(text) - {"s"} != fields(chinese)] == []
    # Names of types, options and chips are words of both languages; a sentence is not.
    sentences = {text: chinese for text, chinese in said.items() if re.search(r"[a-z]{3,} [a-z]{2,} [a-z]{2,}", text)}
    assert [text for text, chinese in sentences.items() if not re.search("[\u4e00-\u9fff]", chinese)] == []


def test_messages_are_punctuated_as_one_sentence() -> None:
    """No doubled or mixed punctuation; a question (`did you mean`) comes last."""
    wrong = []
    for text, each in spoken().items():
        # Ellipses, ranges, code and names of files are no punctuation; limits in march tables are quoted from there.
        bare = re.sub(r"\.\.+,?|`[^`]*`|'[^']*'|\{[^}]*\}\.?| \.(?=[\w{])", " x", text)
        if re.search(r"[.,;:?!] ?[.,;:?!]| [.,;:?!]( |$)", bare) and not each.file.startswith("hqc/march/predicates/"):
            wrong.append(f"{each.file}:{each.line}: {text!r}")
        for place, value in enumerate(each.values):
            after = text.partition(f"{{{place}}}")[2]
            if value.startswith("suggest(") and after and after[0] != "\n":
                wrong.append(f"{each.file}:{each.line}: what follows a question? {text!r}")
    assert wrong == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('raise InputError(f"{name!r} is no name{suggest(name, known)}")', ["{0} is no name{1}"]),
        ('raise InputError("give a name")', ["give a name"]),
        ('Reason(rule=f"{n} input{\'s\'[: n != 1]}")', ["{0} input{s}"]),
        ('log.warning("%s has %d axes", name, rank)', ["{0} has {1} axes"]),
        ('x = f"a set: {{{names}}}"', ["a set: {{{0}}}"]),
        ('x = f"{a}{\' of channel \' + str(c) if c else \'\'}"', ["of channel"]),
        ('plural(count, "value")', ["{0} value{s}"]),
        ('table.add_column("op")', []),
        ('"""A docstring of words."""', []),
        ('assert x, "for developers only"', []),
    ],
)  # fmt: skip
def test_templates_are_read_from_sources(source: str, expected: list[str]) -> None:
    assert [message.text for message in _Reader("hqc/some.py").read(source)] == expected


def test_files_that_say_nothing_exist() -> None:
    assert [name for name in NOT_SAID if not (ROOT / name).exists()] == []
