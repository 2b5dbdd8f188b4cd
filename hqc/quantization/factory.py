"""`with_args`: a class and some of its arguments, to be called later; how qconfigs hold fake quants and observers."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from hqc.checked import explained
from hqc.errors import QConfigError
from hqc.near_names import suggest


class Factory:
    """Calls `target(**arguments, **more)`. Equal when target and arguments are; picklable; `with_args` adds arguments."""

    __slots__ = ("arguments", "target")

    def __init__(self, target: Callable[..., Any], arguments: dict[str, Any] | None = None) -> None:
        self.target = target
        self.arguments = dict(arguments or {})

    def __call__(self, **more: Any) -> Any:
        return self.target(**{**self.arguments, **more})

    def with_args(self, **more: Any) -> Factory:
        check_keywords(self.target, {**self.arguments, **more})
        return Factory(self.target, {**self.arguments, **more})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Factory) and self.target is other.target and self.arguments == other.arguments

    def __hash__(self) -> int:
        return hash((self.target, tuple(sorted(self.arguments))))

    def __repr__(self) -> str:
        name = getattr(self.target, "__name__", repr(self.target))
        return f"{name}({', '.join(f'{key}={value!r}' for key, value in self.arguments.items())})"


@explained
class WithArgs:
    """Gives a class the constructor-with-arguments `Cls.with_args(...)`."""

    @classmethod
    def with_args(cls, **arguments: Any) -> Factory:
        """A factory of this class with these arguments; `QConfigError` for a keyword that nothing takes."""
        check_keywords(cls, arguments)
        return Factory(cls, arguments)


def check_keywords(target: Any, arguments: dict[str, Any]) -> None:
    """`QConfigError` for keywords that neither `target` takes nor the observer that it hands the rest to."""
    observer = arguments.get("observer", _default_of(target, "observer"))
    known = keywords(target) | (keywords(observer) if observer is not None else frozenset())
    unknown = sorted(set(arguments) - known)
    if unknown:
        parts = [each for each in (target, observer) if each is not None]
        names = " with ".join(getattr(getattr(each, "target", each), "__name__", repr(each)) for each in parts)
        raise QConfigError(
            f"{names} takes no keyword {unknown[0]!r}; it takes {', '.join(sorted(known))}{suggest(unknown[0], known)}"
        )


def keywords(target: Any) -> frozenset[str]:
    """Names of the arguments that a class or factory takes, those of base classes included that it hands the rest to."""
    if isinstance(target, Factory):
        return keywords(target.target)
    if not isinstance(target, type):
        return frozenset(inspect.signature(target).parameters)
    found: set[str] = set()
    for cls in target.__mro__:
        if "__init__" not in vars(cls):
            continue
        parameters = inspect.signature(vars(cls)["__init__"]).parameters.values()
        found.update(each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY))
        if not any(each.kind is each.VAR_KEYWORD for each in parameters):
            break
    return frozenset(found - {"self"})


def _default_of(target: Any, name: str) -> Any:
    if not isinstance(target, type):
        return None
    for cls in target.__mro__:
        parameter = inspect.signature(cls).parameters.get(name) if "__init__" in vars(cls) else None
        if parameter is not None:
            return None if parameter.default is parameter.empty else parameter.default
    return None
