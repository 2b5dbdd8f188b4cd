"""The emitted model computes the float model where nothing quantizes, and trains what the float model trains, whatever users write."""

from __future__ import annotations

import copy
import dataclasses
from collections import namedtuple
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils import _pytree as pytree

import hqc
from hqc.march import March, set_march
from hqc.nn import QuantStub
from hqc.nn.quantized import FloatFunctional
from hqc.quantization import FakeQuantState, convert_fx, get_default_qat_qconfig, prepare_qat_fx, set_fake_quantize
from hqc.quantization.switches import quantizing
from hqc.structures import leaves
from hqc.utils.quant_profiler import check_deploy_device

KINDS: dict[str, type[nn.Module]] = {}
Pair = namedtuple("Pair", "main aux")


@dataclasses.dataclass
class Result:
    main: Tensor
    aux: Tensor


def kind(cls: type[nn.Module]) -> type[nn.Module]:
    KINDS[cls.__name__] = cls
    return cls


class Base(nn.Module):
    """A stem `[N,3,8,8]` -> `[N,8,8,8]` behind a stub, a second convolution, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.quant = QuantStub()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Conv2d(8, 4, 1)
        self.gamma = nn.Parameter(torch.rand(1, 8, 1, 1) + 0.5)
        self.register_buffer("mask", torch.rand(1, 8, 1, 1))

    def stem(self, x: Tensor) -> Tensor:
        return torch.relu(self.a(self.quant(x)))

    def forward(self, x: Tensor) -> Any:
        return self.head(self.body(self.stem(x)))

    def body(self, y: Tensor) -> Any:
        return self.b(y)


# --- what is computed twice --------------------------------------------------------------------------------------------------


@kind
class Twice(Base):
    """A layer norm over channels, spelled out; the distance from the mean is computed twice."""

    def body(self, y: Tensor) -> Tensor:
        u = y.mean(1, keepdim=True)
        s = (y - u).pow(2).mean(1, keepdim=True)
        return self.b((y - u) / torch.sqrt(s + 0.5) * self.gamma)


@kind
class TwiceAndWritten(Base):
    """Of two equal sums, the first is written to before the second is made."""

    def body(self, y: Tensor) -> Tensor:
        first = y + 0.5
        first.mul_(0.5)
        second = y + 0.5
        return self.b(first + torch.sigmoid(second))


# --- parameters and buffers as operands -------------------------------------------------------------------------------------


@kind
class LayerOfParametersToo(Base):
    """One layer on data and on what depends on parameters alone, as relative positions are projected."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(1, 8, 3, 3))

    def body(self, y: Tensor) -> Any:
        return self.b(y) * self.b(self.table).mean((2, 3), keepdim=True).sigmoid()


@kind
class FlagSet(Base):
    """A method with an underscore that writes no data."""

    def body(self, y: Tensor) -> Tensor:
        y = torch.relu(self.b(y)).requires_grad_()
        return y + y * self.gamma


@kind
class ParameterFirst(Base):
    def body(self, y: Tensor) -> Tensor:
        return self.gamma * torch.relu(self.b(y)) + y


@kind
class BufferInWhere(Base):
    def body(self, y: Tensor) -> Tensor:
        return torch.where(self.mask > 0.5, self.b(y), y)


@kind
class ParameterMinus(Base):
    def body(self, y: Tensor) -> Tensor:
        return self.gamma - self.b(y)


@kind
class ExpOfParameter(Base):
    def body(self, y: Tensor) -> Tensor:
        return self.b(y) * torch.exp(self.gamma)


@kind
class FusionWeights(Base):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([0.3, 0.9]))

    def body(self, y: Tensor) -> Tensor:
        w = torch.relu(self.w)
        w = w / (w.sum() + 1e-4)
        return w[0] * self.b(y) + w[1] * y


@kind
class ClassToken(Base):
    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.rand(1, 1, 8))
        self.lin = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x).flatten(2).transpose(1, 2)
        y = torch.cat([self.token.expand(y.shape[0], -1, -1), y], 1)
        return self.lin(y)[:, 0]


@kind
class BiasOfFused(Base):
    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(8)

    def body(self, y: Tensor) -> Tensor:
        return torch.relu(self.bn(self.b(y))) + self.b.bias.view(1, -1, 1, 1)


@kind
class NormWeightOfFused(Base):
    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(8)

    def body(self, y: Tensor) -> Tensor:
        return torch.relu(self.bn(self.b(y))) * self.bn.weight.view(1, -1, 1, 1)


@kind
class NormWeightOfNormAlone(Base):
    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(8)

    def body(self, y: Tensor) -> Tensor:
        return self.bn(F.max_pool2d(y, 2)) * self.bn.weight.view(1, -1, 1, 1)


@kind
class OneWeightTwoNorms(Base):
    """Heads over pyramid levels share the convolution and have a batch norm each."""

    def __init__(self) -> None:
        super().__init__()
        self.n1, self.n2 = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        nn.init.uniform_(self.n1.weight, 0.5, 1)
        nn.init.uniform_(self.n2.weight, 1, 2)

    def body(self, y: Tensor) -> Tensor:
        return self.n1(self.b(y)) + torch.relu(self.n2(self.b(F.max_pool2d(y, 3, 1, 1))))


@kind
class TiedModules(Base):
    def __init__(self) -> None:
        super().__init__()
        self.c = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.c.weight = self.b.weight

    def body(self, y: Tensor) -> Tensor:
        return self.c(torch.relu(self.b(y)))


# --- structures ---------------------------------------------------------------------------------------------------------------


@kind
class NoneAndNumbersOut(Base):
    def forward(self, x: Tensor) -> Any:
        y = self.stem(x)
        return {"main": self.head(y), "none": None, "three": 3, "pair": (y, [self.b(y)])}


@kind
class NamedTupleOut(Base):
    def forward(self, x: Tensor) -> Any:
        y = self.stem(x)
        return Pair(self.head(y), self.b(y))


@kind
class ChunksRead(Base):
    def body(self, y: Tensor) -> Tensor:
        p, q = self.b(y).chunk(2, 1)
        return torch.cat([q, p], 1) + y


@kind
class ChunksPassedWhole(Base):
    def body(self, y: Tensor) -> Tensor:
        return torch.cat(torch.selu(self.b(y)).chunk(2, 1), 1)


@kind
class TopK(Base):
    def body(self, y: Tensor) -> Tensor:
        values, _ = torch.topk(self.b(y), 8, dim=1)
        return values


@kind
class Lstm(Base):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.lin = nn.LSTM(64, 6, batch_first=True), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.lstm(self.stem(x).flatten(2))
        return self.lin(y)


@kind
class Attention(Base):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.lin = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x).flatten(2).transpose(1, 2)
        return self.lin(self.attention(y, y, y, need_weights=False)[0] + y)


# --- sizes --------------------------------------------------------------------------------------------------------------------


@kind
class SizeOfFusedForResidual(Base):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(8, 8, 3, 2, 1)

    def body(self, y: Tensor) -> Tensor:
        lateral = self.b(y)
        top = self.down(y)
        return lateral + F.interpolate(top, size=lateral.shape[-2:], mode="nearest")


@kind
class SizesEverywhere(Base):
    def body(self, y: Tensor) -> Tensor:
        n, c, h, w = y.shape
        z = torch.relu(self.b(y))
        return z.reshape(n, c, h * w).view(z.size(0), z.shape[1], h, w) + y


# --- in place -----------------------------------------------------------------------------------------------------------------


@kind
class AddInPlace(Base):
    def body(self, y: Tensor) -> Tensor:
        out = self.b(y)
        out += y
        return torch.relu_(out) + y


@kind
class ClampInPlace(Base):
    def body(self, y: Tensor) -> Tensor:
        out = self.b(y)
        out.clamp_(0, 2)
        out.mul_(0.5).add_(y)
        return out


@kind
class ReluModuleInPlace(Base):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU(inplace=True)

    def body(self, y: Tensor) -> Tensor:
        return self.act(F.max_pool2d(self.b(y), 1)) + F.elu(self.b(y) * 1.5, inplace=True)


@kind
class WrittenByFunctions(Base):
    """Some have no form that leaves their operand alone, and one calls it by a name."""

    def body(self, y: Tensor) -> Tensor:
        z = self.b(y) * 2
        torch.fill_(z[:, 0], 0.5)
        nn.init.constant_(tensor=z[:, 1], val=0.25)
        z.diagonal(dim1=2, dim2=3).mul_(2)
        return z


@kind
class SetItem(Base):
    def body(self, y: Tensor) -> Tensor:
        z = self.b(y).clone()
        z[:, :2] = y[:, 2:4]
        return z


# --- calls --------------------------------------------------------------------------------------------------------------------


@kind
class Keywords(Base):
    def body(self, y: Tensor) -> Tensor:
        return torch.add(input=self.b(input=y), other=y) if False else torch.add(self.b(y), other=y)


@kind
class KeywordInput(Base):
    def body(self, y: Tensor) -> Tensor:
        return torch.mul(input=F.relu(input=self.b(input=y)), other=y)


@kind
class Functional(Base):
    def __init__(self) -> None:
        super().__init__()
        self.add, self.again = FloatFunctional(), FloatFunctional()

    def body(self, y: Tensor) -> Tensor:
        return self.again.add_relu(y, self.add.add(y, self.b(y)))


@kind
class FunctionalConv(Base):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(8, 8, 3, 3) / 8)
        self.lw, self.lb = nn.Parameter(torch.randn(5, 8) / 3), nn.Parameter(torch.randn(5))
        self.bn = nn.BatchNorm2d(8)
        nn.init.uniform_(self.bn.weight, 0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn(F.conv2d(self.stem(x), self.w * 2, padding=1)))
        return F.linear(self.b(y).mean((2, 3)), self.lw, self.lb)


class PlainSubclass(nn.Conv2d):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)


class StandardizedConv(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        w = self.weight
        w = (w - w.mean(dim=(1, 2, 3), keepdim=True)) / (w.std(dim=(1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(x, w, self.bias, self.stride, self.padding, self.dilation, self.groups)


@kind
class Subclasses(Base):
    def __init__(self) -> None:
        super().__init__()
        self.b, self.s = PlainSubclass(8, 8, 3, 1, 1), StandardizedConv(8, 8, 3, 1, 1)

    def body(self, y: Tensor) -> Tensor:
        return self.s(torch.relu(self.b(y)))


@kind
class Parametrized(Base):
    def __init__(self) -> None:
        super().__init__()
        parametrizations.weight_norm(self.b)


@kind
class OldWeightNorm(Base):
    def __init__(self) -> None:
        super().__init__()
        nn.utils.weight_norm(self.b)


@kind
class MadeInForward(Base):
    def body(self, y: Tensor) -> Tensor:
        y = self.b(y) * torch.linspace(0.5, 1, 8)
        return y + torch.arange(8.0, device=y.device).view(1, 8, 1, 1) * torch.tensor(0.1)


@kind
class Composite(Base):
    def __init__(self) -> None:
        super().__init__()
        self.m, self.c = nn.Parameter(torch.randn(8, 8) / 3), nn.Parameter(torch.randn(8))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.add(self.b(self.stem(x)), self.a(self.quant(x)), alpha=0.5)
        y = torch.roll(y, (1, 2), (2, 3))
        y = F.normalize(y.mean((2, 3)), dim=1)
        return torch.addmm(self.c, y, self.m)


@kind
class FloorDivide(Base):
    def body(self, y: Tensor) -> Tensor:
        return self.b(y) + torch.floor_divide(y.detach(), 0.3)


@kind
class TwoDims(Base):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.lin, self.norm1 = nn.BatchNorm1d(8), nn.Linear(8, 8), nn.BatchNorm1d(8)
        nn.init.uniform_(self.norm.weight, 0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        z = self.norm1(y.flatten(2)).mean(2)
        return self.lin(torch.relu(self.norm(y.mean((2, 3)))) + z)


@kind
class SharedRelu(Base):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU()

    def body(self, y: Tensor) -> Tensor:
        return self.b(self.act(self.b(self.act(y))))


@kind
class FrozenWeight(Base):
    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(8)
        self.a.weight.requires_grad_(False)
        self.b.weight.requires_grad_(False)

    def body(self, y: Tensor) -> Tensor:
        return self.bn(self.b(y))


@kind
class Dropouts(Base):
    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout2d(0.5)

    def body(self, y: Tensor) -> Tensor:
        return F.dropout(self.drop(self.b(y)), 0.5, self.training) + F.dropout2d(y, 0.5, training=self.training)


class DropPath(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return x * (torch.rand(x.shape[0], 1, 1, 1) > 0.5)


@kind
class DropPaths(Base):
    def __init__(self) -> None:
        super().__init__()
        self.path = DropPath()

    def body(self, y: Tensor) -> Tensor:
        return self.path(torch.relu(self.b(y))) + y


@kind
class ScanSteps(Base):
    """The last step of each row's index is taken in by the product, which is written step by step."""

    def body(self, y: Tensor) -> Tensor:
        a, t = y.flatten(2).split([32, 32], 2)
        t = t.transpose(1, 2)
        rows = [torch.einsum("bdn,bn->bd", a[:, :, :8] * 1.5, t[:, i, :]) for i in range(3)]
        return torch.stack(rows, 1).reshape(-1, 8, 3, 1)


@kind
class MaskedWrites(Base):
    def body(self, y: Tensor) -> Tensor:
        z, y = self.b(y), y.clone()
        nearer = z < y
        y[nearer] = z[nearer]
        rows = y.permute(0, 2, 3, 1).clone()
        rows[rows.sum(-1) > 4] = 0.25
        return rows.permute(0, 3, 1, 2)


@kind
class ReplacedAttributes(Base):
    def __init__(self) -> None:
        super().__init__()
        self.mean, self.factor = torch.rand(1, 8, 1, 1), torch.tensor(2.0)

    def body(self, y: Tensor) -> Tensor:
        self.mean = self.mean.type_as(y)
        before = y * self.factor
        self.factor = self.factor * 1.0
        return self.b(y - self.mean) + before * self.factor


# --- the checks ---------------------------------------------------------------------------------------------------------------


NEEDS_SHAPES = {
    "ClassToken",
    "TopK",
    "Lstm",
    "Attention",
    "SizesEverywhere",
    "SetItem",
    "Composite",
    "ScanSteps",
    "MaskedWrites",
}
"""Kinds that cannot be lowered before sizes are known."""


def tensors(result: Any) -> list[Tensor]:
    if dataclasses.is_dataclass(result):
        result = list(vars(result).values())
    return [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]


def trained(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Gradients by parameter name after one backward pass."""
    model.zero_grad()
    sum(t.square().sum() for t in tensors(model(x)) if t.is_floating_point()).backward()  # type: ignore[union-attr]
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}


@pytest.mark.parametrize(
    ("name", "shapes"),
    [*((name, True) for name in KINDS), *((name, False) for name in KINDS if name not in NEEDS_SHAPES)],
)
def test_float_results_gradients_batches_and_conversion(name: str, shapes: bool) -> None:
    march = [March.BERNOULLI, March.BERNOULLI2, March.BAYES, March.BAYES_E][sorted(KINDS).index(name) % 4]
    set_march(march)
    torch.manual_seed(0)
    model = KINDS[name]().eval()
    x = torch.rand(1, 3, 8, 8) * 2 - 1
    given = {"example_inputs": x} if shapes else {}
    prepared = prepare_qat_fx(model, {"": get_default_qat_qconfig()}, hybrid=True, **given).eval()
    set_fake_quantize(prepared, FakeQuantState.CALIBRATION)
    for batch in (x, torch.rand(3, 3, 8, 8) * 2 - 1):
        with torch.no_grad():
            expected, got = model(batch), prepared(batch)
        assert pytree.tree_structure(got) == pytree.tree_structure(expected)
        for one, other in zip(tensors(got), tensors(expected), strict=True):
            assert one.shape == other.shape
            far = float((one - other).abs().max())
            assert far <= 1e-5 * max(1.0, float(other.abs().max())), far
    norms = {n for n, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    wanted = {n for n in trained(copy.copy(model), x) if n.rpartition(".")[0] not in norms}
    set_fake_quantize(prepared, FakeQuantState.QAT)
    names = {name.replace("add.", "b.") for name in trained(prepared, x)}  # a FloatFunctional's place is taken by the layer
    missing = wanted - names
    assert not missing, missing
    set_fake_quantize(prepared, FakeQuantState.VALIDATION)
    with torch.no_grad():
        quantized = prepared(x)
    for one, other in zip(tensors(convert_fx(prepared)(x)), tensors(quantized), strict=True):
        far = float((one - other).abs().max())
        assert far <= 0.1 * float(other.abs().max()), far


@pytest.mark.parametrize("name", ["Dropouts", "DropPaths"])
def test_what_drops_acts_in_training_only(name: str, tmp_path: Any) -> None:
    set_march(March.BAYES)
    torch.manual_seed(0)
    x = torch.rand(4, 3, 8, 8)
    prepared = prepare_qat_fx(KINDS[name](), {"": get_default_qat_qconfig()}, hybrid=True, example_inputs=x).train()
    prepared(x)
    set_fake_quantize(prepared, FakeQuantState.VALIDATION)
    assert not torch.equal(prepared(x), prepared(x))
    assert torch.equal(prepared.eval()(x), prepared(x))
    prepared.train()
    converted = convert_fx(prepared)(x)
    assert torch.equal(converted, convert_fx(prepared.eval())(x))
    assert "path" not in check_deploy_device(prepared, print_tabulate=False, out_dir=tmp_path)


def test_hooks_on_kept_modules_survive() -> None:
    set_march(March.BAYES)
    model, seen = ReluModuleInPlace(), list[str]()
    model.act.register_forward_hook(lambda module, args, result: seen.append(type(module).__name__))
    prepared = prepare_qat_fx(model, {"": get_default_qat_qconfig()}, hybrid=True, example_inputs=torch.rand(1, 3, 8, 8))
    seen.clear()
    prepared(torch.rand(1, 3, 8, 8))
    assert seen == ["ReLU"]


def test_names_are_those_of_a_trace_without_shapes() -> None:
    set_march(March.BAYES)
    x = torch.rand(1, 3, 8, 8)
    for name in sorted(set(KINDS) - NEEDS_SHAPES):
        torch.manual_seed(0)
        model = KINDS[name]().eval()
        plain, shaped = (
            prepare_qat_fx(model, {"": get_default_qat_qconfig()}, hybrid=True, **given)
            for given in ({}, {"example_inputs": x})
        )
        plain(x)
        assert [node.name for node in plain.graph.nodes] == [node.name for node in shaped.graph.nodes], name
        assert list(plain.state_dict()) == list(shaped.state_dict()), name


class HeadsInTheBatch(nn.Module):
    """As attention that puts its heads behind each other in the batch: parts are taken twice, by names like those of later splits."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv1d(8, 8, 1), nn.LayerNorm(8)
        self.project = nn.ModuleList(nn.Linear(8, 16) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        rows = self.norm(self.first(x).transpose(1, 2))
        queries, keys, values = (torch.cat(each(rows).split(8, -1), 0) for each in self.project)
        parts = torch.softmax(queries.bmm(keys.transpose(1, 2)), -1).bmm(values)
        return torch.cat(parts.split(x.shape[0], 0), -1)


def test_calls_keep_their_names_beside_parts_that_are_taken_twice() -> None:
    torch.manual_seed(0)
    model, x = HeadsInTheBatch().eval(), torch.rand(1, 8, 6)
    compiled = hqc.compile(model, x, march="bayes", calibration_data=[x])
    splits = [node.name for node in compiled.prepared.graph.nodes if node.target == "split"]
    assert splits == ["split", "split_1", "split_2", "split_3"]
    expected = model(x)
    got = torch.as_tensor(next(leaves(compiled.simulate(x))))
    assert (got - expected).norm() < 0.1 * expected.norm()


class HuePlanes(nn.Module):
    """The memory of a plane is as it was found until every pixel has its hue."""

    def forward(self, x: Tensor) -> Tensor:
        best, hue = x.amax(1), torch.empty_like(x[:, 0])
        rest = torch.empty(x.shape[0], x.shape[2], x.shape[3], memory_format=torch.contiguous_format)
        for channel in range(3):
            hue[x[:, channel] == best] = (channel + x[:, channel - 1])[x[:, channel] == best]
        rest[best > 0], rest[best <= 0] = 1.0, 2.0
        return torch.stack([hue, rest, x.new_empty(hue.shape).fill_(3)], 1)


def test_memory_that_nobody_has_written_is_zero_in_every_run() -> None:
    x = torch.rand(1, 3, 8, 8) * 2 - 1
    prepared = hqc.compile(HuePlanes().eval(), x, march="bayes", calibration_data=[x]).prepared
    called = {getattr(node.target, "__name__", str(node.target)) for node in prepared.graph.nodes}
    assert {"zeros_like", "zeros", "new_zeros"} <= called
    assert not {"empty_like", "empty", "new_empty"} & called
    with quantizing(prepared, ()), torch.no_grad():
        torch.testing.assert_close(prepared(x), HuePlanes()(x))
