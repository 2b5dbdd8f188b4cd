"""fold-batch-norm: the numbers stay, weights others read are copied, and what must not be joined is not."""

from __future__ import annotations

import numpy as np
import pytest
import torch_oracle
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_check import assert_text, graph_of, run_passes

from hqc.ir import Graph
from hqc.march import get_spec
from hqc.passes import PassContext, Plan
from hqc.passes.fold_batch_norm import FoldBatchNorm
from hqc.passes.plan import Placement

STATISTICS = """
    param @mean = #random(11, [{c}])
    param @var = {var}
    param @gamma = #random(13, [{c}])
    param @beta = #random(14, [{c}])
"""


def statistics(channels: int) -> str:
    variance = ", ".join(str(0.25 + 0.5 * i) for i in range(channels))
    return STATISTICS.format(c=channels, var=f"[{variance}]")


def fold(body: str, march: str = "bayes") -> Graph:
    graph = graph_of(body, "lowered")
    run_passes(graph, "fold-batch-norm", march)
    return graph


def same_numbers(body: str, seed: int = 0) -> Graph:
    """Fold, and check that the outputs agree within float32 rounding."""
    before, after = graph_of(body, "lowered"), fold(body)
    rng = np.random.default_rng(seed)
    inputs = {v.name: rng.standard_normal(v.shape).astype(np.float32) for v in before.inputs if v.shape}
    for expected, found in zip(torch_oracle.run(before, inputs), torch_oracle.run(after, inputs), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    return after


def ops(graph: Graph) -> list[str]:
    return [node.op.name for node in graph.nodes]


CONV = f"""
    input %x: f32[2,3,7,7]
    param @conv.weight = #random(1, [4,3,3,3])
    param @conv.bias = #random(2, [4])
    {statistics(4)}
    %conv = conv2d(%x, @conv.weight, @conv.bias) {{padding=[1,1,1,1]}} loc("conv:conv2d#0" "net.py:4") from(conv)
    %bn = batch_norm(%conv, @mean, @var, @gamma, @beta) {{eps=0.001}} loc("bn:batch_norm#0" "net.py:5") from(bn)
    %y = relu(%bn) from(y)
    output %y
"""


def test_a_batch_norm_folds_into_the_convolution_before_it() -> None:
    graph = same_numbers(CONV)
    assert_text(
        graph,
        """
        CHECK: param @conv.weight: f32[4,3,3,3]
        CHECK: param @conv.bias: f32[4]
        CHECK-NOT: param
        CHECK: %bn: f32[2,4,7,7] = conv2d(%x, @conv.weight, @conv.bias) {padding=[1,1,1,1]} loc("bn:batch_norm#0" "net.py:5") from(conv, bn)
        CHECK-NEXT: %y: f32[2,4,7,7] = relu(%bn) from(y)
        """,
    )


def test_the_folded_parameters_are_rounded_once_from_float64() -> None:
    before, after = graph_of(CONV, "lowered"), fold(CONV)
    array = {name: np.asarray(value.array, np.float64) for name, value in before.parameters.items()}
    gain = array["gamma"] / np.sqrt(array["var"] + 0.001)
    weight, bias = after.parameters["conv.weight"].array, after.parameters["conv.bias"].array
    np.testing.assert_array_equal(weight, (array["conv.weight"] * gain[:, None, None, None]).astype(np.float32))
    np.testing.assert_array_equal(bias, ((array["conv.bias"] - array["mean"]) * gain + array["beta"]).astype(np.float32))
    np.testing.assert_array_equal(array["conv.weight"], before.parameters["conv.weight"].array)


def test_a_layer_without_bias_and_a_norm_without_affine_gain_a_bias() -> None:
    body = CONV.replace(", @conv.bias) {padding", ") {padding").replace(", @gamma, @beta", "")
    body = "\n".join(
        line for line in body.splitlines() if not line.strip().startswith(("param @gamma", "param @beta", "param @conv.b"))
    )
    graph = same_numbers(body)
    assert sorted(graph.parameters) == ["conv.bias", "conv.weight"]


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.sampled_from(["conv2d", "conv_transpose2d"]), st.integers(0, 99)
)
def test_groups_of_every_shape_keep_their_numbers(groups: int, ins: int, outs: int, op: str, seed: int) -> None:
    channels_in, channels_out = groups * ins, groups * outs
    shape = [channels_out, ins, 3, 2] if op == "conv2d" else [channels_in, outs, 3, 2]
    graph = same_numbers(
        f"""
        input %x: f32[1,{channels_in},5,5]
        param @w = #random({seed}, {shape})
        {statistics(channels_out)}
        %conv = {op}(%x, @w) {{groups={groups}}}
        %bn = batch_norm(%conv, @mean, @var, @gamma, @beta)
        output %bn
        """,
        seed,
    )
    assert ops(graph) == [op]


@pytest.mark.parametrize(("op", "weight"), [("conv3d", "[6,2,2,1,3]"), ("conv_transpose3d", "[4,3,2,1,3]")])
def test_layers_over_volumes_take_a_norm(op: str, weight: str) -> None:
    body = f"""
        input %x: f32[2,4,3,4,5]
        param @w = #random(1, {weight})
        {statistics(6)}
        %c = {op}(%x, @w) {{groups=2}}
        %y = batch_norm(%c, @mean, @var, @gamma, @beta)
        output %y
    """
    assert ops(same_numbers(body)) == [op]


def test_a_linear_layer_takes_a_norm_over_the_same_axis_only() -> None:
    body = f"""
    input %x: f32[6,5]
    param @w = #random(1, [4,5])
    {statistics(4)}
    %fc = linear(%x, @w)
    %bn = batch_norm(%fc, @mean, @var, @gamma, @beta)
    output %bn
    """
    assert ops(same_numbers(body)) == ["linear"]
    assert ops(same_numbers(body.replace("f32[6,5]", "f32[6,4,5]"))) == ["linear", "batch_norm"], "channels on axis 1"


def test_a_weight_that_two_convolutions_share_is_copied_for_the_folded_one() -> None:
    graph = same_numbers(
        f"""
        input %x: f32[1,4,5,5]
        param @w = #random(1, [4,4,1,1])
        param @b = #random(2, [4])
        {statistics(4)}
        %one = conv2d(%x, @w, @b)
        %bn = batch_norm(%one, @mean, @var, @gamma, @beta)
        %two = conv2d(%bn, @w, @b)
        %bn2 = batch_norm(%two, @mean, @var)
        %three = conv2d(%bn2, @w, @b)
        output %three
        """
    )
    assert ops(graph) == ["conv2d"] * 3
    assert sorted(graph.parameters) == ["b", "b_bn", "b_bn2", "w", "w_bn", "w_bn2"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("output %y", "output %y\n output %conv"),
        ("%y = relu(%bn)", "%y = add(%bn, %conv)"),
        ("%conv =", "%conv: f32[2,4,7,7] q(i8, 0.5) ="),
        ("param @conv.weight =", "param @conv.weight: f32[4,3,3,3] q(i8, 0.5) ="),
        ('loc("conv:', 'request(cpu, "mine") loc("conv:'),
        ('loc("bn:', 'request(bpu, "mine") loc("bn:'),
        ("padding=[1,1,1,1]}", "padding=[1,1,1,1], activation=relu}"),
    ],
)
def test_nothing_is_folded_across_what_must_stay_apart(old: str, new: str) -> None:
    body = CONV.replace(old, new)
    assert body != CONV
    graph = fold(body)
    assert len(graph) == 3
    assert ops(graph)[0] == "conv2d"
    assert next(iter(graph.nodes)).origin == ("conv",)


def test_equal_wishes_fold_except_for_the_cpu() -> None:
    both = CONV.replace('loc("conv', 'request(bpu, "a") loc("conv').replace('loc("bn', 'request(bpu, "b") loc("bn')
    assert ops(fold(both)) == ["conv2d", "relu"]
    assert ops(fold(both.replace("request(bpu", "request(cpu"))) == ["conv2d", "batch_norm", "relu"]


ALONE = f"""
    input %x: f32[1,4,5,5]
    {statistics(4)}
    %r = relu(%x)
    %bn = batch_norm(%r, @mean, @var, @gamma, @beta) from(bn)
    output %bn
"""


def test_a_batch_norm_of_its_own_becomes_a_depthwise_convolution() -> None:
    graph = same_numbers(ALONE)
    assert_text(
        graph,
        """
        CHECK: param @bn_weight: f32[4,1,1,1]
        CHECK: param @bn_bias: f32[4]
        CHECK: %bn: f32[1,4,5,5] = conv2d(%r, @bn_weight, @bn_bias) {groups=4} from(bn)
        """,
    )


def test_a_batch_norm_of_another_rank_or_for_the_cpu_stays() -> None:
    assert ops(same_numbers(ALONE.replace("[1,4,5,5]", "[3,4]"))) == ["relu", "batch_norm"]
    wished = ALONE.replace("@beta) from", '@beta) request(cpu, "mine") from')
    assert ops(fold(wished)) == ["relu", "batch_norm"]


def test_a_prepared_model_folds_what_its_plan_joined_and_nothing_else() -> None:
    def folded(*groups: tuple[str, ...]) -> list[str]:
        graph = graph_of(CONV, "lowered")
        plan = Plan("bayes", tuple(Placement(names, "bpu", "conv2d") for names in groups))
        FoldBatchNorm().run(graph, PassContext(get_spec("bayes"), plan=plan))
        return [node.name for node in graph.nodes]

    assert folded(("conv", "bn"), ("y",)) == ["bn", "y"]
    assert folded(("conv",), ("bn",), ("y",)) == ["conv", "bn", "y"]
