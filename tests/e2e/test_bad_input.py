"""Bad input gets one clear sentence from hqc.errors and leaves no file behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import hqc
from hqc.errors import CalibrationError, ExportError, HqcError, MarchError, OverrideError, ParseError, ShapeError, TraceError
from hqc.ir import parse


class Branching(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            return x
        return -x


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())


DATA = torch.rand(1, 3, 8, 8)


def compiled(**changes: Any) -> Any:
    arguments: dict[str, Any] = {"march": "bayes", "calibration_data": [DATA], **changes}
    return hqc.compile(arguments.pop("model", small()), arguments.pop("example_inputs", DATA), **arguments)


CASES: dict[str, tuple[Callable[[], Any], type[HqcError], str]] = {
    "untraceable": (lambda: compiled(model=Branching()), TraceError, "test_bad_input.py"),
    "wrong channels": (lambda: compiled(example_inputs=torch.rand(1, 4, 8, 8)), ShapeError, "4 channels"),
    "unknown march": (lambda: compiled(march="bayse"), MarchError, "bayes"),
    "unmatched override": (lambda: compiled(hybrid_dict={"module_name": ["conv9"]}), OverrideError, "conv9"),
    "no calibration data": (lambda: compiled(calibration_data=[]), CalibrationError, "empty"),
    "NaN calibration data": (lambda: compiled(calibration_data=[DATA * np.nan]), CalibrationError, "NaN"),
    "empty batch": (lambda: compiled(calibration_data=[DATA[:0]]), CalibrationError, "empty"),
    "calibration shape": (lambda: compiled(calibration_data=[torch.rand(1, 5, 8, 8)]), HqcError, "batch 1"),
    "simulate shape": (lambda: compiled().simulate(torch.rand(1, 3, 9, 9)), ShapeError, "9, 9"),
    "simulate count": (lambda: compiled().simulate(DATA, DATA), HqcError, "1 input"),
    "IR text": (lambda: parse("graph @g {\n  input %x: f32[1\n}"), ParseError, "2:"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_gets_one_sentence(case: str) -> None:
    call, error_type, fragment = CASES[case]
    with pytest.raises(error_type) as caught:
        call()
    message = str(caught.value)
    assert fragment in message
    assert "Traceback" not in message


def test_unwritable_path_leaves_no_partial_file(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(ExportError, match="file"):
        compiled().export(blocked / "model.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_the_float_model_is_left_untouched() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU())
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    compiled(model=model)
    assert model.training
    assert [type(child).__name__ for child in model] == ["Conv2d", "BatchNorm2d", "ReLU"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_small_bpu_blocks_go_to_the_cpu_when_asked_with_the_reason() -> None:
    model = compiled(min_macs=1e9)
    assert model.placement.totals.bpu_nodes == 0
    assert "block too small: 1 op, 0.00389 MMAC" in model.explain()


def test_outputs_keep_the_names_of_the_users_operations() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh())
    assert compiled(model=model).graph.output_names == ["_1"]
