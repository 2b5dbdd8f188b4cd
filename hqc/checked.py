"""The edge of the public calls: an argument of another kind than the signature says is refused by name, before anything runs.

The signature is the one place that says what a parameter takes; this reads it. It looks at the kind only (a text, a number, a dict, a
list, a module): which texts and numbers are meant is for the body to say. `Any`, and names that no module defines at run time, take
everything, and so do paths: `hqc.files.path_text` is their gate.
"""

from __future__ import annotations

import collections.abc
import functools
import inspect
import numbers
import os
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ParamSpec, TypeVar

from hqc.errors import InputError

_P = ParamSpec("_P")
_R = TypeVar("_R")
_LISTS = (collections.abc.Iterable, collections.abc.Sequence, collections.abc.Collection, list, tuple, set, frozenset)
_NUMBERS: dict[Any, tuple[str, type]] = {int: ("a whole number", numbers.Integral), float: ("a number", numbers.Real)}


def checked_but(*parameters: str) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """`checked`, but for parameters that the body refuses in better words."""

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        return _checked(function, frozenset(parameters))

    return decorate


def checked(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Decorator of a public function or method: `InputError` for arguments of the wrong kind, with the parameter's name."""
    return _checked(function, frozenset())


def _checked(function: Callable[_P, _R], elsewhere: frozenset[str]) -> Callable[_P, _R]:
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError:
            return function(*args, **kwargs)  # Python's own words for arguments that are missing or too many
        check_kinds({name: value for name, value in given.items() if name not in elsewhere}, _annotations(function))
        return function(*args, **kwargs)

    return call


def check_kinds(values: Mapping[str, Any], annotations: Mapping[str, Any]) -> None:
    """`InputError` for the first value that its annotation does not take. Parameters without an annotation take everything."""
    for name, value in values.items():
        annotation = annotations.get(name, Any)
        if not takes(annotation, value):
            raise InputError(f"{name} must be {described(annotation)}, got {_shown(value)}")


def takes(annotation: Any, value: Any) -> bool:
    """True where `value` is of the kind that `annotation` says."""
    origin = typing.get_origin(annotation)
    if annotation is Any:
        return True
    if annotation is None or annotation is types.NoneType:
        return value is None
    if origin is typing.Union or origin is types.UnionType:
        return any(takes(each, value) for each in typing.get_args(annotation))
    if origin is typing.Literal:
        return any(type(value) is type(each) for each in typing.get_args(annotation))
    if annotation is bool:
        return isinstance(value, (bool, int)) or type(value).__name__ in ("bool_", "bool")  # NumPy's
    if annotation in _NUMBERS:
        return isinstance(value, _NUMBERS[annotation][1]) and not isinstance(value, bool)
    kind = origin or annotation
    if kind in _LISTS:
        arrays = (
            1 if kind is collections.abc.Iterable else None
        )  # one without axes refuses to be iterated; none is true or false
        return isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping)) and _axes(value, arrays)
    if kind is collections.abc.Callable:
        return callable(value)
    if kind is type:
        return isinstance(value, type)
    if not isinstance(kind, type) or kind is os.PathLike or kind is object or getattr(kind, "_is_protocol", False):
        return True
    return isinstance(value, kind)


def described(annotation: Any) -> str:
    """What `annotation` takes, in words."""
    origin = typing.get_origin(annotation)
    if annotation is None or annotation is types.NoneType:
        return "None"
    if origin is typing.Union or origin is types.UnionType:
        words = list(dict.fromkeys(described(each) for each in typing.get_args(annotation)))
        return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
    if origin is typing.Literal:
        return " or ".join(repr(each) for each in typing.get_args(annotation))
    if annotation in _NUMBERS:
        return _NUMBERS[annotation][0]
    kind = origin or annotation
    if kind in _LISTS:
        return "a list"
    if kind in (collections.abc.Mapping, dict):
        return "a dict"
    if kind is collections.abc.Callable:
        return "a function"
    known = {bool: "True or False", str: "a text", bytes: "bytes", type: "a class", os.PathLike: "a path"}
    return known.get(kind) or _with_article(getattr(kind, "__qualname__", str(kind)))


def annotations_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of a function's parameters; `Any` for one that names what exists for type checkers alone."""
    function = inspect.unwrap(function)
    names = getattr(function, "__globals__", {})
    return {
        name: _evaluated(parameter.annotation, names)
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }


_annotations = functools.cache(annotations_of)


def _evaluated(annotation: Any, names: dict[str, Any]) -> Any:
    if annotation is inspect.Parameter.empty:
        return Any
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, names)  # the text of our own source
    except NameError:
        return Any


def whole_number(text: str) -> int | None:
    """The number that `text` spells in decimal digits; None for anything else, and for more digits than a size or a count has.

    Python refuses to read numbers of some thousand digits with an error of its own.
    """
    return int(text) if text.isdecimal() and len(text) < 19 else None


def _axes(value: Any, least: int | None) -> bool:
    """True for what is no array or tensor, and for those of `least` axes or more."""
    axes = getattr(value, "ndim", None)
    return axes is None or (least is not None and axes >= least)


def _with_article(name: str) -> str:
    return f"an {name}" if name[:1].lower() in tuple("aeiou") else f"a {name}"


def _shown(value: Any) -> str:
    """The value, where it is short; otherwise its kind."""
    simple = type(value) in (str, int, float, bool, type(None)) and not (isinstance(value, int) and value.bit_length() > 200)
    return f"{value!r:.80}" if simple else _with_article(type(value).__name__)
