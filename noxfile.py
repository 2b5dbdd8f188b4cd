"""The pairs of Python and torch that hqc claims, and the declared minimum of every dependency.

    nox                       every pair whose Python is installed
    nox -s "torch(2.13, python='3.12')"
    nox -s minimum            the oldest versions that pyproject.toml allows
    nox -s without            no torch, then no numba: what must work without them

Pythons come from pyenv or the system; a session whose Python is missing is skipped. torch is taken as the CPU build where the index has
it. Pins are those of constraints.txt, except for the package that a session is about.
"""

from __future__ import annotations

import re
from pathlib import Path

import nox

PYTHONS = ["3.10", "3.11", "3.12", "3.13"]
TORCH = ["2.4.1", "2.5.1", "2.6.0", "2.7.1", "2.8.0", "2.9.1", "2.10.0", "2.11.0", "2.12.1", "2.13.0", "2.14.1", "2.15.0"]
SINCE = {"3.13": (2, 5)}  # the first torch that publishes wheels for a Python
UNTIL = {"3.10": (2, 14)}  # and the last
INDEX = "https://download.pytorch.org/whl/cpu"

nox.options.error_on_missing_interpreters = False
nox.options.sessions = ["torch"]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])


def pairs() -> list[tuple[str, str]]:
    """Pairs of Python and torch that are published."""
    return [
        (python, torch)
        for python in PYTHONS
        for torch in TORCH
        if SINCE.get(python, (2, 4)) <= _numbers(torch) <= UNTIL.get(python, (9, 9))
    ]


def constraints(session: nox.Session, *without: str) -> str:
    """A copy of constraints.txt without some packages."""
    lines = Path("constraints.txt").read_text().splitlines()
    kept = [line for line in lines if re.split(r"[=<>! ;]", line)[0] not in without]
    path = Path(session.create_tmp()).resolve() / "constraints.txt"
    path.write_text("\n".join(kept) + "\n")
    return str(path)


def run_tests(session: nox.Session, *paths: str) -> None:
    session.run("python", "-m", "hqc", "doctor")
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    session.run("python", "-m", "pytest", "-n", "2", "--dist", "loadgroup", "-q", *paths, *session.posargs, env=one_thread)


@nox.session
@nox.parametrize("python,torch", pairs())
def torch(session: nox.Session, torch: str) -> None:
    """The whole suite with one torch."""
    numpy = ["numpy<2.3"] if _numbers(torch) < (2, 6) else []  # older builds know older C interfaces
    session.install(f"torch=={torch}", *numpy, "--extra-index-url", INDEX)
    held = constraints(session, "torch", *(["numpy", "numba", "llvmlite", "scipy", "scikit-learn"] if numpy else []))
    session.install("-e", ".[dev]", *numpy, "-c", held)
    run_tests(session)


def minimums() -> list[str]:
    """`name==version` for every lower bound in pyproject.toml's dependencies."""
    text = Path("pyproject.toml").read_text()
    block = text[text.index("dependencies = [") : text.index("[project.optional-dependencies]")]
    return [f"{name}=={version}" for name, version in re.findall(r'"([\w-]+)>=([\d.]+)', block)]


@nox.session(python="3.10")
def minimum(session: nox.Session) -> None:
    """The oldest versions that the declaration allows."""
    exact = minimums()
    session.install(*exact, "--extra-index-url", INDEX)
    held = Path(session.create_tmp()).resolve() / "minimum.txt"
    held.write_text("\n".join(exact) + "\n")
    session.install("-e", ".[dev]", "-c", str(held))
    run_tests(session)


@nox.session(python=PYTHONS)
@nox.parametrize("package", ["torch", "numba"])
def without(session: nox.Session, package: str) -> None:
    """What must work without an optional package: the IR, the passes and the simulator without torch, all but `jit` without numba."""
    session.install("-e", ".[dev]", "--extra-index-url", INDEX, "-c", constraints(session, "torch"))
    session.run("python", "-m", "pip", "uninstall", "-q", "-y", package)
    run_tests(session, *(["tests/ir", "tests/passes", "tests/bpu"] if package == "torch" else ["tests/bpu", "tests/analysis"]))
