"""Idioms of published code: traced with shapes, they compute what torch computes, at any batch size, and leave the model alone."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import pytest
import torch
from idioms import IDIOMS, PLAIN
from lowering_harness import compare, run_graph
from torch import fx, nn
from torch.utils import _pytree as pytree

from hqc.errors import HqcError
from hqc.frontend.fx import lower_graph_module, trace
from hqc.structures import leaves, map_structure

FIXED_BATCH = {"shape_compared_with_a_tuple", "square_token_map", "fills_a_constant_of_its_own"}
"""These say a batch size themselves."""


def example_of(inputs: tuple[Any, ...], named: dict[str, Any], model: nn.Module) -> Any:
    """Example inputs as the user gives them."""
    if not named:
        return inputs if len(inputs) > 1 or not isinstance(inputs[0], torch.Tensor) else inputs[0]
    import inspect

    return dict(inspect.signature(model.forward).bind(*inputs, **named).arguments)


@pytest.mark.parametrize("name", IDIOMS)
def test_idiom_computes_what_torch_computes(name: str) -> None:
    model, inputs, named = copy.deepcopy(IDIOMS[name])
    example = example_of(inputs, named, model)
    before = {path: repr(vars(module)) for path, module in model.named_modules()}
    traced = trace(model, example)
    assert {path: repr(vars(module)) for path, module in model.named_modules()} == before
    with torch.no_grad():
        expected = model(*inputs, **named)
        compare_torch(traced(*inputs, **named), expected)
    lowered = lower_graph_module(traced, example)
    tensors = [leaf for leaf in leaves((inputs, list(named.values()))) if isinstance(leaf, torch.Tensor)]
    feeds = {value.name: tensor.numpy() for value, tensor in zip(lowered.graph.inputs, tensors, strict=True)}
    compare(run_graph(lowered, feeds), map_structure(expected, lambda leaf: leaf), 1e-5)


@pytest.mark.parametrize("name", sorted(set(IDIOMS) - FIXED_BATCH))
def test_graph_of_an_idiom_takes_other_batches(name: str) -> None:
    model, inputs, named = copy.deepcopy(IDIOMS[name])
    traced = trace(model, example_of(inputs, named, model))
    other = map_structure((inputs, named), lambda leaf: torch.cat([leaf] * 3) if isinstance(leaf, torch.Tensor) else leaf)
    with torch.no_grad():
        compare_torch(traced(*other[0], **other[1]), model(*other[0], **other[1]))


@pytest.mark.parametrize("name", IDIOMS)
def test_names_do_not_depend_on_example_inputs(name: str) -> None:
    model, inputs, named = copy.deepcopy(IDIOMS[name])
    with_shapes = [(node.op, node.name) for node in trace(model, example_of(inputs, named, model)).graph.nodes]
    try:
        without = [(node.op, node.name) for node in trace(model).graph.nodes]
    except HqcError:
        return
    if any(op == "placeholder" and node.startswith("_") for op, node in without) or named:
        return  # *args: without examples nobody knows how many
    assert with_shapes == without


@pytest.mark.parametrize("name", sorted(PLAIN))
def test_names_are_those_of_stock_fx(name: str) -> None:
    model, inputs, _ = copy.deepcopy(IDIOMS[name])
    stock = [node.name for node in fx.symbolic_trace(model).graph.nodes]
    assert [node.name for node in trace(model, inputs).graph.nodes] == stock
    assert [node.name for node in trace(model).graph.nodes] == stock


def compare_torch(got: Any, expected: Any) -> None:
    got_leaves, got_spec = pytree.tree_flatten(got)
    plain = lambda item: dict(item) if isinstance(item, OrderedDict) else item  # noqa: E731 (FX makes dicts of all mappings)
    expected_leaves, expected_spec = pytree.tree_flatten(
        pytree.tree_map(plain, expected, is_leaf=lambda x: isinstance(x, OrderedDict))
    )
    assert got_spec == expected_spec
    for one, other in zip(got_leaves, expected_leaves, strict=True):
        torch.testing.assert_close(one, other)
