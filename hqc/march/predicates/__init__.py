"""The limits of the op tables as predicates: numbers measured on a node, and conditions that the tables state in words.

A measure returns the numbers that a range, value or set of a table row bounds: `None` while shapes are unknown, an empty tuple
where the limit does not apply to this node. A condition returns `Outcome`. Every key and every wording that occurs in a row
bound to an IR op has one here, found through its registry decorator; a test holds that.
"""

from hqc.march.predicates.base import (
    CONDITIONS,
    HOLDS,
    MEASURES,
    NOTES,
    UNKNOWN,
    Condition,
    Numbers,
    Outcome,
    State,
    broken,
)
from hqc.march.predicates.products import product_forms
from hqc.march.predicates.reductions import named_axes
from hqc.march.predicates.windows import kernel

__all__ = [
    "CONDITIONS",
    "HOLDS",
    "MEASURES",
    "NOTES",
    "UNKNOWN",
    "Condition",
    "Numbers",
    "Outcome",
    "State",
    "broken",
    "kernel",
    "named_axes",
    "product_forms",
]
