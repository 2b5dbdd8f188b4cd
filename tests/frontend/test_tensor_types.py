"""Tensors as code of before torch 0.4 makes them: types of tensors that are called, and `x.new(...)`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lowering_harness import Function, compare, run_graph
from torch import FloatTensor
from torch.autograd import Variable

from hqc.frontend.fx import lower_graph_module, trace

X = torch.linspace(-2, 2, 48).reshape(2, 4, 2, 3)


def a_volume(x):
    """As stereo networks fill it."""
    volume = Variable(torch.FloatTensor(x.size()[0], x.size()[1] * 2, 2, x.size()[2], x.size()[3]).zero_())
    for i in range(2):
        volume[:, : x.size(1), i, :, i:] = x[:, :, :, i:]
        volume[:, x.size(1) :, i, :, i:] = x[:, :, :, : x.size(3) - i]
    return volume.contiguous()


def by_a_shape(x):
    return torch.Tensor(x.size()).fill_(1) + torch.Tensor(x.shape[2:]).fill_(2) + x


def imported(x):
    return x * FloatTensor([1.0 / x.size(2), 2.0 / x.size(3), x.shape[1]])


def places(x):
    first = torch.LongTensor([1] * x.shape[0])
    return x[first], x[:, torch.LongTensor(range(x.size(1)))], x[:, torch.LongTensor(np.arange(2))]


def constants_that_are_written(x):
    canvas = torch.Tensor(2, 4, 3).zero_()
    canvas[:, 1:] = x[:, 1:, 0]
    return canvas


def new_ones(x):
    return x.new(x.size(0), 1, x.size(2), 3).fill_(1) + x.new(x.size()).zero_() + x.new(size=x.size()).zero_()


def new_of_data(x):
    return x * x.new([0.5, 0.25, 1.0]) + x.data.new(3).fill_(2.0) + x.new(np.ones(3, dtype=np.float32))


def new_of_a_constant(x):
    return torch.zeros(3).new(x.size(0), 1, 1, x.size(3)).fill_(3) + x


def constant_of_the_inputs_type(x):
    steps = torch.arange(3)
    return x * steps.type(x.dtype) + steps.type(x.type()) + steps.type(dtype=x.dtype)


def new_of_a_tensor(x):
    return x + torch.ones(1).new(x[:, :1])


def other_types(x):
    mask = torch.ByteTensor(x.size(2), x.size(3)).fill_(1)
    return x.masked_fill(mask == 0, 0.0), isinstance(x, torch.FloatTensor) and x * 2


ALL = [a_volume, by_a_shape, imported, places, constants_that_are_written]
ALL += [new_ones, new_of_data, new_of_a_constant, constant_of_the_inputs_type, new_of_a_tensor, other_types]


@pytest.mark.parametrize("function", ALL)
def test_what_they_make_is_what_torch_makes(function):
    lowered = lower_graph_module(trace(Function(function), X), X)
    compare(run_graph(lowered, {lowered.graph.inputs[0].name: X.numpy()}), function(X.clone()), 1e-6)


@pytest.mark.parametrize("function", [by_a_shape, imported, new_ones, new_of_a_constant])
def test_sizes_stay_sizes(function):
    traced = trace(Function(function))
    for x in (X, X[:1]):
        assert torch.allclose(traced(x), function(x))


def test_the_name_of_a_node_is_that_of_a_plain_trace():
    names = [node.name for node in trace(Function(new_ones), X).graph.nodes if node.op == "call_method"]
    assert {"new", "new_1", "new_2"} <= set(names)
