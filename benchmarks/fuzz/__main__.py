"""`python -m benchmarks.fuzz --minutes 5 [--seed 0] [--kind ir-text ...]`; `--only KIND:SEED` runs one case with its traceback."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from benchmarks.fuzz import kinds  # noqa: F401  (registers)
from benchmarks.fuzz.cases import KINDS, Verdict
from benchmarks.fuzz.worker import Supervisor

COSTLY = ("arguments", "models", "names", "numeric")
"""Kinds that compile a model in most cases; of the others three run for one of these."""
BAD = ("raw", "hang", "growth")


def main() -> int:
    """Run and report; the exit status is 1 when anything bad was found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--cases", type=int, default=None, help="end after this many cases")
    parser.add_argument("--seed", type=int, default=0, help="of the first case of every kind")
    parser.add_argument("--kind", action="append", choices=sorted(KINDS), help="only this kind (repeatable)")
    parser.add_argument("--only", metavar="KIND:SEED", help="one case, here, with its traceback")
    given = parser.parse_args()
    if given.only:
        name, _, seed = given.only.rpartition(":")
        with tempfile.TemporaryDirectory() as folder:
            attempt = KINDS[name](random.Random(f"{name}/{int(seed)}"), Path(folder))
            print(attempt())
        return 0
    return _fuzz(given.kind or sorted(KINDS), given.minutes * 60, given.cases, given.seed)


def _fuzz(names: list[str], seconds: float, limit: int | None, seed: int) -> int:
    supervisor = Supervisor()
    counts: Counter[tuple[str, str]] = Counter()
    bad: dict[tuple[str, str, str], tuple[Verdict, int]] = {}
    start = time.monotonic()
    done = 0
    turns = [name for name in names for _ in range(1 if name in COSTLY else 3)]
    seeds = dict.fromkeys(names, seed)
    while time.monotonic() - start < seconds and (limit is None or done < limit):
        name = turns[done % len(turns)]
        verdict = supervisor.run(name, seeds[name])
        seeds[name] += 1
        counts[verdict.kind, verdict.outcome] += 1
        done += 1
        if done % 1000 == 0:
            print(f"{done} inputs in {time.monotonic() - start:.0f} s", flush=True)
        if verdict.outcome in BAD:
            key = (verdict.kind, verdict.outcome, verdict.where or verdict.what)
            if key not in bad:  # said at once: a long run may be cut short
                print(f"{verdict.outcome}: {verdict.kind}:{verdict.seed} {verdict.what}\n    {verdict.where}", flush=True)
            first, count = bad.get(key, (verdict, 0))
            bad[key] = first, count + 1
    supervisor.stop()
    for name in names:
        shown = ", ".join(f"{counts[name, outcome]} {outcome}" for outcome in ("accepted", "refused", *BAD))
        print(f"{name:16} {shown}")
    for verdict, count in bad.values():
        print(f"{verdict.outcome}: {verdict.kind}:{verdict.seed} (x{count}) {verdict.what}")
    totals = {outcome: sum(counts[name, outcome] for name in names) for outcome in BAD}
    took = time.monotonic() - start
    print(f"{done} inputs in {took:.0f} s: {', '.join(f'{count} {name}' for name, count in totals.items())}")
    return int(any(totals.values()))


if __name__ == "__main__":
    sys.exit(main())
