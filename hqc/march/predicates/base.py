"""What a predicate answers, and the registries that find it by a limit's key and wording."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hqc.march.facts import Facts

Numbers = tuple[Any, ...]
Measure = Callable[[Facts], "Numbers | None"]


class State(enum.Enum):
    HOLDS = "holds"
    BROKEN = "broken"
    UNKNOWN = "shapes are not known yet"


@dataclass(frozen=True)
class Outcome:
    """Whether a rule holds for a node; `actual` and `limit` are the numbers of a broken one."""

    state: State
    actual: str = ""
    limit: str = ""


HOLDS = Outcome(State.HOLDS)
UNKNOWN = Outcome(State.UNKNOWN)


def broken(actual: object, limit: object = "") -> Outcome:
    return Outcome(State.BROKEN, str(actual), str(limit))


Condition = Callable[[Facts], Outcome]
MEASURES: dict[str, tuple[str, Measure]] = {}
CONDITIONS: dict[tuple[str, str], tuple[str, Condition]] = {}


def measure(label: str, *keys: str) -> Callable[[Measure], Measure]:
    """Register a measure for the table's limit keys; `label` names the quantity in rules."""

    def register(function: Measure) -> Measure:
        MEASURES.update(dict.fromkeys(keys, (label, function)))
        return function

    return register


def condition(key: str, *wordings: str) -> Callable[[Condition], Condition]:
    """Register a condition for a limit key in any of the table's wordings; the docstring is the rule's statement."""

    def register(function: Condition) -> Condition:
        statement = " ".join((function.__doc__ or "").split()).rstrip(".")
        CONDITIONS.update({(key, words): (statement, function) for words in wordings})
        return function

    return register
