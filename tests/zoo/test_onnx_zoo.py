"""Networks of the zoo through ONNX files: numbers of onnxruntime, plans of torch. `python -m benchmarks.onnx_zoo` runs all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.onnx_zoo import compare
from benchmarks.zoo import ZOO

CHOSEN = [
    ("mobilenet_v3", 11), ("shufflenet_v2", 17), ("eca", 13), ("unet", 11), ("mixer", 13), ("super_resolution", 17), ("bifpn", 13),
    ("detr", 17),
]  # fmt: skip
"""Hard activations, chunks, one-dimensional convolutions, transposed ones, GELU and layer norms spelled out, pixel shuffle, resizes,
attention."""


@pytest.mark.parametrize(("name", "opset"), CHOSEN)
def test_numbers_and_plan_are_those_of_torch(name: str, opset: int, tmp_path: Path) -> None:
    found = compare(ZOO[name], opset, tmp_path)
    assert not found.refusal and found.exact, found
    assert found.same_plan, found.plans
