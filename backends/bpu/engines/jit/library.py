"""Compiled kernels by name: built on first use, kept on disk, one address each for the life of the process.

numba's disk cache looks at the file of the compiled function alone; kernels are spread over several files, so names and entries carry
a hash of this folder. It is taken before and after the sources are imported: a process that runs while they change (an update, a
checkout) keeps nothing. The folder is the package's own `__pycache__`, else the user's cache; where neither can be written, kernels
are compiled anew in each process. Files are replaced whole and a damaged one is compiled over, so processes may share the folder.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

logger = logging.getLogger("hqc")
_FOLDER = Path(__file__).parent
_lock = threading.Lock()
_compiled: dict[str, Any] = {}


@functools.cache
def features() -> frozenset[str]:
    """What LLVM knows of this processor: names such as `avx512vnni`."""
    import llvmlite.binding

    return frozenset(name for name, present in llvmlite.binding.get_host_cpu_features().items() if present)


@functools.cache
def amx_granted() -> bool:
    """True when the processor has AMX for int8 and the system lets this process use it (Linux asks for that)."""
    if not {"amx-tile", "amx-int8"} <= features() or platform.system() != "Linux":
        return False
    set_permission, request, tile_data = 158, 0x1023, 18  # arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return int(ctypes.CDLL(None, use_errno=True).syscall(set_permission, request, tile_data)) == 0


def products() -> list[str]:
    """Dense kernels that this processor can run, fastest first.

    `dense_amx` is not among them: on a virtual machine with AMX its sums were right for hours and wrong from one moment on, while the
    other kernels stayed right. Until that is understood no program uses it.
    """
    found = []
    if "avx512vnni" in features():
        found.append("dense_dot512")
    if "avxvnni" in features() or {"avx512vnni", "avx512vl"} <= features():
        found.append("dense_dot256")
    return [*found, "dense_float256"]


def address(name: str) -> int:
    """Where the kernel `name` starts; compiled now unless it is known."""
    return int(_function(name).address)


@functools.cache
def driver() -> Callable[[int, int, int, int], None]:
    """The native loop over steps; gives up the interpreter lock while it runs."""
    call: Callable[[int, int, int, int], None] = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 4)(_function("drive").address)
    return call


def _function(name: str) -> Any:
    with _lock:
        found = _compiled.get(name)
        if found is None:
            found = _compiled[name] = _compile(name)
        return found


@functools.cache
def _sources() -> tuple[dict[str, Any], str]:
    """The kernels' Python functions, and the hash of the files they came from ("" where those changed meanwhile)."""
    stamp = _stamp()
    from hqc.backends.bpu.engines.jit import convolution, driver, elementwise

    functions = {name: item for module in (convolution, elementwise, driver) for name, item in vars(module).items()}
    return functions, stamp if _stamp() == stamp else ""


def _compile(name: str) -> Any:
    from numba import types
    from numba.core import sigutils
    from numba.core.caching import NullCache
    from numba.core.ccallback import CFunc

    functions, stamp = _sources()
    source = functions[name]
    words = 4 if name == "drive" else 3
    signature = sigutils.normalize_signature(types.void(*[types.int64] * words))
    compiled: Any = CFunc(source, signature, locals={}, options={"error_model": "numpy"})
    try:
        cache = _cache(source, stamp) if stamp else None
        if cache is not None:
            compiled._cache = cache
            compiled.compile()
            return compiled
    except Exception as error:  # a folder that cannot be written, a damaged file, another numba's internals
        logger.info("kernel %s is compiled without the disk cache: %s: %s", name, type(error).__name__, error)
    compiled._cache = NullCache()
    compiled.compile()
    return compiled


@functools.cache
def cache_folder() -> Path | None:
    """Where compiled kernels are kept; None where nothing can be written."""
    for folder in (_FOLDER / "__pycache__", Path.home() / ".cache" / "hqc"):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / f".hqc-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError:
            continue
        return folder
    return None


def _stamp() -> str:
    """Hash of every file that kernels are built from."""
    digest = hashlib.sha256()
    for path in sorted(_FOLDER.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _cache(source: Any, stamp: str) -> Any:
    from numba.core import caching

    folder = cache_folder()
    if folder is None:
        return None

    class Locator(caching._CacheLocator):
        _py_file = source.__code__.co_filename  # newer versions record it

        def get_cache_path(self) -> str:
            return str(folder)

        def get_source_stamp(self) -> str:
            return stamp

        def get_disambiguator(self) -> str:
            return ""

        @classmethod
        def from_function(cls, py_func: Any, py_file: str) -> Locator:
            return cls()

    class Implementation(caching.CompileResultCacheImpl):
        def __init__(self, py_func: Any) -> None:
            self._lineno = py_func.__code__.co_firstlineno
            self._locator = Locator()
            self._filename_base = f"kernel-{py_func.__name__}.py{sys.version_info[0]}{sys.version_info[1]}-{stamp[:12]}"

    class Cache(caching.Cache):
        _impl_class: Any = Implementation

    return Cache(source)
