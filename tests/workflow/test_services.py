"""Saved models on Dask and Ray: the recipes of docs/many_processes.md, run as printed where these are installed."""

from __future__ import annotations

import importlib.util
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import hqc

PAGE = Path(__file__).parents[2] / "docs" / "many_processes.md"


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """`net.safetensors` in the working folder; batches, and what the model gives for them."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.SELU(), nn.Conv2d(4, 2, 1)).eval()
    batches = [torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(seed)).numpy() for seed in range(5)]
    compiled = hqc.compile(net, batches[0], march="bayes", calibration_data=batches)
    compiled.save("net.safetensors")
    return batches, [compiled.simulate(batch) for batch in batches]


def recipe(kind: str, printed: str, here: str) -> str:
    """The page's block of this kind, with an address or path of here."""
    (code,) = re.findall(rf"^```python {kind}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert printed in code
    return str(code).replace(printed, here)


@pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="dask.distributed is not installed")
def test_dask(saved: tuple[list[np.ndarray], list[np.ndarray]]) -> None:
    import dask.distributed

    batches, expected = saved
    with dask.distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:
        names: dict[str, Any] = {"batches": batches, "__name__": "recipe"}
        exec(recipe("dask", "scheduler:8786", cluster.scheduler_address), names)
        names["client"].close()
    assert all(np.array_equal(found, wanted) for found, wanted in zip(names["outputs"], expected, strict=True))


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_ray(saved: tuple[list[np.ndarray], list[np.ndarray]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # nothing in the home folder
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    batches, expected = saved
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as folder:  # paths of its sockets must be short
        ray.init(num_cpus=2, include_dashboard=False, object_store_memory=200 << 20, _temp_dir=folder)
        try:
            names: dict[str, Any] = {"batches": batches, "__name__": "recipe"}
            exec(recipe("ray", "/shared/net.safetensors", str(Path("net.safetensors").resolve())), names)
        finally:
            ray.shutdown()
    assert all(np.array_equal(found, wanted) for found, wanted in zip(names["outputs"], expected, strict=True))
