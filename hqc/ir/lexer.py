"""Tokens of IR text, and a cursor over the tokens of one line.

A token is a plain string; its first character says what it is. Lines are short and correct nearly always, so positions are not
kept: when an error is reported, the line is scanned again to find the column.
"""

from __future__ import annotations

import json
import re
from typing import NoReturn

from hqc.errors import ParseError

_STRING = r'"(?:[^"\\]|\\.)*"'
_TOKEN = re.compile(
    "|".join(
        (
            rf"[%@](?:[\w.$-]+|{_STRING})",  # value
            r"[fiub]\d+\[(?:\*|[\d?,\s]*)\]",  # type
            r"\[\s*(?:-?\d+(?:\s*,\s*-?\d+)*)?\s*\](?![\w.])",  # list of integers
            r"[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|inf\b|nan\b)",  # number
            r"[^\W\d][\w.-]*",  # word
            _STRING,
            r"\#\w+(?::[0-9a-f]+)?",  # directive
            r"//.*",  # comment
            r"\S",  # punctuation, or a character that belongs nowhere
        )
    ),
    re.ASCII,
)
_PLAIN_NAME = re.compile(r"[\w.$-]+\Z", re.ASCII)
_PLAIN_WORD = re.compile(r"[^\W\d][\w.-]*\Z", re.ASCII)
_KEYWORDS = frozenset({"inf", "nan"})


def quote(text: str) -> str:
    """`text` as a string literal on one line, of characters that a file and a terminal can show."""
    return json.dumps(text, ensure_ascii=not text.isprintable())


def unquote(token: str) -> str:
    """The text of a string literal; `ValueError` for one that is not valid."""
    if "\\" not in token:
        return token[1:-1]
    value: str = json.loads(token)
    return value


def quote_name(name: str) -> str:
    """A value's or graph's name as it stands after its `%` or `@`."""
    return name if _PLAIN_NAME.match(name) else quote(name)


def quote_word(text: str) -> str:
    """A word where the grammar takes words or strings: quoted only when it must be."""
    return text if _PLAIN_WORD.match(text) and text not in _KEYWORDS else quote(text)


class Cursor:
    """Reads the tokens of one line. Every failure is a `ParseError` at the token it is about."""

    __slots__ = ("file", "index", "number", "text", "tokens")

    def __init__(self, text: str, number: int, file: str) -> None:
        self.text, self.number, self.file = text, number, file
        self.tokens: list[str] = _TOKEN.findall(text)
        if self.tokens and self.tokens[-1].startswith("//"):
            self.tokens.pop()
        self.tokens.append("")  # so that looking at the next token needs no check
        self.index = 0

    @property
    def done(self) -> bool:
        return not self.tokens[self.index]

    def peek(self) -> str:
        """The next token, "" at the end of the line."""
        return self.tokens[self.index]

    def skip(self) -> None:
        """Step over the next token, which is there."""
        self.index += 1

    def accept(self, token: str) -> bool:
        """Step over `token` if it is the next one."""
        if self.tokens[self.index] == token:
            self.index += 1
            return True
        return False

    def expect(self, token: str, after: str) -> None:
        if self.tokens[self.index] != token:
            self.fail(f"expected {token!r} after {after}, found {self.found()}")
        self.index += 1

    def expect_end(self, after: str) -> None:
        if not self.done:
            self.fail(f"unexpected {self.found()} after {after}")

    def found(self) -> str:
        """The next token, for messages."""
        token = self.peek()
        if token == '"':
            return "a string that is not closed"
        return repr(token) if token else "the end of the line"

    def string(self, what: str) -> str:
        token = self.tokens[self.index]
        if len(token) < 2 or token[0] != '"':
            self.fail(f"expected {what} in double quotes, found {self.found()}")
        self.index += 1
        return self._unquote(token)

    def word(self, what: str) -> str:
        """A word, or a string where a word needs quotes."""
        token = self.tokens[self.index]
        if token.isidentifier() and token.isascii():
            self.index += 1
            return token
        if len(token) > 1 and token[0] == '"':
            self.index += 1
            return self._unquote(token)
        if not token.isascii() or not (token[:1].isalpha() or token[:1] == "_"):
            self.fail(f"expected {what}, found {self.found()}")
        self.index += 1
        return token

    def name(self, what: str, sigils: str = "%@") -> str:
        """The name in a `%name` or `@name` token."""
        token = self.tokens[self.index]
        if len(token) < 2 or token[0] not in sigils:
            wanted = " or ".join(f"{sigil}name" for sigil in sigils)
            self.fail(f"expected {what}, written {wanted}, found {self.found()}")
        self.index += 1
        return self._unquote(token[1:]) if token[1] == '"' else token[1:]

    def _unquote(self, token: str) -> str:
        try:
            return unquote(token)
        except ValueError as error:
            self.fail(f"the string {token} is not valid: {error}", self.index - 1)

    def fail(self, message: str, index: int | None = None) -> NoReturn:
        """Raise a `ParseError` at token `index` (default: the next one)."""
        index = self.index if index is None else index
        starts = [match.start() for match in _TOKEN.finditer(self.text)]
        column = starts[index] if index < len(self.tokens) - 1 else len(self.text.rstrip())
        raise ParseError(message, line=self.number, column=column + 1, text=self.text, file=self.file)
