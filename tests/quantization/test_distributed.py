"""Two processes (gloo) that see different data must end with the same scales."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from hqc.march import get_spec
from hqc.nn import qat
from hqc.quantization import (
    CalibFakeQuantize,
    CalibObserver,
    FakeQuantize,
    MinMaxObserver,
    default_qat_8bit_lsq_quant_qconfig,
    get_default_qat_qconfig,
)

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="torch without gloo")
WORLD = 2


def layers(qconfig) -> nn.Module:
    torch.manual_seed(0)
    spec = get_spec("bayes")
    return nn.Sequential(
        qat.ConvReLU2d(3, 4, 3, qconfig=qconfig, march=spec),
        qat.Conv2d(4, 2, 3, qconfig=qconfig, march=spec),
        CalibFakeQuantize(),
        FakeQuantize(observer=MinMaxObserver),
    )


def batch(rank: int, step: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(10 * rank + step)
    return torch.randn(2, 3, 8, 8, generator=generator) * (1.0 + 3.0 * rank)


def train(rank: int, port: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=WORLD)
    try:
        for name, qconfig in (("fake_quant", get_default_qat_qconfig()), ("lsq", default_qat_8bit_lsq_quant_qconfig)):
            model = DistributedDataParallel(layers(qconfig))
            optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
            for step in range(3):
                optimizer.zero_grad()
                model(batch(rank, step)).square().mean().backward()
                optimizer.step()
            torch.save(model.module.state_dict(), Path(folder) / f"{name}{rank}.pt")
        observers = [MinMaxObserver(), CalibObserver()]
        for observer in observers:
            observer(batch(rank, 0) if rank == 0 else batch(rank, 0)[:0])  # one rank may have nothing
            observer(batch(rank, 1))
        alone = MinMaxObserver(sync=False)
        alone(batch(rank, 0))
        torch.save([[o.state_dict() for o in observers], alone.state_dict()], Path(folder) / f"observers{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(train, args=(port, str(folder)), nprocs=WORLD, join=True)
    return folder


@pytest.mark.parametrize("name", ["fake_quant", "lsq"])
def test_scales_and_weights_are_equal_on_all_ranks_after_training(results: Path, name: str) -> None:
    first, second = (torch.load(results / f"{name}{rank}.pt") for rank in range(WORLD))
    assert first.keys() == second.keys()
    for key in first:
        assert torch.equal(first[key], second[key]), key


def test_statistics_are_those_of_all_ranks_data(results: Path) -> None:
    (states, alone0), (other_states, alone1) = (torch.load(results / f"observers{rank}.pt") for rank in range(WORLD))
    together = [MinMaxObserver(), CalibObserver()]
    data = torch.cat([batch(0, 0), batch(0, 1), batch(1, 1)])
    for observer, state, other in zip(together, states, other_states, strict=True):
        observer(data)
        for key, value in observer.state_dict().items():
            assert torch.equal(state[key], value), key
            assert torch.equal(other[key], value), key
    assert not torch.equal(alone0["min_val"], alone1["min_val"])  # sync=False: each rank its own
