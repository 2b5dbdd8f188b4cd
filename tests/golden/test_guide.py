"""The printed outputs of the hybrid QAT guide are golden: same submodule tree and types, same inserted names, same code."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import hqc.compat
from hqc.march import March, set_march
from hqc.nn.quantized import FloatFunctional
from hqc.quantization import get_default_qat_out_qconfig, get_default_qat_qconfig, prepare_qat_fx
from hqc.utils.quant_profiler import check_deploy_device

HERE = Path(__file__).parent
HYBRID_DICT = {"module_name": ["conv1.conv", "conv3"]}

# What differs between the guide's torch and ours without meaning anything, in one place.
NOISE = [
    (r"\s+", " "),  # indentation and line breaks inside one repr
    (r"-?\d+\.\d+(e-?\d+)?", "N"),  # weights and scales are random
    (r"(?<=\[)\s+", ""),
    (r"; \w+ = None", ""),
    (r";\s*$", ""),
]


def normalized(text: str) -> list[str]:
    """Tree lines and code lines without indentation, numbers and blank lines."""
    lines = []
    for line in text.splitlines():
        for pattern, replacement in NOISE:
            line = re.sub(pattern, replacement, line)
        line = line.replace(" ", "").strip()
        if line:
            lines.append(line)
    return lines


def printed(model: Any) -> list[str]:
    return normalized(f"{nn.Module.__repr__(model)}\n{model.code}")


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Globals of the guide's script after it ran, unchanged, in a folder of its own."""
    folder = tmp_path_factory.mktemp("guide")
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.chdir(folder)
    hqc.compat.install()
    try:
        torch.manual_seed(0)
        result = runpy.run_path(str(HERE / "guide_example.py"), run_name="guide")
    finally:
        hqc.compat.uninstall()
        monkeypatch.undo()
    return {**result, "folder": folder}


def test_calibration_model_prints_as_in_the_guide_before_data(script: dict[str, Any]) -> None:
    set_march(March.BAYES)
    from hqc.quantization import get_default_calib_qconfig, prepare_calibration_fx

    dictionary = {**HYBRID_DICT, "module_type": [script["_SeluModule"]]}
    model = prepare_calibration_fx(
        script["HybridModel"](), {"": get_default_calib_qconfig()}, hybrid=True, hybrid_dict=dictionary
    )
    assert printed(model) == normalized((HERE / "guide_calibration_model.txt").read_text(encoding="utf-8"))


def test_qat_model_prints_as_in_the_guide(script: dict[str, Any]) -> None:
    assert printed(script["qat_model"]) == normalized((HERE / "guide_qat_model.txt").read_text(encoding="utf-8"))


def test_the_float_model_still_computes_what_it_did(script: dict[str, Any]) -> None:
    assert torch.equal(script["model"](script["data"]), script["float_res"])


def test_converted_model_follows_the_qat_model(script: dict[str, Any]) -> None:
    qat, quantized = script["qat_model"](script["data"]), script["quantize_res"]
    assert quantized.shape == qat.shape
    step = float(qat.detach().abs().max()) / 127.5
    assert float(((quantized - qat).abs() <= step).float().mean()) >= 0.995


def test_script_writes_an_opset_11_file_with_fake_quants(script: dict[str, Any]) -> None:
    model = onnx.load(str(script["folder"] / "qat.onnx"))
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": 11, "horizon": 1}
    kinds = [node.op_type for node in model.graph.node]
    # conv0, conv2, conv4 weights; quant, conv0, conv2, selu_1, conv3 activations
    assert kinds.count("HzQuantize") == kinds.count("HzDequantize") == 8


class _AddModel(nn.Module):
    """The guide's model with a FloatFunctional add before the last selu."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        for name, child in base.named_children():
            self.add_module(name, child)
        self.add = FloatFunctional()

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        x = self.quant(input)
        x = self.prelu(self.identity(self.conv0(x)))
        x = torch.nn.functional.selu(x)
        x = self.conv1(x)
        x = self.conv3(self.conv2(x))
        x = self.identity(x)
        y = self.conv4(x)
        x = self.add.add(x, y)
        return self.dequant(self.selu(x))


def test_deploy_device_table_is_the_golden_one(
    script: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    set_march(March.BAYES)
    dictionary = {**HYBRID_DICT, "module_type": [script["_SeluModule"]]}
    model = prepare_qat_fx(
        _AddModel(script["HybridModel"]()),
        {"": get_default_qat_qconfig(), "module_name": [("add", get_default_qat_out_qconfig())]},
        hybrid=True,
        hybrid_dict=dictionary,
    )
    golden = (HERE / "deploy_device.txt").read_text(encoding="utf-8")
    table = check_deploy_device(model, out_dir=tmp_path)
    assert (tmp_path / "deploy_device.txt").read_text(encoding="utf-8") == golden
    assert capsys.readouterr().out == golden
    assert table["add_1"] == ("BPU", "method")


@pytest.mark.parametrize("march", [March.BERNOULLI, March.BERNOULLI2, March.BAYES_E])
def test_the_example_runs_on_the_other_marches(script: dict[str, Any], march: March) -> None:
    from hqc.quantization import convert_fx

    set_march(march)
    dictionary = {**HYBRID_DICT, "module_type": [script["_SeluModule"]]}
    model = prepare_qat_fx(
        script["HybridModel"](),
        {"": get_default_qat_qconfig(), "module_name": [("conv4", get_default_qat_out_qconfig())]},
        hybrid=True,
        hybrid_dict=dictionary,
    )
    data = torch.rand(1, 3, 32, 32)
    for _ in range(3):
        model(data)
    expected = model.eval()(data).detach().numpy()
    assert np.isfinite(expected).all()
    assert convert_fx(model)(data).shape == expected.shape
