"""`hqc doctor` on machines where something is missing."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

import hqc
from hqc.analysis import doctor
from hqc.backends.bpu import workers
from hqc.backends.bpu.engines import jit, onednn, report
from hqc.backends.bpu.engines.jit import check
from hqc.cli import main


def _raise(*arguments):
    raise OSError("libgomp.so.1: cannot open shared object file")


def test_doctor_prints_versions_processor_threads_and_every_engine(capsys):
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 0
    for word in (
        "hqc",
        "numpy",
        "onnxruntime",
        "processor",
        "features",
        "engine jit",
        "engine onednn",
        "engine blas",
        "engine auto",
    ):
        assert word in result.output
    hqc.show_versions()
    assert capsys.readouterr().out.split() == result.output.split()


@pytest.mark.parametrize(
    ("where", "name", "answer", "engine", "reason"),
    [
        (jit, "available", lambda: False, "jit", "numba is not installed; pip install"),
        (check, "trusted", lambda product, dtype: False, "jit", "none of its dense products is right on this processor"),
        (check, "trusted", _raise, "jit", "OSError: libgomp"),
        (onednn, "available", lambda: False, "onednn", "torch is not installed"),
        (onednn, "exact", lambda: False, "onednn", "its int16 sums saturate"),
        (onednn, "available", _raise, "onednn", "OSError: libgomp"),
    ],
)
def test_each_engine_says_why_it_is_not_used(monkeypatch, where, name, answer, engine, reason):
    if name == "trusted" and not jit.available():
        pytest.skip("numba is not installed")
    monkeypatch.setattr(where, name, answer)
    if name == "exact":
        monkeypatch.setattr(onednn, "available", lambda: True)
    status = next(status for status in report.engine_statuses() if status.name == engine)
    assert not status.usable and reason in status.reason


def test_another_blas_a_strange_processor_and_a_missing_package_are_said(monkeypatch, tmp_path):
    monkeypatch.setattr("threadpoolctl.threadpool_info", lambda: [])
    monkeypatch.setattr(report, "_CPU_INFO", tmp_path / "absent")
    monkeypatch.setattr(doctor, "PACKAGES", ("surely-not-a-package",))
    monkeypatch.setattr("hqc.backends.bpu.engines.jit.library.features", _raise)
    text = doctor.doctor_text()
    assert "a BLAS that threadpoolctl does not know" in text
    assert "none of those that matter here" in text
    assert "surely-not-a-package not installed" in " ".join(text.split())


def test_threads_are_counted_where_the_system_has_no_affinity(monkeypatch):
    monkeypatch.delattr(workers.os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(workers.os, "cpu_count", lambda: 3)
    assert workers.default_threads() == 3
    monkeypatch.setattr(workers.os, "cpu_count", lambda: None)
    assert workers.default_threads() == 1
