"""Work on several processes: results in the order of the work, whoever does it and whoever fails."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("joblib", reason="the extra `workers` is not installed")
pytest.importorskip("cloudpickle", reason="the extra `workers` is not installed")

from hqc.backends.bpu.workers import Workers, at_most, default_threads
from hqc.errors import InputError
from hqc.workflow import workers
from hqc.workflow.workers import in_workers


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The other processes are started with the first piece of work; they cannot import this file."""
    import cloudpickle

    monkeypatch.setattr(workers, "PATIENCE", 0.0)
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def _waits(shared: tuple[int, str], item: int) -> tuple[int, bool]:
    """In this process, wait until another has done something; there, do it."""
    home, folder = shared
    if os.getpid() != home:
        Path(folder, "seen").touch()
        return item * item, False
    end = time.monotonic() + 600
    while not Path(folder, "seen").exists() and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.02)  # its answer comes in
    return item * item, True


def test_this_process_and_the_others_share_the_work_in_order(at_once: None, tmp_path: Path) -> None:
    found = list(in_workers(_waits, (os.getpid(), str(tmp_path)), range(40), 2))
    assert [square for square, _ in found] == [item * item for item in range(40)]
    assert {here for _, here in found} == {True, False}


def _refuses(shared: int, item: int) -> int:
    if item == shared:
        raise InputError(f"item {item} is refused")
    return item


def test_what_fails_fails_in_its_turn(at_once: None) -> None:
    for wrong in (0, 3):
        seen: list[int] = []
        with pytest.raises(InputError, match=f"item {wrong} is refused"):
            seen.extend(in_workers(_refuses, wrong, range(9), 2))
        assert seen == list(range(wrong))

    def broken() -> Iterator[int]:
        yield from range(5)
        raise KeyError("no more data")

    seen = []
    with pytest.raises(KeyError, match="no more data"):
        seen.extend(in_workers(_refuses, -1, broken(), 2))
    assert seen == list(range(5))


def _dies(home: int, item: int) -> int:
    if os.getpid() != home:
        os._exit(9)
    time.sleep(0.05)
    return item


@pytest.mark.parametrize("function", [_dies, lambda home, item: item], ids=["a process that ends", "what cannot be pickled"])
def test_what_others_cannot_do_is_done_here(at_once: None, function: object, caplog: pytest.LogCaptureFixture) -> None:
    class Local:
        def __reduce__(self) -> str:
            raise TypeError("stays here")

    items = list(range(30)) if function is _dies else [Local() for _ in range(5)]
    with caplog.at_level(logging.WARNING):
        assert list(in_workers(function, os.getpid(), items, 2)) == items  # type: ignore[arg-type]
    assert function is _dies or "the rest of the work is done in one process: the data cannot travel" in caplog.text


def test_little_work_starts_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "PATIENCE", 1e9)
    monkeypatch.setattr(workers._Others, "_start", lambda self: pytest.fail("another process was started"))
    assert list(in_workers(_refuses, -1, range(50), 4)) == list(range(50))
    stopped = in_workers(_refuses, -1, range(50), 4)
    assert next(stopped) == 0
    stopped.close()  # type: ignore[attr-defined]


def test_programs_use_their_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    several, used = Workers(3), set()
    with at_most(1):
        several.map(lambda item: used.add(os.getpid()), range(4))
        several.together(used.add)
        several.each(lambda: used.add("each"))
    assert used == {os.getpid(), 0, "each"}
    monkeypatch.setattr("hqc.backends.bpu.workers._processes", 1 << 20)
    assert default_threads() == 1
