"""The user's Python: import a file or module that a command names, call what it holds, say in one sentence what it raised."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from hqc.errors import FAULTS, HqcError, InputError
from hqc.near_names import suggest

T = TypeVar("T")
USER_FILE = "__hqc_user_file__"
"""Attribute of modules that were read from a file: other processes cannot import them by name."""
WAYS = {"": "FILE.py:NAME or package.module:NAME", "the model": "FILE.py:NAME, package.module:NAME or FILE.onnx"}


def find_object(spec: str, kind: str = "the model") -> tuple[Any, ModuleType, str]:
    """`FILE.py:NAME` or `package.module:NAME` -> (the object, its module, the file or module as given).

    `kind` says in errors what was looked for. NAME may be dotted (`Holder.build`). `InputError` for what is not there, and with the
    user's own line for whatever the import raises.
    """
    place, _, name = spec.rpartition(":")
    if not place or not name:
        raise InputError(f"give {kind} as {WAYS.get(kind, WAYS[''])}, got {spec}")
    module = import_place(place, kind)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            known = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
            raise InputError(
                f"{place} has no {name}; it defines {', '.join(known) or 'no class or function'}{suggest(name, known)}"
            )
        found = getattr(found, part)
    return found, module, place


def import_place(place: str, kind: str = "the model") -> ModuleType:
    """The module of a file (`folder/file.py`, part of a package where `__init__.py` lies beside it) or a dotted module name."""
    if place.endswith(".py") or "/" in place or Path(place).is_file():
        return import_file(Path(place), kind)
    parts = place.split(".")
    if not all(part.isidentifier() for part in parts):
        raise InputError(f"give {kind} as FILE.py:NAME or package.module:NAME; {place} is neither a file nor a module's name")
    _make_importable(Path.cwd())
    try:
        found = importlib.util.find_spec(parts[0])
    except (ImportError, ValueError, AttributeError):
        found = None
    if found is None:
        raise InputError(f"there is no file {place} and no module {place}; modules are looked for in the current folder too")
    return guarded(lambda: importlib.import_module(place), place, f"{place} cannot be imported")


def import_file(file: Path, kind: str = "the model") -> ModuleType:
    """The module in a Python file, run once more where it was imported before; `InputError` for whatever it raises."""
    if not file.is_file():
        raise InputError(f"there is no file {file}")
    if (file.parent / "__init__.py").is_file():
        return _import_from_package(file)
    name = _module_name(file.stem)
    module_spec = importlib.util.spec_from_file_location(name, file)
    if module_spec is None or module_spec.loader is None:
        raise InputError(f"{file} is not a Python file; give {kind} as FILE.py:NAME")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[name] = module
    setattr(module, USER_FILE, True)
    _make_importable(file.parent)
    loader = module_spec.loader
    guarded(lambda: loader.exec_module(module), str(file), f"{file} cannot be imported")
    return module


def _import_from_package(file: Path) -> ModuleType:
    """A file of a package under its full name, so that its relative imports work."""
    file = file.resolve()
    top, names = file.parent, [] if file.stem == "__init__" else [file.stem]
    while (top / "__init__.py").is_file():
        names.insert(0, top.name)
        top = top.parent
    _make_importable(top)
    name = ".".join(names)
    loaded = sys.modules.get(names[0])
    if loaded is not None and not _lies_in(loaded, top / names[0]):
        raise InputError(f"{file} is part of a package {names[0]}, but another module of that name is imported already")
    return guarded(lambda: importlib.import_module(name), str(file), f"{file} cannot be imported")


def _lies_in(module: ModuleType, folder: Path) -> bool:
    return any(Path(path).resolve() == folder for path in getattr(module, "__path__", ()))


def _make_importable(folder: Path) -> None:
    text = str(folder.resolve())
    if text not in sys.path:
        sys.path.insert(0, text)


def _module_name(stem: str) -> str:
    """The file's name, unless a module that others import has it (the user's file may be called `types.py` or `torch.py`)."""
    taken = stem in sys.stdlib_module_names or hasattr(sys.modules.get(stem), "__path__")
    return f"model_file_{stem}" if taken else stem


def guarded(work: Callable[[], T], path: str, failure: str) -> T:
    """Run the user's code; whatever it raises becomes one sentence with the last line of the user's file on the way there.

    The command line looks empty to it: code that reads arguments of its own gets their defaults, not hqc's.
    """
    arguments, sys.argv = sys.argv, [path]
    try:
        return work()
    except HqcError:
        raise
    except SyntaxError as error:
        raise InputError(f"{failure}: {error.filename or path}:{error.lineno}: {error.msg}") from error
    except FAULTS as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename).name == Path(path).name]
        where = f"{path}:{lines[-1]}: " if lines else ""
        text = " ".join(str(error).split())
        raise InputError(f"{failure}: {where}{type(error).__name__}{f': {text}' if text else ''}") from error
    finally:
        sys.argv = arguments
