"""Stubs and FloatFunctional."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hqc.errors import InputError, QConfigError
from hqc.march import set_march
from hqc.nn import DeQuantStub, QuantStub, qat
from hqc.nn.qat.mapping import qat_stub
from hqc.nn.quantized import FloatFunctional
from hqc.quantization import (
    FakeQuantize,
    FakeQuantState,
    convert_fx,
    get_default_qat_qconfig,
    prepare_qat_fx,
    set_fake_quantize,
)
from hqc.utils.onnx_helper import export_to_onnx


def test_stubs_compute_nothing_and_print_their_name() -> None:
    x = torch.randn(3)
    assert QuantStub()(x) is x
    assert DeQuantStub()(x) is x
    assert repr(nn.ModuleList([QuantStub(), DeQuantStub(), QuantStub(scale=1 / 128)])) == (
        "ModuleList(\n  (0): QuantStub()\n  (1): DeQuantStub()\n  (2): QuantStub(scale=0.0078125)\n)"
    )


def test_stub_keeps_its_qconfig() -> None:
    assert QuantStub(qconfig="q").qconfig == "q"
    assert not hasattr(QuantStub(), "qconfig")


def test_stub_refuses_scales_that_are_none() -> None:
    with pytest.raises(QConfigError, match="positive and finite, got -1"):
        QuantStub(scale=-1.0)
    with pytest.raises(QConfigError, match="zero point must be 0, got 5"):
        QuantStub(scale=1.0, zero_point=5)


def test_qat_stub_quantizes_and_prints_its_fake_quant() -> None:
    stub = qat_stub(QuantStub(), FakeQuantize())
    assert type(stub) is qat.QuantStub
    assert repr(stub).startswith("QuantStub(\n  (activation_post_process): FakeQuantize(\n")
    stub(torch.tensor([-1.0, 1.0]))
    assert stub.activation_post_process.scale.item() == pytest.approx(1 / 127.5)


def test_a_scale_on_the_stub_fixes_the_fake_quant() -> None:
    stub = qat_stub(QuantStub(scale=1 / 128), FakeQuantize())
    stub(torch.randn(10) * 100)
    assert stub.activation_post_process.quant_params().fixed
    assert stub.activation_post_process.scale.item() == 1 / 128


def test_torchs_stub_is_taken_too() -> None:
    stub = qat_stub(torch.ao.quantization.QuantStub(), FakeQuantize())
    assert not stub.activation_post_process.fixed


A, B = torch.tensor([[1.0, -2.0], [3.0, 4.0]]), torch.tensor([[0.5, 0.5], [-9.0, 2.0]])
CALLS = {
    "add": ((A, B), A + B),
    "sub": ((A, B), A - B),
    "mul": ((A, B), A * B),
    "div": ((A, B), A / B),
    "matmul": ((A, B), A @ B),
    "maximum": ((A, B), torch.maximum(A, B)),
    "minimum": ((A, B), torch.minimum(A, B)),
    "add_relu": ((A, B), torch.relu(A + B)),
    "add_scalar": ((A, 2.0), A + 2),
    "mul_scalar": ((A, 2.0), A * 2),
    "cat": (([A, B], 1), torch.cat([A, B], 1)),
    "sum": ((A, 1, True), A.sum(1, keepdim=True)),
    "mean": ((A, 0), A.mean(0)),
}


@pytest.mark.parametrize("method", CALLS)
def test_methods_are_torchs_functions(method: str) -> None:
    arguments, expected = CALLS[method]
    assert torch.equal(getattr(FloatFunctional(), method)(*arguments), expected)


def test_every_method_is_tested() -> None:
    methods = {name for name in vars(FloatFunctional) if not name.startswith("_")} - {"forward"}
    assert methods == set(CALLS)


def test_calling_a_float_functional_says_what_to_do() -> None:
    with pytest.raises(InputError, match="use its methods"):
        FloatFunctional()(A)


class Classes(nn.Module):
    """A segmentation network that gives the class of each pixel, or the two largest of two maps."""

    def __init__(self, decide) -> None:
        super().__init__()
        self.quant, self.conv, self.dequant, self.decide = QuantStub(), nn.Conv2d(3, 4, 1), DeQuantStub(), decide

    def forward(self, x):
        return self.dequant(self.decide(torch.softmax(self.conv(self.quant(x)), 1)))


@pytest.mark.parametrize("march", ["bernoulli2", "bayes"])
@pytest.mark.parametrize("decide", [lambda y: y.argmax(1, keepdim=True), lambda y: y.max(1)[1], lambda y: y > 0.3])
def test_there_is_nothing_to_dequantize_of_indices_and_truths(march, decide, tmp_path):
    torch.manual_seed(0)
    set_march(march)
    x = torch.randn(1, 3, 4, 4)
    trained = prepare_qat_fx(Classes(decide), {"": get_default_qat_qconfig()}, hybrid=True)
    trained(x)
    trained.eval()
    set_fake_quantize(trained, FakeQuantState.VALIDATION)
    expected = trained(x)
    converted = convert_fx(trained)
    found = converted(x)
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)
    export_to_onnx(converted, (x,), str(tmp_path / "classes.onnx"))
