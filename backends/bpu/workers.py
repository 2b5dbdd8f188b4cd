"""The threads of the simulator, their scratch memory, and the one BLAS thread that each of them drives.

NumPy runs everything but matrix products on one core. Cutting a layer into tiles and giving whole tiles (copy, product,
requantization) to threads keeps every core busy with data that is still in its cache; NumPy releases the interpreter lock
inside its loops. BLAS itself must then stay on one thread, or its pool and ours fight for the cores.
"""

from __future__ import annotations

import math
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import threadpoolctl

Item = TypeVar("Item")


class Scratch(threading.local):
    """Reusable buffers, one set per thread. A buffer's contents are undefined until written."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, str], npt.NDArray[Any]] = {}

    def take(self, name: str, shape: Sequence[int], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """A C-contiguous array; the same name gives the same memory, so names are unique within one tile's work."""
        dtype = np.dtype(dtype)
        size = math.prod(shape)
        buffer = self._buffers.get((name, dtype.char))
        if buffer is None or buffer.size < size:
            # Zeros: BLAS on stale denormals or NaN patterns would be slow, never wrong.
            buffer = self._buffers[name, dtype.char] = np.zeros(size, dtype)
        return buffer[:size].reshape(shape)


_limit: int | None = None
_processes = 1
_everyone: weakref.WeakSet[Workers] = weakref.WeakSet()


class Workers:
    """`threads` workers, the calling thread included."""

    def __init__(self, threads: int) -> None:
        self.threads = max(1, threads)
        self.scratch = Scratch()
        self._pool = self._new_pool()
        _everyone.add(self)

    def _new_pool(self) -> ThreadPoolExecutor | None:
        return ThreadPoolExecutor(self.threads - 1, "hqc-bpu") if self.threads > 1 else None

    def map(self, function: Callable[[Item], None], items: Sequence[Item]) -> None:
        """Call `function` on every item; items are taken in order by whichever worker is free."""
        self._spread(function, items, min(self.threads, _limit or self.threads))

    def _spread(self, function: Callable[[Item], None], items: Sequence[Item], threads: int) -> None:
        if self._pool is None or len(items) < 2 or threads < 2:
            for item in items:
                function(item)
            return
        pending: Iterator[Item] = iter(items)  # next() on a list iterator is atomic

        def drain() -> None:
            for item in pending:
                function(item)

        futures = [self._pool.submit(drain) for _ in range(min(threads, len(items)) - 1)]
        try:
            drain()
        finally:
            for future in futures:
                future.result()

    def together(self, function: Callable[[int], None]) -> None:
        """Call `function(part)` for every part below `threads`, part 0 here. A helper that has not begun when part 0 ends is let off.

        For work that is complete when any one of the calls returns, such as tiles taken from a shared counter.
        """
        helpers = min(self.threads, _limit or self.threads) - 1
        futures = [self._pool.submit(function, part) for part in range(1, 1 + helpers)] if self._pool else []
        try:
            function(0)
        finally:
            for future in futures:
                if not future.cancel():
                    future.result()

    def each(self, function: Callable[[], None]) -> None:
        """Call `function` once on every worker at the same time."""
        barrier = threading.Barrier(self.threads)

        def synchronized(_: int) -> None:
            barrier.wait()
            function()

        self._spread(synchronized, range(self.threads), self.threads)


_TOUCHES = 4
_lock = threading.Lock()
_shared: dict[int, Workers] = {}
_blas = threadpoolctl.ThreadpoolController().select(user_api="blas")
_users = 0
_limiter: Any = None


def _after_fork() -> None:
    """In a forked child (a data loader's worker) the threads are gone and locks may be held by nobody: start afresh."""
    global _lock, _users, _limiter
    _lock, _users, _limiter = threading.Lock(), 0, None
    for workers in list(_everyone):
        workers._pool = workers._new_pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def default_threads() -> int:
    """Cores that this process may use: its share of them, where it is one of several that work together."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return max(1, cores // _processes)


def share_cores(processes: int) -> None:
    """This process is one of so many that work together: programs that are compiled from here on take its share of the cores."""
    global _processes
    _processes = processes


@contextmanager
def at_most(threads: int) -> Iterator[None]:
    """Programs use at most so many threads inside, whatever they were compiled for: other processes are on the other cores."""
    global _limit
    before, _limit = _limit, threads
    try:
        yield
    finally:
        _limit = before


def shared_workers(threads: int | None = None) -> Workers:
    """The process's workers for that many threads, made on first use."""
    count = threads or default_threads()
    with _lock:
        workers = _shared.get(count)
        if workers is None:
            workers = _shared[count] = Workers(count)
            with _one_thread():
                for _ in range(_TOUCHES):
                    workers.each(_touch_blas_buffers)
        return workers


def _touch_blas_buffers() -> None:
    """Write to the whole of a BLAS packing buffer once.

    The products' prefetches run past the packed data. While the pages there have never been written, each such prefetch costs
    a page walk that finds nothing: measured 3x slower products (OpenBLAS on Zen, virtual machine) until a product with enough
    columns has touched them. Buffers go to whoever calls first, so all workers do this at once, and a few times, lest one of
    them ran alone.
    """
    columns = np.ones((384, 2048), np.float32)
    np.matmul(np.ones((64, 384), np.float32), columns)
    np.matmul(np.ones((768, 384), np.float32), columns[:, :64])


@contextmanager
def _one_thread() -> Iterator[None]:
    limiter = _blas.limit(limits=1)
    try:
        yield
    finally:
        limiter.restore_original_limits()


@contextmanager
def exclusive_blas() -> Iterator[None]:
    """BLAS runs on the calling thread alone while any program runs; nested and concurrent use restore once, at the end."""
    global _users, _limiter
    with _lock:
        if _users == 0:
            _limiter = _blas.limit(limits=1)
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                _limiter.restore_original_limits()
                _limiter = None
