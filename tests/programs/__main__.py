"""`python tests/programs [--count N] [--first SEED] [--check NAME] [--march NAME]`: run checks on many programs, sort failures by kind."""

from __future__ import annotations

import argparse
import collections
import logging
import re
import sys
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import advised
import checks
from checks import MARCHES
from generate import generate

CHECKS = {**checks.CHECKS, "advice": (advised.check, False)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=50, help="programs per check")
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--check", choices=list(CHECKS), action="append", help="default: all")
    parser.add_argument("--march", choices=MARCHES, action="append", help="default: each program on one, in turn")
    parser.add_argument("--show", type=int, default=1, help="failing programs to print per kind")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("hqc").setLevel(logging.ERROR)
    failures: dict[str, list[str]] = collections.defaultdict(list)
    start, done = time.monotonic(), 0
    for seed in range(options.first, options.first + options.count):
        for name in options.check or CHECKS:
            check, stubs = CHECKS[name]
            for march in options.march or [MARCHES[seed % len(MARCHES)]]:
                done += 1
                try:
                    check(generate(seed, stubs=stubs), march)
                except AssertionError as error:
                    failures[_kind(str(error))].append(f"seed {seed}: {error}")
    for kind, texts in sorted(failures.items(), key=lambda item: -len(item[1])):
        print(f"{len(texts):4d}  {kind}")
        for text in texts[: options.show]:
            print("\n".join(f"        {line}" for line in text.splitlines()))
    failed = sum(map(len, failures.values()))
    print(f"{done} checks, {failed} failed, {time.monotonic() - start:.0f} s")
    return 1 if failed else 0


def _kind(message: str) -> str:
    """The first line without names and numbers."""
    return re.sub(r"\d[\d.e+-]*", "#", re.sub(r"\b[a-z_]+_?\d+\b|\[.*?\]|\(.*?\)|'.*?'", "*", message.splitlines()[0]))[:160]


if __name__ == "__main__":
    sys.exit(main())
