"""The edge of the public calls: an argument of another kind than the signature says is refused by name, before anything runs.

The signature is the one place that says what a parameter takes; this reads it. It looks at the kind only (a text, a number, a dict, a
list, a module): which texts and numbers are meant is for the body to say. `Any`, and names that no module defines at run time, take
everything, and so do paths: `hqc.files.path_text` is their gate.

Three strengths. `checked`: before the call; for what is called once. `explained`: after a call that failed, elements of lists and dicts
included; it costs nothing where all is well, for what is called often, and for classes. `numeric`: as `explained`, and what torch or NumPy
say about operands of the right kind becomes one sentence too.
"""

from __future__ import annotations

import ast
import collections.abc
import functools
import inspect
import numbers
import os
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any, ParamSpec, TypeVar

from hqc.errors import HqcError, InputError, first_line

_P = ParamSpec("_P")
_R = TypeVar("_R")
_C = TypeVar("_C", bound=Callable[..., Any])
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
        return watched(*args, **kwargs)

    watched = _watched(function, numeric=False)
    return call


def explained(item: _C) -> _C:
    """Decorator of a function or class: where a call fails, `InputError` for the argument of the wrong kind; other errors as they are.

    Of a class it covers the constructor and the public methods that the class itself defines.
    """
    return _each(item, numeric=False)


def numeric(item: _C) -> _C:
    """As `explained`, for what computes with tensors or arrays: what torch and NumPy say about them becomes an `InputError`.

    `forward` speaks torch's words about shapes, as every layer does.
    """
    return _each(item, numeric=True)


def _each(item: _C, numeric: bool) -> _C:
    if not inspect.isclass(item):
        return _watched(item, numeric)  # type: ignore[return-value]
    for name, found in list(vars(item).items()):
        if name.startswith("_") and name not in ("__new__", "__init__", "__post_init__", "__call__"):
            continue
        words = numeric and name != "forward"
        if isinstance(found, (classmethod, staticmethod)):
            setattr(item, name, type(found)(_watched(found.__func__, words)))
        elif inspect.isfunction(found) and len(inspect.signature(found).parameters) > 1:
            setattr(item, name, _watched(found, words))
    return item


def _watched(function: Callable[_P, _R], numeric: bool) -> Callable[_P, _R]:
    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return function(*args, **kwargs)
        except HqcError:
            raise
        except Exception as error:
            refusal = _refusal(function, args, kwargs, error if numeric else None)
            if refusal is None:
                raise
            raise refusal from error

    return call


_TORCHS = (
    RuntimeError,
    TypeError,
    ValueError,
    IndexError,
    NotImplementedError,
    OverflowError,
    ZeroDivisionError,
    UnicodeDecodeError,
    MemoryError,
)
"""What torch and NumPy raise about operands. Subclasses are signals of other machinery: tracing, export, memory."""


def _refusal(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], error: Exception | None
) -> InputError | None:
    """The sentence about the argument that a failed call was given, None where all are of the right kind."""
    signature = inspect.signature(function)
    try:
        given = signature.bind(*args, **kwargs).arguments
    except TypeError:
        return None  # Python's own words for arguments that are missing or too many
    annotations = annotations_of(function, everywhere=True)
    for name, value in given.items():
        kind = signature.parameters[name].kind
        annotation = annotations.get(name, Any)
        if kind is inspect.Parameter.VAR_POSITIONAL:
            annotation = types.GenericAlias(tuple, (annotation, ...))
        elif kind is inspect.Parameter.VAR_KEYWORD:
            annotation = types.GenericAlias(dict, (str, annotation))
        found = misfit(name, annotation, value)
        if found is not None:
            place, annotation, value = found
            return InputError(f"{place} must be {described(annotation)}, got {shown(value)}")
    if error is not None and _is_about_operands(error) and not any(map(_is_stand_in, given.values())):
        kinds = ", ".join(_operands(given, signature))
        name = function.__qualname__.removesuffix(".__init__").removesuffix(".__new__")
        return InputError(f"{name} cannot be called on {kinds or 'nothing'}: {first_line(error)}")
    return None


def misfit(place: str, annotation: Any, value: Any) -> tuple[str, Any, Any] | None:
    """The first part of `value` that its part of `annotation` does not take, with its place."""
    if not takes(annotation, value, strict=True):
        return place, annotation, value
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        within = [misfit(place, each, value) for each in parts if takes(each, value, strict=True)]
        return None if None in within else within[0]
    if origin in (collections.abc.Mapping, dict) and type(value) is dict and len(parts) == 2:
        pairs = [(f"a key of {place}", parts[0], key) for key in value]
        pairs += [(f"{place}[{shown(key)}]", parts[1], each) for key, each in value.items()]
    elif origin is tuple and parts[-1:] != (...,):
        if len(value) != len(parts) and hasattr(value, "__getitem__"):
            return place, annotation, value
        pairs = [(f"{place}[{i}]", part, each) for i, (part, each) in enumerate(zip(parts, value, strict=True))]
    elif origin in _LISTS and isinstance(value, (list, tuple, set, frozenset, range)):
        pairs = [(f"{place}[{i}]", parts[0], each) for i, each in enumerate(value)]
    elif origin in _LISTS and isinstance(value, Sized) and hasattr(value, "ndim") and len(value):
        pairs = [(f"{place}[0]", parts[0], value[0])]  # type: ignore[index]  # an array or tensor, whose rows are of one kind
    else:
        return None
    return next((found for pair in pairs if (found := misfit(*pair)) is not None), None)


def _operands(given: dict[str, Any], signature: inspect.Signature) -> Iterator[str]:
    for name, value in given.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            yield from (f"{key}={_kind_of(each)}" for key, each in value.items())
        elif kind is inspect.Parameter.VAR_POSITIONAL:
            yield from map(_kind_of, value)
        elif name not in ("self", "cls"):
            yield _kind_of(value)


def _is_about_operands(error: Exception) -> bool:
    return type(error) in _TORCHS or (isinstance(error, _TORCHS) and type(error).__module__.startswith("numpy"))


def _is_stand_in(value: Any) -> bool:
    """True for what stands for a tensor while a model is traced."""
    return _acts_as_tensor(type(value)) and not hasattr(type(value), "data_ptr")


def _acts_as_tensor(kind: type) -> bool:
    return getattr(kind, "__torch_function__", None) is not None


def _kind_of(value: Any) -> str:
    """What an operand is, with type and sizes where it has them: `float32[1, 3, 6, 6]`."""
    try:
        dtype, sizes, layout = value.dtype, list(value.shape), getattr(value, "layout", "strided")
    except Exception:  # no tensor, or a nested one, which has no shape
        return shown(value)
    text = f"{dtype}{sizes}".removeprefix("torch.")
    return text if "strided" in str(layout) else f"{str(layout).removeprefix('torch.')} {text}"


SEEDS = (0, 2**63 - 1)
"""What every generator of random numbers takes as a seed."""
BATCHES = (1, 2**20)
"""Rows that are drawn at once."""


def check_within(name: str, value: int, bounds: tuple[int, int]) -> None:
    """`InputError` for a whole number outside of `bounds`, which are included."""
    if not bounds[0] <= value <= bounds[1]:
        raise InputError(f"{name} is a whole number from {bounds[0]} to {bounds[1]}, got {shown(value)}")


def check_kinds(values: Mapping[str, Any], annotations: Mapping[str, Any]) -> None:
    """`InputError` for the first value that its annotation does not take. Parameters without an annotation take everything."""
    for name, value in values.items():
        annotation = annotations.get(name, Any)
        if not takes(annotation, value):
            raise InputError(f"{name} must be {described(annotation)}, got {shown(value)}")


def takes(annotation: Any, value: Any, *, strict: bool = False) -> bool:
    """True where `value` is of the kind that `annotation` says. `strict`: a path must be one, too, and a list a list."""
    origin = typing.get_origin(annotation)
    if annotation is Any:
        return True
    if annotation is None or annotation is types.NoneType:
        return value is None
    if origin is typing.Union or origin is types.UnionType:
        return any(takes(each, value, strict=strict) for each in typing.get_args(annotation))
    if origin is typing.Literal:
        return any(type(value) is type(each) for each in typing.get_args(annotation))
    if annotation is bool:
        return isinstance(value, (bool, int)) or type(value).__name__ in ("bool_", "bool")  # NumPy's
    if annotation in _NUMBERS:
        return isinstance(value, _NUMBERS[annotation][1]) and not isinstance(value, bool)
    kind = origin or annotation
    if strict and kind in (list, set, frozenset):
        return isinstance(value, kind)
    if strict and kind in (collections.abc.Sequence, collections.abc.Collection, tuple) and not hasattr(value, "__len__"):
        return False
    if kind in _LISTS:
        arrays = (
            1 if kind is collections.abc.Iterable else None
        )  # one without axes refuses to be iterated; none is true or false
        return isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping)) and _axes(value, arrays)
    if kind is collections.abc.Callable:
        return callable(value)
    if kind is type:
        return isinstance(value, type)
    if isinstance(kind, type) and _acts_as_tensor(kind):
        return _acts_as_tensor(type(value)) and not isinstance(value, type)  # what stands for a tensor while tracing is one
    if kind is os.PathLike and strict:
        return isinstance(value, os.PathLike)
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


def annotations_of(function: Callable[..., Any], *, everywhere: bool = False) -> dict[str, Any]:
    """The annotations of a function's parameters; `Any` for one that names what exists for type checkers alone.

    `everywhere`: the names for type checkers too, as far as their modules are loaded; where they are not, nothing is of their kind.
    """
    function = inspect.unwrap(function)
    names = getattr(function, "__globals__", None) or vars(sys.modules[function.__module__])
    checkers = _for_checkers(names["__name__"]) if everywhere else {}
    return {
        name: _evaluated(parameter.annotation, names, checkers)
        for name, parameter in inspect.signature(function).parameters.items()
        if everywhere or parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }


_annotations = functools.cache(annotations_of)


@functools.cache
def _imports_for_checkers(module: str) -> dict[str, tuple[str, str]]:
    """Name -> module and name there, of what `module` imports under `if TYPE_CHECKING`."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except (OSError, TypeError, KeyError):
        return {}
    blocks = [each for each in tree.body if isinstance(each, ast.If) and ast.unparse(each.test).endswith("TYPE_CHECKING")]
    found: dict[str, tuple[str, str]] = {}
    for each in (line for block in blocks for line in block.body):
        if isinstance(each, ast.ImportFrom) and each.module and not each.level:
            found |= {alias.asname or alias.name: (each.module, alias.name) for alias in each.names}
        elif isinstance(each, ast.Import):
            found |= {alias.asname or alias.name: (alias.name, "") for alias in each.names}
    return found


def _for_checkers(module: str) -> dict[str, Any]:
    loaded = ((name, sys.modules.get(home), part) for name, (home, part) in _imports_for_checkers(module).items())
    return {
        name: getattr(home, part) if part else home
        for name, home, part in loaded
        if home is not None and (not part or hasattr(home, part))
    }


def _evaluated(annotation: Any, names: dict[str, Any], checkers: dict[str, Any]) -> Any:
    if annotation is inspect.Parameter.empty:
        return Any
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, names, checkers)  # the text of our own source
    except (NameError, AttributeError, TypeError):
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


def shown(value: Any) -> str:
    """The value, where it is plain and short; otherwise its kind. Nothing of the value runs."""
    simple = type(value) in (str, int, float, bool, type(None)) and not (isinstance(value, int) and value.bit_length() > 200)
    return f"{value!r:.80}" if simple else _with_article(type(value).__name__)
