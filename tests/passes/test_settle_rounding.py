"""settle-rounding: roundings on values, marks on results off their grid, gain pools, int8 biases."""

from __future__ import annotations

import numpy as np
import pytest
from ir_check import assert_text, graph_of, run_passes

from hqc import arithmetic
from hqc.ir import Graph, QuantParams


def settled(body: str, march: str, stage: str = "bounded", passes: str = "settle-rounding") -> Graph:
    graph = graph_of(body, stage)
    run_passes(graph, passes, march)
    return graph


CHAIN = """
input %x: f32[1,2,8,8]
%q: f32[1,2,8,8] observe(i8) = quantize(%x) {stub=true} cpu
%up = resize2d(%q) {size=[16,16], mode=bilinear} bpu.0
%down = resize2d(%up) {size=[8,8], mode=bilinear} bpu.0
%near = resize2d(%down) {size=[16,16]} bpu.0
%s observe(i8) = sigmoid(%near) bpu.0
output %s
"""


@pytest.mark.parametrize(("march", "rounding"), [("bernoulli", ", rounding=floor"), ("bayes", "")])
def test_observed_values_round_as_the_march_and_results_off_the_grid_are_marked(march: str, rounding: str) -> None:
    mark = "observe(i8, rounding=floor, policy=operand)"
    assert_text(
        settled(CHAIN, march),
        f"""
        CHECK: %q: f32[1,2,8,8] observe(i8{rounding}) = quantize
        CHECK-NEXT: %up: f32[1,2,16,16] {mark} = resize2d
        CHECK-NEXT: %down: f32[1,2,8,8] {mark} = resize2d
        CHECK-NEXT: %near: f32[1,2,16,16] = resize2d
        CHECK-NEXT: %s: f32[1,2,16,16] observe(i8{rounding}) = sigmoid
        """,
    )


def test_a_mark_has_the_dtype_of_the_operand() -> None:
    graph = settled(CHAIN.replace("observe(i8)", "observe(i16)"), "bayes")
    assert_text(graph, "CHECK: %down: f32[1,2,8,8] observe(i16, rounding=floor, policy=operand) = resize2d")


def test_scales_carry_the_rounding() -> None:
    body = CHAIN.replace("observe(i8) =", "q(i8, 0.5) =")
    assert_text(settled(body, "bernoulli"), "CHECK: %s: f32[1,2,16,16] q(i8, 0.5, floor) = sigmoid")
    assert_text(settled(body, "bayes"), "CHECK: %s: f32[1,2,16,16] q(i8, 0.5) = sigmoid")


POOLS = """
input %x: f32[1,2,14,14]
%q: f32[1,2,14,14] observe(i8) = quantize(%x) {stub=true} cpu
%a = avg_pool2d(%q) {kernel=[3,3], stride=[2,2], padding=[1,1,1,1]} bpu.0 from(a)
%g = adaptive_avg_pool2d(%q) {output_size=[1,1]} bpu.0 from(g)
%m: f32[1,2] observe(i8, qconfig=k) = mean(%q) {axes=[-2,-1]} bpu.0 from(m)
%c = avg_pool2d(%x) {kernel=[3,3], stride=[1,1]} cpu from(c)
output %a, %g, %m, %c
"""


def test_averages_become_gain_pools_one_per_stage_on_bernoulli() -> None:
    mark = "observe(i8, rounding=floor, policy=operand)"
    assert_text(
        settled(POOLS, "bernoulli"),
        f"""
        CHECK: %a: f32[1,2,7,7] {mark} = gain_pool2d(%q) {{kernel=[3,3], stride=[2,2], padding=[1,1,1,1], gain=56}} bpu.0 from(a)
        CHECK-NEXT: %g_stage0: f32[1,2,1,7] {mark} = gain_pool2d(%q) {{kernel=[14,2], stride=[14,2], gain=18}} bpu.0 from(g)
        CHECK-NEXT: %g: f32[1,2,1,1] {mark} = gain_pool2d(%g_stage0) {{kernel=[1,7], stride=[1,7], gain=73}} bpu.0 from(g)
        CHECK-NEXT: %m_stage0: f32[1,2,1,7] {mark} = gain_pool2d(%q) {{kernel=[14,2], stride=[14,2], gain=18}} bpu.0 from(m)
        CHECK-NEXT: %m_stage1: f32[1,2,1,1] {mark} = gain_pool2d(%m_stage0) {{kernel=[1,7], stride=[1,7], gain=73}} bpu.0 from(m)
        CHECK-NEXT: %m_flat: f32[1,2] = reshape(%m_stage1) {{shape=[0,0]}} bpu.0 from(m)
        CHECK-NEXT: %m: f32[1,2] observe(i8, rounding=floor, qconfig=k) = requantize(%m_flat) bpu.0 from(m)
        CHECK-NEXT: %c: f32[1,2,12,12] = avg_pool2d(%x)
        """,
    )
    assert "gain_pool2d" not in str(settled(POOLS, "bayes"))


def test_a_pool_of_unknown_size_is_marked_and_left() -> None:
    body = """
    input %x: f32[*]
    %q observe(i8) = quantize(%x) {stub=true} cpu
    %g = adaptive_avg_pool2d(%q) {output_size=[1,1]} bpu.0
    output %g
    """
    graph = settled(body, "bernoulli")
    assert_text(graph, "CHECK: %g: f32[?,?,1,1] observe(i8, rounding=floor, policy=operand) = adaptive_avg_pool2d")


BIAS = """
input %x: f32[1,2,4,4]
param @w: f32[3,2,1,1] q(i8, axis=0, [0.5,0.25,0.125]) = #random(1, [3,2,1,1])
param @b = [0.75, -0.5, 0.25]
%q: f32[1,2,4,4] q(i8, 0.5) = quantize(%x) cpu
%c: f32[1,3,4,4] q(i8, 0.25) = conv2d(%q, @w, @b) bpu.0
%f = conv2d(%x, @w, @b) cpu
%d = dequantize(%c) cpu
output %d, %f
"""


def test_a_bias_of_int8_has_a_quantization_of_its_own_and_the_cpu_keeps_the_float() -> None:
    graph = settled(BIAS, "bernoulli")
    conv, float_conv = (node for node in graph.nodes if node.op.name == "conv2d")
    bias, kept = conv.operand("bias"), float_conv.operand("bias")
    assert bias is not None and kept is not None and bias.array is not None
    assert bias.quant == QuantParams(arithmetic.bernoulli_bias_scale(bias.array))
    assert kept.quant is None
    assert np.array_equal(bias.array, kept.array)  # type: ignore[arg-type]
    assert all(value.quant is None for name, value in settled(BIAS, "bayes").parameters.items() if name != "w")
