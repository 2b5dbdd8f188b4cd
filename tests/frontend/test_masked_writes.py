"""Writes where a computed mask holds are choices between two tensors."""

from __future__ import annotations

import pytest
import torch
from lowering_harness import Function, compare, run_graph

from hqc.errors import LoweringError
from hqc.frontend.fx import lower_graph_module, trace

X = torch.linspace(-2, 2, 48).reshape(2, 4, 2, 3)


def from_another(x):
    y, z = x * 1, x.flip(1)
    nearer = z < y
    y[nearer] = z[nearer]
    return y


def a_number(x):
    y = x * 1
    y[x > 1] = 0.5
    y[x < -1] = torch.tensor(3)
    return y


def rows(x):
    y, z = x * 1, x * 2
    kept = x.sum((2, 3)) > 0
    y[kept] = z[kept]
    y[x.amax((2, 3)) > 1.9] = -1
    return y


def through_a_view(x):
    y = x * 1
    part = y[:, 1:3]
    part[part > 0] = 7.0
    return y, part


def whole_numbers(x):
    places = torch.arange(3).view(1, 1, 1, 3).repeat(2, 4, 2, 1)
    first = places[..., :1].repeat(1, 1, 1, 3)
    beyond = x > 0
    places[beyond] = first[beyond]
    return places


@pytest.mark.parametrize("function", [from_another, a_number, rows, through_a_view, whole_numbers])
def test_a_masked_write_computes_what_torch_computes(function):
    lowered = lower_graph_module(trace(Function(function), X), X)
    compare(run_graph(lowered, {lowered.graph.inputs[0].name: X.numpy()}), function(X.clone()), 0)
    assert any(node.op.name == "where" for node in lowered.graph.nodes)


def other_mask(x):
    y = x * 1
    y[x > 0] = x[x > 0]  # two masks, whose counts nobody compares
    return y


def read_elsewhere(x):
    y, mask = x * 1, x > 0
    part = x[mask]
    y[mask] = part
    return y, part.sum()


@pytest.mark.parametrize("function", [other_mask, read_elsewhere])
def test_elements_that_something_else_reads_are_refused_with_their_line(function):
    with pytest.raises(
        LoweringError, match=r"test_masked_writes\.py:\d+.*an index by a computed mask has a size that depends on data"
    ):
        lower_graph_module(trace(Function(function), X), X)
