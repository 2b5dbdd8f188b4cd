"""What tuning shall reach, as text: `35 dB`, `0.9`, `top1>=0.99*float`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hqc.checked import explained
from hqc.errors import InputError

_FORM = re.compile(
    r"(?:(?P<name>[A-Za-z_]\w*)\s*>=)?\s*(?P<number>[-+]?\d+(?:\.\d*)?)\s*(?P<unit>dB|\*\s*float)?\s*", re.IGNORECASE
)


@explained
@dataclass(frozen=True)
class Target:
    """A score of at least `number`, or of at least `number` times the float model's (`of_float`). Larger scores are better."""

    number: float
    of_float: bool = False

    @classmethod
    def parse(cls, text: str | float) -> Target:
        """`InputError` for what is no target."""
        if isinstance(text, (int, float)):
            return cls(float(text))
        found = _FORM.fullmatch(text)
        if found is None:
            raise InputError(f"a target is a score such as '35 dB' or 'top1>=0.99*float', got {text!r}")
        return cls(float(found["number"]), bool(found["unit"]) and found["unit"].lower() != "db")

    def threshold(self, real: float) -> float:
        """The score to reach; `real`: the float model's."""
        return self.number * real if self.of_float else self.number
