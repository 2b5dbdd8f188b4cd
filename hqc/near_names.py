"""Names that a misspelled one may have meant, for error messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LONGEST = 500
"""Characters of a name that anybody may have misspelled."""


def near(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """Up to `count` known names that resemble `name`, best first; a name that contains it or ends with it counts as near."""
    if len(name) > LONGEST:
        return []  # comparing takes the product of the lengths
    unique = sorted(set(known))
    found = difflib.get_close_matches(name, unique, n=count, cutoff=0.6)
    last = name.rpartition(".")[2]
    for candidate in unique:
        if len(found) >= count:
            break
        if candidate not in found and last and candidate.rpartition(".")[2] == last:
            found.append(candidate)
    return found


def suggest(name: str, known: Iterable[str]) -> str:
    """`; did you mean a, b or c?`, or nothing."""
    names = near(name, known)
    if not names:
        return ""
    listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
    return f"; did you mean {listed}?"
