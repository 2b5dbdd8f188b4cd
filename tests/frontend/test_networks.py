"""Whole networks: what they compute, other batch sizes, unknown shapes, time; and random programs."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from lowering_harness import Function, check, lower_model, run_graph
from torch import nn

from benchmarks.models import build
from hqc.errors import LoweringError
from hqc.frontend.fx import lower_graph_module, trace

NETWORKS = ["resnet18", "mobilenet_v2", "hrnet_small", "densenet_small", "yolo11n"]


def leaves(outputs: Any) -> list[torch.Tensor]:
    return list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]


@pytest.mark.parametrize("name", NETWORKS)
def test_network_computes_what_torch_computes_and_takes_other_batches(name: str) -> None:
    """Random weights amplify rounding and onnxruntime's sigmoid is not torch's, so the measure is the error's energy."""
    model, x = build(name, image=(64, 64))
    lowered = lower_model(model, x)
    got = leaves(run_graph(lowered, {lowered.graph.inputs[0].name: x.numpy()}))
    with torch.no_grad():
        exact = leaves(copy.deepcopy(model).double()(x.double()))
        batch = leaves(model(torch.cat([x] * 3)))
    for one, float64 in zip(got, exact, strict=True):
        error = np.linalg.norm(one - float64.numpy()) / np.linalg.norm(float64.numpy())
        assert error < 1e-4, f"relative error {error:.2g}"
    assert [value.shape for value in lowered.graph.with_batch(3).outputs] == [tuple(item.shape) for item in batch]


@pytest.mark.parametrize("name", ["mobilenet_v2", "hrnet_small", "densenet_small", "yolov8n_relu_dfl"])
def test_network_lowers_to_the_same_nodes_without_example_inputs(name: str) -> None:
    model, x = build(name, image=(64, 64))
    traced = trace(model)
    known, unknown = lower_graph_module(traced, x).graph, lower_graph_module(traced).graph
    assert [(n.name, n.op.name, n.origin) for n in unknown.nodes] == [(n.name, n.op.name, n.origin) for n in known.nodes]


def test_attention_that_splits_unknown_sizes_asks_for_example_inputs() -> None:
    model, _ = build("yolo11n", image=(64, 64))
    with pytest.raises(LoweringError, match=r"view_\d+ in model\.10.*are not known; give example_inputs"):
        lower_model(model)


# --- random programs -----------------------------------------------------------------------------------------------------

STEPS: list[Any] = [
    lambda x: x.relu(),
    lambda x: F.max_pool2d(x, 2, 1, ceil_mode=True),
    lambda x: torch.cat([x, x * 0.5], 1),
    lambda x: torch.cat(x.chunk(2, 1)[::-1], 1),
    lambda x: x.permute(0, 1, 3, 2),
    lambda x: x.flatten(2).unsqueeze(-1),
    lambda x: x[:, :, ::2, -1:],
    lambda x: F.interpolate(x, scale_factor=2.0, mode="nearest"),
    lambda x: F.pad(x, (1, 0, 0, 2), value=0.25),
    lambda x: x + x.mean((2, 3), keepdim=True),
    lambda x: x.view(x.size(0), -1, 1, 1),
    lambda x: x.sigmoid() - 1.0,
    lambda x: F.avg_pool2d(x, 2, 2, 1, count_include_pad=False),
    lambda x: F.adaptive_avg_pool2d(x, (2, 2)),
    lambda x: torch.where(x > 0, x, -x),
    lambda x: x.amax(1, keepdim=True).expand(-1, 3, -1, -1),
]


@settings(max_examples=25, deadline=None)
@given(
    steps=st.lists(st.integers(0, len(STEPS) - 1), min_size=1, max_size=6),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 6), st.integers(1, 6)),
)
def test_random_programs_compute_what_torch_computes(steps: list[int], shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))

    class Program(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for step in kept:
                x = STEPS[step](x)
            return x * 2

    kept = []
    y = x
    for step in steps:  # a step that torch refuses for these sizes is left out
        try:
            y = STEPS[step](y)
        except RuntimeError:
            continue
        kept.append(step)
    check(Program(), x)


@settings(max_examples=25, deadline=None)
@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    data=st.data(),
)
def test_random_indices_select_what_torch_selects(shape: list[int], data: st.DataObject) -> None:
    index: list[Any] = []
    for size in shape:
        start, stop = data.draw(st.integers(-size, size - 1)), data.draw(st.integers(1, size + 1))
        entry = data.draw(st.sampled_from(["int", "slice", "all", "step"]))
        index.append({"int": start, "slice": slice(start, None), "all": slice(None), "step": slice(0, stop, 2)}[entry])
    if data.draw(st.booleans()):
        index.insert(data.draw(st.integers(0, len(index))), None)
    if data.draw(st.booleans()):
        place = data.draw(st.integers(0, len(index)))
        index = [*index[:place], Ellipsis]
    x = torch.randn(shape)
    check(Function(lambda x: x[tuple(index)] * 1.5), x)
