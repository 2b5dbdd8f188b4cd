"""Forms of opaque calls are made once for calls that compute the same, and never shared by calls that do not."""

from __future__ import annotations

import functools
import math
import random
import types
from collections import OrderedDict

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import hqc
from hqc.workflow import opaque_forms, opaque_onnx
from hqc.workflow.call_keys import call_key

FACTOR = 2.0


def scaled(x):
    return x * FACTOR


def holding(value):
    def inner(x):
        return x + value

    return inner


class Settings:
    scale = 2.0


def reads_settings(x):
    return x * Settings.scale


def reads_a_module_of_the_users(x):
    return opaque_forms.TOLERANCE + x * own.FACTOR


own = types.ModuleType("own")
own.FACTOR = 2.0


def calls_itself(x, n=3):
    return x if n == 0 else calls_itself(x + 1, n - 1)


class Stateful:
    def __call__(self, x):
        return x


def lstm(seed):
    torch.manual_seed(seed)
    return nn.LSTM(3, 4, num_layers=2, bidirectional=True)


def in_a_ring(count):
    """Functions that hold one another, which would take a tree of any depth to spell out."""
    ring = [holding([]) for _ in range(count)]
    for function in ring:
        function.__closure__[0].cell_contents.extend(ring)
    return ring[0]


SAME = [
    lambda: (torch.relu, (1, None, slice(0, 3), "same", torch.float32)),
    lambda: (functools.partial(torch.sum, dim=1), [1.5, {"a": True}]),
    lambda: holding(3),
    lambda: holding(torch.arange(6.0).reshape(2, 3)),
    lambda: (scaled, np.arange(4)),
    lambda: calls_itself,
    lambda: (lstm(0), nn.Sequential(nn.MaxPool3d(2), nn.GELU()), nn.Linear(2, 2, bias=False).requires_grad_(False).weight[:0]),
    lambda: in_a_ring(3),
]
"""What is made anew at each call, and computes the same."""

OTHER = [
    (1, True),
    (1, 1.0),
    (0.0, -0.0),
    ((1, 2), [1, 2]),
    (torch.relu, torch.tanh),
    (holding(3), holding(4)),
    (holding(torch.zeros(2)), holding(torch.ones(2))),
    (torch.zeros(2, 3), torch.zeros(3, 2)),
    (torch.zeros(2), torch.zeros(2, dtype=torch.int32)),
    (torch.arange(4.0).reshape(2, 2), torch.arange(4.0).reshape(2, 2).t().contiguous().t()),
    (functools.partial(torch.sum, dim=1), functools.partial(torch.sum, dim=2)),
    (lstm(0), lstm(1)),
    (nn.MaxPool3d(2), nn.MaxPool3d(2, ceil_mode=True)),
    (nn.Softmax(1), nn.LogSoftmax(1)),
    (in_a_ring(3), in_a_ring(4)),
    ({1}, {2}),
]


class Own(nn.Module):
    def forward(self, x):
        return x * Settings.scale


@pytest.mark.parametrize("make", SAME)
def test_calls_that_compute_the_same_have_one_key(make):
    assert call_key(make()) == call_key(make()) is not None


@pytest.mark.parametrize(("one", "two"), OTHER)
def test_calls_that_differ_have_keys_that_differ(one, two):
    assert call_key(one) != call_key(two)


def test_what_a_function_reads_from_its_module_is_part_of_its_key(monkeypatch):
    before = call_key(scaled)
    monkeypatch.setitem(globals(), "FACTOR", 3.0)
    assert before != call_key(scaled) is not None


@pytest.mark.parametrize(
    "item",
    [
        Stateful(), holding(Stateful()), math.inf.__add__, iter([1]), random.Random(1).random, Settings, reads_settings,
        reads_a_module_of_the_users, nn.Sequential(Own()),
    ],
)  # fmt: skip
def test_what_may_have_state_has_no_key(item):
    assert call_key(item) is None


def test_blocks_of_one_kind_make_their_form_once_before_and_after_calibration(monkeypatch):
    made = []
    written = opaque_forms.written_form
    monkeypatch.setattr(opaque_forms, "written_form", lambda *args: made.append(1) or written(*args))
    monkeypatch.setattr(opaque_onnx, "_FORMS", type(opaque_onnx._FORMS)())

    class Blocks(nn.Module):
        def forward(self, x):
            for _ in range(3):
                x = torch.cumsum(x, 1).cos().cumprod(2)
            return x

    x = torch.randn(1, 4, 4, 4)
    compiled = hqc.compile(Blocks(), x, march="bayes", calibration_data=[x])
    assert sum(node.op.name == "opaque" for node in compiled.graph.nodes) > len(made) > 0


def test_a_layer_has_another_key_when_its_weight_has_changed():
    layer = lstm(0)
    before = call_key(layer)
    with torch.no_grad():
        layer.weight_hh_l1[0, 0] += 1
    assert call_key(layer) != before is not None
    layer.register_forward_hook(Stateful().__call__)
    assert call_key(layer) is None


def test_default_types_are_part_of_a_key():
    before = call_key(torch.ones)
    torch.set_default_dtype(torch.float64)
    try:
        assert call_key(torch.ones) != before
    finally:
        torch.set_default_dtype(torch.float32)


def test_forms_that_are_kept_take_a_bounded_amount_of_memory(monkeypatch):
    kept = OrderedDict((number, "x" * 100) for number in range(8))
    monkeypatch.setattr(opaque_onnx, "_FORMS", kept)
    monkeypatch.setattr(opaque_onnx, "_KEPT", 350)
    opaque_onnx._forget_old_forms()
    assert list(kept) == [5, 6, 7]
    kept[8] = "x" * 1000
    opaque_onnx._forget_old_forms()
    assert list(kept) == [8]


def test_a_network_whose_weight_is_changed_between_two_calls_is_planned_and_written_anew(tmp_path):
    """Nothing that was made of the first weights may come back: recurrent layers and calls are opaque here, and their forms are kept."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(4, 4, batch_first=True)
            self.gain = nn.Parameter(torch.ones(4))

        def forward(self, x):
            return torch.cumprod(self.lstm(x)[0] * self.gain, 1)

    torch.manual_seed(0)
    net, x = Net().eval(), torch.randn(2, 5, 4)

    def results():
        hqc.explain(net, x, march="bayes")
        compiled = hqc.compile(net, x, march="bayes", calibration_data=[x])
        compiled.export(tmp_path / "net.onnx", flavour="runnable")
        (written,) = onnxruntime.InferenceSession(tmp_path / "net.onnx").run(None, {"x": x.numpy()})
        return compiled.simulate(x), written

    for change in (lambda: None, lambda: net.lstm.weight_ih_l0.data.mul_(3), lambda: net.gain.data.mul_(-0.5)):
        change()
        with torch.no_grad():
            expected = net(x).numpy()
        for found in results():
            assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()
