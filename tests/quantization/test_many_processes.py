"""Calibration over processes: the scales of one process on all data, whatever the split."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

import hqc
from hqc import quantization as q
from hqc.errors import CalibrationError, InputError
from hqc.quantization.fake_quantize import fake_quants
from hqc.workflow.calibration import observe

OBSERVERS = {
    "min-max": q.MinMaxObserver,
    "percentile": q.PercentileObserver,
    "kl": q.KLObserver,
    "mse": q.MSEObserver,
    "mix": q.MixObserver,
}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.quant = hqc.nn.QuantStub()
        self.conv, self.norm, self.selu = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.SELU()
        self.conv2 = nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.selu(torch.relu(self.norm(self.conv(self.quant(x)))))
        return torch.cat([self.conv2(x), x], 1)


def prepared(name: str) -> nn.Module:
    torch.manual_seed(0)
    hqc.set_march("bayes")
    weight = q.FakeQuantize.with_args(observer=q.PerChannelMinMaxObserver, ch_axis=0)
    qconfig = q.QConfig(q.FakeQuantize.with_args(observer=OBSERVERS[name]), weight)
    return q.prepare_qat_fx(Net(), {"": qconfig}, hybrid=True, example_inputs=batch(0)).eval()


def batch(index: int) -> torch.Tensor:
    """Ranges that differ by much, so that every split but the right merge shows."""
    generator = torch.Generator().manual_seed(index)
    return torch.randn(2, 3, 6, 6, generator=generator) * (0.5 + index)


def scales(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: quant.calculate_qparams()[0].clone() for name, quant in fake_quants(model)}


DATA = [batch(index) for index in range(7)]


def one_process(name: str) -> dict[str, torch.Tensor]:
    model = prepared(name)
    q.calibrate(model, DATA)
    return scales(model)


def _same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys() and len(left) >= 5
    for key, value in left.items():
        assert torch.equal(value, right[key]), key


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers start with the first portion."""
    monkeypatch.setattr("hqc.workflow.workers.PATIENCE", 0.0)


@pytest.mark.parametrize("name", OBSERVERS)
def test_workers_find_the_scales_of_one_process(name: str) -> None:
    model = prepared(name)
    done: list[Any] = []
    found = observe(model, DATA, workers=2, progress=lambda count, total: done.append((count, total)))
    _same(scales(model), one_process(name))
    assert done == [(4, 7), (7, 7)] and found.samples == 14 and len(found.kept) == 4 and torch.equal(found.kept[0][0], DATA[0])


def test_workers_of_compile_and_what_is_refused() -> None:
    compiled = [
        hqc.compile(Net(), DATA[0], march="bayes", calibration_data=DATA, workers=count)
        for count in (1, 2)
        if torch.manual_seed(0)
    ]
    assert compiled[0].graph == compiled[1].graph
    with pytest.raises(CalibrationError, match=r"calibration batch 6 with shapes \[\[2, 4, 6, 6\]\] does not fit"):
        q.calibrate(prepared("min-max"), [*DATA[:5], torch.zeros(2, 4, 6, 6)], workers=2)
    with pytest.raises(CalibrationError, match="batch 2 holds NaN"):
        q.calibrate(prepared("min-max"), [DATA[0], DATA[1] * float("nan")], workers=2)
    with pytest.raises(InputError, match="workers is a number of processes"):
        q.calibrate(prepared("min-max"), DATA, workers=0)


def _rank(rank: int, world: int, port: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world)
    try:
        found: dict[str, Any] = {}
        for name in OBSERVERS:
            model = prepared(name)
            q.calibrate(model, DATA[rank::world])  # ranks have different numbers of batches
            found[name] = scales(model)
        data = [DATA[0]] if rank == 0 else [DATA[0] * float("inf")]
        try:
            q.calibrate(prepared("min-max"), data)
        except CalibrationError as error:
            found["error"] = str(error)
        torch.save(found, Path(folder) / f"{world}-{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_gloo_available(), reason="torch without gloo")
@pytest.mark.parametrize("world", [2])  # 4 were tried too: each rank imports torch for seconds
def test_ranks_end_with_the_scales_of_the_whole_set(tmp_path: Path, world: int) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(_rank, args=(world, port, str(tmp_path)), nprocs=world, join=True)
    expected = {name: one_process(name) for name in OBSERVERS}
    for rank in range(world):
        found = torch.load(tmp_path / f"{world}-{rank}.pt")
        for name in OBSERVERS:
            _same(found[name], expected[name])
        assert "calibration batch 1 holds NaN or infinite" in found["error"]
        assert found["error"].startswith("on rank 1: ") == (rank == 0)
