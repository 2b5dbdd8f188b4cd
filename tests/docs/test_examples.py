"""Every example runs from float to files, with less training: integers keep what the float network has learned."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hqc.march import March, set_march

EXAMPLES = Path(__file__).parents[2] / "examples"
# Arguments that keep a run short, files that it must leave, and what float training must have reached to say anything.
RUNS: dict[str, tuple[dict[str, Any], set[str], float]] = {
    "classification": ({"epochs": 2}, {"mobilenet.onnx", "mobilenet.yaml", "mobilenet.safetensors"}, 50.0),
    "detection": ({"steps": 100}, {"detector.onnx", "detector.yaml", "detector_runnable.onnx"}, 1.0),
    "segmentation": ({"steps": 25}, {"unet.onnx", "unet.yaml", "unet.pt"}, 30.0),
    "sequence": ({"epochs": 3}, {"encoder.onnx", "encoder.yaml", "encoder.dot"}, 50.0),
}
CLOSE = 10.0  # percent: one held-out image is 0.3, and training this short leaves answers undecided


@pytest.fixture(autouse=True)
def march() -> Iterator[None]:
    yield
    set_march(March.BAYES)


def test_every_program_is_tested_and_described() -> None:
    programs = {file.stem for file in EXAMPLES.glob("*.py")} - {"scenes"}
    assert programs == set(RUNS)
    listed = set(re.findall(r"\]\((\w+)\.py\)", (EXAMPLES / "README.md").read_text(encoding="utf-8")))
    assert listed == programs


@pytest.mark.parametrize("name", RUNS)
def test_the_example_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    arguments, files, learned = RUNS[name]
    found = importlib.import_module(name).main(out=str(tmp_path / "out"), **arguments)
    assert {file.name for file in (tmp_path / "out").iterdir()} == files
    assert found["float"] >= learned
    assert abs(found["integer"] - found["float"]) <= CLOSE
    if name == "sequence":
        assert found["crossings with softmax on the BPU"] < found["crossings"]
