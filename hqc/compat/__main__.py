"""`python -m hqc.compat script.py [arguments]`, or `-m module`: run a script written for horizon_plugin_pytorch."""

from __future__ import annotations

import re
import runpy
import sys
import traceback
from pathlib import Path

import hqc.compat
from hqc.errors import HqcError
from hqc.near_names import suggest

USAGE = "usage: python -m hqc.compat script.py [arguments], or python -m hqc.compat -m module [arguments]\n"


def main() -> int:
    """Exit status: the script's; 1 with one sentence for an error of hqc or a name that it lacks, 2 for wrong usage.

    Processes that the script starts get the alias too.
    """
    arguments = sys.argv[1:]
    as_module = arguments[:1] == ["-m"]
    if as_module:
        del arguments[0]
    if not arguments or not (as_module or Path(arguments[0]).is_file()):
        sys.stderr.write(USAGE)
        return 2
    sys.argv = arguments
    hqc.compat.install_for_children()
    try:
        if as_module:
            sys.path[0] = str(Path.cwd())
            runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
        else:
            sys.path[0] = str(Path(arguments[0]).resolve().parent)
            runpy.run_path(arguments[0], run_name="__main__")
    except HqcError as error:
        sys.stderr.write(f"error: {error}{_line_of(error)}\n")
        return 1
    except (ImportError, AttributeError) as error:
        sentence = missing_name(error)
        if sentence is None:
            raise
        sys.stderr.write(f"error: {sentence}{_line_of(error)}\n")
        return 1
    return 0


def missing_name(error: ImportError | AttributeError) -> str | None:
    """One sentence for a name of the reference that hqc does not have; None for any other error."""
    if isinstance(error, ModuleNotFoundError):
        return str(error) if str(error.name or "").startswith((hqc.compat.REFERENCE, hqc.compat.PROFILER)) else None
    found = re.search(r"cannot import name '(\w+)' from '(hqc[\w.]*)'", str(error)) or None
    if found is not None:
        name, module = found.groups()
    else:
        found = re.search(r"module '?(hqc[\w.]*)'? has no attribute '?(\w+)'?", str(error))
        if found is None:
            return None
        module, name = found.groups()
    return f"hqc has no {name} in {module} (the script's {module.replace('hqc', hqc.compat.REFERENCE, 1)}){_elsewhere(module, name)}"


def _elsewhere(module: str, name: str) -> str:
    """Where a name of this kind is: in other modules of hqc under the same name, or the nearest names of the module."""
    known = dir(sys.modules[module]) if module in sys.modules else []
    homes = []
    for other in hqc.compat.reference_modules():
        loaded = sys.modules.get(hqc.compat.ours(other))
        if loaded is not None and loaded.__name__ != module and name in dir(loaded):
            homes.append(loaded.__name__)
    if homes:
        return f"; it is in {' and '.join(sorted(set(homes)))}"
    return suggest(name, [each for each in known if not each.startswith("_")])


def _line_of(error: BaseException) -> str:
    """`  (script.py:12)`: the last line of the user's code on the way to the error."""
    root = str(Path(hqc.__file__).parent)
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((root, "<frozen"))
        and "runpy" not in frame.filename
        and "/torch/" not in frame.filename
    ]
    return f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""


if __name__ == "__main__":
    sys.exit(main())
