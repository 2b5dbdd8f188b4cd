"""What a kind of case is, and how one case is run and judged."""

from __future__ import annotations

import io
import random
import resource
import traceback
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from hqc.errors import HqcError

HANG_SECONDS = 5.0
GROWTH_BYTES = 1 << 30

Attempt = Callable[[], object]
Make = Callable[[random.Random, Path], Attempt]
"""`make(generator, folder)`: one input, drawn from `generator`, as a call that gives it to hqc; files go into `folder`."""

KINDS: dict[str, Make] = {}


class UserError(Exception):
    """What a fuzzed model raises itself: it is the user's own and passes through."""


def kind(name: str) -> Callable[[Make], Make]:
    """Decorator: register a kind of case."""

    def register(make: Make) -> Make:
        KINDS[name] = make
        return make

    return register


@dataclass(frozen=True)
class Verdict:
    """`outcome`: accepted, refused, raw, hang or growth. `where`: the innermost line of hqc, by which raw errors are told apart."""

    kind: str
    seed: int
    outcome: str
    what: str = ""
    where: str = ""


def run_case(name: str, seed: int, folder: Path) -> Verdict:
    """Run case `seed` of a kind in this process: accepted, refused in one sentence, or a raw error."""
    generator = random.Random(f"{name}/{seed}")
    try:
        attempt = KINDS[name](generator, folder)
    except Exception as error:
        return Verdict(name, seed, "raw", f"the case itself is wrong: {type(error).__name__}: {error}", _where(error))
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            attempt()
    except HqcError as error:
        if not str(error).strip() or any(ord(char) < 32 and char not in "\n\t" for char in str(error)):
            return Verdict(name, seed, "raw", f"unprintable message {str(error)!r:.200}", _where(error))
        return Verdict(name, seed, "refused", str(error))
    except UserError:
        return Verdict(name, seed, "refused", "the model's own error")
    except (Exception, SystemExit) as error:  # what is looked for
        return Verdict(name, seed, "raw", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}", _where(error))
    return Verdict(name, seed, "accepted")


def _where(error: BaseException) -> str:
    """The last line of hqc on the way to the error, and where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [
        frame for frame in frames if "/hqc/" in frame.filename or "/passes/" in frame.filename or "/backends/" in frame.filename
    ]
    last = ours[-1] if ours else frames[-1]
    return f"{Path(last.filename).name}:{last.lineno} {last.name} < {Path(frames[-1].filename).name}:{frames[-1].lineno}"


def peak_bytes() -> int:
    """The largest resident size of this process since `reset_peak`, or ever."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def reset_peak() -> None:
    """Let `peak_bytes` start anew, where the system can."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return
