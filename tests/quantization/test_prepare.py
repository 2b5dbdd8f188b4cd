"""What prepare, convert and export promise about the caller's model, the plan, and wrong use."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import nn

from hqc.errors import CalibrationError, HqcError, InputError, MarchError, OverrideError, QConfigError, SupportError
from hqc.march import March, set_march, state
from hqc.nn import DeQuantStub, QuantStub
from hqc.quantization import (
    FakeQuantState,
    convert_fx,
    fuse_fx,
    get_default_calib_qconfig,
    get_default_qat_out_qconfig,
    get_default_qat_qconfig,
    prepare_calibration_fx,
    prepare_qat_fx,
    set_fake_quantize,
)
from hqc.utils.onnx_helper import export_to_onnx


@pytest.fixture(autouse=True)
def bayes() -> None:
    set_march(March.BAYES)


class Net(nn.Module):
    """conv-bn-relu, residual add, selu on the CPU, conv at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.quant = QuantStub()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.selu = nn.SELU()
        self.last = nn.Conv2d(4, 2, 1)
        self.dequant = DeQuantStub()
        self.note = "kept"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.bn(self.conv1(self.quant(x))))
        x = self.selu(self.conv2(x) + x)
        return self.dequant(self.last(x))


class Pooled(Net):
    """With a function that pickle does not find by its name."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dequant(nn.functional.max_pool2d(self.conv1(self.quant(x)), 2))


DATA = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
QAT = {"": get_default_qat_qconfig()}


def prepared(model: nn.Module | None = None, **arguments: Any) -> Any:
    torch.manual_seed(0)
    qat = prepare_qat_fx(model or Net(), arguments.pop("qconfig_dict", QAT), hybrid=arguments.pop("hybrid", True), **arguments)
    qat(DATA)
    return qat


def test_the_float_model_is_untouched_and_parameters_are_copies() -> None:
    model = Net()
    before = copy.deepcopy(model.state_dict())
    qat = prepared(model)
    optimizer = torch.optim.SGD(qat.parameters(), lr=1.0)
    qat(DATA).sum().backward()
    optimizer.step()
    convert_fx(qat)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not hasattr(model, "preparation")


def test_plain_attributes_are_preserved() -> None:
    assert prepared().note == "kept"
    assert convert_fx(prepared()).note == "kept"


@pytest.mark.parametrize("program", [Net, Pooled])
@pytest.mark.parametrize("copying", ["deepcopy", "pickle", "torch.save"])
def test_plan_and_outputs_survive_copies(copying: str, program: type[nn.Module]) -> None:
    qat = prepared(program()).eval()
    if copying == "deepcopy":
        twin = copy.deepcopy(qat)
    elif copying == "pickle":
        twin = pickle.loads(pickle.dumps(qat))
    else:
        buffer = io.BytesIO()
        torch.save(qat, buffer)
        buffer.seek(0)
        twin = torch.load(buffer, weights_only=False)
    assert twin.preparation.plan == qat.preparation.plan
    assert type(twin).__name__ == type(qat).__name__ == program.__name__
    set_fake_quantize(qat, FakeQuantState.VALIDATION)
    set_fake_quantize(twin, FakeQuantState.VALIDATION)
    assert torch.equal(twin(DATA), qat(DATA))
    assert torch.equal(convert_fx(twin)(DATA), convert_fx(qat)(DATA))


def test_state_dict_round_trip_restores_scales() -> None:
    trained, fresh = prepared().eval(), prepare_qat_fx(Net(), QAT, hybrid=True).eval()
    fresh.load_state_dict(trained.state_dict())
    for model in (trained, fresh):
        set_fake_quantize(model, FakeQuantState.VALIDATION)
    assert torch.equal(fresh(DATA), trained(DATA))


def test_modes_never_change_the_fake_quant_state() -> None:
    qat = prepared()
    set_fake_quantize(qat, FakeQuantState.VALIDATION)
    scale = qat.quant.activation_post_process.scale.clone()
    qat.train()
    qat(DATA * 100)
    qat.eval()
    qat(DATA * 100)
    assert torch.equal(qat.quant.activation_post_process.scale, scale)


def test_calibration_leaves_the_models_outputs_alone_and_carries_scales() -> None:
    model = Net().eval()
    calibration = prepare_calibration_fx(model, {"": get_default_calib_qconfig()}, hybrid=True)
    torch.testing.assert_close(calibration(DATA), model(DATA), rtol=1e-4, atol=1e-5)
    qat = prepare_qat_fx(calibration, QAT, hybrid=True)
    expected = float(DATA.abs().max()) / 127.5
    assert float(qat.quant.activation_post_process.scale) == pytest.approx(expected, rel=0.02)


def test_fused_model_prepares_like_the_model_itself() -> None:
    model = Net().eval()
    fused = fuse_fx(model)
    torch.testing.assert_close(fused(DATA), model(DATA), rtol=1e-4, atol=1e-5)
    assert isinstance(fused.bn, nn.Identity)
    assert convert_fx(prepared(fused))(DATA).shape == (2, 2, 8, 8)


def test_shared_module_called_twice_gets_one_observer_per_call_site_and_one_weight() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.quant, self.conv = QuantStub(), nn.Conv2d(3, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(self.conv(self.quant(x)))

    qat = prepared(Twice())
    calls = [node.target for node in qat.graph.nodes if node.op == "call_module" and "conv" in str(node.target)]
    first, second = (qat.get_submodule(target) for target in calls)
    assert first is not second
    assert first.weight is second.weight
    assert first.activation_post_process is not second.activation_post_process


@pytest.mark.parametrize("state", [FakeQuantState.QAT, FakeQuantState.VALIDATION])
def test_fake_quant_model_trains_in_either_state(state: FakeQuantState) -> None:
    qat = prepared().train()
    set_fake_quantize(qat, state)
    qat(DATA).square().mean().backward()
    assert all(parameter.grad is not None and torch.isfinite(parameter.grad).all() for parameter in qat.parameters())


# --- wrong use -------------------------------------------------------------------------------------------------------


def refused(error: type[HqcError], fragment: str, call: Any) -> None:
    with pytest.raises(error) as caught:
        call()
    assert fragment in str(caught.value), str(caught.value)


def test_march_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "_current", None)
    refused(MarchError, "set_march", lambda: prepare_qat_fx(Net(), QAT, hybrid=True))


def test_bpu_op_without_qconfig() -> None:
    refused(QConfigError, "conv1", lambda: prepare_qat_fx(Net(), {"module_name": [("quant", QAT[""])]}, hybrid=True))


def test_unknown_names_are_errors_with_near_names() -> None:
    refused(QConfigError, "conv1", lambda: prepare_qat_fx(Net(), {**QAT, "module_name": [("conv11", QAT[""])]}, hybrid=True))
    refused(QConfigError, "module_name", lambda: prepare_qat_fx(Net(), {**QAT, "module_names": []}, hybrid=True))
    refused(OverrideError, "conv1", lambda: prepare_qat_fx(Net(), QAT, hybrid=True, hybrid_dict={"module_name": ["conv11"]}))


def test_int16_on_a_march_without_it() -> None:
    set_march(March.BERNOULLI2)
    refused(QConfigError, "int16", lambda: prepare_qat_fx(Net(), {"": get_default_qat_qconfig(dtype="qint16")}, hybrid=True))


def test_conversion_of_an_uncalibrated_model() -> None:
    refused(CalibrationError, "quant", lambda: convert_fx(prepare_qat_fx(Net(), QAT, hybrid=True)))
    refused(InputError, "prepare", lambda: convert_fx(Net()))


def test_high_precision_output_in_the_middle_of_a_bpu_segment() -> None:
    out = {**QAT, "module_name": [("conv1", get_default_qat_out_qconfig()), ("relu", get_default_qat_out_qconfig())]}
    refused(QConfigError, "high-precision", lambda: prepare_qat_fx(Net(), out, hybrid=True))


def test_cpu_op_without_hybrid_lists_every_refused_op() -> None:
    set_march(March.BERNOULLI2)
    set_march(March.BERNOULLI2)  # whose torch table refuses selu; bayes runs it there
    refused(SupportError, "hybrid=True", lambda: prepare_qat_fx(Net(), QAT))


def test_hybrid_dict_without_hybrid() -> None:
    refused(OverrideError, "hybrid=True", lambda: prepare_qat_fx(Net(), QAT, hybrid_dict={"module_name": ["conv1"]}))


def test_graph_input_read_by_the_bpu_without_a_stub() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    refused(HqcError, "QuantStub", lambda: prepare_qat_fx(model, QAT, hybrid=True))


def test_export_right_after_prepare_writes_the_structure(tmp_path: Any) -> None:
    path = tmp_path / "structure.onnx"
    export_to_onnx(prepare_qat_fx(Net(), QAT, hybrid=True), DATA[:1], path)
    assert path.is_file()
    assert (tmp_path / "structure.yaml").is_file()


@pytest.mark.parametrize(
    "changes", [{"opset_version": 13}, {"export_params": False}, {"dynamic_axes": {"x": [0]}}, {"input_names": ["a", "b"]}]
)
def test_export_refuses_what_the_mapper_cannot_read(changes: dict[str, Any], tmp_path: Any) -> None:
    refused(HqcError, next(iter(changes)), lambda: export_to_onnx(prepared(), DATA[:1], tmp_path / "x.onnx", **changes))
    assert not list(tmp_path.iterdir())
