"""Run scripts written for `horizon_plugin_pytorch` unchanged: its module names answer with hqc's modules.

    import hqc.compat
    hqc.compat.install()
    from horizon_plugin_pytorch.march import March, set_march   # hqc.march

or `python -m hqc.compat script.py`.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from hqc.absent import ABSENT_MODULES, AbsentModule
from hqc.near_names import suggest

REFERENCE = "horizon_plugin_pytorch"
PROFILER = "horizon_plugin_profiler"
_CHILDREN = "HQC_COMPAT"
"""Set for child processes by `install_for_children`: the folder of `sitecustomize` reads it."""


def ours(name: str) -> str:
    """The name of hqc's counterpart of a module of the reference."""
    return "hqc" + name.removeprefix(REFERENCE) if name == REFERENCE or name.startswith(REFERENCE + ".") else name


class _Alias(MetaPathFinder, Loader):
    """Finds `horizon_plugin_pytorch.x` by importing `hqc.x`; both names are one module object."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        root = fullname.partition(".")[0]
        if root not in (REFERENCE, PROFILER):
            return None
        if ours(fullname) in ABSENT_MODULES:
            return ModuleSpec(fullname, self, is_package=True)
        if root == PROFILER:
            raise ModuleNotFoundError(
                f"hqc has no counterpart of {fullname}; its analyses are in hqc.utils.quant_profiler", name=fullname
            )
        try:
            known = importlib.util.find_spec(ours(fullname))
        except ModuleNotFoundError:
            known = None
        if known is None:
            near = suggest(fullname, reference_modules())
            raise ModuleNotFoundError(
                f"hqc has no counterpart of {fullname} (looked for {ours(fullname)}){near}", name=fullname
            )
        return ModuleSpec(fullname, self, is_package=known.submodule_search_locations is not None)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        if ours(spec.name) in ABSENT_MODULES:
            return AbsentModule(ours(spec.name))
        module = importlib.import_module(ours(spec.name))
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        if not isinstance(module, AbsentModule):
            module.__spec__ = importlib.util.find_spec(module.__name__) if module.__spec__ is None else self._spec


_finder = _Alias()


def reference_modules() -> list[str]:
    """The modules of the reference that have a counterpart, by the reference's names."""
    import pkgutil

    import hqc

    names = [REFERENCE]
    for package in ("", "nn", "nn.qat", "nn.quantized", "nn.functional", "quantization", "quantization.fx", "utils", "fx"):
        folder = Path(hqc.__file__).parent / package.replace(".", "/")
        prefix = f"{REFERENCE}.{package}." if package else f"{REFERENCE}."
        names += [prefix + info.name for info in pkgutil.iter_modules([str(folder)])]
    return names


def install() -> None:
    """Make `import horizon_plugin_pytorch` give hqc. Safe to call twice; does nothing when the real package is loaded already."""
    if REFERENCE in sys.modules or _finder in sys.meta_path:
        return
    sys.meta_path.insert(0, _finder)


def uninstall() -> None:
    """Undo `install`: forget the alias modules."""
    if _finder in sys.meta_path:
        sys.meta_path.remove(_finder)
        for name in [name for name in sys.modules if name.partition(".")[0] in (REFERENCE, PROFILER)]:
            del sys.modules[name]


def install_for_children() -> None:
    """`install`, and for every Python process that this one starts: `torch.multiprocessing.spawn`, torchrun, data loader workers.

    Children find the alias through a `.pth`-like start file: a folder with a `sitecustomize` is put in front of PYTHONPATH, which hands
    on to the one that was there before.
    """
    install()
    folder = Path(__file__).parent / "children"
    paths = [str(folder), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    home = str(Path(__file__).parents[2])
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([*paths, home]))
    os.environ[_CHILDREN] = "1"
