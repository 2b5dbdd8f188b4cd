"""Passes by name, and the options of a pass as data: name, type, default and help come from the dataclass fields.

Built-in passes live in modules of the same name (`fold-batch-norm` in `hqc.passes.fold_batch_norm`); a user's pass registers itself
with `@register_pass`, like them.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from hqc.checked import checked
from hqc.errors import PassError
from hqc.near_names import near
from hqc.passes.base import Pass
from hqc.registry import Registry

BUILTIN = (
    "canonicalize",
    "constant-folding",
    "apply-overrides",
    "fold-batch-norm",
    "fuse-conv",
    "analyze-support",
    "apply-plan",
    "partition",
    "insert-boundaries",
    "place-observers",
    "settle-rounding",
    "propagate-scales",
    "unify-cat-scales",
    "add-half-steps",
    "lower-to-integer",
)
"""Names of the passes that come with hqc, in the order in which the default pipelines use them."""

P = TypeVar("P", bound=type[Pass])
PASSES: Registry[str, type[Pass]] = Registry("pass", families="hqc.passes", error=PassError)


def register_pass(cls: P) -> P:
    """Class decorator: make a pass known by its `name`.

    `PassError` for a class that is not a dataclass pass, for a missing or badly spelled name, and for a name that another
    class has.
    """
    name = getattr(cls, "name", "")
    if not (isinstance(cls, type) and issubclass(cls, Pass) and dataclasses.is_dataclass(cls)):
        raise PassError(f"{cls!r} cannot be registered: a pass is a frozen dataclass derived from hqc.passes.Pass")
    if not name or name != name.lower() or not name.replace("-", "").isalnum():
        raise PassError(f"{cls.__qualname__} cannot be registered as {name!r}: pass names look like fold-batch-norm")
    known = PASSES.peek(name)
    if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise PassError(f"the pass name {name} is taken by {known.__module__}.{known.__qualname__}")
    PASSES.put(name, cls)
    return cls


@checked
def get_pass(name: str) -> type[Pass]:
    """The pass class called `name`; `PassError` suggests near names."""
    found = PASSES.get(name)
    if found is None:
        raise PassError(f"there is no pass {name!r}; {suggest(name, sorted(PASSES))}")
    return found


def all_passes() -> list[type[Pass]]:
    """Every pass: the built-in ones in pipeline order, then registered ones by name."""
    builtin = [get_pass(name) for name in BUILTIN]
    return builtin + [PASSES[name] for name in sorted(set(PASSES) - set(BUILTIN))]


def suggest(word: str, known: Iterable[str]) -> str:
    """`did you mean a or b?`, or the list of what there is."""
    known = list(dict.fromkeys(known))
    found = near(word, known)
    if found:
        return f"did you mean {' or '.join(found)}?"
    return f"known: {', '.join(known)}" if known else "there are none"


@dataclass(frozen=True)
class Option:
    """One option of a pass: `name` as written in pipeline text, the dataclass field behind it, type, default and help."""

    name: str
    field: str
    kind: str  # int, float, bool, str, list, or the choices as a|b|c
    default: Any
    required: bool
    help: str
    choices: tuple[str, ...] = ()
    optional: bool = False


def options_of(cls: type[Pass]) -> list[Option]:
    """The options of a pass class, in declaration order; help is the field's `metadata={"help": ...}`."""
    return list(_options(cls))


@functools.cache
def _options(cls: type[Pass]) -> tuple[Option, ...]:
    """Kept: each compile reads its pipelines from text, and type hints are slow to evaluate."""
    hints = typing.get_type_hints(cls)
    return tuple(_option(cls, field, hints[field.name]) for field in dataclasses.fields(cls) if field.init)


def _option(cls: type[Pass], field: dataclasses.Field[Any], hint: Any) -> Option:
    required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    default: Any = None
    if field.default is not dataclasses.MISSING:
        default = field.default
    elif field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    kind, choices, optional = _kind(hint)
    if not kind:
        raise PassError(
            f"pass developer: option {field.name} of {cls.name} has the type {hint}; options are int, float, bool, str, "
            "Literal of strings, tuple[str, ...], or one of them | None"
        )
    help_text = str(field.metadata.get("help", ""))
    return Option(field.name.replace("_", "-"), field.name, kind, default, required, help_text, choices, optional)


def _kind(hint: Any) -> tuple[str, tuple[str, ...], bool]:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType) and type(None) in arguments and len(arguments) == 2:
        kind, choices, _ = _kind(next(argument for argument in arguments if argument is not type(None)))
        return kind, choices, True
    if origin is Literal and all(isinstance(argument, str) for argument in arguments):
        return "|".join(arguments), arguments, False
    if origin is tuple and arguments == (str, Ellipsis):
        return "list", (), False
    for known in (bool, int, float, str):
        if hint is known:
            return known.__name__, (), False
    return "", (), False
