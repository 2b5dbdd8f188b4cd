"""State dicts of prepared models keep the versions that modules were saved with; some modules refuse a state dict without."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hqc.march import set_march
from hqc.nn import DeQuantStub, QuantStub
from hqc.quantization import (
    convert_fx,
    get_default_calib_qconfig,
    get_default_qat_qconfig,
    prepare_calibration_fx,
    prepare_qat_fx,
)


class Versioned(nn.Module):
    """Reads old state dicts by their version, as networks do whose layers have changed since."""

    _version = 3

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).relu()

    def _load_from_state_dict(self, state: Any, prefix: str, metadata: dict[str, Any], *rest: Any) -> None:
        if metadata.get("version") != 3:
            raise ValueError(f"version {metadata.get('version')} is not known")
        super()._load_from_state_dict(state, prefix, metadata, *rest)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.quant, self.dequant = Versioned(), QuantStub(), DeQuantStub()

    def forward(self, x: Tensor) -> Tensor:
        return self.dequant(self.body(self.quant(x)))


@pytest.mark.parametrize("given", [True, False], ids=["planned", "planned later"])
def test_every_way_a_state_travels(given: bool) -> None:
    set_march("bayes")
    x, qconfig = torch.randn(1, 3, 8, 8), {"": get_default_qat_qconfig()}
    options: dict[str, Any] = {"hybrid": True, **({"example_inputs": (x,)} if given else {})}
    calibrated = prepare_calibration_fx(Network(), {"": get_default_calib_qconfig()}, **options).eval()
    calibrated(x)
    model = prepare_qat_fx(calibrated, qconfig, **options)
    model.train()(x)
    again = prepare_qat_fx(Network(), qconfig, **options)
    again.load_state_dict(model.state_dict())
    again.eval()(x)
    converted = convert_fx(again)
    fresh = copy.deepcopy(converted)
    fresh.load_state_dict(converted.state_dict())
    with torch.no_grad():
        assert torch.equal(fresh(x), converted(x))
    other = prepare_qat_fx(Network(), qconfig, **options)
    other(x)
    other.load_state_dict(converted.state_dict())
