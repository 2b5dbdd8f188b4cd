"""A process that runs cases and tells what became of them; its supervisor notices hangs and deaths."""

from __future__ import annotations

import logging
import multiprocessing
import os
import random
import resource
import sys
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.fuzz.cases import GROWTH_BYTES, HANG_SECONDS, Verdict, peak_bytes, reset_peak, run_case

_PATIENCE = 12  # times HANG_SECONDS, for a case that sleeps
DATA = 24 << 30
"""No case may take the machine down; an allocation beyond this fails with MemoryError, a raw error (what is only reserved is free)."""


WARMED = ("names", "numeric", "models", "arguments", "commands", "surface")
"""Kinds of which one case runs before any is timed: kernels are compiled where no cache has them, and libraries imported."""


def serve(connection: Connection) -> None:
    """Run the cases that come through `connection` until None comes."""
    import torch

    from benchmarks.fuzz.kinds import command_lines
    from hqc.backends.bpu.engines.report import engine_statuses

    engine_statuses()  # compiles kernels where no cache has them, which takes longer than a hang
    torch.export.export(torch.nn.ReLU(), (torch.zeros(1),))  # imports for seconds, once
    logging.disable(logging.CRITICAL)
    sys.stderr = open("/dev/null", "w")  # noqa: SIM115  (for the life of the process)
    resource.setrlimit(resource.RLIMIT_DATA, (DATA, DATA))
    with tempfile.TemporaryDirectory(prefix="hqc-fuzz-") as folder:
        for number, name in enumerate(WARMED):
            place = Path(folder) / str(number)
            place.mkdir()
            run_case(name, 0, place)
        command_lines.write_models(random.Random(0), Path(folder))
        command_lines.invoke(["compare", "net.py:Net", "--march", "bayes", "--activations", "int16"], Path(folder))()
        connection.send("ready")
        while (case := connection.recv()) is not None:
            reset_peak()
            before = peak_bytes()
            # A case finds nothing of the one before it: what becomes of it depends on its seed alone.
            with tempfile.TemporaryDirectory(dir=folder) as place:
                verdict = run_case(*case, Path(place))
            growth = peak_bytes() - before
            if growth > GROWTH_BYTES and verdict.outcome != "raw":
                verdict = Verdict(*case, "growth", f"{growth / 2**30:.1f} GiB ({verdict.outcome}: {verdict.what:.80})")
            connection.send(verdict)


def cpu_seconds(pid: int | None) -> float:
    """Processor time of a process; infinite where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return float("inf")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Supervisor:
    """Runs cases in a worker process, which is replaced when it hangs or dies."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._start()

    def _start(self) -> None:
        self._connection, theirs = self._context.Pipe()
        self._process = self._context.Process(target=serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        if self._connection.recv() != "ready":
            raise RuntimeError("the worker did not start")

    def run(self, kind: str, seed: int) -> Verdict:
        """The verdict on one case."""
        self._connection.send((kind, seed))
        start = cpu_seconds(self._process.pid)
        try:
            # On a loaded machine a case may wait for its turn: what counts is the time it worked.
            for _ in range(_PATIENCE):
                if self._connection.poll(HANG_SECONDS):
                    found: Verdict = self._connection.recv()
                    return found
                if cpu_seconds(self._process.pid) - start > HANG_SECONDS:
                    break
            verdict = Verdict(kind, seed, "hang", f"more than {HANG_SECONDS:.0f} s")
        except (EOFError, ConnectionError):
            self._process.join()
            verdict = Verdict(kind, seed, "raw", f"the process died with status {self._process.exitcode}")
        self.stop()
        self._start()
        return verdict

    def stop(self) -> None:
        """End the worker."""
        self._process.kill()
        self._process.join()
        self._connection.close()
