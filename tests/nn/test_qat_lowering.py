"""QAT modules lower to the op they stand for, with scales on weight and result."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from hqc.errors import CalibrationError
from hqc.frontend.fx import lower_graph_module, trace
from hqc.ir import DType, Graph, Node
from hqc.march import get_spec
from hqc.nn import DeQuantStub, QuantStub, qat
from hqc.nn.qat.layer import QATLayer
from hqc.nn.qat.mapping import LAYERS, qat_stub
from hqc.nn.quantized import FloatFunctional
from hqc.quantization import (
    BoundaryFakeQuantize,
    CalibFakeQuantize,
    FakeQuantize,
    LearnedScaleFakeQuantize,
    get_default_qat_out_qconfig,
    get_default_qat_qconfig,
)
from hqc.quantization.off_grid import OffGridFakeQuantize

BAYES = get_spec("bayes")
QCONFIG = get_default_qat_qconfig()
OPS = {nn.Conv1d: "conv2d", nn.Conv2d: "conv2d", nn.ConvTranspose2d: "conv_transpose2d", nn.Linear: "linear"}


def lowered(model: nn.Module, *inputs: torch.Tensor, run: bool = True) -> Graph:
    if run:
        model(*inputs)
    return lower_graph_module(trace(model), inputs).graph


def node(graph: Graph, op: str) -> Node:
    (found,) = [each for each in graph.nodes if each.op.name == op]
    return found


class Fused(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x, torch.sigmoid(self.layer_shape(x))) if self.layer.residual else self.layer(x)

    def layer_shape(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.mark.parametrize("cls", LAYERS, ids=lambda cls: cls.__name__)
def test_layer_lowers_to_one_op_with_scales(cls: type[QATLayer]) -> None:
    kind = cls.float_class
    mod = nn.Linear(4, 4) if kind is nn.Linear else kind(4, 4, 3, padding=1)
    parts = {"bn": nn.BatchNorm2d(4)} if "Bn" in cls.__name__ else {}
    layer = cls.from_float(mod, QCONFIG, BAYES, **parts).eval()
    if parts:
        parts["bn"].running_mean.normal_()
        parts["bn"].running_var.uniform_(0.5, 2)
    x = torch.randn({nn.Linear: (2, 4), nn.Conv1d: (2, 4, 6)}.get(kind, (2, 4, 6, 6)))
    graph = lowered(Fused(layer), x)
    found = node(graph, OPS[kind])
    weight, bias = layer.deployed_parameters()
    np.testing.assert_array_equal(found.operand("weight").array, weight.numpy())
    np.testing.assert_array_equal(found.operand("bias").array, bias.numpy())
    assert found.operand("weight").quant == layer.weight_fake_quant.ir_quant()
    assert found.operand("weight").quant.axis == cls.channel_axis
    assert found.result.quant == layer.activation_post_process.ir_quant()
    assert found.attributes["activation"] == cls.activation
    assert (found.operand("residual") is not None) is cls.residual
    assert found.name == "layer"
    assert found.operand("weight").name == "layer.weight"


def test_attributes_of_the_layer_are_those_of_the_float_layer() -> None:
    for mod, cls in (
        (nn.Conv2d(4, 8, (3, 5), stride=2, padding=(1, 2), dilation=(1, 2), groups=2, bias=False), qat.Conv2d),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), qat.Conv2d),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2), qat.ConvTranspose2d),
    ):
        x = torch.randn(1, 4, 12, 12)
        plain = lowered(nn.Sequential(mod), x)
        quantized = lowered(nn.Sequential(cls.from_float(mod, QCONFIG, BAYES)), x)
        assert [each.op.name for each in plain.nodes] == [each.op.name for each in quantized.nodes]
        for a, b in zip(plain.nodes, quantized.nodes, strict=True):
            assert a.attributes == b.attributes
            assert a.result.type == b.result.type


def test_high_precision_output_has_no_quant() -> None:
    layer = qat.Conv2d.from_float(nn.Conv2d(1, 1, 1), get_default_qat_out_qconfig(), BAYES)
    assert node(lowered(nn.Sequential(layer), torch.randn(1, 1, 2, 2)), "conv2d").result.quant is None


@pytest.mark.parametrize("position", [0, 1])
def test_fused_add_in_a_float_functionals_place(position: int) -> None:
    layer = qat.ConvAddReLU2d.from_float(nn.Conv2d(2, 2, 1), QCONFIG, BAYES)
    layer.conv_position = position

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add = layer

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return self.add.add(x, y)

    graph = lowered(Net(), torch.randn(1, 2, 3, 3), torch.randn(1, 2, 3, 3))
    found = node(graph, "conv2d")
    assert found.operand("x").name == ("x", "y")[position]
    assert found.operand("residual").name == ("y", "x")[position]
    assert found.name == "add_1"


class Stubs(nn.Module):
    def __init__(self, quant: nn.Module) -> None:
        super().__init__()
        self.quant, self.dequant = quant, DeQuantStub()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dequant(torch.relu(self.quant(x)))


def test_stubs() -> None:
    x = torch.randn(2, 3)
    graph = lowered(Stubs(QuantStub()), x)
    assert node(graph, "quantize").attributes["stub"]
    assert node(graph, "quantize").result.quant is None
    assert node(graph, "dequantize").attributes["stub"]
    fixed = lowered(Stubs(qat_stub(QuantStub(scale=0.5), FakeQuantize(dtype="qint16"))), x)
    quant = node(fixed, "quantize").result.quant
    assert (float(quant.scale), quant.dtype, quant.fixed) == (0.5, DType.INT16, True)
    assert node(fixed, "quantize").attributes["dtype"] is DType.INT16
    assert node(fixed, "quantize").attributes["stub"]


@pytest.mark.parametrize(
    "make", [FakeQuantize, CalibFakeQuantize, LearnedScaleFakeQuantize, lambda: BoundaryFakeQuantize(FakeQuantize())]
)
def test_stand_alone_fake_quants_become_quantize(make) -> None:
    graph = lowered(nn.Sequential(make()), torch.randn(2, 3))
    found = node(graph, "quantize")
    assert not found.attributes["stub"]
    assert found.result.quant.dtype is DType.INT8


def test_rounding_of_the_march_is_on_the_quantize() -> None:
    graph = lowered(nn.Sequential(FakeQuantize(rounding="floor", power_of_two=True)), torch.randn(2, 3))
    assert node(graph, "quantize").attributes["rounding"] == "floor"


def test_uncalibrated_is_refused_by_name() -> None:
    with pytest.raises(CalibrationError, match="stem has no scale yet"):
        lowered(nn.Sequential(FakeQuantize(name="stem")), torch.randn(2, 3), run=False)


class Arithmetic(nn.Module):
    def __init__(self, functional: nn.Module) -> None:
        super().__init__()
        self.functional = functional


METHODS = {
    "add": ("add", lambda f, x, y: f.add(x, y)),
    "sub": ("sub", lambda f, x, y: f.sub(x, y)),
    "mul": ("mul", lambda f, x, y: f.mul(x, y)),
    "div": ("div", lambda f, x, y: f.div(x, y)),
    "matmul": ("matmul", lambda f, x, y: f.matmul(x, y)),
    "maximum": ("maximum", lambda f, x, y: f.maximum(x, y)),
    "minimum": ("minimum", lambda f, x, y: f.minimum(x, y)),
    "add_relu": ("relu", lambda f, x, y: f.add_relu(x, y)),
    "add_scalar": ("add", lambda f, x, y: f.add_scalar(x, 0.5)),
    "mul_scalar": ("mul", lambda f, x, y: f.mul_scalar(x, 0.5)),
    "cat": ("cat", lambda f, x, y: f.cat([x, y], dim=1)),
    "sum": ("sum", lambda f, x, y: f.sum(x, dim=1, keepdim=True)),
    "mean": ("mean", lambda f, x, y: f.mean(x, dim=1)),
}


@pytest.mark.parametrize("method", METHODS)
def test_float_functionals_methods_lower_to_their_op(method: str) -> None:
    op, call = METHODS[method]
    cls = type("Net", (Arithmetic,), {"forward": lambda self, x, y: call(self.functional, x, y)})
    x, y = torch.randn(3, 3), torch.randn(3, 3)
    assert node(lowered(cls(FloatFunctional()), x, y), op).result.quant is None


def test_every_method_is_tested() -> None:
    assert {name for name in vars(FloatFunctional) if not name.startswith("_")} - {"forward"} == set(METHODS)


def test_off_grid_fake_quants_leave_no_node() -> None:
    source = FakeQuantize()
    graph = lowered(nn.Sequential(source, nn.ReLU(), OffGridFakeQuantize(source)), torch.randn(2, 3))
    assert [each.op.name for each in graph.nodes] == ["quantize", "relu"]
