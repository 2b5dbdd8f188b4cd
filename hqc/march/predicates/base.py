"""What a predicate answers, and the registries that find it by a limit's key and wording."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hqc.checked import explained
from hqc.march.facts import Facts
from hqc.registry import Registry

Numbers = tuple[Any, ...]
"""What a measure found; None for a number that an unknown size hides."""
Measure = Callable[[Facts], "Numbers | None"]


class State(enum.Enum):
    HOLDS = "holds"
    BROKEN = "broken"
    UNKNOWN = "shapes are not known yet"


@explained
@dataclass(frozen=True)
class Outcome:
    """Whether a rule holds for a node; `actual` and `limit` are the numbers of a broken one."""

    state: State
    actual: str = ""
    limit: str = ""


HOLDS = Outcome(State.HOLDS)
UNKNOWN = Outcome(State.UNKNOWN)


@explained
def broken(actual: object, limit: object = "") -> Outcome:
    return Outcome(State.BROKEN, str(actual), str(limit))


Condition = Callable[[Facts], Outcome]
_FAMILIES = "hqc.march.predicates"
MEASURES: Registry[str, tuple[str, Measure]] = Registry("measure of a limit", families=_FAMILIES)
CONDITIONS: Registry[tuple[str, str], tuple[str, Condition]] = Registry("condition of a limit", families=_FAMILIES)
NOTES: Registry[str, tuple[str, Condition]] = Registry("rule of a note", families=_FAMILIES)
"""Limits that the tables state in the note of a row: statement and condition by the note's text."""


def measure(label: str, *keys: str) -> Callable[[Measure], Measure]:
    """Register a measure for the table's limit keys; `label` names the quantity in rules."""
    return MEASURES.register(*keys, make=lambda function: (label, function))


def condition(key: str, *wordings: str) -> Callable[[Condition], Condition]:
    """Register a condition for a limit key in any of the table's wordings; the docstring is the rule's statement."""
    return CONDITIONS.register(*((key, words) for words in wordings), make=_with_statement)


def _with_statement(function: Condition) -> tuple[str, Condition]:
    return " ".join((function.__doc__ or "").split()).rstrip("."), function
