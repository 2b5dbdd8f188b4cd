"""Converted models are models: state, copies, tree, TorchScript; and the calls around the vendor's compiler."""

from __future__ import annotations

import copy
import io
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

import hqc.jit
from hqc.errors import CalibrationError, ExportError, InputError
from hqc.frontend.fx.tracing import wrap
from hqc.march import March, set_march
from hqc.nn.quantized.modules import Conv2d, DeQuantize, Quantize
from hqc.quantization import (
    FakeQuantState,
    check_model,
    compile_model,
    convert_fx,
    export_hbir,
    get_default_qat_qconfig,
    perf_model,
    prepare_qat_fx,
    set_fake_quantize,
    visualize_model,
)
from hqc.utils.onnx_helper import export_quantized_onnx, export_to_onnx
from hqc.workflow.convert import QuantizedGraphModule
from hqc.workflow.prepared import ObservedGraphModule
from tests.compat.networks import Block, Residual

X = torch.linspace(-1.0, 1.0, 2 * 3 * 12 * 12).reshape(2, 3, 12, 12)


@pytest.fixture(autouse=True)
def _march() -> None:
    set_march(March.BERNOULLI2)


def prepared(seed: int = 0) -> ObservedGraphModule:
    torch.manual_seed(seed)
    model = prepare_qat_fx(Residual().eval(), {"": get_default_qat_qconfig()}).eval()
    model(X)
    set_fake_quantize(model, FakeQuantState.VALIDATION)
    return model


@pytest.fixture(scope="module")
def converted() -> QuantizedGraphModule:
    set_march(March.BERNOULLI2)
    return convert_fx(prepared())


def test_the_tree_is_the_users_with_quantized_parts(converted: QuantizedGraphModule) -> None:
    assert type(converted.quant) is Quantize and type(converted.dequant) is DeQuantize
    assert type(converted.block) is Block and converted.block.note == "kept"
    layer = converted.block.add
    assert type(layer) is Conv2d and layer.weight.dtype == torch.int8 and layer.weight_scale.shape == (8,)
    assert converted.classes == 4 and torch.equal(converted.mean, torch.ones(1))
    assert "(add): QuantizedConv2d(ConvAddReLU2d: 8, 8, kernel_size=(3, 3)" in str(converted)
    assert "dtype=qint8" in str(converted.quant) and not list(converted.quant.parameters())
    with pytest.raises(InputError, match="runs as a part of its converted model"):
        converted.stem(X)


def test_state_goes_into_another_converted_model_and_into_a_prepared_one(converted: QuantizedGraphModule) -> None:
    state = copy.deepcopy(converted.state_dict())
    other = convert_fx(prepared(seed=1))
    assert not torch.equal(other(X), converted(X))
    assert str(other.load_state_dict(state)) == "<All keys matched successfully>"
    assert torch.equal(other(X), converted(X))
    assert torch.equal(other.stem.weight, converted.stem.weight)
    trained = prepared(seed=2)
    trained.load_state_dict(state)
    assert torch.allclose(trained(X), converted(X), atol=0.02)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        other.load_state_dict({**state, "nothing": torch.ones(1)})
    with pytest.raises(RuntimeError, match="Missing key"):
        other.load_state_dict({key: value for key, value in state.items() if "head" not in key})


def test_it_is_part_of_larger_models(converted: QuantizedGraphModule) -> None:
    outer = nn.Sequential(convert_fx(prepared(seed=1)))
    outer.load_state_dict({f"0.{key}": value for key, value in converted.state_dict().items()})
    assert torch.equal(outer(X), converted(X))


def test_copies_and_files(converted: QuantizedGraphModule) -> None:
    buffer = io.BytesIO()
    torch.save(converted, buffer)
    buffer.seek(0)
    for twin in (copy.deepcopy(converted), torch.load(buffer, weights_only=False)):
        assert torch.equal(twin(X), converted(X))
        assert str(twin) == str(converted) and twin.classes == 4


def test_in_place_conversion() -> None:
    model = prepared()
    expected = convert_fx(model)(X)
    assert convert_fx(model, inplace=True, fast_mode=True) is model
    assert isinstance(model, QuantizedGraphModule) and torch.equal(model(X), expected)


def test_an_unset_scale_in_a_state_is_refused() -> None:
    fresh = prepare_qat_fx(Residual().eval(), {"": get_default_qat_qconfig()})
    with pytest.raises(CalibrationError, match="no scale yet"):
        convert_fx(prepared()).load_state_dict(fresh.state_dict())


# --- TorchScript -----------------------------------------------------------------------------------------------------------------


def test_a_trace_holds_the_compiled_model(converted: QuantizedGraphModule, tmp_path: Path) -> None:
    traced = torch.jit.trace(converted, X)
    assert "hqc::simulate" in str(traced.inlined_graph)
    hqc.jit.save(traced, tmp_path / "model.pt")
    for script in (traced, hqc.jit.to_device(hqc.jit.load(tmp_path / "model.pt"), "cpu")):
        assert torch.equal(script(X), converted(X))
        assert torch.equal(script(X[:1]), converted(X[:1]))


def test_a_trace_of_structured_outputs() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Residual()

        def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
            return {"x": self.net(x), "sum": self.net(y) + 1.0}

    model = prepare_qat_fx(Heads().eval(), {"": get_default_qat_qconfig()}).eval()
    model(X, X)
    converted = convert_fx(model)
    traced = torch.jit.trace(converted, (X, X), strict=False)
    for name, value in converted(X, X).items():
        assert torch.equal(traced(X, X)[name], value)


def test_an_operation_without_a_form_is_refused_by_name() -> None:
    @wrap
    def twice(x: Tensor) -> Tensor:
        return torch.linalg.svdvals(x)

    class Net(Residual):
        def forward(self, x: Tensor) -> Tensor:
            return twice(self.dequant(self.head(self.stem(self.quant(x)))))

    model = prepare_qat_fx(Net().eval(), {"": get_default_qat_qconfig()}, hybrid=True, example_inputs=X).eval()
    model(X)
    with pytest.raises(ExportError, match="twice"):
        torch.jit.trace(convert_fx(model), X)


# --- around the vendor's compiler ------------------------------------------------------------------------------------------------


def test_check_model_reports_placement(converted: QuantizedGraphModule, capsys: pytest.CaptureFixture[str]) -> None:
    for module in (converted, torch.jit.trace(converted, X[:1])):
        assert check_model(module, (X[:1],)) == 0
        assert "3 operations on the BPU" in capsys.readouterr().out
    with pytest.raises(InputError, match="converted for bernoulli2, not for bayes"):
        check_model(converted, X[:1], march=March.BAYES)
    with pytest.raises(InputError, match="takes a converted model"):
        check_model(nn.ReLU(), X)


@pytest.mark.parametrize("call", ["compile_model", "export_hbir", "perf_model"])
def test_calls_of_the_vendors_compiler_write_the_file_and_say_where_to_take_it(
    call: str, converted: QuantizedGraphModule, tmp_path: Path
) -> None:
    calls = {
        "compile_model": lambda: compile_model(converted, [X[:1]], hbm=tmp_path / "model.hbm", opt=2, input_source="pyramid"),
        "export_hbir": lambda: export_hbir(converted, [X[:1]], tmp_path / "model.hbir"),
        "perf_model": lambda: perf_model(converted, [X[:1]], out_dir=tmp_path, opt=3, layer_details=True),
    }
    with pytest.raises(ExportError, match=rf"{call} needs the vendor's compiler: take .*model\.onnx.*hb_mapper makertbin"):
        calls[call]()
    domains = {node.domain for node in onnx.load(tmp_path / "model.onnx").graph.node}
    assert "horizon" in domains and (tmp_path / "model.yaml").is_file()


def test_pictures(converted: QuantizedGraphModule, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = visualize_model(converted, X[:1], tmp_path / "picture")
    described = [str(node.metadata_props) for node in onnx.load(path).graph.node]
    assert any("bpu" in text for text in described) and str(path) in capsys.readouterr().out
    export_to_onnx(Residual().eval(), X[:1], tmp_path / "float.onnx", output_names=["probability"])
    model = onnx.load(tmp_path / "float.onnx")
    devices = {node.op_type: str(node.metadata_props) for node in model.graph.node}
    assert "bpu" in devices["Conv"] and "cpu" in devices["Softmax"]


def test_quantized_onnx_of_a_model_and_of_its_trace(converted: QuantizedGraphModule, tmp_path: Path) -> None:
    export_quantized_onnx(converted, X[:1], tmp_path / "model.onnx")
    export_quantized_onnx(torch.jit.trace(converted, X[:1]), X[:1], tmp_path / "trace.onnx")
    first, second = (onnx.load(tmp_path / name).graph for name in ("model.onnx", "trace.onnx"))
    assert [node.op_type for node in first.node] == [node.op_type for node in second.node]
    with pytest.raises(InputError, match="takes a converted model"):
        export_quantized_onnx(prepared(), X[:1], tmp_path / "no.onnx")


def test_inputs_by_name(tmp_path: Path) -> None:
    model = prepared()
    for index, args in enumerate([(X[:1], {}), ({"x": X[:1]},), (X[:1],)]):
        path = tmp_path / f"{index}.onnx"
        export_to_onnx(model, args, path, output_names=["probability"])
        assert onnx.load(path).graph.output[0].name == "probability"


def test_torch_onnx_export_writes_horizon_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    monkeypatch.setattr(torch.onnx, "export", torch.onnx.export)
    registered = importlib.reload(importlib.import_module("hqc.utils._register_onnx_ops"))
    assert torch.onnx.export is registered._export
    torch.onnx.export(
        prepared(), X[:1], tmp_path / "qat.onnx", opset_version=11, operator_export_type=None, enable_onnx_checker=True
    )
    graph = onnx.load(tmp_path / "qat.onnx").graph
    assert [node.op_type for node in graph.node].count("HzQuantize") == 7
    with pytest.raises(ExportError, match="takes neither kwargs nor dynamo"):
        torch.onnx.export(prepared(), X[:1], tmp_path / "qat.onnx", dynamo=True)
