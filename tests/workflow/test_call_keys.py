"""Forms of opaque calls are made once for calls that compute the same, and never shared by calls that do not."""

from __future__ import annotations

import functools
import math

import numpy as np
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


class Stateful:
    def __call__(self, x):
        return x


SAME = [
    lambda: (torch.relu, (1, None, slice(0, 3), "same", torch.float32)),
    lambda: (functools.partial(torch.sum, dim=1), [1.5, {"a": True}]),
    lambda: holding(3),
    lambda: holding(torch.arange(6.0).reshape(2, 3)),
    lambda: (scaled, np.arange(4)),
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
]


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


@pytest.mark.parametrize("item", [Stateful(), nn.Linear(2, 2), holding(Stateful()), math.inf.__add__, iter([1])])
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
