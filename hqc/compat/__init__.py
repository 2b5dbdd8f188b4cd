"""Run scripts written for `horizon_plugin_pytorch` unchanged: its module names answer with hqc's modules.

    import hqc.compat
    hqc.compat.install()
    from horizon_plugin_pytorch.march import March, set_march   # hqc.march

or `python -m hqc.compat script.py`.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

REFERENCE = "horizon_plugin_pytorch"


class _Alias(MetaPathFinder, Loader):
    """Finds `horizon_plugin_pytorch.x` by importing `hqc.x`; both names are one module object."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != REFERENCE and not fullname.startswith(REFERENCE + "."):
            return None
        ours = "hqc" + fullname.removeprefix(REFERENCE)
        try:
            known = importlib.util.find_spec(ours)
        except ModuleNotFoundError:
            known = None
        if known is None:
            raise ModuleNotFoundError(f"hqc has no counterpart of {fullname} (looked for {ours})", name=fullname)
        return ModuleSpec(fullname, self, is_package=known.submodule_search_locations is not None)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module("hqc" + spec.name.removeprefix(REFERENCE))
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = importlib.util.find_spec(module.__name__) if module.__spec__ is None else self._spec


_finder = _Alias()


def install() -> None:
    """Make `import horizon_plugin_pytorch` give hqc. Safe to call twice; does nothing when the real package is loaded already."""
    if REFERENCE in sys.modules or _finder in sys.meta_path:
        return
    sys.meta_path.insert(0, _finder)


def uninstall() -> None:
    """Undo `install`: forget the alias modules."""
    if _finder in sys.meta_path:
        sys.meta_path.remove(_finder)
        for name in [name for name in sys.modules if name == REFERENCE or name.startswith(REFERENCE + ".")]:
            del sys.modules[name]
