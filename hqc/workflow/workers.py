"""Work on many processes of one machine, by joblib's loky: no engine of our own.

This process is one of them, and the first to begin: the others take seconds to start, so they are started once the work has taken
a while, and what is done before they are there has been done already. Results come in the order of the work, so they depend
neither on the number of workers nor on who is faster.
"""

from __future__ import annotations

import logging
import pickle
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hqc.backends.bpu.workers import at_most, default_threads, share_cores
from hqc.distribution import install_command
from hqc.errors import HqcError, InputError
from hqc.files import write_file
from hqc.python_files import USER_FILE

PATIENCE = 0.5
"""Seconds of work after which other processes are started: less work than that is not worth any."""
_AHEAD = 2
"""Pieces of work that each of the others is given ahead: as many as loky hands on at once, for it stumbles over more when it is ended."""
_IDLE = 60
"""Seconds for which the others wait for further work before they end."""
_THREADS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_loaded: dict[str, Any] = {}
_END = object()
logger = logging.getLogger(__name__)


@contextmanager
def one_thread() -> Iterator[None]:
    """One numeric thread, as workers have: sums in torch depend on the number of threads; the simulator's do not."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


Sent = tuple[Any, Callable[[Any], Any]]
"""What other processes get for `shared`, and what they get for an item."""


def in_workers(
    function: Callable[[Any, Any], Any],
    shared: Any,
    work: Iterable[Any],
    workers: int,
    sent: Callable[[], Sent] | None = None,
) -> Iterator[Any]:
    """`function(shared, item)` for each item of `work`, in order, in `workers` processes with one numeric thread each.

    This process is one of them and reads `work`, a few items ahead. `shared` travels once; `sent`: where the others can do with
    less. What cannot be pickled, or lost its process, is done here, which a warning says. `InputError` without joblib and cloudpickle;
    what `function` raises is raised here.
    """
    try:
        import cloudpickle
        import joblib  # noqa: F401

        from hqc.workflow import travel  # noqa: F401
    except ImportError:
        raise InputError(f"several workers need joblib; {install_command('workers')}") from None
    for module in [module for module in list(sys.modules.values()) if getattr(module, USER_FILE, False)]:
        cloudpickle.register_pickle_by_value(module)  # a worker cannot import it by name
    share = max(1, default_threads() // workers)
    with tempfile.TemporaryDirectory(prefix="hqc-") as folder:
        others = _Others(function, sent or (lambda: (shared, lambda item: item)), workers, Path(folder) / "shared")

        def alone(item: Any) -> Any:
            numeric = one_thread() if "torch" in sys.modules else nullcontext()
            with numeric, at_most(share) if others.started else nullcontext():
                return function(shared, item)

        try:
            yield from _in_order(alone, iter(work), others)
        except (GeneratorExit, HqcError):  # nobody wants the rest, or the work itself was refused
            others.leave()
            raise
        except BaseException:
            others.end()
            raise
        others.leave()


@dataclass
class _Piece:
    """One item of the work: its result, what doing it raised, or the future of the process that has it."""

    item: Any = None
    future: Any = None
    result: Any = None
    error: BaseException | None = None

    def do(self, alone: Callable[[Any], Any]) -> None:
        self.future = None
        try:
            self.result = alone(self.item)
        except Exception as error:
            self.error = error

    def settle(self, alone: Callable[[Any], Any], others: _Others) -> Any:
        """The result; waits for it."""
        if self.future is not None:
            error = self.future.exception()
            if others.lost(error):
                self.do(alone)
            else:
                self.error, self.result = error, None if error else self.future.result()
        if self.error is not None:
            raise self.error
        return self.result


def _in_order(alone: Callable[[Any], Any], items: Iterator[Any], others: _Others) -> Iterator[Any]:
    pieces: deque[_Piece] = deque()
    start = time.monotonic()
    ended = False
    while not ended:
        if time.monotonic() - start >= PATIENCE:
            while not ended and others.want(pieces):
                piece, ended = _next(items)
                if not ended and not others.take(piece):
                    piece.do(alone)
                if not ended or piece.error is not None:
                    pieces.append(piece)
        if not ended:
            piece, ended = _next(items)
            if not ended:
                piece.do(alone)
            if not ended or piece.error is not None:
                pieces.append(piece)
            ended = ended or piece.error is not None
        while pieces and (pieces[0].future is None or pieces[0].future.done()):
            yield pieces.popleft().settle(alone, others)
    for piece in reversed(pieces):  # what nobody has begun; all of it, where the others are still starting
        if piece.future is not None and (not others.answered(pieces) or piece.future.cancel()):
            piece.do(alone)
    for piece in pieces:
        yield piece.settle(alone, others)


def _next(items: Iterator[Any]) -> tuple[_Piece, bool]:
    """The next piece of work, and whether there is none; reading it may fail, which is raised when its turn comes."""
    try:
        item = next(items, _END)
    except Exception as error:
        return _Piece(error=error), True
    return _Piece(item), item is _END


class _Others:
    """The other processes: started when they are first asked for."""

    def __init__(self, function: Callable[[Any, Any], Any], sent: Callable[[], Sent], workers: int, path: Path) -> None:
        self._function, self._sent, self._workers, self._path = function, sent, workers, path
        self._convert: Callable[[Any], Any] = lambda item: item
        self._executor: Any = None
        self._broken = False
        self._answered = False
        self._given: list[Any] = []

    @property
    def started(self) -> bool:
        return self._executor is not None

    def want(self, pieces: deque[_Piece]) -> bool:
        """Whether they should be given another piece."""
        waiting = sum(piece.future is not None and not piece.future.done() for piece in pieces)
        return not self._broken and waiting < _AHEAD * (self._workers - 1)

    def take(self, piece: _Piece) -> bool:
        """Give them a piece; False where that cannot be, and nothing will be given to them any more."""
        from hqc.workflow.travel import packed

        try:
            if self._executor is None:
                self._start()
            data = packed(self._convert(piece.item), "the data")
            piece.future = self._executor.submit(_alone, str(self._path), self._workers, data)
            self._given = [future for future in (*self._given, piece.future) if not future.done()]
        except Exception as error:  # a wrong batch is refused in its turn; loky's own errors share no base
            logger.warning("the rest of the work is done in one process: %s", error)
            self._broken = True
        return not self._broken

    def _start(self) -> None:
        from joblib.externals.loky import get_reusable_executor

        from hqc.workflow.travel import packed

        shared, self._convert = self._sent()
        write_file(self._path, packed((self._function, shared), "the model"))
        self._executor = get_reusable_executor(max_workers=self._workers - 1, timeout=_IDLE, env=_THREADS)

    def answered(self, pieces: deque[_Piece]) -> bool:
        """Whether any of them has ever finished anything."""
        self._answered = self._answered or any(piece.future is not None and piece.future.done() for piece in pieces)
        return self._answered

    def lost(self, error: BaseException | None) -> bool:
        """Whether a process ended instead of answering (too little memory for two, say): the work is done here then."""
        from joblib.externals.loky.process_executor import BrokenProcessPool

        self._answered = True
        if not isinstance(error, BrokenProcessPool):
            return False
        if not self._broken:
            logger.warning("a worker process ended before its work was done; the rest is done in this process")
        self._broken = True
        return True

    def leave(self) -> None:
        """They wait for the next work, unless they have not even begun."""
        if self._executor is not None and not self._answered:
            self.end()

    def end(self) -> None:
        """End them now."""
        if self._executor is not None:
            end = time.monotonic() + 1
            while time.monotonic() < end and not all(future.running() or future.done() for future in self._given):
                time.sleep(0.001)  # until loky has handed on what it was given
            self._executor.shutdown(wait=True, kill_workers=True)


def _alone(path: str, workers: int, item: bytes) -> Any:
    """In a worker: one thread in torch, and its share of the cores in the simulator."""
    if path not in _loaded:
        _loaded.clear()
        share_cores(workers)
        with open(path, "rb") as file:
            _loaded[path] = pickle.load(file)
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)
    function, shared = _loaded[path]
    return function(shared, pickle.loads(item))
