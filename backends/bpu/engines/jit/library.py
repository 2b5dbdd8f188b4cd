"""Compiled kernels by name: built on first use, kept on disk, one address each for the life of the process.

The disk cache must never serve a kernel that this process would not have compiled. Everything that decides a kernel's code is in its
file's name as one hash: the sources of this folder, Python, numba, llvmlite, the processor and its features as LLVM is told them. So
checkouts, versions and machines may share a folder, and processes that write at once write the same. The sources are read when this
module is imported, which is before all others here, and again when kernels have been imported: a process that runs while they change
(an update, a checkout) keeps nothing. The folder is the package's own `__pycache__`, else the user's cache; where neither can be
written, kernels are compiled anew in each process. Files are replaced whole and a damaged one is compiled over. Kernels from several
files also meet in one process: see `finish.inlined`.
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

from hqc.errors import CompileError

logger = logging.getLogger("hqc")
_FOLDER = Path(__file__).parent
_lock = threading.Lock()
_compiled: dict[str, Any] = {}


@functools.cache
def features() -> frozenset[str]:
    """What this processor has and LLVM is told to use: names such as `avx512vnni`."""
    import llvmlite.binding

    host = frozenset(name for name, present in llvmlite.binding.get_host_cpu_features().items() if present)
    told = frozenset(name[1:] for name in _target()[2].split(",") if name.startswith("+"))
    return host & told


def _target() -> tuple[str, str, str]:
    """Triple, processor and features that numba compiles for. Its settings may ask for less than the machine has."""
    from numba.core.registry import cpu_target

    triple, processor, flags = cpu_target.target_context.codegen().magic_tuple()
    return str(triple), str(processor), str(flags)


@functools.cache
def amx_granted() -> bool:
    """True when the processor has AMX for int8 and the system lets this process use it (Linux asks for that)."""
    if not {"amx-tile", "amx-int8"} <= features() or platform.system() != "Linux":
        return False
    set_permission, request, tile_data = 158, 0x1023, 18  # arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return int(ctypes.CDLL(None, use_errno=True).syscall(set_permission, request, tile_data)) == 0


def products() -> list[str]:
    """Dense kernels that this processor can run, fastest first."""
    found = []
    if amx_granted():
        found.append("dense_amx")
    if "avx512vnni" in features():
        found.append("dense_dot512")
    if "avxvnni" in features() or {"avx512vnni", "avx512vl"} <= features():
        found.append("dense_dot256")
    return [*found, "dense_float256"]


def address(name: str) -> int:
    """Where the kernel `name` starts; compiled now unless it is known."""
    if name.startswith("dense_amx") and not amx_granted():  # its first instruction would end the process
        raise CompileError("this processor has no AMX for int8, or the system does not let this process use it")
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
    from hqc.backends.bpu.engines.jit import convolution, driver, elementwise, matmul

    functions = {name: item for module in (convolution, elementwise, matmul, driver) for name, item in vars(module).items()}
    return functions, _IMPORTED if _hash_of_sources() == _IMPORTED else ""


def _compile(name: str) -> Any:
    from numba import types
    from numba.core import sigutils
    from numba.core.caching import NullCache
    from numba.core.ccallback import CFunc

    functions, sources = _sources()
    source = functions[name]
    words = 4 if name == "drive" else 3
    signature = sigutils.normalize_signature(types.void(*[types.int64] * words))
    compiled: Any = CFunc(source, signature, locals={}, options={"error_model": "numpy"})
    try:
        cache = _cache(source, stamp(sources)) if sources else None
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
    for place in (lambda: _FOLDER / "__pycache__", lambda: Path.home() / ".cache" / "hqc"):
        try:
            folder = place()
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / f".hqc-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except (OSError, RuntimeError):  # RuntimeError: a user without a home
            continue
        return folder
    return None


def _hash_of_sources() -> str:
    """ "" where the sources are not there to be read: nothing is kept then."""
    digest, paths = hashlib.sha256(), sorted(_FOLDER.glob("*.py"))
    for path in paths:
        digest.update(f"{path.name} {path.stat().st_size}\n".encode() + path.read_bytes())
    return digest.hexdigest() if paths else ""


_IMPORTED = _hash_of_sources()


def stamp(sources: str) -> str:
    """Hash of everything that decides the code of kernels from sources of that hash."""
    import llvmlite
    import numba

    parts = (sources, sys.version, numba.__version__, llvmlite.__version__, *_target())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


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
