"""`with_args`: a class and some of its arguments, to be called later; how qconfigs hold fake quants and observers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Factory:
    """Calls `target(**arguments, **more)`. Equal when target and arguments are; picklable; `with_args` adds arguments."""

    __slots__ = ("arguments", "target")

    def __init__(self, target: Callable[..., Any], arguments: dict[str, Any] | None = None) -> None:
        self.target = target
        self.arguments = dict(arguments or {})

    def __call__(self, **more: Any) -> Any:
        return self.target(**{**self.arguments, **more})

    def with_args(self, **more: Any) -> Factory:
        return Factory(self.target, {**self.arguments, **more})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Factory) and self.target is other.target and self.arguments == other.arguments

    def __hash__(self) -> int:
        return hash((self.target, tuple(sorted(self.arguments))))

    def __repr__(self) -> str:
        name = getattr(self.target, "__name__", repr(self.target))
        return f"{name}({', '.join(f'{key}={value!r}' for key, value in self.arguments.items())})"


class WithArgs:
    """Gives a class the constructor-with-arguments `Cls.with_args(...)`."""

    @classmethod
    def with_args(cls, **arguments: Any) -> Factory:
        """A factory of this class with these arguments."""
        return Factory(cls, arguments)
