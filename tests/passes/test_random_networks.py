"""Random networks through the structural passes: numbers stay, everything is idempotent, every node has one placement."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch_oracle
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_check import graph_of, run_passes

from hqc.ir import Device, Graph, Trait
from hqc.march import get_spec
from hqc.passes import PassContext, Plan
from hqc.passes.fuse_conv import is_fused, unfuse
from hqc.workflow.pipelines import PLACE, explain_pipeline

CHANNELS = 4
ONE_INPUT = [
    "identity({0})",
    "dropout({0})",
    "sigmoid({0})",
    "clamp({0}) {{min=0.0, max=6.0}}",
    "mul({0}, @two)",
    "add({0}, @zero)",
]
ONE_INPUT += ["div({0}, @two)", "sub({0}, @bias)", "neg({0})", "relu({0})", "relu({0})", "hardsigmoid({0})"]
LAYERS = ["conv2d({0}, @w{1}, @b{1}) {{padding=[1,1,1,1]}}", "conv2d({0}, @depthwise) {{padding=[1,1,1,1], groups=4}}"]
LAYERS += ["conv2d({0}, @shared) {{padding=[1,1,1,1]}}", "conv_transpose2d({0}, @up)"]
HEADER = f"""
    input %x: f32[1,{CHANNELS},6,6]
    param @two = 2.0
    param @zero = 0.0
    param @bias = #random(1, [1,{CHANNELS},1,1])
    param @shared = #random(2, [{CHANNELS},{CHANNELS},3,3])
    param @depthwise = #random(3, [{CHANNELS},1,3,3])
    param @up = #random(4, [{CHANNELS},{CHANNELS},1,1])
    param @mean = #random(5, [{CHANNELS}])
    param @var = [0.5, 1.0, 1.5, 4.0]
    param @gamma = #random(6, [{CHANNELS}])
    param @beta = #random(7, [{CHANNELS}])
"""


@st.composite
def networks(draw: st.DrawFn) -> str:
    """Layers, batch norms, additions, gates and things to drop, in any order; every value has the input's shape."""
    rng = random.Random(draw(st.integers(0, 10**6)))
    lines, values, parameters = [], ["%x"], []
    for index in range(draw(st.integers(2, 16))):
        source = values[-1] if rng.random() < 0.7 else rng.choice(values)
        kind = rng.random()
        if kind < 0.35:
            parameters.append(f"param @w{index} = #random({index}, [{CHANNELS},{CHANNELS},3,3])")
            parameters.append(f"param @b{index} = #random({index + 50}, [{CHANNELS}])")
            text = rng.choice(LAYERS).format(source, index)
        elif kind < 0.5:
            text = f"batch_norm({source}, @mean, @var, @gamma, @beta)"
        elif kind < 0.75:
            text = rng.choice(ONE_INPUT).format(source)
        else:
            text = f"{rng.choice(['add', 'add', 'mul'])}({source}, {rng.choice(values)})"
        lines.append(f"%n{index} = {text} from(n{index})")
        values.append(f"%n{index}")
    outputs = [f"output {values[-1]}"] + ([f'output {rng.choice(values[1:])} as "second"'] if rng.random() < 0.3 else [])
    return "\n".join([HEADER, *parameters, *lines, *outputs])


def results(graph: Graph) -> list[np.ndarray]:
    x = np.random.default_rng(3).standard_normal((1, CHANNELS, 6, 6)).astype(np.float32)
    return torch_oracle.run(graph, {"x": x})


def assert_close(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for a, b in zip(found, expected, strict=True):
        scale = max(float(np.abs(b).max()), 1e-3)
        np.testing.assert_allclose(a / scale, b / scale, rtol=0, atol=2e-4)


@settings(max_examples=40, deadline=None)
@given(networks())
def test_the_structural_passes_keep_the_numbers_and_the_names_of_outputs(text: str) -> None:
    before, after = graph_of(text, "lowered"), graph_of(text, "lowered")
    run_passes(after, "canonicalize,fold-batch-norm,fuse-conv")
    assert after.output_names == before.output_names
    assert_close(results(after), results(before))
    origins = [name for node in after.nodes for name in node.origin]
    assert len(origins) == len(set(origins)), "an operation of the model became part of two nodes"
    for node in after.nodes:
        assert node.origin[-1] == node.name, "the value has the name of the last operation"
    for node in list(after.nodes):
        if is_fused(node):
            unfuse(after, node)
    assert_close(results(after), results(before))


@pytest.mark.parametrize("march", ["bernoulli", "bernoulli2", "bayes", "bayes-e"])
@settings(max_examples=8, deadline=None)
@given(networks())
def test_every_operation_has_one_placement_and_running_twice_changes_nothing(march: str, text: str) -> None:
    graph = graph_of(text, "lowered")
    run_passes(graph, PLACE, march)
    plan = Plan.from_graph(graph)
    kept = {name for node in graph.nodes for name in node.origin}
    assert set(plan.devices) == kept
    run_passes(graph, "insert-boundaries{auto-stub=true},place-observers,settle-rounding{nearest=true}", march)
    again = graph.clone()
    report = explain_pipeline().run(again, PassContext(get_spec(march)))
    assert str(again) == str(graph)
    assert not report.changed
    for node in graph.nodes:
        if node.device is Device.BPU:
            assert not node.op.has(Trait.BOUNDARY)
