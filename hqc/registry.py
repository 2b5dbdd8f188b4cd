"""`Registry`: things found by a key, each registered where it is written.

Every table of the project that files add to is one of these, so that duplicates, missing keys and the import of the files that
fill it are handled once::

    KERNELS: Registry[str, KernelFactory] = Registry("kernel", families="hqc.backends.bpu.kernels")

    @KERNELS.register("int_lut")
    def int_lut(node, context): ...
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from hqc.errors import HqcError, RegistryError
from hqc.near_names import suggest

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Registry(Generic[K, V]):
    """A table with one entry per key, in order of registration.

    `what`: what an entry is, in messages (`an ONNX emitter`: "ONNX emitter"). `families`: a package whose modules register
    entries; all of them are imported at the first reading, so nothing lists them. `error`: what a missing key raises.
    """

    def __init__(
        self,
        what: str,
        *,
        families: str = "",
        error: type[HqcError] = RegistryError,
        entries: Mapping[K, V] | None = None,
    ) -> None:
        self.what = what
        self._families = families
        self._error = error
        self._entries: dict[K, V] = dict(entries or {})

    # --- writing -------------------------------------------------------------------------------------------------

    def add(self, key: K, entry: V) -> None:
        """Register one entry; `RegistryError` when the key has another one."""
        if key in self._entries:
            raise RegistryError(f"{_shown(key)} has two entries as {self.what}; a key is registered once")
        self._entries[key] = entry

    def put(self, key: K, entry: V) -> None:
        """Register one entry in place of what the key may have."""
        self._entries[key] = entry

    def register(self, *keys: K, make: Callable[[Any], V] | None = None) -> Callable[[Any], Any]:
        """Decorator that registers what it decorates under `keys`, and returns it; `make` turns it into the entry."""

        def register(item: Any) -> Any:
            entry = item if make is None else make(item)
            for key in dict.fromkeys(keys):
                self.add(key, entry)
            return item

        return register

    # --- reading -------------------------------------------------------------------------------------------------

    def load(self) -> dict[K, V]:
        """The entries, after the modules of `families` were imported."""
        if self._families:
            families, self._families = self._families, ""  # a module that reads while it registers finds what is there
            try:
                import_modules(families)
            except BaseException:
                self._families = families
                raise
        return self._entries

    def peek(self, key: K) -> V | None:
        """The entry of `key` among those registered so far, for code that registers."""
        return self._entries.get(key)

    def get(self, key: K) -> V | None:
        """The entry of `key`, or None."""
        return self.load().get(key)

    def __getitem__(self, key: K) -> V:
        """The entry of `key`; for an unknown one the registry's error, with near names."""
        entries = self.load()
        try:
            return entries[key]
        except KeyError:
            near = suggest(key, [name for name in entries if isinstance(name, str)]) if isinstance(key, str) else ""
            raise self._error(f"there is no {self.what} for {_shown(key)}{near}") from None

    def __contains__(self, key: object) -> bool:
        return key in self.load()

    def __iter__(self) -> Iterator[K]:
        return iter(self.load())

    def __len__(self) -> int:
        return len(self.load())

    def items(self) -> list[tuple[K, V]]:
        """Keys and entries in order of registration."""
        return list(self.load().items())

    def __repr__(self) -> str:
        return f"<Registry of {self.what}: {len(self._entries)} entries>"


def import_modules(package: str) -> None:
    """Import every public module of a package, in order of their names."""
    found = importlib.import_module(package)
    for module in sorted(info.name for info in pkgutil.iter_modules(found.__path__)):
        if not module.startswith("_"):
            importlib.import_module(f"{package}.{module}")


def _shown(key: object) -> str:
    return key if isinstance(key, str) else str(getattr(key, "__qualname__", key))
