"""The zoo goes the whole way; here each network on one march, all of it by `python -m benchmarks.bench_zoo`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.zoo import ZOO
from benchmarks.zoo.whole_way import MARCHES, quiet, walk

LARGE = {"resnet", "mobilenet_v2"}  # seconds each: the benchmark's, and tests/e2e/test_models.py has them too

IN_WORK: dict[str, str] = {
    # network: who is at work on what it needs
}


def cases() -> list[object]:
    found = []
    for position, name in enumerate(ZOO):
        if name in LARGE:
            continue
        marks = [pytest.mark.xfail(strict=True, reason=IN_WORK[name])] if name in IN_WORK else []
        found.append(pytest.param(name, MARCHES[position % len(MARCHES)], marks=marks))
    return found


@pytest.mark.parametrize(("name", "march"), cases())
def test_the_whole_way(name: str, march: str, tmp_path: Path) -> None:
    with quiet():
        report = walk(ZOO[name], march, tmp_path, raises=True)
    assert set(report.seconds) == {
        "explain", "compile", "simulate", "horizon", "runnable", "qdq", "integer", "calibrate", "qat", "convert", "export",
    }  # fmt: skip


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize(("name", "march"), cases())
def test_the_whole_way_on_cuda(name: str, march: str, tmp_path: Path) -> None:
    with quiet():
        assert "export" in walk(ZOO[name], march, tmp_path, raises=True, device="cuda").seconds


def test_exceptions_are_networks_of_the_zoo() -> None:
    assert set(IN_WORK) <= set(ZOO)
    assert len(ZOO) >= 35
