"""A model that was prepared without shapes plans again at its first forward: same parameters, same names, states carried over."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hqc.errors import CalibrationError, SupportError
from hqc.march import March, set_march
from hqc.nn import DeQuantStub, QuantStub
from hqc.quantization import (
    FakeQuantState,
    convert_fx,
    get_default_lsq_qconfig,
    get_default_qat_qconfig,
    prepare_qat_fx,
    set_fake_quantize,
)
from hqc.utils.quant_profiler import check_deploy_device

QAT = {"": get_default_qat_qconfig()}
SMALL, LARGE = torch.rand(1, 3, 8, 8), torch.rand(1, 3, 97, 97)


class Net(nn.Module):
    """On bernoulli2 a global pool is the BPU's up to H*W = 8192 where no smaller pools divide the map (97 is prime); the
    convolution before it can then take no activation behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.conv, self.pool = QuantStub(), nn.Conv2d(3, 32, 1), nn.AdaptiveAvgPool2d(1)
        self.last, self.dequant = nn.Conv2d(32, 3, 1), DeQuantStub()

    def forward(self, x: Tensor) -> Tensor:
        return self.dequant(self.last(self.pool(self.conv(self.quant(x)))))


@pytest.fixture(autouse=True)
def bernoulli2() -> None:
    set_march(March.BERNOULLI2)
    torch.manual_seed(0)


def prepared(model: nn.Module | None = None, **arguments: Any) -> Any:
    return prepare_qat_fx(model or Net(), arguments.pop("qconfig", QAT), hybrid=True, **arguments)


def pool_device(model: nn.Module, tmp_path: Any) -> str:
    return check_deploy_device(model, print_tabulate=False, out_dir=tmp_path)["pool"][0]


def test_the_first_forward_moves_what_only_shapes_decide(tmp_path: Any) -> None:
    model, known = prepared(), prepared(example_inputs=LARGE)
    assert pool_device(model, tmp_path) == "BPU"
    parameters, conv = dict(model.named_parameters()), model.conv
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen: list[int] = []
    model.conv.register_forward_hook(lambda module, args, result: seen.append(1))
    model(LARGE).square().mean().backward()
    assert pool_device(model, tmp_path) == pool_device(known, tmp_path) == "CPU"
    assert dict(model.named_parameters()).keys() == parameters.keys()
    assert all(parameter is parameters[name] for name, parameter in model.named_parameters())
    assert model.conv is conv
    assert seen
    before = model.conv.weight.detach().clone()
    optimizer.step()
    assert not torch.equal(model.conv.weight, before)
    assert list(model.state_dict()) == list(known.state_dict())
    assert [node.name for node in model.graph.nodes] == [node.name for node in known.graph.nodes]
    assert convert_fx(model.eval())(LARGE).shape == (1, 3, 1, 1)


def test_nothing_changes_where_the_shapes_change_nothing(tmp_path: Any) -> None:
    model = prepared()
    code, modules = model.code, dict(model.named_modules())
    model(SMALL)
    assert model.code == code
    assert all(module is modules[name] for name, module in model.named_modules())
    assert pool_device(model, tmp_path) == "BPU"


def test_states_and_loaded_scales_are_carried_by_name() -> None:
    trained = prepared(example_inputs=LARGE)
    trained(LARGE)
    model = prepared()
    model.load_state_dict(trained.state_dict(), strict=False)
    set_fake_quantize(model, FakeQuantState.VALIDATION)
    model.conv.eval()
    with pytest.raises(CalibrationError, match="pool has no scale yet"):  # a boundary that no state dict had
        model(LARGE)
    assert torch.equal(model.conv.activation_post_process.scale, trained.conv.activation_post_process.scale)
    assert torch.equal(model.quant.activation_post_process.scale, trained.quant.activation_post_process.scale)
    states = {module.state for module in model.modules() if hasattr(module, "set_state")}
    assert states == {FakeQuantState.VALIDATION}
    assert not model.conv.training


@pytest.mark.parametrize("copying", ["deepcopy", "torch.save"])
def test_copies_plan_again_too(copying: str, tmp_path: Any) -> None:
    model = prepared()
    if copying == "deepcopy":
        twin = copy.deepcopy(model)
    else:
        buffer = io.BytesIO()
        torch.save(model, buffer)
        buffer.seek(0)
        twin = torch.load(buffer, weights_only=False)
    twin(LARGE)
    assert pool_device(twin, tmp_path) == "CPU"
    assert pool_device(model, tmp_path) == "BPU"


# --- too late ------------------------------------------------------------------------------------------------------------------


def refused(model: Any, fragment: str) -> None:
    with pytest.raises(SupportError, match=r"pool: bpu -> cpu.*example_inputs") as caught:
        model(LARGE)
    assert fragment in str(caught.value)


def test_a_scale_that_is_known_is_not_thrown_away() -> None:
    model = prepared()
    model.pool_activation_post_process.assign_scale(torch.tensor([0.5]))
    refused(model, "pool_activation_post_process")


def test_no_parameter_appears_or_vanishes() -> None:
    refused(prepared(qconfig={"": get_default_lsq_qconfig()}), "parameters would appear or vanish")


def test_not_under_distributed_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DistributedDataParallel, "_active_ddp_module", object())
    refused(prepared(), "DistributedDataParallel")


def test_scale_groups_follow_what_is_kept() -> None:
    class Cat(nn.Module):
        """`Net` with a cat, whose members share one scale on bernoulli, before the pool that moves."""

        def __init__(self) -> None:
            super().__init__()
            self.quant, self.a, self.b, self.head = QuantStub(), nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(8, 32, 1)
            self.last, self.dequant = nn.Conv2d(32, 3, 1), DeQuantStub()

        def forward(self, x: Tensor) -> Tensor:
            x = self.quant(x)
            y = self.head(torch.cat([torch.relu(self.a(x)), torch.relu(self.b(x))], 1))
            return self.dequant(self.last(nn.functional.adaptive_avg_pool2d(y, 1)))

    set_march(March.BERNOULLI)
    model = prepare_qat_fx(Cat(), QAT, hybrid=True, optimize_graph=True)
    graph, kept = str(model.graph), model.a.activation_post_process
    model(LARGE)
    assert str(model.graph) != graph, "nothing was planned again"
    assert model.a.activation_post_process is kept
    members = kept.members
    present = {id(module) for module in model.modules()}
    assert model.b.activation_post_process in members and all(id(member) in present for member in members)
    assert all(member.members is members for member in members)


class Padded(Net):
    """Makes constants of the sizes that it gets, by methods and by functions of torch that take no unknown sizes."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(self.quant(x))
        rows = y.new_zeros(y.shape)
        rows[:, :4].copy_(y[:, :4])
        return self.dequant(self.last(rows + y + y.new_full((y.shape[1], 1, 1), 0.5)))


def test_constants_of_unknown_sizes_wait_for_the_first_forward() -> None:
    model = Padded()
    waiting, known = prepared(model), prepared(model, example_inputs=SMALL)
    torch.testing.assert_close(waiting(SMALL), known(SMALL))
