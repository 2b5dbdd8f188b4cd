"""How much of torch's surface goes the whole way: compile (calibrated on the sample), simulate, export.

    python -m benchmarks.bench_surface [module_db] [op_db] [--only nn.Conv1d] [--march bayes] [--chunk 80] [--show refused]

Runs torch's own samples in chunks, each in a process of its own, with a time limit a sample, and counts what passes, what is
refused in one sentence and what fails raw. Needs `expecttest` (the dev extra).
"""

from __future__ import annotations

import argparse
import collections
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Iterable

from benchmarks.surface.classify import PASS, RAW, REFUSED, SKIPPED, WRONG, Outcome, classify
from benchmarks.surface.samples import Sample, module_samples, op_samples

DATABASES = {"module_db": module_samples, "op_db": op_samples}


def run_chunk(database: str, first: int, last: int, only: str, march: str, seconds: float) -> list[Outcome]:
    """Samples `first` to `last`, in this process."""
    return [classify(sample, march, seconds) for sample in itertools.islice(chosen(DATABASES[database](), only), first, last)]


def chosen(samples: Iterable[Sample], only: str) -> Iterable[Sample]:
    return (sample for sample in samples if re.search(only, sample.name))


def run(database: str, only: str, march: str, chunk: int, seconds: float) -> list[Outcome]:
    """All samples, a process per chunk; a chunk whose process dies counts as raw errors."""
    total = sum(1 for _ in chosen(DATABASES[database](), only))
    outcomes: list[Outcome] = []
    for first in range(0, total, chunk):
        options = [f"--range={first},{first + chunk}", f"--only={only}", f"--march={march}", f"--seconds={seconds}"]
        command = [sys.executable, "-m", "benchmarks.bench_surface", database, *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        try:
            found = [Outcome(**item) for item in json.loads(done.stdout.splitlines()[-1])]
        except (IndexError, json.JSONDecodeError):
            missing = min(chunk, total - first)
            found = [Outcome(f"{database}[{first + i}]", RAW, "process", done.stderr[-300:]) for i in range(missing)]
        outcomes += found
        print(f"\r{database}: {len(outcomes)} of {total}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return outcomes


def report(database: str, outcomes: list[Outcome], show: list[str]) -> None:
    counts = collections.Counter(outcome.kind for outcome in outcomes)
    accepted = len(outcomes) - counts[SKIPPED]
    share = counts[PASS] / max(accepted, 1)
    rest = ", ".join(f"{counts[kind]} {kind}" for kind in (REFUSED, RAW, WRONG, SKIPPED))
    print(f"{database}: {counts[PASS]} of {accepted} pass ({share:.1%}); {rest}")
    for outcome in outcomes:
        if outcome.kind in show:
            print(outcome)


def main() -> None:
    parser = argparse.ArgumentParser(description="How much of torch's surface goes the whole way.")
    parser.add_argument("databases", nargs="*", metavar="database", help=", ".join(DATABASES))
    parser.add_argument("--only", default="", help="regular expression on sample names")
    parser.add_argument("--march", default="bayes")
    parser.add_argument("--chunk", type=int, default=80)
    parser.add_argument("--seconds", type=float, default=20.0, help="time limit a sample")
    parser.add_argument("--show", nargs="*", default=[RAW, WRONG], help="kinds to list")
    parser.add_argument("--range", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.range:
        first, last = map(int, options.range.split(","))
        outcomes = run_chunk(options.databases[0], first, last, options.only, options.march, options.seconds)
        print(json.dumps([vars(outcome) for outcome in outcomes]))
        return
    unknown = [name for name in options.databases if name not in DATABASES]
    if unknown:
        parser.error(f"unknown database {unknown[0]}; there are {', '.join(DATABASES)}")
    for database in options.databases or DATABASES:
        report(database, run(database, options.only, options.march, options.chunk, options.seconds), options.show)


if __name__ == "__main__":
    main()
