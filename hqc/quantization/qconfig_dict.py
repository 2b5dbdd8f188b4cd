"""Which qconfig is in force for a module: the user's `qconfig_dict` and the `qconfig` attributes of modules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from torch import nn

from hqc.errors import QConfigError
from hqc.near_names import suggest
from hqc.quantization.qconfig import QConfig

KEYS = ("", "module_type", "module_name")
OWN = "the qconfig attribute"
PRIORITIES = {"": 0, "module_type": 1, "module_name": 2, OWN: 3}


class Entry(NamedTuple):
    """What is in force somewhere. `source`: the entry as text; `priority`: of its kind, from 0; `scope`: the module it was found at."""

    qconfig: QConfig | None
    source: str
    priority: int
    scope: str = ""


class QConfigResolver:
    """Answers for module paths of `root` (the float model).

    Rising priority: `""` (global), `module_type`, `module_name`, `module.qconfig`. An entry for a module covers everything
    inside it, and of several entries of one kind the nearest one counts. A `module_name` entry for something strictly inside
    the module that has a `qconfig` attribute is the more specific of the two and wins.

    `QConfigError` for unknown keys, for names and types that match nothing (with near names), and for values that are no
    qconfigs.
    """

    def __init__(self, qconfig_dict: Mapping[str, Any] | None, root: nn.Module) -> None:
        entries = dict(qconfig_dict or {})
        for key in entries:
            if key not in KEYS:
                raise QConfigError(
                    f"qconfig_dict has the unknown key {key!r}; known: {_listed(KEYS)}{suggest(str(key), KEYS[1:])}"
                )
        self._modules: dict[str, nn.Module] = dict(root.named_modules(remove_duplicate=False))
        self._global = _checked(entries.get(""), 'key ""')
        self._by_type = self._types(_pairs(entries.get("module_type"), "module_type"))
        self._by_name = self._names(_pairs(entries.get("module_name"), "module_name"))

    def _types(self, pairs: Iterable[tuple[Any, Any]]) -> dict[type, QConfig | None]:
        present = {type(module) for module in self._modules.values()}
        found: dict[type, QConfig | None] = {}
        for kind, value in pairs:
            if not isinstance(kind, type):
                raise QConfigError(
                    f"qconfig_dict: module_type takes classes of modules, got {kind!r}; wrap a function in a module to name it"
                )
            if kind not in present:
                known = sorted(each.__name__ for each in present)
                raise QConfigError(
                    f"qconfig_dict: module_type {kind.__name__} matches no module of the model{suggest(kind.__name__, known)}"
                )
            found[kind] = _checked(value, f"module_type {kind.__name__}")
        return found

    def _names(self, pairs: Iterable[tuple[Any, Any]]) -> dict[str, QConfig | None]:
        found: dict[str, QConfig | None] = {}
        for name, value in pairs:
            if not isinstance(name, str) or name not in self._modules or not name:
                raise QConfigError(
                    f"qconfig_dict: module_name {name!r} matches no module of the model{suggest(str(name), list(self._modules))}"
                )
            found[name] = _checked(value, f"module_name {name!r}")
        return found

    def resolve(self, path: str) -> QConfig | None:
        """The qconfig for the module at `path` ("" for the model itself); None when nothing covers it."""
        return self.entry(path).qconfig

    def entry(self, path: str) -> Entry:
        """The qconfig for the module at `path` and where it comes from."""
        chain = _outwards(path)
        named = next((name for name in chain if name in self._by_name), None)
        own = next((name for name in chain if self._attribute(name) is not None), None)
        if own is not None and (named is None or len(own) >= len(named)):
            return Entry(self._attribute(own), f"{OWN} of {own or 'the model'}", PRIORITIES[OWN], own)
        if named is not None:
            return Entry(self._by_name[named], f'module_name "{named}"', PRIORITIES["module_name"], named)
        for name in chain:
            kind = type(self._modules.get(name))
            if kind in self._by_type:
                return Entry(self._by_type[kind], f"module_type {kind.__name__}", PRIORITIES["module_type"], name)
        return Entry(self._global, 'the global entry ""', PRIORITIES[""])

    def _attribute(self, path: str) -> QConfig | None:
        value = getattr(self._modules.get(path), "qconfig", None)
        return None if value is None else _checked(value, f"the qconfig attribute of {path or 'the model'}")


def _outwards(path: str) -> list[str]:
    """`a.b.c` -> `a.b.c`, `a.b`, `a`, and the root."""
    parts = path.split(".") if path else []
    return [".".join(parts[:count]) for count in range(len(parts), -1, -1)]


def _pairs(value: Any, key: str) -> list[tuple[Any, Any]]:
    """Entries of a list of pairs, or of a dict."""
    if value is None:
        return []
    if isinstance(value, Mapping):
        return list(value.items())
    pairs = list(value) if isinstance(value, (list, tuple)) else None
    if pairs is None or not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs):
        raise QConfigError(f"qconfig_dict: {key} takes a dict or a list of pairs (what, qconfig), got {value!r}")
    return [(what, qconfig) for what, qconfig in pairs]


def _checked(value: Any, where: str) -> QConfig | None:
    """`value` as a qconfig; anything with callable entries `activation` and `weight` is one."""
    if value is None or isinstance(value, QConfig):
        return value
    if hasattr(value, "activation") and hasattr(value, "weight"):
        return QConfig(value.activation, value.weight)
    raise QConfigError(f"qconfig_dict: {where} has {value!r}, which is no QConfig; use one of the get_default_* functions")


def _listed(keys: Iterable[str]) -> str:
    return ", ".join(repr(key) for key in keys)
