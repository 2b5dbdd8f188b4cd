"""Two revisions by their JSON files: ratios to each peer, before and after.

    python -m benchmarks.compare old.json new.json [--limit 1.15]

Ratios, not milliseconds: the files may come from different hours of a shared machine. Exit status 1 when a ratio to some peer grew by
more than `--limit` times.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

Key = tuple[str, str, int, int]


def read(path: Path) -> dict[Key, dict[str, Any]]:
    """Records by model, march, batch and threads."""
    records = json.loads(path.read_text())["records"]
    return {(record["model"], record["march"], record["batch"], record["threads"]): record for record in records}


def compare(old: dict[Key, dict[str, Any]], new: dict[Key, dict[str, Any]], limit: float) -> tuple[list[str], bool]:
    """Lines to print, and whether any ratio grew beyond the limit."""
    lines, worse = [], False
    for key in [*new, *(key for key in old if key not in new)]:
        title = f"{key[0]} on {key[1]}, batch {key[2]}, {key[3]} threads"
        if key not in old or key not in new:
            lines.append(f"{title}: only in the {'new' if key in new else 'old'} file")
            continue
        before, after = old[key], new[key]
        lines.append(f"{title}: {before['engine']} {before['ms']:.2f} ms -> {after['engine']} {after['ms']:.2f} ms")
        for peer in after["ratios"]:
            if peer in before["ratios"]:
                was, now = before["ratios"][peer], after["ratios"][peer]
                mark = "  worse" if now > was * limit else "  better" if now * limit < was else ""
                worse |= now > was * limit
                lines.append(f"  / {peer:13s} {was:6.2f} -> {now:6.2f}{mark}")
    return lines, worse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--limit", type=float, default=1.15)
    options = parser.parse_args()
    lines, worse = compare(read(options.old), read(options.new), options.limit)
    print("\n".join(lines))
    sys.exit(int(worse))


if __name__ == "__main__":
    main()
