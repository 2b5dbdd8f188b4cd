"""A part of torch's own samples goes the whole way, as benchmarks/bench_surface.py runs all of them: no raw errors, few refusals."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Callable, Iterator

import pytest

pytest.importorskip("expecttest", reason="torch's test databases need it")

from benchmarks.surface.classify import PASS, RAW, SKIPPED, WRONG, classify
from benchmarks.surface.samples import Sample, module_samples, op_samples

EVERY = 14
"""Of so many samples, one is run."""
DATABASES: dict[str, tuple[Callable[[], Iterator[Sample]], float]] = {
    # samples, and the share of those that eager accepts which must pass
    "module_db": (module_samples, 0.90),
    "op_db": (op_samples, 0.85),
}


@pytest.mark.parametrize("database", DATABASES)
def test_samples_pass_or_are_refused_in_one_sentence(database: str) -> None:
    samples, least = DATABASES[database]
    outcomes = [classify(sample, seconds=60.0) for sample in itertools.islice(samples(), 0, None, EVERY)]
    assert not [str(outcome) for outcome in outcomes if outcome.kind in (RAW, WRONG)]
    counts = collections.Counter(outcome.kind for outcome in outcomes)
    assert counts[PASS] >= least * (len(outcomes) - counts[SKIPPED]), counts
