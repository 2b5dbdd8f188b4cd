"""Sentences made from templates are recognized, and said again in another language.

`{0}`, `{1}`, ... in a template are its places; what a place holds is translated too, where it is made of templates again, and kept as it is
otherwise (names, numbers, files). `{s}` is the ending of a word, which the other language does not have. Of several readings of a
sentence, the one that explains most of its letters counts.
"""

from __future__ import annotations

import re
import string
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

ENDING = "s"
"""The name of the places that hold endings."""
JOINTS = (("\n", "\n"), ("; ", ";"), (": ", ":"), (", ", ","), (" (", "("))
"""What parts of a message are joined with, and how that is written in Chinese."""
LONGEST_LINE = 4000
"""Characters; longer lines are data, not messages."""

_JOINING = " ,;:>\n"
_WORD = re.compile(r"(?<!\w)[A-Za-z]{2,}(?!\w)")
_LETTER = re.compile(r"[A-Za-z]")
_QUOTED = re.compile(r"""'[^']*'|"[^"]*\"""")
_CHINESE_THEN_WORD = re.compile(r"[\u4e00-\u9fff][A-Za-z0-9]|[A-Za-z0-9][\u4e00-\u9fff]")
_BETWEEN_CHINESE = re.compile(r"(?<=[\u3001-\u9fff]) +(?=[\u3001-\u9fff])")


class Reading(NamedTuple):
    """A sentence read in one way. `explained`: letters that templates have; `left`: letters of what stays English and is no single name."""

    chinese: str
    explained: int
    left: int


@dataclass(frozen=True)
class Phrase:
    """One template. `parts`: its literal texts, `places`: the names between them."""

    parts: tuple[str, ...]
    places: tuple[str, ...]
    chinese: str

    @classmethod
    def of(cls, template: str, chinese: str) -> Phrase:
        """Read a template; `{{` and `}}` are braces."""
        parts, places, literal = [], [], ""
        for text, name, _, _ in string.Formatter().parse(template):
            literal += text
            if name is not None:
                parts.append(literal)
                places.append(name)
                literal = ""
        return cls((*parts, literal), tuple(places), chinese)

    @cached_property
    def letters(self) -> int:
        """How much of a sentence it explains."""
        return sum(len(_LETTER.findall(part)) for part in self.parts)

    @cached_property
    def words(self) -> frozenset[str]:
        """Words that a sentence must have."""
        return frozenset(_WORD.findall("_".join(self.parts)))

    @cached_property
    def _expression(self) -> re.Pattern[str] | None:
        # Endings are short, and several places without text between them can be told apart no other way.
        if ENDING not in self.places:
            return None
        holes = ["[a-z]{0,5}" if name == ENDING else "(.*?)" for name in self.places]
        text = "".join(re.escape(part) + hole for part, hole in zip(self.parts, [*holes, ""], strict=True))
        return re.compile(text, re.DOTALL)

    def values(self, text: str) -> list[str] | None:
        """What `text` has in the places that are no endings, or None where it is not made from this template."""
        if self._expression is not None:
            match = self._expression.fullmatch(text)
            return None if match is None else list(match.groups())
        first, last = self.parts[0], self.parts[-1]
        if not self.places:
            return [] if text == first else None
        if len(text) < len(first) + len(last) or not text.startswith(first) or not text.endswith(last):
            return None
        # From left to right without going back: each text between places where it comes first. Of places without text between them the
        # first has it all: the others are what some messages add to it.
        values, start, end, empty = [], len(first), len(text) - len(last), 0
        for part in self.parts[1:-1]:
            if not part:
                empty += 1
                continue
            found = text.find(part, start, end)
            if found < 0:
                return None
            values += [text[start:found], *[""] * empty]
            start, empty = found + len(part), 0
        return [*values, text[start:end], *[""] * empty]

    def say(self, values: Iterable[str]) -> str:
        """The Chinese sentence with these values, with a blank between Chinese and what is not."""
        given = list(values)
        found = ""
        for text, name, _, _ in string.Formatter().parse(self.chinese):
            found = _spaced(found, text)
            if name is not None:
                found = _spaced(found, given[int(name)])
        return found


class Phrases:
    """All templates that have numbers for their places, and what was said already."""

    def __init__(self, catalogue: Mapping[str, str]) -> None:
        self._whole: dict[str, str] = {}
        self._by_word: dict[str, list[Phrase]] = defaultdict(list)
        self._others: list[Phrase] = []
        self._known: dict[str, Reading] = {}
        phrases = [Phrase.of(*_without_joints(template, chinese)) for template, chinese in catalogue.items()]
        kept = [phrase for phrase in phrases if all(name == ENDING or name.isdigit() for name in phrase.places)]
        count: dict[str, int] = defaultdict(int)
        for phrase in kept:
            for word in phrase.words:
                count[word] += 1
        for phrase in kept:
            if not phrase.places:
                self._whole[phrase.parts[0]] = phrase.say(())
            elif phrase.words:
                self._by_word[min(phrase.words, key=lambda word: (count[word], word))].append(phrase)
            else:
                self._others.append(phrase)

    def said(self, text: str) -> str:
        """`text` in Chinese as far as it is known."""
        return _BETWEEN_CHINESE.sub("", self._read(text).chinese)

    def word(self, text: str) -> str:
        """`text` that is no name, as the head of a column: single words are translated too."""
        return self._whole.get(text) or self.said(text)

    def _read(self, text: str) -> Reading:
        """The best reading."""
        core = text.strip(_JOINING)
        if core not in self._known:
            found = Reading(core, 0, len(_LETTER.findall(core)) if " " in core else 0)
            if _LETTER.search(core) and not _QUOTED.fullmatch(core):
                # Of equals the loosest: joints first, then the templates of the fewest letters ("{0} on {1}" around the others).
                for reading in self._readings(core):
                    found = max(found, reading, key=lambda each: (-each.left, each.explained))
            self._known[core] = found
        best = self._known[core]
        return best._replace(chinese=_around(text, best.chinese)) if best.explained else best._replace(chinese=text)

    def _readings(self, core: str) -> Iterator[Reading]:
        whole = self._whole.get(core)
        if whole is not None and " " in core:  # a single word may be a name
            yield Reading(whole, len(_LETTER.findall(core)), 0)
            return
        for joint, written in JOINTS:
            for at in sorted({core.find(joint), core.rfind(joint)} - {-1}):
                yield self._joined(core[:at], core[at + len(joint) :], joint, written)
        if len(core) <= LONGEST_LINE:
            for phrase in sorted(self._candidates(core), key=lambda each: each.letters):
                values = phrase.values(core)
                if values is not None and core not in values:
                    read = [self._read(value) for value in values]
                    yield Reading(
                        phrase.say(each.chinese for each in read),
                        phrase.letters + sum(each.explained for each in read),
                        sum(each.left for each in read),
                    )

    def _joined(self, left: str, right: str, joint: str, written: str) -> Reading:
        closing = ")" if joint == " (" and right.endswith(")") else ""
        one, two = self._read(left), self._read(right.removesuffix(closing))
        joined = f"{one.chinese}{written if one.explained and two.explained else joint}{two.chinese}{closing}"
        return Reading(joined, one.explained + two.explained, one.left + two.left)

    def _candidates(self, core: str) -> Iterator[Phrase]:
        words = frozenset(_WORD.findall(core))
        for word in words & self._by_word.keys():
            yield from (phrase for phrase in self._by_word[word] if phrase.words <= words)
        yield from self._others


def _spaced(left: str, right: str) -> str:
    blank = " " if _CHINESE_THEN_WORD.fullmatch(left[-1:] + right[:1]) else ""
    return left + blank + right


def _without_joints(template: str, chinese: str) -> tuple[str, str]:
    """A template that is a part of a message, without the punctuation that joins it to the rest."""
    if template != template.lstrip(_JOINING):
        template, chinese = template.lstrip(_JOINING), chinese.lstrip(_JOINING)
    if template != template.rstrip(_JOINING):
        template, chinese = template.rstrip(_JOINING), chinese.rstrip(_JOINING)
    return template, chinese


def _around(text: str, core: str) -> str:
    """`core` with the blanks and the punctuation that are around `text`."""
    return text[: len(text) - len(text.lstrip(_JOINING))] + core + text[len(text.rstrip(_JOINING)) :]
