"""`python -m hqc.compat script.py [arguments]`: run a script written for horizon_plugin_pytorch."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import hqc.compat
from hqc.errors import HqcError


def main() -> int:
    """Exit status: the script's; 1 with one sentence for an error of hqc, 2 for wrong usage."""
    if len(sys.argv) < 2 or not Path(sys.argv[1]).is_file():
        sys.stderr.write("usage: python -m hqc.compat script.py [arguments]\n")
        return 2
    sys.argv = sys.argv[1:]
    sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
    hqc.compat.install()
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except HqcError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
