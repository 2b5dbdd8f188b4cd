"""The accuracy benchmark measures what it says: peers quantize, and easy networks do not count."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import hqc
from benchmarks.accuracy import qat
from benchmarks.accuracy.networks import SuperResolution
from benchmarks.accuracy.training import task_of
from benchmarks.bench_accuracy import Figure, int16_on, is_hard, sqnr

NAME = "super-resolution"


@pytest.mark.parametrize("way", list(qat.TRAINERS))
def test_every_way_to_train_puts_the_network_on_a_grid(way, monkeypatch):
    """Without an error, torch leaves in float what its back end's tables do not list; such a peer would always win."""
    monkeypatch.setattr(qat, "train", lambda *given, **options: None)
    torch.manual_seed(0)
    network = SuperResolution().eval()
    found = qat.TRAINERS[way](network, NAME, 1, 0)
    assert 20 < sqnr(qat.outputs_of(network, task_of(NAME).test), found) < 60


def test_int16_is_asked_of_what_has_it():
    network, example = SuperResolution().eval(), task_of(NAME).calibration[0]
    arguments = int16_on("bayes", network, example)
    compiled = hqc.compile(network, example, march="bayes", calibration_data=[example], **arguments)
    assert arguments["hybrid_dict"] == {"node_name": ["interpolate"]}
    with torch.no_grad():
        assert sqnr(network(example).numpy(), np.asarray(compiled.simulate(example))) > 45


@pytest.mark.parametrize(("int16", "hard"), [(29.0, True), (28.9, False)])
def test_easy_networks_do_not_count(int16, hard):
    assert is_hard({"int16": Figure(int16, 0, 0), "int8": Figure(26.0, 0, 0)}) is hard
