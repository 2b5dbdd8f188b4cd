"""The marches by name, and the march that the user chose for this process."""

from __future__ import annotations

import enum
import functools
import importlib
from typing import Any

from hqc.checked import checked, explained
from hqc.errors import AbsentNameError, MarchError
from hqc.march.spec import MarchSpec
from hqc.near_names import suggest


class _Marches(enum.EnumMeta):
    """Says which marches there are when an unknown one is named."""

    def __getattr__(cls, name: str) -> Any:
        members: dict[str, Any] = cls.__dict__.get("_member_map_", {})
        if name in members:  # enum's own look-up in older Pythons
            return members[name]
        if name.startswith("_"):
            raise AttributeError(name)
        what = "is a march of the next chip generation (J6), which hqc has not" if name.startswith("NASH") else "is no march"
        raise AbsentNameError(f"March.{name} {what}; there are {', '.join(f'March.{known}' for known in members)}")


class March(str, enum.Enum, metaclass=_Marches):
    """A chip family; the value is its name in IR text, on the command line and in reports.

    The module of that name (`-` written `_`) in `hqc.march` describes it in its `SPEC`. Oldest chip first.
    """

    BERNOULLI = "bernoulli"
    BERNOULLI2 = "bernoulli2"
    BAYES = "bayes"
    BAYES_E = "bayes-e"
    Bernoulli2 = "bernoulli2"
    Bayes = "bayes"

    def __str__(self) -> str:
        return self.value


_current: March | None = None


def _resolve(march: March | str) -> March:
    if isinstance(march, March):
        return march
    names = [member.value for member in March]
    if not isinstance(march, str):
        raise MarchError(f"a march is a hqc.march.March or one of {', '.join(names)}, got {march!r}")
    wanted = march.lower().replace("_", "-")
    for member in March:
        if member.value == wanted or wanted.upper() in _spec_of(member).chips:
            return member
    known = f"; known: {', '.join(names)}"
    raise MarchError(f"unknown march {march!r}{suggest(wanted, names) or known}")


@explained
def get_spec(march: March | str) -> MarchSpec:
    """The description of a march given as `March`, by name, or by the name of its chip (`x3`); `MarchError` for an unknown one."""
    return _spec_of(_resolve(march))


@functools.cache
def _spec_of(march: March) -> MarchSpec:
    spec: MarchSpec = importlib.import_module(f"hqc.march.{march.value.replace('-', '_')}").SPEC
    return spec


def all_specs() -> tuple[MarchSpec, ...]:
    """Every march, oldest chip first."""
    return tuple(map(_spec_of, March))


@checked
def set_march(march: March | str) -> None:
    """Choose the march that prepare, convert and export work for; call it before them."""
    global _current
    _current = _resolve(march)


def get_march() -> March:
    """The march chosen with `set_march`; `MarchError` when none was."""
    if _current is None:
        last, *others = [member.name for member in reversed(March)]
        raise MarchError(f"no march is set; call hqc.march.set_march(hqc.march.March.{last}) (or {', '.join(others)}) first")
    return _current
