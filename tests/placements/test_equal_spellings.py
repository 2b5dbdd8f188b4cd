"""Equal spellings of one computation get equal plans, and what they compile to computes it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hqc
from hqc.frontend.fx import lower_graph_module, trace
from hqc.ir import Trait
from hqc.march import all_specs, get_spec
from hqc.nn import QuantStub
from hqc.passes import PassContext
from hqc.passes.pipeline_text import parse_passes

MARCHES = [spec.name for spec in all_specs()]
Spelling = Callable[["Net", torch.Tensor], torch.Tensor]
IMAGE, ROWS = (1, 3, 16, 16), (4, 16)


class Net(nn.Module):
    """A spelling and the tensors it may use."""

    def __init__(self, spelling: Spelling) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.tail, self.layer = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1), nn.Linear(16, 16)
        self.matrix, self.vector = nn.Parameter(torch.randn(8, 16)), nn.Parameter(torch.randn(16))
        self.gain, self.shift = nn.Parameter(torch.rand(1, 8, 1, 1) + 0.5), nn.Parameter(torch.randn(1, 8, 1, 1))
        self.norm, self.up, self.quant = nn.BatchNorm2d(8), nn.ConvTranspose2d(8, 16, 2, 2, groups=2), QuantStub()
        nn.init.uniform_(self.norm.weight, 0.5, 2.0)
        nn.init.normal_(self.norm.bias)
        nn.init.normal_(self.norm.running_mean)
        nn.init.uniform_(self.norm.running_var, 0.5, 2.0)
        self.spelling = spelling

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.spelling(self, x)


def plan(spelling: Spelling, shape: tuple[int, ...], march: str) -> Counter[tuple[str, str]]:
    """What computes, and where: ops that only move data, and the axes that a mean keeps, are no difference."""
    graph = lower_graph_module(trace(Net(spelling).eval()), (torch.zeros(shape),)).graph
    context = PassContext(get_spec(march))
    for item in parse_passes("canonicalize,apply-overrides,fold-batch-norm{constants=true},fuse-conv,analyze-support"):
        item.run(graph, context)
    same = {"div": "mul", "mean": "adaptive_avg_pool2d"}
    return Counter(
        (same.get(node.op.name, node.op.name), "bpu" if node.support.accepted else "cpu")
        for node in graph.nodes
        if node.support is not None and not node.op.has(Trait.LAYOUT_ONLY)
    )


EQUAL: dict[str, tuple[tuple[int, ...], list[Spelling]]] = {
    "hardswish": (
        IMAGE,
        [
            lambda n, x: n.tail(F.hardswish(n.conv(x))),
            lambda n, x: n.tail((y := n.conv(x)) * F.relu6(y + 3) / 6),
            lambda n, x: n.tail((y := n.conv(x)) * (F.relu6(y + 3) * (1 / 6))),
        ],
    ),
    "gelu": (
        IMAGE,
        [
            lambda n, x: n.tail(F.gelu(n.conv(x))),
            lambda n, x: n.tail((y := n.conv(x)) * 0.5 * (1.0 + torch.erf(y / 2**0.5))),
        ],
    ),
    "quotient": (
        IMAGE,
        [
            lambda n, x: n.tail(torch.sigmoid(n.conv(x)) * 0.3),
            lambda n, x: n.tail(torch.sigmoid(n.conv(x)) / 3.33),
            lambda n, x: n.tail(0.3 * torch.sigmoid(n.conv(x))),
        ],
    ),
    "mean": (
        IMAGE,
        [
            lambda n, x: F.linear(n.conv(x).mean((2, 3)), n.matrix.T),
            lambda n, x: F.linear(n.conv(x).mean((2, 3), keepdim=True).flatten(1), n.matrix.T),
            lambda n, x: F.linear(n.conv(x).mean((-1, -2), keepdim=True).squeeze(-1).squeeze(-1), n.matrix.T),
            lambda n, x: F.linear(F.adaptive_avg_pool2d(n.conv(x), 1).flatten(1), n.matrix.T),
        ],
    ),
    "mean at the end": (
        IMAGE,
        [lambda n, x: n.conv(x).mean((2, 3)), lambda n, x: n.conv(x).mean((2, 3), keepdim=True)],
    ),
    "product with a matrix": (
        ROWS,
        [
            lambda n, x: x @ n.matrix.T,
            lambda n, x: (n.matrix @ x.T).T,
            lambda n, x: torch.einsum("bi,oi->bo", x, n.matrix),
            lambda n, x: F.linear(x, n.matrix),
            lambda n, x: torch.matmul(n.matrix, x.transpose(0, 1)).t(),
        ],
    ),
    "product of two tensors": (
        ROWS,
        [lambda n, x: n.layer(x) @ x.T, lambda n, x: torch.einsum("bi,ci->bc", n.layer(x), x)],
    ),
    "product with a vector": (
        ROWS,
        [
            lambda n, x: x @ n.vector,
            lambda n, x: torch.mv(x, n.vector),
            lambda n, x: F.linear(x, n.vector),
            lambda n, x: F.linear(x, n.vector[None])[:, 0],
        ],
    ),
    "constant matrix times a vector": (
        (16,),
        [
            lambda n, x: n.matrix @ x,
            lambda n, x: torch.mv(n.matrix, x),
            lambda n, x: F.linear(x, n.matrix),
            lambda n, x: torch.einsum("oi,i->o", n.matrix, x),
            lambda n, x: torch.einsum("i,io->o", x, n.matrix.T),
            lambda n, x: torch.tensordot(n.matrix, x, 1),
            lambda n, x: torch.inner(n.matrix, x),
            lambda n, x: torch.addmv(n.vector[:8] * 0, n.matrix, x),
        ],
    ),
    "cat": (
        IMAGE,
        [
            lambda n, x: n.tail(torch.cat((n.conv(x), n.tail(n.conv(x))), 1)[:, 4:12]),
            lambda n, x: n.tail(torch.hstack((n.conv(x), n.tail(n.conv(x))))[:, 4:12]),
            lambda n, x: n.tail(torch.concat([n.conv(x), n.tail(n.conv(x))], dim=-3)[:, 4:12]),
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize("march", MARCHES)
@pytest.mark.parametrize("name", EQUAL)
def test_equal_spellings_have_equal_plans(name: str, march: str) -> None:
    shape, spellings = EQUAL[name]
    plans = [plan(spelling, shape, march) for spelling in spellings]
    assert plans[0] and plans == [plans[0]] * len(plans)


def _by_hand(n: Net, y: torch.Tensor) -> torch.Tensor:
    """A batch norm on its statistics."""
    scale = n.norm.weight * (n.norm.running_var + n.norm.eps).rsqrt()
    return y * scale[:, None, None] + (n.norm.bias - n.norm.running_mean * scale)[None, :, None, None]


def _functional(n: Net, x: torch.Tensor) -> torch.Tensor:
    return F.conv2d(x, n.conv.weight, n.conv.bias, padding=1)


AFFINE: list[Spelling] = [
    lambda n, x: n.norm(n.conv(x)),
    lambda n, x: _by_hand(n, n.conv(x)),
    lambda n, x: (n.conv(x) - n.norm.running_mean.view(1, 8, 1, 1)) / (n.norm.running_var[:, None, None] + n.norm.eps).sqrt(),
    lambda n, x: n.conv(x) * 0.5 + 0.1,
    lambda n, x: n.conv(x) * n.gain + n.shift,
    lambda n, x: (n.conv(x) - n.shift) / 3.3,
    lambda n, x: n.conv(x).add(0.1).mul(n.gain[0]).sub(0.2).div(n.gain),
    lambda n, x: torch.addcmul(n.shift, n.conv(x), n.gain),
    lambda n, x: n.shift - n.conv(x),
    lambda n, x: -n.conv(x),
    lambda n, x: n.gain * _functional(n, x) - n.shift,
    lambda n, x: _by_hand(n, _functional(n, x)),
    lambda n, x: n.up(n.conv(x)) * torch.cat((n.gain, n.gain), 1) + 0.5,
    lambda n, x: n.layer(n.conv(x)) * n.vector.abs() + 0.2,
]
"""Constants behind convolutions (and a linear layer), in many ways: each is one layer, as with a batch norm."""


@pytest.mark.parametrize("march", MARCHES)
@pytest.mark.parametrize("index", range(len(AFFINE)))
def test_constants_behind_a_layer_are_folded_into_it(index: int, march: str) -> None:
    def spelling(n: Net, x: torch.Tensor) -> torch.Tensor:
        return F.relu(AFFINE[index](n, x))

    net: Any = Net(spelling).eval()
    data = torch.randn(IMAGE, generator=torch.Generator().manual_seed(1))
    compiled = hqc.compile(net, data, march=march, calibration_data=[data])
    layers = {"conv2d", "conv_transpose2d", "linear", "relu"}
    assert {node.op.name for node in compiled.graph.nodes if not node.op.has(Trait.BOUNDARY)} <= layers, str(compiled.graph)
    expected, found = net(data).detach().numpy(), np.asarray(compiled.simulate(data))
    size = np.abs(expected).max()
    assert np.abs(found - expected).max() <= (0.12 if march == "bernoulli" else 0.04) * size
    assert np.abs(found - compiled.prepared(data).detach().numpy()).max() <= 0.025 * size


def test_what_no_layer_can_take_in_stays() -> None:
    for spelling in (
        lambda n, x: n.tail(n.conv(x) * torch.ones(1, 8, 16, 1)),  # a number per row
        lambda n, x: n.tail((y := n.conv(x)) * 0.5 + y),  # another reads the layer
        lambda n, x: n.tail(2.0 / n.conv(x)),
        lambda n, x: n.tail(F.relu(n.conv(x)) * 0.5),
    ):
        assert sum(count for (op, _), count in plan(spelling, IMAGE, "bayes").items() if op != "conv2d") >= 1
    trained = hqc.explain(
        Net(lambda n, x: n.tail(n.conv(n.quant(x)) * n.gain)).eval(), torch.zeros(IMAGE), march="bayes", form="qat"
    )
    assert [row.op for row in trained.placement.rows] == ["conv2d", "mul", "conv2d"], "training goes on with the constant"


@pytest.mark.parametrize("march", ["bernoulli2", "bayes"])
@pytest.mark.parametrize(
    ("name", "index"),
    [("quotient", 1), ("mean", 0), ("mean", 3), ("product with a matrix", 1), ("product with a vector", 0),
     ("product with a vector", 2)],
)  # fmt: skip
def test_a_spelling_compiles_to_what_it_computes(name: str, index: int, march: str) -> None:
    shape, spellings = EQUAL[name]
    net: Any = Net(spellings[index]).eval()
    data = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    found = np.asarray(hqc.compile(net, data[0], march=march, calibration_data=data).simulate(data[0]))
    expected = net(data[0]).detach().numpy()
    assert np.abs(found - expected).max() <= 0.04 * np.abs(expected).max()


class Residual(nn.Module):
    """A dropout between a layer and the addition behind it."""

    def __init__(self, drop: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.inner, self.drop, self.tail = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), drop, nn.Conv2d(8, 4, 1)
        self.quant = QuantStub()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(self.quant(x))
        return self.tail(F.relu(self.drop(self.inner(y)) + y))


@pytest.mark.parametrize("march", MARCHES)
def test_layers_take_in_an_addition_behind_a_dropout_unless_the_model_will_train(march: str) -> None:
    data = torch.randn(IMAGE, generator=torch.Generator().manual_seed(0))
    plans = {
        (type(drop).__name__, form): [row.op for row in hqc.explain(Residual(drop).eval(), data, march=march, form=form).placement.rows]
        for drop in (nn.Identity(), nn.Dropout2d(0.5))
        for form in ("ptq", "qat")
    }  # fmt: skip
    assert plans["Dropout2d", "ptq"] == plans["Identity", "ptq"] == plans["Identity", "qat"] == ["conv2d"] * 3
    assert plans["Dropout2d", "qat"].count("add") == 1
    net = Residual(nn.Dropout2d(0.5)).eval()
    found = np.asarray(hqc.compile(net, data, march=march, calibration_data=[data]).simulate(data))
    expected = net(data).detach().numpy()
    assert np.abs(found - expected).max() <= 0.05 * np.abs(expected).max()
