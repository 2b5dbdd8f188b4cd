"""Simulator, fake-quantized model and saved model take inputs by name as the model's own forward does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import hqc
from hqc.errors import InputError


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, image: Tensor, flip: bool = False, shift: Tensor | None = None, *, gain: Tensor | None = None) -> Tensor:
        y = self.conv(image.flip(-1) if flip else image)
        y = y if shift is None else y + shift
        return y if gain is None else y * gain


X, SHIFT, GAIN = torch.randn(1, 3, 4, 4), torch.randn(1, 4, 1, 1), torch.rand(1, 4, 1, 1) + 0.5


@pytest.fixture(scope="module")
def compiled() -> Any:
    torch.manual_seed(0)
    given = {"image": X, "shift": SHIFT, "gain": GAIN}
    return hqc.compile(Scaled().eval(), given, march="bayes", calibration_data=[given])


def test_names_stand_for_places(compiled: Any, tmp_path: Path) -> None:
    expected = compiled.simulate(X, False, SHIFT, GAIN)
    loaded = hqc.load(compiled.save(tmp_path / "model.hqc"))
    for model in (compiled, loaded):
        assert np.array_equal(model.simulate(image=X, shift=SHIFT, gain=GAIN), expected)
        assert np.array_equal(model.simulate(X, gain=GAIN, shift=SHIFT), expected)
        assert model.profile(X, gain=GAIN, shift=SHIFT)
    seen = compiled.fake_quant(X, False, SHIFT, GAIN)
    assert np.array_equal(compiled.fake_quant(gain=GAIN, shift=SHIFT, image=X), seen)


@pytest.mark.parametrize(
    ("args", "named", "sentence"),
    [
        ((X,), {"offset": SHIFT}, "the model has no input offset; it takes image, flip, shift, gain"),
        ((X, False, SHIFT), {"shift": SHIFT}, "input shift is given twice: by position and by name"),
        ((X,), {"gain": GAIN}, "input shift must be a tensor or an array, got NoneType"),
    ],
)
def test_other_names_are_refused(compiled: Any, args: tuple[Any, ...], named: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        compiled.simulate(*args, **named)
