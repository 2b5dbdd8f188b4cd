"""What runs here, and why not the rest: the engines and the processor in words, for `hqc doctor`. Never raises."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

from hqc.backends.bpu.engines import get_engine, jit, onednn
from hqc.backends.bpu.workers import default_threads
from hqc.distribution import install_command
from hqc.ir import DType

_INTERESTING = (
    "avx2",
    "fma",
    "avx512f",
    "avx512vl",
    "avx512vnni",
    "avxvnni",
    "amx-tile",
    "amx-int8",
    "neon",
    "dotprod",
    "i8mm",
)
_CPU_INFO = Path("/proc/cpuinfo")
_LLVM_NAMES = {
    "avx512_vnni": "avx512vnni",
    "avx_vnni": "avxvnni",
    "amx_tile": "amx-tile",
    "amx_int8": "amx-int8",
    "asimd": "neon",
}


@dataclass(frozen=True)
class EngineStatus:
    """One engine: can it run here, and the reason in one sentence."""

    name: str
    usable: bool
    reason: str


def engine_statuses(threads: int | None = None) -> list[EngineStatus]:
    """All engines, in the order in which `auto` asks them."""
    return [_jit_status(), _onednn_status(), _blas_status(threads)]


def chosen_engine(threads: int | None = None) -> str:
    """The engine that `auto` takes in this process."""
    return get_engine("auto", threads).name


def _jit_status() -> EngineStatus:
    if not jit.available():
        return EngineStatus("jit", False, f"numba is not installed; {install_command('fast')}")
    try:
        from hqc.backends.bpu.engines.jit import library
        from hqc.backends.bpu.engines.jit.check import trusted

        names = [product.removeprefix("dense_") for product in library.products() if trusted(product, DType.INT8)]
        if not names:
            return EngineStatus("jit", False, "none of its dense products is right on this processor; the log says why")
        folder = library.cache_folder()
        kept = f"kernels are kept in {folder}" if folder else "kernels are compiled in each process: no folder can be written"
        return EngineStatus("jit", True, f"dense products by {', '.join(names)}, fastest first; {kept}")
    except Exception as error:  # whatever numba, LLVM or the system raise is the answer here
        return EngineStatus("jit", False, f"{type(error).__name__}: {error}")


def _onednn_status() -> EngineStatus:
    try:
        if not onednn.available():
            return EngineStatus("onednn", False, "torch is not installed or has no quantized oneDNN convolution")
        if not onednn.exact():
            return EngineStatus(
                "onednn", False, "not exact on this processor: without VNNI instructions its int16 sums saturate"
            )
    except Exception as error:  # a broken torch is an answer too
        return EngineStatus("onednn", False, f"{type(error).__name__}: {error}")
    return EngineStatus("onednn", True, "exact here; 'auto' takes it without jit, once torch is loaded and where it beats blas")


def _blas_status(threads: int | None) -> EngineStatus:
    import threadpoolctl

    pools = [pool for pool in threadpoolctl.threadpool_info() if pool.get("user_api") == "blas"]
    names = sorted({f"{pool['internal_api']} {pool.get('version') or ''}".strip() for pool in pools})
    library = ", ".join(names) or "a BLAS that threadpoolctl does not know"
    return EngineStatus("blas", True, f"NumPy with {library}, one thread each in {threads or default_threads()} workers")


def processor() -> str:
    """The processor's name."""
    if _CPU_INFO.exists():
        for line in _CPU_INFO.read_text(errors="replace").splitlines():
            if line.lower().startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine() or "unknown"


def processor_features() -> list[str]:
    """Instruction sets that matter here, as LLVM names them; read from the system where LLVM is not installed."""
    try:
        from hqc.backends.bpu.engines.jit import library

        found = set(library.features())
    except Exception:  # no llvmlite, or one that does not know this processor
        words = _CPU_INFO.read_text(errors="replace").split() if _CPU_INFO.exists() else []
        found = {_LLVM_NAMES.get(word, word) for word in words}
    return [name for name in _INTERESTING if name in found]
