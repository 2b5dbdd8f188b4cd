"""fuse-conv: which additions and activations a convolution takes, which not, and that unfuse gives them back."""

from __future__ import annotations

import numpy as np
import pytest
import torch_oracle
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_check import assert_text, graph_of, run_passes

from hqc.ir import Graph
from hqc.ir.verifier import verify
from hqc.passes.fuse_conv import is_fused, split_activation, unfuse

HEAD = """
    input %x: f32[1,4,6,6]
    param @w = #random(1, [4,4,3,3])
    param @v = #random(2, [4,4,1,1])
"""


def fuse(lines: str, march: str = "bayes") -> Graph:
    graph = graph_of(HEAD + lines, "lowered")
    run_passes(graph, "fuse-conv", march)
    return graph


def shape_of(graph: Graph) -> str:
    """`name(op,residual,activation)` of every node."""
    words = []
    for node in graph.nodes:
        residual = "+" + node.inputs[3].name if len(node.inputs) > 3 and node.inputs[3] else ""
        kind = node.attributes.get("activation", "none")
        words.append(f"{node.name}={node.op.name}{residual}" + ("" if kind == "none" else f".{kind}"))
    return " ".join(words)


CONV = '%c = conv2d(%x, @w) {padding=[1,1,1,1]} loc("conv:conv2d#0") from(c)\n'


def test_a_convolution_takes_the_addition_and_the_activation_behind_it() -> None:
    graph = fuse(
        CONV
        + """
        %s = add(%c, %x) loc(":add#0") from(s)
        %r = relu(%s) loc("act:relu#0") from(r)
        output %r
        """
    )
    assert_text(
        graph,
        """
        CHECK: %r: f32[1,4,6,6] = conv2d(%x, @w, none, %x) {padding=[1,1,1,1], activation=relu} loc("act:relu#0") from(c, s, r)
        CHECK-NEXT: output %r
        """,
    )


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        ("%r = relu(%c)\noutput %r", "r=conv2d.relu"),
        ("%r = clamp(%c) {min=0.0, max=6.0}\noutput %r", "r=conv2d.relu6"),
        ("%r = clamp(%c) {min=0.0, max=5.0}\noutput %r", "c=conv2d r=clamp"),
        ("%r = sigmoid(%c)\noutput %r", "c=conv2d r=sigmoid"),
        ("%s = add(%x, %c)\noutput %s", "s=conv2d+x"),
        ("%a = relu(%c)\n%s = add(%a, %x)\noutput %s", "a=conv2d.relu s=add"),
        ("%a = relu(%c)\n%b = relu(%a)\noutput %b", "a=conv2d.relu b=relu"),
        ("%s = add(%c, %x)\n%t = add(%s, %x)\noutput %t", "s=conv2d+x t=add"),
        ("%s = add(%c, %c)\noutput %s", "c=conv2d s=add"),
        ("%r = relu(%c)\noutput %r\noutput %c", "c=conv2d r=relu"),
        ("%r = relu(%c)\n%q = sigmoid(%c)\noutput %r\noutput %q", "c=conv2d r=relu q=sigmoid"),
        ("%r = sub(%c, %x)\noutput %r", "c=conv2d r=sub"),
    ],
)
def test_what_joins_and_what_does_not(tail: str, expected: str) -> None:
    assert shape_of(fuse(CONV + tail)) == expected


def test_a_constant_or_a_smaller_operand_is_not_a_residual() -> None:
    bias = fuse("param @k = #random(5, [1,4,1,1])\n" + CONV + "%s = add(%c, @k)\noutput %s")
    assert shape_of(bias) == "c=conv2d s=add"
    pooled = "%p = mean(%x) {axes=[2,3], keepdims=true}\n"
    assert shape_of(fuse(pooled + CONV + "%s = add(%c, %p)\noutput %s")) == "p=mean c=conv2d s=add"


def test_a_value_with_a_scale_and_a_trained_weight_are_left_alone() -> None:
    scaled = CONV.replace("%c =", "%c: f32[1,4,6,6] q(i8, 0.5) =")
    assert shape_of(fuse(scaled + "%r = relu(%c)\noutput %r")) == "c=conv2d r=relu"
    graph = graph_of(HEAD.replace("@w =", "@w: f32[4,4,3,3] q(i8, 0.5) =") + CONV + "%r = relu(%c)\noutput %r", "lowered")
    run_passes(graph, "fuse-conv")
    assert shape_of(graph) == "c=conv2d r=relu"


def test_what_the_analysis_has_judged_is_not_joined_any_more() -> None:
    lines = "%c = conv2d(%x, @w) accepted\n%r = relu(%c) accepted\noutput %r"
    assert shape_of(fuse(lines)) == "c=conv2d r=relu"


@pytest.mark.parametrize(
    ("conv", "relu", "expected"),
    [
        ("", "", "r=conv2d.relu"),
        ('request(bpu, "a")', 'request(bpu, "b")', "r=conv2d.relu"),
        ('request(bpu, "a")', "", "c=conv2d r=relu"),
        ("", 'request(cpu, "a")', "c=conv2d r=relu"),
        ('request(bpu, "a", i16)', 'request(bpu, "a")', "c=conv2d r=relu"),
        ('request(cpu, "a")', 'request(cpu, "a")', "c=conv2d r=relu"),
    ],
)
def test_only_equal_wishes_join_and_the_cpu_keeps_what_was_written(conv: str, relu: str, expected: str) -> None:
    lines = f"%c = conv2d(%x, @w) {conv}\n%r = relu(%c) {relu}\noutput %r"
    assert shape_of(fuse(lines)) == expected


TWO = """
    %a = conv2d(%x, {first})
    %b = conv2d(%x, {second})
    %s = add({operands}) from(s)
    output %s
"""


@pytest.mark.parametrize("operands", ["%a, %b", "%b, %a"])
def test_of_two_convolutions_the_last_in_program_order_takes_the_addition(operands: str) -> None:
    graph = fuse(TWO.format(first="@w", second="@w", operands=operands))
    assert shape_of(graph) == "a=conv2d s=conv2d+a"
    assert list(graph.nodes)[-1].origin == ("b", "s")


def test_of_two_convolutions_the_one_that_the_march_accepts_takes_the_addition() -> None:
    head = "param @big = #random(7, [4,4,9,9])\n"
    lines = TWO.format(first="@v", second="@big", operands="%a, %b").replace(
        "conv2d(%x, @big)", "conv2d(%x, @big) {padding=[4,4,4,4]}"
    )
    graph = graph_of(HEAD + head + lines, "lowered")
    run_passes(graph, "fuse-conv", "bernoulli2")
    assert shape_of(graph) == "b=conv2d s=conv2d+b", "a 9x9 kernel does not run on bernoulli2"


def test_the_residual_may_be_computed_after_the_convolution() -> None:
    graph = fuse(CONV + "%t = sigmoid(%x)\n%s = add(%c, %t)\noutput %s")
    assert shape_of(graph) == "t=sigmoid s=conv2d+t"


def test_with_unknown_shapes_an_addition_of_two_values_is_taken_for_a_residual() -> None:
    graph = graph_of(
        "input %x: f32[*]\nparam @w = #random(1, [4,4,1,1])\n%c = conv2d(%x, @w)\n%s = add(%c, %x)\noutput %s", "lowered"
    )
    run_passes(graph, "fuse-conv")
    assert shape_of(graph) == "s=conv2d+x"


def test_linear_and_transposed_convolutions_fuse_too_and_runtime_weights_do_not() -> None:
    text = """
    input %x: f32[1,4,6,6]
    input %k: f32[4,4,1,1]
    param @w = #random(1, [4,4,1,1])
    param @l = #random(1, [6,6])
    %t = conv_transpose2d(%x, @w)
    %a = relu(%t)
    %b = linear(%a, @l)
    %c = add(%b, %x)
    %d = conv2d(%c, %k)
    %e = relu(%d)
    output %e
    """
    graph = graph_of(text, "lowered")
    run_passes(graph, "fuse-conv")
    assert shape_of(graph) == "a=conv_transpose2d.relu c=linear+x d=conv2d e=relu"


# --- the inverse ------------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.booleans(), st.sampled_from(["", "relu", "clamp"]), st.booleans())
def test_unfuse_gives_back_what_was_fused(with_add: bool, activation: str, swap: bool) -> None:
    operands = "%x, %c" if swap else "%c, %x"
    lines, last = CONV, "c"
    if with_add:
        lines, last = lines + f'%s = add({operands}) loc(":add#0") from(s)\n', "s"
    if activation:
        bounds = "{min=0.0, max=6.0}" if activation == "clamp" else ""
        lines, last = lines + f'%r = {activation}(%{last}) {bounds} loc("act:{activation}#0") from(r)\n', "r"
    before = graph_of(HEAD.replace("param @v = #random(2, [4,4,1,1])", "") + lines + f"output %{last}", "lowered")
    graph = before.clone()
    run_passes(graph, "fuse-conv")
    (node,) = graph.nodes
    assert is_fused(node) is (with_add or bool(activation))
    members = unfuse(graph, node)
    verify(graph)
    graph.march = None
    expected = str(before).replace("add(%x, %c)", "add(%c, %x)")  # an addition has the convolution first
    assert str(graph) == expected
    assert members == list(graph.nodes)
    x = {"x": np.random.default_rng(0).standard_normal((1, 4, 6, 6)).astype(np.float32)}
    for a, b in zip(torch_oracle.run(before, x), torch_oracle.run(graph, x), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_activation_alone_can_be_split_off() -> None:
    graph = fuse(
        CONV + '%s = add(%c, %x) from(s)\n%r = relu(%s) request(bpu, "q") from(r)\noutput %r'.replace('request(bpu, "q") ', "")
    )
    (node,) = graph.nodes
    conv, activation = split_activation(graph, node)
    assert shape_of(graph) == "s=conv2d+x r=relu"
    assert (conv.origin, activation.origin, activation is node) == (("c", "s"), ("r",), True)
    assert unfuse(graph, activation.producers[0])[1].op.name == "add"


def test_without_origins_the_members_get_names_of_their_own() -> None:
    graph = graph_of(HEAD + "%y = conv2d(%x, @v, none, %x) {activation=relu}\noutput %y", "lowered")
    (node,) = graph.nodes
    members = unfuse(graph, node)
    verify(graph)
    assert [member.op.name for member in members] == ["conv2d", "add", "relu"]
    assert members[-1].name == "y"


# --- one operation of the model that is an addition and an activation -----------------------------------------------------

ADD_RELU = CONV + "%y_sum = add(%c, %x) from(y)\n%y = relu(%y_sum) from(y)\noutput %y"


def test_add_relu_joins_whole() -> None:
    graph = fuse(ADD_RELU)
    assert shape_of(graph) == "y=conv2d+x.relu"
    assert next(iter(graph.nodes)).origin == ("c", "y", "y")


def test_add_relu_is_taken_apart_into_three() -> None:
    graph = fuse(ADD_RELU)
    members = unfuse(graph, next(iter(graph.nodes)))
    assert shape_of(graph) == "c=conv2d y_sum=add y=relu"
    assert [member.origin for member in members] == [("c",), ("y",), ("y",)]
    verify(graph)


def test_an_activation_that_is_one_operation_with_a_plain_convolution_stays() -> None:
    assert shape_of(fuse("%c_conv = conv2d(%x, @w) from(c)\n%c = relu(%c_conv) from(c)\noutput %c")) == "c_conv=conv2d c=relu"
