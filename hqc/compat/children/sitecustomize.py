"""Read by Python at the start of processes whose parent runs under `python -m hqc.compat`: they get the alias too."""

from __future__ import annotations

import importlib.machinery
import os
import sys

_HERE = os.path.dirname(os.path.abspath(__file__))


def _hand_on() -> None:
    """Run the `sitecustomize` that this one stands in front of."""
    others = [path for path in sys.path if os.path.abspath(path or os.getcwd()) != _HERE]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        module = importlib.util.module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


import importlib.util  # noqa: E402  (beside importlib.machinery, in this order, to keep start-up short)

_hand_on()
if os.environ.get("HQC_COMPAT") == "1":
    import hqc.compat

    hqc.compat.install()
