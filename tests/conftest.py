"""Settings of every test run: hypothesis without deadlines (a loaded machine is no error) and with the same examples every time."""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Generator, Iterator

import numpy as np
import pytest
from hypothesis import settings
from hypothesis.internal.conjecture import providers

# Hypothesis also draws constants that it finds in the modules loaded so far, which depend on the worker that a test lands on.
if hasattr(providers, "_get_local_constants"):
    providers._get_local_constants = lambda: providers._local_constants
settings.register_profile("hqc", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("hqc")


@pytest.fixture(autouse=True)
def the_same_random_numbers_in_every_run() -> None:
    """Whatever test ran before, and in whichever worker."""
    np.random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(autouse=True)
def hqc_logs_as_for_a_user() -> Iterator[None]:
    """Harnesses that many tests share silence the library's log; the next test hears it again."""
    logger = logging.getLogger("hqc")
    logger.setLevel(logging.NOTSET)
    yield
    logger.setLevel(logging.NOTSET)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Without torch, files that cannot be imported for want of it are skipped: the others say what works without (`nox -s without`)."""
    report = yield
    if report.failed and importlib.util.find_spec("torch") is None and "No module named 'torch'" in str(report.longrepr):
        report.outcome = "skipped"
        report.longrepr = (str(collector.path), 0, "Skipped: needs torch")
    return report
