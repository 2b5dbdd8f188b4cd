"""Calibration data: any order gives the same program, any wrong kind gives one sentence, and samples of it verify the export."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import hqc
from hqc.errors import CalibrationError, ExportError, InputError
from hqc.quantization import get_default_qconfig

X = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
BATCHES = [X * 0.2, X, X * 0.9, X * 0.5]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(8, 4, 1)
        with torch.no_grad():
            self.b.weight.mul_(12.0)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(torch.cat([torch.relu(self.a(image)), torch.relu(self.b(image))], 1)) + 0


def scales(compiled: Any) -> dict[str, tuple[float, ...]]:
    values = [value for node in compiled.graph.nodes for value in node.results]
    return {value.name: tuple(np.ravel(value.quant.scale).tolist()) for value in values if value.quant is not None}


@pytest.mark.parametrize("march", ["bernoulli", "bayes"])
@pytest.mark.parametrize("observer", ["default", "absolute_min_max", "percentile", "kl", "mse", "mix"])
def test_the_order_of_the_batches_does_not_matter(march: str, observer: str) -> None:
    qconfig = None if observer == "default" else {"": get_default_qconfig(activation_observer=observer)}
    orders = list(itertools.permutations(BATCHES))[::11]
    found = [scales(hqc.compile(Net(), X, march=march, calibration_data=list(order), qconfig_dict=qconfig)) for order in orders]
    assert all(each == found[0] for each in found[1:])


def test_the_default_covers_the_widest_batch() -> None:
    compiled = hqc.compile(Net(), X, march="bayes", calibration_data=BATCHES)
    stub = compiled.graph.inputs[0].users[0].results[0].quant
    assert float(stub.scale) == pytest.approx(float(X.abs().max()) / 127.5)


@pytest.mark.parametrize("march", ["bernoulli", "bernoulli2", "bayes"])
def test_a_group_covers_its_widest_member_whichever_comes_first(march: str) -> None:
    model = Net().eval()
    with torch.no_grad():
        want = model(X).numpy()
    got = hqc.compile(model, X, march=march, calibration_data=[X]).simulate(X)
    assert np.abs(got - want).max() < 0.05 * np.abs(want).max()


WRONG = {
    "None": (None, "batches: tensors, arrays, tuples of inputs, or dicts of inputs by name; got None"),
    "a number": (5, "got 5"),
    "a path": ("images/", "there is no file images and no folder of that name"),
    "a model": (nn.ReLU(), "got a ReLU"),
    "nothing": ([], "calibration_data is empty"),
    "paths": (["img/0.jpg"], "there is no file img/0.jpg"),
    "an empty batch": ([[]], r"batch 1: the model takes 1 input\(s\) \(image\), got 0"),
    "a batch of None": ([None], r"batch 1: the model takes 1 input\(s\) \(image\), got 0"),
    "numbers": ([1, 2], "batch 1: input image must be a tensor or an array, got int"),
    "no samples": ([X[:0]], r"batch 1 is empty \(shape \[0, 3, 8, 8\]\)"),
    "wrong names": ([{"img": X}], "batch 1 has the inputs img; the model takes image"),
    "not finite": ([X, X / 0], "batch 2 holds NaN or infinite values"),
    "another shape": ([X[:, :2]], "batch 1 with shapes"),
    "objects": ([np.array([object()])], "input image must"),
    "text": ([np.array(["a"])], "input image must hold numbers"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_kind_of_data_is_one_sentence(kind: str) -> None:
    data, sentence = WRONG[kind]
    with pytest.raises(InputError if "path" in kind else CalibrationError, match=sentence) as caught:
        hqc.compile(Net(), X, march="bayes", calibration_data=data)
    assert "\n" not in str(caught.value)


RIGHT = {
    "tensor": X,
    "array": X.numpy(),
    "doubles": [X.double().numpy()],
    "tuples": [(X,)],
    "lists": [[X]],
    "by name": [{"image": X}],
    "one dict": {"image": X.numpy()},
    "labels": [(X, torch.tensor([3]))],
    "labels and boxes": [(X, torch.tensor([3]), {"boxes": torch.zeros(2, 4)})],
    "a dict with labels": [{"image": X, "label": torch.tensor([3]), "path": "0.jpg"}],
    "generator": lambda: (batch for batch in [X]),
    "loader": torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X)),
}


@pytest.mark.parametrize("kind", RIGHT)
def test_right_kinds(kind: str) -> None:
    data: Any = RIGHT[kind]
    expected = scales(hqc.compile(Net(), X, march="bayes", calibration_data=[X]))
    assert scales(hqc.compile(Net(), X, march="bayes", calibration_data=data() if callable(data) else data)) == expected


# --- samples -------------------------------------------------------------------------------------------------------------------


def test_at_most_four_samples_of_the_compiled_shape_are_kept() -> None:
    compiled = hqc.compile(Net(), X, march="bayes", calibration_data=[torch.cat([X, X * 2])] * 6)
    assert len(compiled.samples) == 4
    assert all(np.array_equal(sample["image"], X.numpy()) for sample in compiled.samples)
    wider = hqc.compile(Net(), torch.cat([X, X, X]), march="bayes", calibration_data=[X])
    assert wider.samples[0]["image"].shape == (3, 3, 8, 8)


@pytest.mark.parametrize("flavour", ["horizon", "integer"])
def test_export_is_verified_on_the_samples_against_model_and_simulator(
    flavour: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = hqc.compile(Net(), X, march="bayes", calibration_data=BATCHES)
    seen: dict[str, list[Any]] = {"model": [], "simulator": []}
    model, simulator = compiled.references

    def noted(name: str, run: Any, wrong: float = 0.0) -> Any:
        def noting(arrays: Any) -> Any:
            seen[name].append(arrays["image"])
            return {key: value + wrong for key, value in run(arrays).items()}

        return noting

    monkeypatch.setattr(compiled, "references", (noted("model", model), noted("simulator", simulator)))
    report = compiled.export(tmp_path / "net.onnx", flavour=flavour)
    assert all(np.array_equal(np.stack(found), torch.stack(BATCHES).numpy()) for found in seen.values())
    assert len(report.comparisons) == 1 and not [each for each in report.findings if each.rule == "verified"]
    counts = "simulator" if flavour == "integer" else "model"
    wrong = [noted(name, run, 1e3 * (counts != name)) for name, run in (("model", model), ("simulator", simulator))]
    monkeypatch.setattr(compiled, "references", tuple(wrong))
    report = compiled.export(tmp_path / "net.onnx", flavour=flavour)
    assert "further from" in str([each for each in report.findings if each.rule == "verified"])
    monkeypatch.setattr(compiled, "references", (noted("model", model, 1e3), noted("simulator", simulator, 1e3)))
    with pytest.raises(ExportError, match="does not compute what the model computes"):
        compiled.export(tmp_path / "net.onnx", flavour=flavour)
