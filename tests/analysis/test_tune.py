"""`tune`: planted culprits are mended with few changes; scores are kept; what it finds is what `hqc.compile` takes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from planted import KINDS, data_for, plain_network

import hqc
from hqc.analysis.tune import Target, tune
from hqc.errors import InputError
from hqc.workflow.workers import one_thread


def noise(found: hqc.Compiled, network: torch.nn.Module, data: list[torch.Tensor]) -> float:
    with torch.no_grad():
        real = np.concatenate([network(x).numpy() for x in data])
    return float(((np.concatenate([found.simulate(x) for x in data]) - real) ** 2).sum() / (real**2).sum())


@pytest.mark.parametrize("kind", KINDS)
def test_two_changes_recover_most_of_what_a_culprit_costs(kind):
    seed = 7
    network, innocent, qconfig = plain_network(kind, seed)
    data = data_for(seed)
    before = hqc.compile(network, data[0], march="bayes", calibration_data=data, qconfig_dict=qconfig)
    healthy = hqc.compile(innocent, data[0], march="bayes", calibration_data=data)
    found = tune(
        network, data[0], march="bayes", calibration_data=data, qconfig_dict=qconfig, target="33 dB", max_changes=2,
        candidates_per_step=1,
    )  # fmt: skip
    assert 1 <= len(found.steps) <= 2 and found.after > found.before
    lost = noise(before, network, data) - noise(healthy, innocent, data)
    assert noise(before, network, data) - noise(found.compiled, network, data) >= 0.8 * lost
    with one_thread():  # as tune compiles: float statistics depend on it in their last bits
        again = hqc.compile(
            network, data[0], march="bayes", calibration_data=data, hybrid_dict=found.hybrid_dict,
            qconfig_dict=found.qconfig_dict,
        )  # fmt: skip
    np.testing.assert_array_equal(again.simulate(data[0]), found.compiled.simulate(data[0]))


def test_scores_are_kept_and_an_interrupted_run_goes_on(tmp_path):
    network, _, qconfig = plain_network("cat of unequal ranges", 3)
    data, state = data_for(3), tmp_path / "state.json"
    options = {
        "march": "bayes", "calibration_data": data, "target": "60 dB", "max_changes": 1, "candidates_per_step": 1,
        "allow": ["int16"], "state": state, "qconfig_dict": qconfig,
    }  # fmt: skip
    lines: list[str] = []
    first = tune(network, data[0], progress=lines.append, **options)
    assert len(lines) == first.tried >= 2 and len(json.loads(state.read_text())["scores"]) == first.tried
    second = tune(network, data[0], **options)
    assert second.tried == 0 and (second.after, second.steps) == (first.after, first.steps)
    names: dict[str, object] = {}
    exec(first.write(tmp_path / "settings.py").read_text(), names)
    assert names["hybrid_dict"] == first.hybrid_dict
    state.write_text("{}")
    with pytest.raises(InputError, match="no state of hqc tune"):
        tune(network, data[0], **options)


def test_a_metric_of_the_user_and_budgets():
    network, _, qconfig = plain_network("clipped activation", 5)
    data = data_for(5)
    with torch.no_grad():
        labels = [network(x).mean((2, 3)).argmax(1).numpy() for x in data]

    def agreement(model):
        return float(np.mean([(model(x).mean((2, 3)).argmax(1) == y).mean() for x, y in zip(data, labels, strict=True)]))

    found = tune(
        network, data[0], march="bayes", calibration_data=data, qconfig_dict=qconfig, target="same>=1.0*float", metric=agreement,
        max_changes=1, candidates_per_step=2,
    )  # fmt: skip
    assert found.real == 1.0 and found.reached and found.after == agreement(found.compiled.simulate)
    none = tune(
        network, data[0], march="bayes", calibration_data=data, qconfig_dict=qconfig, target="90 dB", max_changes=1,
        candidates_per_step=1, allow=["cpu"], cpu_macs=0,
    )  # fmt: skip
    assert not none.steps and not none.reached and none.after == none.before


class Tailed(torch.nn.Module):
    """Layers whose results are limited behind them: the last ReLU6 ends the BPU's segment in int8."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.relu6(self.last(torch.relu(self.first(x)))) * 0.5


def test_a_layer_may_leave_at_high_precision():
    data = data_for(0)
    before = hqc.compile(Tailed(), data[0], march="bernoulli2", calibration_data=data)
    found = tune(Tailed(), data[0], march="bernoulli2", calibration_data=data, target="90 dB", allow=["int32"], max_changes=1)
    (step,) = found.steps
    assert step.change.kind == "int32" and step.change.detail == "last" and step.gain > 1
    assert "so that last leaves the BPU with int32 results" in str(found) and f"a gain of {step.gain:.3g}" in str(found)
    assert found.compiled.placement.totals.bpu_macs == before.placement.totals.bpu_macs  # the layer itself stays
    again = hqc.compile(
        Tailed(),
        data[0],
        march="bernoulli2",
        calibration_data=data,
        hybrid_dict=found.hybrid_dict,
        qconfig_dict=found.qconfig_dict,
    )
    np.testing.assert_array_equal(again.simulate(data[0]), found.compiled.simulate(data[0]))
    assert found.as_dict()["costs"]["after"]["crossing_bytes"] == again.placement.totals.crossing_bytes


@pytest.mark.parametrize("by_metric", [False, True])
def test_workers_find_what_one_process_finds(by_metric, tmp_path):
    network, _, qconfig = plain_network("outlier channel", 3)
    data = data_for(3)
    labels = [network(x).argmax(1).numpy() for x in data]

    def agreement(model):
        return float(np.mean([(model(x).argmax(1) == y).mean() for x, y in zip(data, labels, strict=True)]))

    found, states = [], []
    for workers in (1, 2):
        state = tmp_path / f"{workers}.json"
        result = tune(
            network, data[0], march="bayes", calibration_data=data, qconfig_dict=qconfig, max_changes=1, candidates_per_step=1,
            target="same>=1.0*float" if by_metric else "60 dB", metric=agreement if by_metric else None, workers=workers,
            state=state, allow=["int16", "cpu"],
        )  # fmt: skip
        found.append(result.as_dict())
        states.append(json.loads(state.read_text())["scores"])
    assert found[0] == found[1] and found[0]["changes"] and states[0] == states[1]


def test_targets_are_read():
    assert Target.parse("35 dB").threshold(1.0) == 35 and Target.parse("0.9").threshold(2.0) == 0.9
    assert Target.parse("top1>=0.5*float").threshold(80.0) == 40 and Target.parse(3).threshold(0) == 3
    with pytest.raises(InputError, match="a target is a score"):
        Target.parse("as good as float")
    with pytest.raises(InputError, match="allow has the unknown kind 'gpu'; there are observer, int32, int16, cpu"):
        tune(torch.nn.ReLU(), torch.zeros(1), march="bayes", calibration_data=[], target=1, allow=["gpu"])
