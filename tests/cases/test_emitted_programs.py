"""Programs of public reports that FX surgery could not serve: each goes the whole way, on two marches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from case_kit import check_ptq, check_qat
from torch import Tensor, nn

MARCHES = ["bernoulli2", "bayes"]
marches = pytest.mark.parametrize("march", MARCHES)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def image(size: int = 8) -> Tensor:
    return torch.rand(1, 3, size, size) * 2 - 1


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.h = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 4, 1)


class Tied(Base):
    def __init__(self) -> None:
        super().__init__()
        self.c = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.c.weight = self.b.weight

    def forward(self, x: Tensor) -> Any:
        x = torch.relu(self.a(x))
        return self.b(x), self.c(torch.relu(self.b(x)))


@marches
def test_two_modules_that_own_one_parameter_still_do_after_training(march: str) -> None:
    check_ptq(Tied(), [image(12)], march)
    qat, _ = check_qat(Tied(), image(12), march)
    b, c = qat.get_submodule("net.b"), qat.get_submodule("net.c")
    assert b.weight is c.weight


class LstmTail(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c, self.r = nn.Conv2d(3, 8, 3, (2, 1), 1), nn.LSTM(32, 6, batch_first=True, bidirectional=True)
        self.f = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.r(torch.relu(self.c(x)).permute(0, 3, 1, 2).flatten(2))
        return self.f(y)


@marches
def test_the_sequence_of_an_lstm_feeds_a_linear_layer(march: str) -> None:
    check_ptq(LstmTail(), [torch.rand(1, 3, 8, 12) * 2 - 1], march, flavours=())


class SkipUsedAgain(Base):
    def __init__(self) -> None:
        super().__init__()
        self.h = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = torch.relu(self.a(x))
        out = self.b(skip)
        out += skip
        return self.h(torch.cat([out, skip], 1))


class NoneInOutputs(Base):
    def forward(self, x: Tensor) -> Any:
        return self.h(torch.relu(self.a(x))), None


@marches
@pytest.mark.parametrize("program", [SkipUsedAgain, NoneInOutputs])
def test_programs_without_shapes(program: type[nn.Module], march: str) -> None:
    check_ptq(program(), [image()], march)
    check_qat(program(), image(), march)


class MadeInForward(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.h(torch.relu(self.a(x)) * torch.linspace(0, 1, 8) + torch.tensor(2.0))


class FusionWeights(Base):
    def __init__(self) -> None:
        super().__init__()
        self.p, self.w = nn.Conv2d(3, 8, 1), nn.Parameter(torch.tensor([0.3, 0.9]))

    def forward(self, x: Tensor) -> Tensor:
        w = torch.relu(self.w)
        w = w / (w.sum() + 1e-4)
        return self.h(w[0] * self.a(x) + w[1] * self.p(x))


class BiasOfFused(Base):
    def __init__(self) -> None:
        super().__init__()
        self.n = nn.BatchNorm2d(8)
        nn.init.uniform_(self.n.weight, 0.3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.h(torch.relu(self.n(self.a(x))) + self.a.bias.view(1, -1, 1, 1))


class ScaleOfFused(BiasOfFused):
    def forward(self, x: Tensor) -> Tensor:
        return self.h(torch.relu(self.n(self.a(x))) * self.n.weight.view(1, -1, 1, 1))


class ParameterFirst(Base):
    def __init__(self) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.rand(1, 8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.h(y + self.g * torch.relu(y))


@marches
@pytest.mark.parametrize("program", [MadeInForward, FusionWeights, BiasOfFused, ScaleOfFused, ParameterFirst])
def test_programs_with_shapes(program: type[nn.Module], march: str) -> None:
    model = program().eval()
    check_ptq(model, [image()], march)
    qat, _ = check_qat(model, image(), march, shapes=True)
    model(image()).sum().backward()
    trains = {name for name, p in model.named_parameters() if p.grad is not None}
    trained = {name.removeprefix("net.").replace("a.bn.", "n.") for name, p in qat.named_parameters() if p.grad is not None}
    assert trains <= trained


class OldWeightNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.utils.weight_norm(nn.Conv2d(3, 8, 3, padding=1)), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)))


@marches
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_old_style_weight_norm_after_a_training_step_trains_on(march: str) -> None:
    model = OldWeightNorm()
    model(image()).sum().backward()
    check_ptq(model, [image()], march)
    qat, _ = check_qat(OldWeightNorm(), image(), march)
    grads = {name for name, p in qat.named_parameters() if p.grad is not None}
    assert {"net.a.weight_g", "net.a.weight_v"} <= grads


class MaskByShape(nn.Module):
    """bernoulli2 refuses the product for the mask's shape only."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.h = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.register_buffer("m", torch.linspace(-1, 1, 10).view(1, 1, 1, 10).expand(1, 1, 12, 10).clone())

    def forward(self, x: Tensor) -> Tensor:
        return self.h(torch.relu(self.c(x)) * self.m)


@marches
def test_an_operation_refused_for_its_shape_falls_back_at_the_first_forward(march: str) -> None:
    check_qat(MaskByShape(), torch.rand(1, 3, 12, 10) * 2 - 1, march)


class Block(nn.Module):
    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.c, self.d, self.act = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.d(self.act(self.c(x))) + x)


class SharedActivation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.a, self.b, self.h = nn.Conv2d(3, 8, 3, padding=1), Block(self.relu), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.h(self.b(self.relu(self.a(x))))


def test_a_report_answers_for_every_member_of_a_fused_group() -> None:
    compiled = check_ptq(SharedActivation(), [image()], "bayes", flavours=())
    assert [compiled.placement.device_of(name) for name in ("b.c", "b.d")] == ["bpu", "bpu"]
    assert "b.d" in compiled.explain()


@marches
def test_a_shared_module_is_placed_by_the_name_under_which_its_caller_knows_it(march: str) -> None:
    compiled = check_ptq(SharedActivation(), [image()], march, hybrid_dict={"module_name": ["b.act"]})
    devices = {node.name: node.device for node in compiled.graph.nodes}
    assert [devices[name].value for name in ("relu_1", "relu_2")] == ["cpu", "cpu"]
    assert compiled.placement.device_of("a") == "bpu"


class Embedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.f = nn.Conv2d(3, 16, 3, 2, 1), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.f(torch.relu(self.a(x)).mean((2, 3))), dim=1)


@pytest.mark.parametrize("march", ["bernoulli2", "bayes", "bayes-e"])
def test_a_normalized_embedding(march: str) -> None:
    check_ptq(Embedding(), [image(12)], march)
