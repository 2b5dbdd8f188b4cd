"""The yardstick on real data: all 1,797 handwritten digits by 5 folds, from float to integers and to onnxruntime."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from digits_networks import float_network

import hqc
from hqc.demo import FORCED_CPU, Digits, DigitsNet, accuracy, load_digits
from hqc.workflow.compile import Compiled

FOLDS = 5
pytestmark = pytest.mark.xdist_group("digits")  # one worker trains the float networks once


@dataclass
class Fold:
    digits: Digits
    model: DigitsNet
    compiled: Compiled


@pytest.fixture(scope="module")
def folds() -> list[Fold]:
    result = []
    for fold in range(FOLDS):
        digits = load_digits(fold)
        model = float_network(fold)
        batches = digits.train_x[:512].split(64)
        compiled = hqc.compile(model, digits.test_x[:1], march="bayes", calibration_data=batches, hybrid_dict=FORCED_CPU)
        result.append(Fold(digits, model, compiled))
    return result


def mean_accuracy(pairs: list[tuple[np.ndarray, torch.Tensor]]) -> float:
    labels = torch.cat([y for _, y in pairs])
    return accuracy(np.concatenate([logits for logits, _ in pairs]), labels)


def test_every_digit_is_held_out_once(folds: list[Fold]) -> None:
    assert sum(len(fold.digits.test_y) for fold in folds) == 1797


def test_simulated_accuracy_is_within_one_point_of_float(folds: list[Fold]) -> None:
    with torch.no_grad():
        real = mean_accuracy([(f.model(f.digits.test_x).numpy(), f.digits.test_y) for f in folds])
    integer = mean_accuracy([(f.compiled.simulate(f.digits.test_x), f.digits.test_y) for f in folds])
    assert real > 95.0
    assert abs(real - integer) <= 1.0


def test_runnable_file_gives_the_fake_quant_models_outputs(folds: list[Fold], tmp_path: Path) -> None:
    differing = total = 0
    worst = 0.0
    for number, fold in enumerate(folds):
        path = tmp_path / f"{number}.onnx"
        fold.compiled.export(path, flavour="runnable")
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        outputs = np.concatenate([session.run(None, {name: image[None].numpy()})[0] for image in fold.digits.test_x])
        expected = fold.compiled.fake_quant(fold.digits.test_x)
        step = np.abs(expected).max() / 127.5
        # The outputs are dequantized accumulators; they are compared on the int8 grid of their range, where one step is one LSB.
        differing += int((np.rint(outputs / step) != np.rint(expected / step)).sum())
        total += outputs.size
        worst = max(worst, float(np.abs(outputs - expected).max() / step))
    assert total == 17970
    assert differing / total <= 0.005, f"{differing} of {total} outputs differ"
    assert worst <= 1.0


def test_placement_is_what_the_network_was_built_to_show(folds: list[Fold]) -> None:
    report = folds[0].compiled.placement
    assert report.device_of("selu") == "cpu"
    assert report.device_of("refine") == "cpu"
    assert report.device_of("stem.0") == "bpu"
    assert report.device_of("classifier") == "bpu"
    assert "refine" in folds[0].compiled.explain()


def test_one_program_serves_every_batch_size(folds: list[Fold]) -> None:
    fold = folds[0]
    together = fold.compiled.simulate(fold.digits.test_x[:5])
    apart = np.concatenate([fold.compiled.simulate(image[None]) for image in fold.digits.test_x[:5]])
    np.testing.assert_array_equal(together, apart)
