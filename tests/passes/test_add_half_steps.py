"""add-half-steps, and how settle-rounding marks what it acts on."""

from __future__ import annotations

import numpy as np
import pytest
from ir_check import graph_of, run_passes

from hqc import arithmetic

LAYER = """
param @w: f32[2,1,1,1] q(i8, 0.0078125) = [0.5, -0.25]
param @b: f32[2] q(i8, {bias_scale}) = [{b0}, {b1}]
input %x: f32[1,1,4,4]
%q: f32[1,1,4,4] q(i8, 0.015625, floor) = quantize(%x) {{rounding=floor, stub=true}} cpu
%y: f32[1,2,4,4] q(i8, 0.03125, floor) = conv2d(%q, @w, @b) {{half_step=true}} bpu.0
output %y
"""


def layer(b0: float, b1: float) -> str:
    scale = arithmetic.bernoulli_bias_scale(np.float32([b0, b1]))
    return LAYER.format(bias_scale=repr(float(scale)), b0=repr(b0), b1=repr(b1))


def test_half_a_step_goes_into_the_bias_and_the_mark_goes():
    graph = graph_of(layer(0.25, -0.5), "scaled")
    run_passes(graph, "add-half-steps", "bernoulli")
    (node,) = [node for node in graph.nodes if node.op.name == "conv2d"]
    np.testing.assert_array_equal(node.operand("bias").array, np.float32([0.25 + 0.015625, -0.5 + 0.015625]))
    assert not node.attributes["half_step"] and node.operand("bias").quant is not None
    before = str(graph)
    run_passes(graph, "add-half-steps", "bernoulli")
    assert str(graph) == before


def test_a_bias_too_coarse_for_half_a_step_stays():
    graph = graph_of(layer(12.0, -0.5), "scaled")  # its grid has steps of 0.125
    run_passes(graph, "add-half-steps", "bernoulli")
    (node,) = [node for node in graph.nodes if node.op.name == "conv2d"]
    np.testing.assert_array_equal(node.operand("bias").array, np.float32([12.0, -0.5]))
    assert not node.attributes["half_step"]


@pytest.mark.parametrize("march", ["bernoulli", "bayes"])
@pytest.mark.parametrize("nearest", ["true", "false"])
def test_settle_rounding_marks_only_where_the_march_floors_and_it_is_asked(march: str, nearest: str):
    body = """
    param @w: f32[2,1,1,1] = [0.5, -0.25]
    input %x: f32[1,1,4,4]
    %q: f32[1,1,4,4] observe(i8) = quantize(%x) {stub=true} cpu
    %y observe(i8) = conv2d(%q, @w) bpu.0
    %s observe(i8) = sigmoid(%y) bpu.0
    output %s
    """
    graph = graph_of(body, "bounded")
    run_passes(graph, f"settle-rounding{{nearest={nearest}}}", march)
    _, conv, table = graph.nodes
    wanted = march == "bernoulli" and nearest == "true"
    assert conv.attributes["half_step"] is wanted
    assert table.result.observation.rounding == ("half_up" if wanted else "floor" if march == "bernoulli" else "half_even")
    assert conv.result.observation.rounding == ("floor" if march == "bernoulli" else "half_even")
