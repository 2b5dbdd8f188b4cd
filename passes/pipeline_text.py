"""Pipelines as text: `fold-batch-norm,partition{min-macs=1e6, horizontal-merge}`, both ways.

    pipeline := pass (',' pass)*
    pass     := name [ '{' option ([','] option)* '}' ]
    option   := name [ '=' value ]              a bool option alone means true
    value    := word | "quoted text" | '[' value (',' value)* ']'

Every error is a `ParseError` with line, column and caret.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, NoReturn

from hqc.errors import HqcError, ParseError, PassError
from hqc.passes.base import Pass
from hqc.passes.registry import Option, get_pass, options_of, suggest

_TOKEN = re.compile(r'\s*(?:(?P<mark>[,{}=\[\]])|(?P<quoted>"(?:[^"\\]|\\.)*")|(?P<word>[^\s,{}=\[\]"]+))')
_PLAIN_WORD = re.compile(r'[^\s,{}=\[\]"\\]+')


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    at: int


def parse_passes(text: str, *, file: str = "<pipeline>") -> list[Pass]:
    """The passes that `text` names, with their options set."""
    return _Parser(text, file).pipeline()


def format_pass(item: Pass) -> str:
    """The text of one pass; options that have their default are left out."""
    shown = []
    for option in options_of(type(item)):
        value = getattr(item, option.field)
        if option.required or value != option.default:
            shown.append(f"{option.name}={_format_value(value)}")
    return f"{item.name}{{{','.join(shown)}}}" if shown else item.name


def _format_value(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{','.join(_format_value(part) for part in value)}]"
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        if _PLAIN_WORD.fullmatch(value) and value != "none":
            return value
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return repr(value)


class _Parser:
    """Recursive descent over the tokens of one text."""

    def __init__(self, text: str, file: str) -> None:
        self.text, self.file = text, file
        self.tokens = self._scan()
        self.position = 0

    def _scan(self) -> list[_Token]:
        tokens, at = [], 0
        end = len(self.text.rstrip())
        while at < end:
            match = _TOKEN.match(self.text, at)
            if match is None:
                start = at + len(self.text[at:]) - len(self.text[at:].lstrip())
                self._fail("this quote is never closed", start)
            assert match.lastgroup is not None
            tokens.append(_Token(match.lastgroup, match[match.lastgroup], match.start(match.lastgroup)))
            at = match.end()
        return [*tokens, _Token("end", "", end)]

    def _fail(self, message: str, at: int) -> NoReturn:
        before = self.text[:at]
        line = before.count("\n") + 1
        column = at - (before.rfind("\n") + 1) + 1
        lines = self.text.split("\n")
        raise ParseError(message, line=line, column=column, text=lines[line - 1], file=self.file)

    @property
    def now(self) -> _Token:
        return self.tokens[self.position]

    def _accept(self, mark: str) -> bool:
        if self.now.kind == "mark" and self.now.text == mark:
            self.position += 1
            return True
        return False

    def _word(self, what: str) -> _Token:
        token = self.now
        if token.kind != "word":
            found = f"{token.text!r}" if token.kind != "end" else "the end of the text"
            self._fail(f"expected {what}, found {found}", token.at)
        self.position += 1
        return token

    def pipeline(self) -> list[Pass]:
        passes = [self._pass()]
        while self._accept(","):
            passes.append(self._pass())
        if self.now.kind != "end":
            self._fail(f"expected ',' before the next pass, found {self.now.text!r}", self.now.at)
        return passes

    def _pass(self) -> Pass:
        token = self._word("the name of a pass")
        try:
            cls = get_pass(token.text)
        except PassError as error:
            self._fail(str(error), token.at)
        known = {option.name: option for option in options_of(cls)}
        given: dict[str, Any] = {}
        if self._accept("{"):
            while not self._accept("}"):
                self._option(cls.name, known, given)
                self._accept(",")
        missing = [option.name for option in known.values() if option.required and option.field not in given]
        if missing:
            self._fail(f"{cls.name} needs the option {', '.join(missing)}", token.at)
        try:
            return cls(**given)
        except (HqcError, ValueError, TypeError) as error:
            self._fail(f"{cls.name}: {error}", token.at)

    def _option(self, pass_name: str, known: dict[str, Option], given: dict[str, Any]) -> None:
        token = self._word(f"an option of {pass_name} or '}}'")
        option = known.get(token.text)
        if option is None:
            self._fail(f"{pass_name} has no option {token.text!r}; {suggest(token.text, known)}", token.at)
        if option.field in given:
            self._fail(f"option {option.name} is given twice", token.at)
        if self._accept("="):
            given[option.field] = self._value(option)
        elif option.kind == "bool":
            given[option.field] = True
        else:
            self._fail(f"option {option.name} needs a value: {option.name}=<{option.kind}>", token.at)

    def _value(self, option: Option) -> Any:
        token = self.now
        if option.kind == "list":
            if not self._accept("["):
                return (self._text(option),)
            items = []
            while not self._accept("]"):
                items.append(self._text(option))
                self._accept(",")
            return tuple(items)
        text = self._text(option)
        if option.optional and token.kind == "word" and text == "none":
            return None
        try:
            return convert(option, text)
        except ValueError as error:
            self._fail(str(error), token.at)

    def _text(self, option: Option) -> str:
        token = self.now
        if token.kind == "quoted":
            self.position += 1
            return re.sub(r"\\(.)", r"\1", token.text[1:-1])
        return self._word(f"a value for {option.name}").text


def convert(option: Option, text: str) -> Any:
    """`text` as the option's type; `ValueError` says what was expected. Whole floats are accepted for int (`1e6`)."""
    if option.choices:
        if text not in option.choices:
            raise ValueError(f"option {option.name} must be one of {', '.join(option.choices)}, got {text!r}")
        return text
    if option.kind == "bool":
        if text not in ("true", "false"):
            raise ValueError(f"option {option.name} must be true or false, got {text!r}")
        return text == "true"
    if option.kind in ("int", "float"):
        try:
            number = float(text)
            if option.kind == "float":
                return number
            return int(text) if re.fullmatch(r"[+-]?\d+", text) else _whole(number)
        except (ValueError, OverflowError):
            raise ValueError(f"option {option.name} must be {option.kind}, got {text!r}") from None
    return text


def _whole(number: float) -> int:
    if number != int(number):
        raise ValueError
    return int(number)
