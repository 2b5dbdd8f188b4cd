"""Hybrid QAT on real data: all 1,797 digits by 5 folds through calibration, training and conversion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from digits_networks import float_network
from torch import nn

from hqc.demo import FORCED_CPU, Digits, DigitsNet, accuracy, load_digits, train
from hqc.march import March, set_march
from hqc.nn import QuantStub
from hqc.quantization import (
    FakeQuantState,
    convert_fx,
    get_default_calib_qconfig,
    get_default_qat_out_qconfig,
    get_default_qat_qconfig,
    prepare_calibration_fx,
    prepare_qat_fx,
    set_fake_quantize,
)

FOLDS = 5
pytestmark = pytest.mark.xdist_group("digits")  # one worker trains the float networks once


class Stubbed(nn.Module):
    """The digits network behind a QuantStub, as users write it."""

    def __init__(self, body: DigitsNet) -> None:
        super().__init__()
        self.quant = QuantStub()
        self.body = body

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.body(self.quant(image))


@dataclass
class Fold:
    digits: Digits
    logits: dict[str, np.ndarray]


def run_fold(fold: int) -> Fold:
    set_march(March.BAYES)
    digits = load_digits(fold)
    model = Stubbed(float_network(fold)).eval()
    forced = {"module_name": [f"body.{name}" for name in FORCED_CPU["module_name"]]}
    calibration = prepare_calibration_fx(model, {"": get_default_calib_qconfig()}, hybrid=True, hybrid_dict=forced)
    with torch.no_grad():
        for batch in digits.train_x[:512].split(64):
            calibration(batch)
    qconfigs = {"": get_default_qat_qconfig(), "module_name": [("body.classifier", get_default_qat_out_qconfig())]}
    qat = prepare_qat_fx(calibration, qconfigs, hybrid=True, hybrid_dict=forced)
    logits = {}
    with torch.no_grad():
        logits["float"] = model(digits.test_x).numpy()
        logits["calibrated"] = qat.eval()(digits.test_x).numpy()
    train(qat, digits, epochs=3, rate=0.01, seed=fold)
    set_fake_quantize(qat, FakeQuantState.VALIDATION)
    with torch.no_grad():
        logits["qat"] = qat(digits.test_x).numpy()
        logits["converted"] = convert_fx(qat)(digits.test_x).numpy()
    return Fold(digits, logits)


@pytest.fixture(scope="module")
def folds() -> list[Fold]:
    return [run_fold(fold) for fold in range(FOLDS)]


def pooled(folds: list[Fold], stage: str) -> float:
    return accuracy(np.concatenate([fold.logits[stage] for fold in folds]), torch.cat([fold.digits.test_y for fold in folds]))


def test_calibrated_model_is_within_two_points_of_float(folds: list[Fold]) -> None:
    assert pooled(folds, "float") > 95.0
    assert pooled(folds, "calibrated") >= pooled(folds, "float") - 2.0


def test_trained_model_is_within_half_a_point_of_float(folds: list[Fold]) -> None:
    assert pooled(folds, "qat") >= pooled(folds, "float") - 0.5


def test_converted_model_is_within_a_third_of_a_point_of_the_trained_one(folds: list[Fold]) -> None:
    assert abs(pooled(folds, "converted") - pooled(folds, "qat")) <= 0.3


def test_converted_outputs_follow_the_trained_models(folds: list[Fold]) -> None:
    qat = np.concatenate([fold.logits["qat"] for fold in folds])
    converted = np.concatenate([fold.logits["converted"] for fold in folds])
    steps = np.concatenate([np.full(len(fold.logits["qat"]), np.abs(fold.logits["qat"]).max() / 127.5) for fold in folds])
    within = np.abs(qat - converted) <= steps[:, None]
    assert len(qat) == 1797
    assert within.mean() >= 0.995
    assert (qat.argmax(1) == converted.argmax(1)).mean() >= 0.995
