"""Work on many processes of one machine, by joblib's loky: no engine of our own.

Results come in the order of the work, so they depend neither on the number of workers nor on who is faster.
"""

from __future__ import annotations

import itertools
import pickle
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hqc.distribution import install_command
from hqc.errors import InputError
from hqc.files import write_file
from hqc.python_files import USER_FILE

_WAVE = 4
"""Pieces of work per worker that are handed out at a time."""
_loaded: dict[str, Any] = {}


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


def in_workers(function: Callable[[Any, Any], Any], shared: Any, work: Iterable[Any], workers: int) -> Iterator[Any]:
    """`function(shared, item)` for each item of `work`, in order, in `workers` processes with one numeric thread each.

    `shared` travels once. `work` is read here, a few items ahead. `InputError` without joblib and cloudpickle, or for what cannot be
    pickled; what `function` raises is raised here.
    """
    try:
        import cloudpickle
        import joblib

        from hqc.workflow.travel import packed
    except ImportError:
        raise InputError(f"several workers need joblib; {install_command('workers')}") from None
    for module in [module for module in list(sys.modules.values()) if getattr(module, USER_FILE, False)]:
        cloudpickle.register_pickle_by_value(module)  # a worker cannot import it by name
    with tempfile.TemporaryDirectory(prefix="hqc-") as folder:
        path = Path(folder) / "shared"
        write_file(path, packed(shared, "the model"))
        with joblib.Parallel(n_jobs=workers, backend="loky") as parallel:
            items = (packed(item, "the data") for item in work)
            while wave := list(itertools.islice(items, _WAVE * workers)):
                yield from parallel(joblib.delayed(_alone)(function, str(path), item) for item in wave)


def _alone(function: Callable[[Any, Any], Any], path: str, item: bytes) -> Any:
    """In a worker: one thread, for the workers are as many as the cores."""
    if path not in _loaded:
        _loaded.clear()
        with open(path, "rb") as file:
            _loaded[path] = pickle.load(file)
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)
    return function(_loaded[path], pickle.loads(item))
