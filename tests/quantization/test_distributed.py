"""Two processes (gloo) that see different data must end with the same scales."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from hqc.analysis.layers import layer_errors
from hqc.march import March, get_spec, set_march
from hqc.nn import DeQuantStub, QuantStub, qat
from hqc.nn.quantized import FloatFunctional
from hqc.quantization import (
    CalibFakeQuantize,
    CalibObserver,
    FakeQuantize,
    FakeQuantState,
    MinMaxObserver,
    convert_fx,
    default_qat_8bit_lsq_quant_qconfig,
    get_default_qat_qconfig,
    prepare_qat_fx,
    set_fake_quantize,
)
from hqc.workflow.deploy import deploy

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


class Net(nn.Module):
    """conv-bn-relu, a selu on the CPU, a residual addition."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = QuantStub(), DeQuantStub()
        self.conv, self.bn, self.selu = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.SELU()
        self.conv2, self.add, self.last = nn.Conv2d(4, 4, 3, padding=1), FloatFunctional(), nn.Conv2d(4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.selu(torch.relu(self.bn(self.conv(self.quant(x)))))
        return self.dequant(self.last(self.add.add(self.conv2(x), x)))


PREPARED = {
    "statistics": (get_default_qat_qconfig(), False),
    "learned": (default_qat_8bit_lsq_quant_qconfig, False),
    "kept": (get_default_qat_qconfig(), True),
}


def train_prepared(rank: int, folder: Path, name: str, *, autocast: bool) -> None:
    """Prepare, train under DDP (and autocast), convert on rank 0 and compare with the model there."""
    qconfig, keep = PREPARED[name]
    set_march(March.BAYES)
    torch.manual_seed(0)
    prepared = prepare_qat_fx(Net(), {"": qconfig}, hybrid=True, example_inputs=batch(0, 0), keep_batch_norm=keep).train()
    model = DistributedDataParallel(prepared)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for step in range(3):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = model(batch(rank, step)).float().square().mean()
        loss.backward()
        optimizer.step()
    file = folder / f"prepared-{name}-{autocast}-{rank}.pt"
    torch.save(prepared.state_dict(), file)
    if rank == 0:
        set_fake_quantize(prepared.eval(), FakeQuantState.VALIDATION)
        with torch.no_grad():
            expected = prepared(batch(0, 0))
        deployment = deploy(prepared)
        rows = layer_errors(deployment, {deployment.scaled.inputs[0].name: batch(0, 0).numpy()})
        worst = max(row.max_lsb for row in rows)
        torch.save((convert_fx(prepared)(batch(0, 0)), expected, worst), folder / f"converted-{name}-{autocast}.pt")


def train(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORLD)
    try:
        for name, qconfig in (("fake_quant", get_default_qat_qconfig()), ("lsq", default_qat_8bit_lsq_quant_qconfig)):
            model = DistributedDataParallel(layers(qconfig))
            optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
            for step in range(3):
                optimizer.zero_grad()
                model(batch(rank, step)).square().mean().backward()
                optimizer.step()
            torch.save(model.module.state_dict(), Path(folder) / f"{name}{rank}.pt")
        for name in PREPARED:
            for autocast in (False, True):
                train_prepared(rank, Path(folder), name, autocast=autocast)
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
    mp.spawn(train, args=(str(folder),), nprocs=WORLD, join=True)
    return folder


@pytest.mark.parametrize("name", ["fake_quant", "lsq"])
def test_scales_and_weights_are_equal_on_all_ranks_after_training(results: Path, name: str) -> None:
    first, second = (torch.load(results / f"{name}{rank}.pt") for rank in range(WORLD))
    assert first.keys() == second.keys()
    for key in first:
        assert torch.equal(first[key], second[key]), key


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "autocast"])
@pytest.mark.parametrize("name", PREPARED)
def test_prepared_models_end_equal_on_all_ranks_and_convert(results: Path, name: str, autocast: bool) -> None:
    first, second = (torch.load(results / f"prepared-{name}-{autocast}-{rank}.pt") for rank in range(WORLD))
    assert first.keys() == second.keys()
    scales = [key for key in first if key.endswith(".scale")]
    assert len(scales) >= 8
    # Every rank's batch norm has seen its own last batch; DDP makes them equal again at the next forward.
    for key in (key for key in first if not key.endswith(("running_mean", "running_var"))):
        assert torch.equal(first[key], second[key]), key
    converted, expected, worst = torch.load(results / f"converted-{name}-{autocast}.pt")
    assert worst <= 1  # LSB of any layer
    # Roundings that add up from layer to layer depend on the processor's float sums: the whole is compared in energy.
    assert float(torch.nn.functional.cosine_similarity(converted.flatten(), expected.flatten(), dim=0)) >= 0.99


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
