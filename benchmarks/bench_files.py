"""Kills and crowds: is every set of files whole, whenever a writer dies and however many write at once?

    python -m benchmarks.bench_files --kills 500 --pairs 200 --compiles 20

Kills: a process writes one of two sets (IR text and sidecar, ONNX file and yaml, saved model, dumps, report) over and over and is killed
at a random moment; the set that hqc's next reader finds there must be the one or the other, whole, and the next write must remove what
the dead left. Pairs: two writers, as threads or as processes, write different sets to the same path. Compiles: a thread runs a torch
model all the while, then several compile at once.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn

import hqc
from hqc.errors import HqcError
from hqc.files import settle, write_file

FORMS = ("ir", "onnx", "saved", "dumps", "report")


class Net(nn.Module):
    """Larger than a pipe's buffer, smaller than patience."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv, self.head = nn.Conv2d(3, 32, 3), nn.Linear(32, 10 + seed)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.head(torch.relu(self.conv(x)).mean((2, 3))), 1)


def models() -> list[hqc.Compiled]:
    """Two models whose files differ in every part."""
    x = torch.linspace(-1, 1, 192).reshape(1, 3, 8, 8)
    return [hqc.compile(Net(seed).eval(), x, march="bayes", calibration_data=[x]) for seed in range(2)]


def write(form: str, model: hqc.Compiled, folder: Path) -> None:
    """One set of files of a form into `folder`."""
    if form == "ir":
        hqc.ir.save(model.integer_graph, folder / "net.hqc")
    elif form == "onnx":
        model.export(folder / "net.onnx", verify=False)
    elif form == "saved":
        model.save(folder / "net.safetensors")
    elif form == "report":
        write_file(folder / "net.html", f"<!doctype html>{model.explain() * 40}</html>".encode())
    else:
        from hqc.passes.dumps import DumpWriter

        writer = DumpWriter(folder / "dumps")
        for title in ("one", "two", "three"):
            writer.write(title, model.integer_graph)
        writer.close()


def state(form: str, folder: Path) -> dict[str, bytes]:
    """What lies in the folder, but for temporaries; reads it as its reader would."""
    if form == "ir":  # a sidecar without a text is a first save that died
        return {"graph": str(hqc.ir.load(folder / "net.hqc")).encode()} if (folder / "net.hqc").exists() else {}
    for name in ("net.onnx", "dumps/000-one.hqc"):
        settle(folder / name)
    if form == "saved" and (folder / "net.safetensors").exists():
        hqc.load(folder / "net.safetensors")
    files = {
        path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file() and path.suffix != ".tmp"
    }
    return {name: path.read_bytes() for name, path in sorted(files.items())}


def is_whole(found: dict[str, bytes], wanted: list[dict[str, bytes]]) -> bool:
    """True for one of the wanted sets, or nothing where the first write died."""
    return found in wanted or not found


def kills(count: int, seed: int = 0) -> list[str]:
    """Kill writers; what was wrong afterwards."""
    generator = random.Random(seed)
    wrong: list[str] = []
    both = models()
    for number in range(count):
        form = FORMS[number % len(FORMS)]
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            wanted = sets(form, both)
            child = os.fork()
            if child == 0:
                try:
                    while True:
                        for model in both:
                            write(form, model, folder)
                finally:
                    os._exit(1)
            time.sleep(generator.uniform(0.0, 0.06))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            wrong += _judged(form, folder, wanted, both[0], f"kill {number}")
    return wrong


def sets(form: str, both: list[hqc.Compiled]) -> list[dict[str, bytes]]:
    """The sets that may lie there."""
    found = []
    for model in both:
        with tempfile.TemporaryDirectory() as name:
            write(form, model, Path(name))
            found.append(state(form, Path(name)))
    return found


def _judged(form: str, folder: Path, wanted: list[dict[str, bytes]], model: hqc.Compiled, what: str) -> list[str]:
    wrong = []
    try:
        if not is_whole(state(form, folder), wanted):
            wrong.append(f"{what}: {form} is mixed: {sorted(state(form, folder))}")
        write(form, model, folder)
    except HqcError as error:
        wrong.append(f"{what}: {form}: {error}")
    left = [path.name for path in folder.rglob("*") if path.suffix == ".tmp"]
    return wrong + ([f"{what}: {form} left {left}"] if left else [])


def pairs(count: int, processes: bool) -> list[str]:
    """Two writers at once; what was wrong."""
    both = models()
    wrong: list[str] = []
    for number in range(count):
        form = FORMS[number % len(FORMS)]
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            calls = [partial(_repeated, form, model, folder) for model in both]
            errors = (_in_processes if processes else _in_threads)(calls)
            wrong += [f"pair {number}: {form}: {error}" for error in errors]
            if state(form, folder) not in sets(form, both):
                wrong.append(f"pair {number}: {form} is mixed")
    return wrong


def _repeated(form: str, model: hqc.Compiled, folder: Path) -> None:
    for _ in range(4):
        write(form, model, folder)


def _in_threads(calls: list[Callable[[], None]]) -> list[str]:
    errors: list[str] = []

    def guarded(call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as problem:  # what is looked for
            errors.append(f"{type(problem).__name__}: {problem}")

    threads = [threading.Thread(target=guarded, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def _in_processes(calls: list[Callable[[], None]]) -> list[str]:
    children = []
    for call in calls:
        child = os.fork()
        if child == 0:
            signal.alarm(60)  # a child that hangs is an error, not the end of the benchmark
            os._exit(len(_in_threads([call])))
        children.append(child)
    return [f"process {child} failed" for child in children if os.waitpid(child, 0)[1]]


def compiles(count: int, at_once: int) -> list[str]:
    """A thread that serves a torch model beside compiles, then several compiles at once; what was wrong."""
    wrong: list[str] = []
    x = torch.linspace(-1, 1, 192).reshape(1, 3, 8, 8)
    served, stop, calls = Net(5).eval(), threading.Event(), [0]
    expected = served(x)

    def serve() -> None:
        while not stop.is_set():
            try:
                if not torch.equal(served(x), expected):
                    wrong.append("the served model computed something else")
            except Exception as error:
                wrong.append(f"the served model failed: {type(error).__name__}: {error}")
            calls[0] += 1

    server = threading.Thread(target=serve)
    server.start()
    texts = []
    network = Net(7).eval()  # made once: its seed is the process's, which threads would share

    def once() -> None:
        model = hqc.compile(network, x, march="bayes", calibration_data=[x])
        texts.append(str(model.integer_graph) + model.simulate(x).tobytes().hex())

    for _ in range(count):
        wrong += _in_threads([once])
    wrong += _in_threads([once] * at_once)
    stop.set()
    server.join()
    if len(set(texts)) > 1:
        wrong.append(f"{len(set(texts))} different results of the same compile")
    print(f"    {calls[0]:,} calls of the served model")
    return wrong


def main() -> int:
    """Run everything and report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_files", description=__doc__)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--compiles", type=int, default=20)
    given = parser.parse_args()
    results = {
        f"{given.kills} kills": lambda: kills(given.kills),
        f"{given.pairs // 2} pairs of threads": lambda: pairs(given.pairs // 2, processes=False),
        f"{given.pairs // 2} pairs of processes": lambda: pairs(given.pairs // 2, processes=True),
        f"{given.compiles} compiles beside a served model, then 8 at once": lambda: compiles(given.compiles, 8),
    }
    failed = 0
    for title, run in results.items():
        start = time.monotonic()
        wrong = run()
        print(f"{title}: {len(wrong)} wrong, {time.monotonic() - start:.0f} s")
        for line in wrong[:5]:
            print(f"    {line}")
        failed += len(wrong)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
