"""Every method of FloatFunctional (hqc's and torch's) goes from float to prepared, converted and exported, alone and fused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.ao.nn.quantized import FloatFunctional as TorchFloatFunctional

import hqc
from hqc.march import March, set_march
from hqc.nn import DeQuantStub, QuantStub, qat
from hqc.nn.quantized import FloatFunctional
from hqc.quantization import FakeQuantState, convert_fx, get_default_qat_qconfig, prepare_qat_fx, set_fake_quantize
from hqc.utils.onnx_helper import export_to_onnx

ARGUMENTS: dict[str, Any] = {
    "add": lambda a, b: (a, b),
    "sub": lambda a, b: (a, b),
    "mul": lambda a, b: (a, b),
    "div": lambda a, b: (a, 2.5),
    "matmul": lambda a, b: (a, b),
    "maximum": lambda a, b: (a, b),
    "minimum": lambda a, b: (a, b),
    "add_relu": lambda a, b: (a, b),
    "add_scalar": lambda a, b: (a, 0.7),
    "mul_scalar": lambda a, b: (a, -0.7),
    "cat": lambda a, b: ([a, b], 1),
    "sum": lambda a, b: (a, 1, True),
    "mean": lambda a, b: (a, (2, 3), True),
}
DATA = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))


class Net(nn.Module):
    """A method between two convolutions. `fused`: the convolution's result has no other reader, so an addition may join it."""

    def __init__(self, functional: type[nn.Module], method: str, fused: bool) -> None:
        super().__init__()
        self.quant, self.conv, self.pool = QuantStub(), nn.Conv2d(4, 4, 3, padding=1), nn.MaxPool2d(2)
        self.functional, self.method, self.fused = functional(), method, fused
        self.last = nn.Conv2d({"cat": 8, "sum": 1}.get(method, 4), 3, 1)
        self.dequant = DeQuantStub()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.quant(x)
        a, b = (self.conv(x), x) if self.fused else (self.pool(self.conv(x)), self.pool(x))
        y = getattr(self.functional, self.method)(*ARGUMENTS[self.method](a, b))
        return self.dequant(self.last(y))


def trained(model: nn.Module, hybrid: bool = True) -> Any:
    prepared = prepare_qat_fx(model, {"": get_default_qat_qconfig()}, hybrid=hybrid, example_inputs=DATA)
    with torch.no_grad():
        for _ in range(3):
            prepared(DATA)
    set_fake_quantize(prepared.eval(), FakeQuantState.VALIDATION)
    return prepared


def methods() -> list[tuple[type[nn.Module], str]]:
    return [(cls, name) for cls in (FloatFunctional, TorchFloatFunctional) for name in ARGUMENTS if hasattr(cls, name)]


def test_no_method_is_left_out() -> None:
    own = {name for name, value in vars(FloatFunctional).items() if callable(value) and not name.startswith("_")} - {"forward"}
    assert own == set(ARGUMENTS)


@pytest.mark.parametrize("fused", [False, True], ids=["alone", "behind a convolution"])
@pytest.mark.parametrize(("functional", "method"), methods())
def test_method_trains_converts_and_exports(functional: type[nn.Module], method: str, fused: bool, tmp_path: Path) -> None:
    set_march(March.BAYES)
    torch.manual_seed(0)
    model = Net(functional, method, fused)
    prepared = trained(model)
    outputs, expected = prepared(DATA).detach(), model(DATA).detach()
    step = float(outputs.abs().max()) / 127.5
    assert float((outputs - expected).abs().max()) <= 6 * step
    differences = (convert_fx(prepared)(DATA) - outputs).abs() / step
    assert float(differences.max()) <= 2.5
    assert int((differences > 0.5).sum()) <= max(1, differences.numel() // 20)
    export_to_onnx(prepared, DATA[:1], tmp_path / "model.onnx")


@pytest.mark.parametrize("march", [March.BERNOULLI, March.BERNOULLI2, March.BAYES, March.BAYES_E])
@pytest.mark.parametrize("functional", [FloatFunctional, TorchFloatFunctional])
def test_add_relu_behind_a_convolution_becomes_one_layer(march: March, functional: type[nn.Module]) -> None:
    set_march(march)
    prepared = trained(Net(functional, "add_relu", True))
    layer = prepared.get_submodule("functional")
    assert type(layer) is qat.ConvAddReLU2d
    (conv,) = [node for node in convert_fx(prepared).graph.nodes if "add_relu" in node.origin and node.op.name == "int_conv2d"]
    assert conv.operand("residual") is not None
    assert [node.name for node in prepared.graph.nodes if node.name.endswith("_activation_post_process")] == []


def test_add_relu_alone_has_one_fake_quant_and_the_sum_shares_its_scale() -> None:
    set_march(March.BAYES)
    prepared = trained(Net(FloatFunctional, "add_relu", False))
    observed = [node.name for node in prepared.graph.nodes if node.name.endswith("_activation_post_process")]
    assert observed == ["add_relu_activation_post_process"]
    assert type(prepared.functional.activation_post_process) is nn.Identity
    graph = convert_fx(prepared).graph
    added, rectified = (node for node in graph.nodes if node.origin == ("add_relu",))
    assert added.result.quant.same_grid(rectified.result.quant)


def test_add_relu_at_the_tail_leaves_the_convolution_at_high_precision() -> None:
    """Post-training quantization: the convolution emits int32, and the whole `add_relu` runs on the CPU."""

    class Tail(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.functional = nn.Conv2d(4, 4, 1), FloatFunctional()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.functional.add_relu(self.conv(x), x)

    model = Tail().eval()
    compiled = hqc.compile(model, DATA, march="bayes", calibration_data=[DATA])
    result = torch.as_tensor(compiled.simulate(DATA))
    devices = {
        node.name: node.device.value for node in compiled.graph.nodes if "add_relu" in node.origin or "conv" in node.origin
    }
    assert devices["conv"] == "bpu"
    assert devices["add_relu"] == "cpu"
    assert float((result - model(DATA)).detach().abs().max()) < 0.1


def test_requested_dtype_is_stronger_than_the_qconfig() -> None:
    set_march(March.BAYES)
    model = Net(FloatFunctional, "mul", False)
    asked = {"bpu": {"node_name": [("mul", "int16")]}}
    prepared = prepare_qat_fx(model, {"": get_default_qat_qconfig()}, hybrid=True, hybrid_dict=asked, example_inputs=DATA)
    prepared(DATA)
    assert prepared.mul_activation_post_process.dtype == "qint16"
    assert prepared.conv.activation_post_process.dtype == "qint8"
    set_fake_quantize(prepared.eval(), FakeQuantState.VALIDATION)
    converted = convert_fx(prepared)
    node = next(node for node in converted.graph.nodes if "mul" in node.origin)
    assert node.result.type.dtype.value == "i16"
    outputs = prepared(DATA).detach()
    step = float(outputs.abs().max()) / 127.5
    assert float((converted(DATA) - outputs).abs().max()) <= 1.5 * step
