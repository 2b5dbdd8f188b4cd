"""The marches by name, and the march that the user chose for this process."""

from __future__ import annotations

import difflib
import enum

from hqc.errors import MarchError
from hqc.march import bayes, bayes_e, bernoulli, bernoulli2
from hqc.march.spec import MarchSpec


class March(str, enum.Enum):
    """A chip family; the value is its name in IR text, on the command line and in reports."""

    BERNOULLI = "bernoulli"
    BERNOULLI2 = "bernoulli2"
    BAYES = "bayes"
    BAYES_E = "bayes-e"

    def __str__(self) -> str:
        return self.value


_SPECS: dict[March, MarchSpec] = {March(module.SPEC.name): module.SPEC for module in (bernoulli, bernoulli2, bayes, bayes_e)}
_current: March | None = None


def _resolve(march: March | str) -> March:
    if isinstance(march, March):
        return march
    names = [member.value for member in March]
    if not isinstance(march, str):
        raise MarchError(f"a march is a hqc.march.March or one of {', '.join(names)}, got {march!r}")
    wanted = march.lower().replace("_", "-")
    for member in March:
        if member.value == wanted:
            return member
    near = difflib.get_close_matches(wanted, names, n=2)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise MarchError(f"unknown march {march!r}; {hint}known: {', '.join(names)}")


def get_spec(march: March | str) -> MarchSpec:
    """The description of a march given as `March` or by name; `MarchError` with near names for an unknown one."""
    return _SPECS[_resolve(march)]


def all_specs() -> tuple[MarchSpec, ...]:
    """Every march, oldest chip first."""
    return tuple(_SPECS[march] for march in March)


def set_march(march: March | str) -> None:
    """Choose the march that prepare, convert and export work for; call it before them."""
    global _current
    _current = _resolve(march)


def get_march() -> March:
    """The march chosen with `set_march`; `MarchError` when none was."""
    if _current is None:
        raise MarchError(
            "no march is set; call hqc.march.set_march(hqc.march.March.BAYES) (or BAYES_E, BERNOULLI2, BERNOULLI) first"
        )
    return _current
