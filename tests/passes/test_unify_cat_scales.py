"""unify-cat-scales: one scale where a cat cannot requantize, and scales that a right shift can reach."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_check import graph_of, run_passes

from hqc.errors import QuantizationError
from hqc.ir import Device, DType, Graph, QuantParams, TensorType, Value
from hqc.march import get_spec
from hqc.passes.scale_groups import scale_groups, shared_scale_groups
from hqc.passes.unify_cat_scales import estimated_sqnr

PASS = "unify-cat-scales"
NESTED = """
    input %x: f32[1,2,4,4]
    %q: f32[1,2,4,4] q(i8, 0.25) = quantize(%x) cpu
    %s: f32[1,2,4,4] q(i8, 0.0078125) = sigmoid(%q) bpu.0
    %p: f32[1,2,4,4] q(i8, 0.0078125) = max_pool2d(%s) {kernel=[1,1], stride=[1,1]} bpu.0
    %t: f32[1,2,4,4] q(i8, 0.015625) = tanh(%q) bpu.0
    %c: f32[1,4,4,4] q(i8, 0.03125) = cat(%p, %t) {axis=1} bpu.0
    %a: f32[1,4,2,2] q(i8, 0.03125) = avg_pool2d(%c) {kernel=[2,2], stride=[2,2]} bpu.0
    %u: f32[1,4,2,2] q(i8, 0.0078125) = sigmoid(%a) bpu.0
    %e: f32[1,8,2,2] q(i8, 0.0625) = cat(%a, %u) {axis=1} bpu.0
    %d: f32[1,8,2,2] = dequantize(%e) cpu
    output %d
    """


def scales(graph: Graph, names: str) -> list[float]:
    return [float(graph.value(name).quant.scale) for name in names.split()]


def test_nested_cats_and_scale_keeping_nodes_form_one_group() -> None:
    graph = graph_of(NESTED, "scaled")
    (group,) = shared_scale_groups(graph, get_spec("bernoulli"))
    assert [value.name for value in group.values] == ["s", "p", "t", "c", "a", "u", "e"]
    assert [node.name for node in group.demanded_by] == ["c", "e"]
    assert shared_scale_groups(graph, get_spec("bernoulli2")) == []


def test_groups_are_known_before_boundaries_are_in() -> None:
    graph = graph_of(
        """
        input %x: f32[1,2]
        %n: f32[1,2] = selu(%x) cpu
        %s: f32[1,2] = sigmoid(%n) bpu.0
        %c: f32[1,4] = cat(%s, %n) {axis=1} bpu.0
        %d: f32[1,4] = cat(%s, %s) {axis=1} cpu
        output %c
        output %d
        """
    )
    (group,) = shared_scale_groups(graph, get_spec("bernoulli"))
    assert [value.name for value in group.values] == ["n", "s", "c"]


def test_two_cats_that_share_a_producer_end_in_one_group_and_a_shared_constant_ties_nothing() -> None:
    graph = graph_of(
        """
        input %x: f32[1,2]
        param @k: f32[1,2] = [1.0, 2.0]
        %q: f32[1,2] q(i8, 0.25) = quantize(%x) cpu
        %s: f32[1,2] q(i8, 0.25) = sigmoid(%q) bpu.0
        %a: f32[1,2] q(i8, 0.25) = tanh(%s) bpu.0
        %b: f32[1,2] q(i8, 0.25) = sin(%s) bpu.0
        %c: f32[1,6] q(i8, 0.25) = cat(%s, %a, @k) {axis=1} bpu.0
        %d: f32[1,4] q(i8, 0.25) = cat(%s, %a) {axis=1} bpu.0
        %e: f32[1,4] q(i8, 0.25) = cat(%b, @k) {axis=1} bpu.0
        output %c
        output %d
        output %e
        """,
        "scaled",
    )
    groups = shared_scale_groups(graph, get_spec("bernoulli"))
    assert [[value.name for value in group.values] for group in groups] == [["s", "a", "c", "d"], ["b", "e"]]


@pytest.mark.parametrize(("policy", "scale"), [("output", 0.0625), ("largest", 0.0625)])
def test_the_group_takes_the_scale_of_its_last_cat(policy: str, scale: float) -> None:
    graph = graph_of(NESTED, "scaled")
    run_passes(graph, f"{PASS}{{policy={policy}}}", "bernoulli")
    assert scales(graph, "s p t c a u e") == [scale] * 7
    assert scales(graph, "q") == [0.25]


def test_the_policies_differ_where_an_operand_is_coarser_than_the_cat() -> None:
    body = NESTED.replace("q(i8, 0.015625) = tanh", "q(i8, 0.125) = tanh")
    for policy, scale in (("output", 0.0625), ("largest", 0.125)):
        graph = graph_of(body, "scaled")
        run_passes(graph, f"{PASS}{{policy={policy}}}", "bernoulli")
        assert scales(graph, "t e") == [scale, scale]


def test_the_report_names_members_cats_costs_and_the_advice() -> None:
    graph = graph_of(NESTED, "scaled")
    (remark,) = run_passes(graph, PASS, "bernoulli")
    assert remark.severity == "warning"
    assert remark.node == "e"
    assert remark.message.startswith(
        "7 values at the scale 0.0625, demanded by c, e: s 0.0078125 -> 0.0625 (estimated SQNR 48.1 -> 30.1 dB)"
    )
    assert remark.message.endswith("prepare with optimize_graph=True to train with one scale")
    (remark,) = run_passes(graph_of(NESTED, "scaled"), PASS + "{optimized=true}", "bernoulli")
    assert remark.severity == "note"
    assert "optimize_graph" not in remark.message


def test_a_member_that_others_read_is_reported_with_them() -> None:
    body = NESTED.replace("%e: f32", "%v: f32[1,2,4,4] q(i8, 0.0625) = tanh(%t) bpu.0\n    %e: f32").replace(
        "output %d", "output %d\n    output %v"
    )
    (remark,) = run_passes(graph_of(body, "scaled"), PASS, "bernoulli")
    assert "t 0.015625 -> 0.0625 (estimated SQNR 48.1 -> 36.1 dB, also for v)" in remark.message


def test_a_fixed_scale_decides_and_two_different_ones_are_an_error() -> None:
    body = NESTED.replace("q(i8, 0.015625) = tanh", "q(i8, 0.015625, fixed) = tanh")
    graph = graph_of(body, "scaled")
    run_passes(graph, PASS, "bernoulli")
    assert scales(graph, "s e") == [0.015625, 0.015625]
    assert graph.value("t").quant.fixed
    assert not graph.value("s").quant.fixed
    with pytest.raises(QuantizationError, match=r"t is fixed to the scale 0.015625 and u to 0.0078125, but c, e ties them"):
        run_passes(
            graph_of(body.replace("q(i8, 0.0078125) = sigmoid(%a)", "q(i8, 0.0078125, fixed) = sigmoid(%a)"), "scaled"),
            PASS,
            "bernoulli",
        )


def test_other_marches_only_warn_about_operands_of_very_different_scales() -> None:
    graph = graph_of(
        NESTED.replace("avg_pool2d(%c) {kernel=[2,2], stride=[2,2]}", "max_pool2d(%c) {kernel=[2,2], stride=[2,2]}"), "scaled"
    )
    before = str(graph)
    remarks = run_passes(graph, PASS, "bernoulli2")
    assert [remark.node for remark in remarks] == ["e"]
    assert "a 0.03125" in remarks[0].message
    assert "differ 4x" in remarks[0].message
    assert str(graph) == before.replace("@test", "@test march=bernoulli2")


# --- lower bounds ------------------------------------------------------------------------------------------------------

BOUND = """
    input %x: f32[1,2,4,4]
    param @w: f32[2,2,1,1] q(i8, axis=0, [0.5, 0.25]) = [1.0, 0.5, -2.0, 0.25]
    %q: f32[1,2,4,4] q(i8, 0.5) = quantize(%x) cpu
    %c: f32[1,2,4,4] q(i8, 0.0625) = conv2d(%q, @w) bpu.0
    %r: f32[1,2,4,4] q(i8, 0.0625) = relu(%c) bpu.0
    %m: f32[1,2,4,4] q(i8, 0.0625) = maximum(%r, %q) bpu.0
    %h: f32[1,2,4,4] q(i32, axis=1, [0.03125, 0.015625]) = conv2d(%r, @w) bpu.0
    %d: f32[1,2,4,4] = dequantize(%m) cpu
    %e: f32[1,2,4,4] = dequantize(%h) cpu
    output %d
    output %e
    """


def test_a_scale_finer_than_the_accumulator_is_raised_with_its_group() -> None:
    graph = graph_of(BOUND, "scaled")
    remarks = run_passes(graph, PASS, "bernoulli")
    assert scales(graph, "c r m") == [0.25, 0.25, 0.5]
    assert "raised for c, whose accumulator has the scale 0.25 (bernoulli only shifts right)" in remarks[0].message
    assert graph.value("h").quant.scale.tolist() == [0.125, 0.0625]  # int32 results follow their operand


def test_a_raise_travels_through_the_following_layers() -> None:
    body = """
        input %x: f32[1,1]
        param @w: f32[1,1] q(i8, axis=0, [0.5]) = [1.0]
        %q: f32[1,1] q(i8, 0.5) = quantize(%x) cpu
        """
    previous = "q"
    for index in range(4):
        body += f"%l{index}: f32[1,1] q(i8, 0.00006103515625) = linear(%{previous}, @w) bpu.0\n        "
        previous = f"l{index}"
    graph = graph_of(body + f"%d: f32[1,1] = dequantize(%{previous}) cpu\n        output %d", "scaled")
    run_passes(graph, PASS, "bernoulli")
    assert scales(graph, "l0 l1 l2 l3") == [0.25, 0.125, 0.0625, 0.03125]


def test_a_fixed_scale_below_the_bound_is_an_error_with_both_scales() -> None:
    with pytest.raises(
        QuantizationError, match=r"c: its accumulator has the scale 0.25 and r is fixed to 0.0625, but bernoulli only"
    ):
        run_passes(graph_of(BOUND.replace("q(i8, 0.0625) = relu", "q(i8, 0.0625, fixed) = relu"), "scaled"), PASS, "bernoulli")


# --- properties --------------------------------------------------------------------------------------------------------


def test_sqnr_estimate_agrees_with_a_uniform_signal() -> None:
    rng = np.random.default_rng(0)
    for old, new in ((0.01, 0.01), (0.01, 0.04), (0.02, 0.01), (0.02, 0.019)):
        x = rng.uniform(-127.5 * old, 127.5 * old, 200_000)
        y = np.clip(np.rint(x / new), -128, 127) * new
        measured = 10 * math.log10(float((x**2).mean() / ((x - y) ** 2).mean()))
        assert estimated_sqnr(old, new) == pytest.approx(measured, abs=0.6)


@st.composite
def cat_graphs(draw: st.DrawFn) -> Graph:
    graph = Graph("cats")
    graph.stage = "scaled"
    x = graph.add_input("x", TensorType(DType.FLOAT32, (1, 2, 4, 4)))
    scale = st.integers(2, 9).map(lambda k: 2.0**-k)
    source = graph.add_node("quantize", [x], name="q")
    source.device, source.result.quant = Device.CPU, QuantParams(draw(scale))
    values: list[Value] = [source.result]
    for index in range(draw(st.integers(1, 12))):
        kind = draw(st.sampled_from(["sigmoid", "relu", "cat"]))
        operands = (
            draw(st.lists(st.sampled_from(values), min_size=2, max_size=3))
            if kind == "cat"
            else [draw(st.sampled_from(values))]
        )
        node = graph.add_node(kind, operands, {"axis": 1} if kind == "cat" else {}, name=f"n{index}")
        node.device, node.subgraph = Device.BPU, 0
        node.result.quant = operands[0].quant if kind == "relu" else QuantParams(draw(scale))
        values.append(node.result)
    sink = graph.add_node("dequantize", [values[-1]], name="d")
    sink.device = Device.CPU
    graph.set_outputs([sink.result])
    return graph


@given(cat_graphs(), st.sampled_from(["output", "largest"]))
@settings(max_examples=60, deadline=None)
def test_after_unification_every_cat_has_one_scale_and_untied_values_keep_theirs(graph: Graph, policy: str) -> None:
    march = get_spec("bernoulli")
    before = {name: value.quant for name, value in graph.values.items()}
    groups = scale_groups(graph, march)
    members = [value.name for group in groups for value in group.values]
    assert len(members) == len(set(members))
    run_passes(graph, f"{PASS}{{policy={policy}}}", "bernoulli")  # checks the cat-scale and same-grid rules of the verifier
    for group in groups:
        assert len({value.quant for value in group.values}) == 1
        if not group.demanded_by:
            assert all(value.quant == before[value.name] for value in group.values)
