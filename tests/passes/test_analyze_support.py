"""analyze-support: capability, context and overrides, each with its reason."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_check import analyzed, devices, node, why

from hqc.errors import OverrideError, SupportError
from hqc.ir import DType, Graph, Node, TensorType
from hqc.march import all_specs, get_spec
from hqc.march.rules import check_node
from hqc.passes import PassContext
from hqc.passes.analyze_support import AnalyzeSupport
from hqc.passes.steps import is_divisible

QAT: frozenset[str] = frozenset()


# --- capability ----------------------------------------------------------------------------------------------------------


def test_every_node_but_boundaries_gets_a_verdict_and_the_graph_its_march_and_stage() -> None:
    graph, _ = analyzed(
        """
        input %x: f32[1,8,16,16]
        %q: f32[1,8,16,16] = quantize(%x) {stub=true}
        %c = conv2d(%q, @w)
        %p = selu(%c)
        %d = dequantize(%p) {stub=true}
        output %d
        """
    )
    assert (graph.march, graph.stage) == ("bayes", "supported")
    assert devices(graph) == "c=bpu p=cpu"
    assert node(graph, "q").support is None and node(graph, "d").support is None


def test_a_fused_node_whose_convolution_is_refused_is_taken_apart() -> None:
    graph, remarks = analyzed(
        """
        input %x: f32[1,8,16,16]
        %y = conv2d(%x, @big, none, %x) {padding=[4,4,4,4], activation=relu} from(c, bn, a, y)
        %z = conv2d(%y, @w) from(z)
        output %z
        """,
        "bernoulli2",
    )
    assert devices(graph) == "bn=cpu a=bpu y=bpu z=bpu"
    assert node(graph, "bn").origin == ("c", "bn") and node(graph, "y").origin == ("y",)
    assert why(graph, "bn").actual == "9x9"
    assert any("taken apart into bn, a, y" in str(remark) for remark in remarks)


def test_one_model_operation_has_one_device() -> None:
    graph, _ = analyzed(
        """
        input %x: f32[1,8,16,16]
        %a = sigmoid(%x) from(f)
        %b = selu(%a) from(f)
        %c = sigmoid(%b) from(c)
        output %c
        """
    )
    assert devices(graph) == "a=cpu b=cpu c=bpu"
    assert why(graph, "a").actual == "b is on the CPU" and why(graph, "a").step == "context"


def test_products_and_changes_of_layout_around_one_step_are_placed_step_by_step() -> None:
    graph, _ = analyzed(
        """
        input %q: f32[1,2,6,8]
        input %k: f32[1,2,8,6]
        %scores = matmul(%q, %k) from(attention)
        %weights = softmax(%scores) {axis=3} from(attention)
        %out = matmul(%weights, %q) from(attention)
        output %out
        """
    )
    assert devices(graph) == "scores=bpu weights=cpu out=bpu"
    text = """
        input %x: f32[1,8,16,16]
        %s = selu(%x) from(selu)
        %a = reshape(%s) {shape=[1,8,1,256]} from(pool)
        %b = avg_pool2d(%a) {kernel=[1,2], stride=[1,2]} from(pool)
        output %b
        """
    assert devices(analyzed(text)[0]) == "s=cpu a=cpu b=bpu"
    assert devices(analyzed(f"{text}output %a")[0]) == "s=cpu a=cpu b=cpu", "another reads a step"


# --- passive ops ------------------------------------------------------------------------------------------------------------


def test_passive_ops_follow_their_producer_in_chains() -> None:
    graph, _ = analyzed(
        """
        input %x: f32[1,8,16,16]
        %c = conv2d(%x, @w)
        %r = reshape(%c) {shape=[1,8,196]}
        %t = transpose(%r) {perm=[0,2,1]}
        %p = softmax(%t) {axis=2}
        %u = transpose(%p) {perm=[0,2,1]}
        %v = reshape(%u) {shape=[1,8,14,14]}
        %z = conv2d(%v, @w)
        output %z
        """
    )
    assert devices(graph) == "c=bpu r=bpu t=bpu p=cpu u=cpu v=cpu z=bpu"
    assert why(graph, "v").rule == "a passive op stays with its producer" and why(graph, "v").actual == "u is on the CPU"


def test_on_bayes_e_a_passive_op_goes_with_its_user() -> None:
    text = """
        input %x: f32[1,8,16,16]
        %p = softmax(%x) {axis=3}
        %t = transpose(%p) {perm=[0,1,3,2]}
        %z = conv2d(%t, @w)
        %u = reshape(%p) {shape=[1,-1]}
        output %z, %u
    """
    assert devices(analyzed(text, "bayes-e")[0]) == "p=cpu t=bpu z=bpu u=cpu"
    assert devices(analyzed(text, "bayes")[0]) == "p=cpu t=cpu z=bpu u=cpu"


def test_passive_ops_at_the_input_go_where_they_are_needed() -> None:
    text = "input %x: f32[1,8,16,16]\n%s = slice(%x) {axes=[2], starts=[0], ends=[8]}\n%y = OP(%s)\noutput %y"
    assert devices(analyzed(text.replace("OP(%s)", "conv2d(%s, @w)"))[0]) == "s=bpu y=bpu"
    assert devices(analyzed(text.replace("OP", "selu"))[0]) == "s=cpu y=cpu"


def test_reshape_and_transpose_are_the_cpus_on_bernoulli2() -> None:
    graph, _ = analyzed(
        """
        input %x: f32[1,8,16,16]
        %c = conv2d(%x, @w)
        %r = reshape(%c) {shape=[1,8,196]}
        output %r
        """,
        "bernoulli2",
    )
    assert devices(graph) == "c=bpu r=cpu"
    assert why(graph, "r").hint == "bayes and bayes-e run it"


DATA_MOVERS = """
    input %x: f32[1,8,16,16]
    %c = conv2d(%x, @w)
    %s = slice(%c) {axes=[1], starts=[0], ends=[4]}
    %k = cat(%c, %s) {axis=1}
    %y = reshape(%k) {shape=[1,-1]}
    output %y
"""


def test_without_a_bpu_user_data_movers_are_float_on_bernoulli2_when_calibrated() -> None:
    graph, _ = analyzed(DATA_MOVERS, "bernoulli2")
    assert devices(graph) == "c=bpu s=cpu k=cpu y=cpu"
    assert "need a user on the BPU on bernoulli2" in why(graph, "k").rule


def test_in_qat_they_carry_a_fake_quant_and_stay() -> None:
    assert devices(analyzed(DATA_MOVERS, "bernoulli2", high_precision=QAT)[0]) == "c=bpu s=bpu k=bpu y=cpu"
    assert devices(analyzed(DATA_MOVERS, "bayes")[0]) == "c=bpu s=bpu k=bpu y=bpu"


CAT = """
    input %x: f32[1,8,16,16]
    %c = conv2d(%x, @w1)
    %a = selu(%c)
    %b = selu(%a)
    %k = cat(OPERANDS) {axis=2}
    %y = conv2d(%k, @w)
    output %y
"""


@pytest.mark.parametrize("march", ["bernoulli2", "bayes", "bayes-e"])
@pytest.mark.parametrize(
    ("operands", "device", "on_cpu"),
    [("%c, %c", "bpu", ""), ("%c, %x", "bpu", ""), ("%a, %b", "cpu", "a, b are"), ("%c, %b", "cpu", "b is"), ("%x, %a", "cpu", "a is")],
)  # fmt: skip
def test_a_cat_takes_values_of_the_bpu_and_the_models_input_only(march: str, operands: str, device: str, on_cpu: str) -> None:
    graph, _ = analyzed(CAT.replace("OPERANDS", operands), march)
    assert f"k={device} y=bpu" in devices(graph)
    if on_cpu:
        assert why(graph, "k").actual == f"{on_cpu} on the CPU" and '"bpu": {"node_name": ["k"]}' in why(graph, "k").hint


@pytest.mark.parametrize("march", ["bernoulli2", "bayes", "bayes-e"])
def test_a_request_keeps_a_cat_on_the_bpu_with_a_boundary_and_a_remark(march: str) -> None:
    text, asked = CAT.replace("OPERANDS", "%c, %b"), {"bpu": {"node_name": ["k"]}}
    graph, remarks = analyzed(text, march, hybrid_dict=asked)
    assert "k=bpu y=bpu" in devices(graph)
    (remark,) = remarks
    assert (remark.node, remark.severity) == ("k", "note")
    assert remark.message.startswith("on the BPU by request, although every operand of a cat comes from the BPU")
    passes = "apply-overrides,analyze-support,partition,insert-boundaries{auto-stub=true}"
    graph, _ = analyzed(text, march, hybrid_dict=asked, passes=passes)
    (boundary,) = [each for each in node(graph, "k").producers if each.op.name == "quantize"]
    assert boundary.operands[0].name == "b"


HELD = """
    input %x: f32[1,8,16,16]
    %p = softmax(%x) {axis=3}
    %r = reshape(%p) {shape=[1,8,8,32]}
    %t = transpose(%r) {perm=[0,1,3,2]}
    %k = cat(%t, %t) {axis=1}
    %y = OP(%k)
    output %y
"""


@pytest.mark.parametrize("op", ["sigmoid", "softmax"])
def test_a_cat_and_a_reshape_do_not_hold_each_other_on_the_bpu(op: str) -> None:
    graph, _ = analyzed(HELD.replace("OP(%k)", f"{op}(%k) {{axis=3}}" if op == "softmax" else f"{op}(%k)"), "bayes-e")
    assert devices(graph).startswith("p=cpu r=cpu t=cpu k=cpu")
    chain = HELD.replace("%k = cat(%t, %t) {axis=1}\n", "").replace("OP(%k)", "OP(%t)")
    graph, _ = analyzed(chain.replace("OP(%t)", "conv2d(%t, @w)"), "bayes-e")
    assert devices(graph) == "p=cpu r=bpu t=bpu y=bpu", "a user that computes holds both"
    graph, _ = analyzed(chain.replace("OP(%t)", "softmax(%t) {axis=3}"), "bayes-e")
    assert devices(graph) == "p=cpu r=cpu t=cpu y=cpu", "nor do two passive ops"


@pytest.mark.parametrize("march", ["bayes", "bayes-e"])
def test_movers_of_the_input_run_on_the_bpu_only_for_a_user_that_computes(march: str) -> None:
    text = """
        input %x: f32[1,8,16,16]
        %r = reshape(%x) {shape=[1,8,8,32]}
        %k = cat(%r, %r) {axis=2}
        %t = transpose(%k) {perm=[0,1,3,2]}
        %y = OP
        output %y
    """
    assert devices(analyzed(text.replace("OP", "conv2d(%t, @w)"), march)[0]) == "r=bpu k=bpu t=bpu y=bpu"
    assert devices(analyzed(text.replace("OP", "selu(%t)"), march)[0]) == "r=cpu k=cpu t=cpu y=cpu"


# --- what bernoulli2's listing shows beyond its table ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("constant", "device"), [("[1,8,1,1]", "bpu"), ("[8,1,1]", "bpu"), ("[1,8,16,16]", "bpu"), ("[]", "cpu"), ("[16]", "cpu")]
)
def test_an_add_with_a_constant_per_channel_is_the_bpus_and_a_scalar_one_the_cpus(constant: str, device: str) -> None:
    text = f"""
        input %x: f32[1,8,16,16]
        param @k: f32{constant} = #random(0, {constant})
        %a = sigmoid(%x)
        %y = add(%a, @k)
        %z = conv2d(%y, @w)
        output %z
    """
    for march in ("bernoulli", "bernoulli2"):
        assert devices(analyzed(text, march)[0]) == f"a=bpu y={device} z=bpu"
    assert devices(analyzed(text, "bayes")[0]) == "a=bpu y=bpu z=bpu"


def test_a_scalar_add_is_the_bpus_only_behind_a_convolution_there() -> None:
    text = """
        input %x: f32[1,8,16,16]
        param @k = 0.5
        %c = conv2d(%x, @w)
        %m = mul(%c, @k)
        %y = add(%m, @k)
        %z = conv2d(%y, @w)
        output %z
    """
    assert devices(analyzed(text, "bernoulli2")[0]) == "c=bpu m=bpu y=bpu z=bpu"
    graph, _ = analyzed(text, "bernoulli2", hybrid_dict={"node_name": ["c"]})
    assert devices(graph) == "c=cpu m=bpu y=cpu z=bpu" and why(graph, "y").actual == "c is on the CPU"
    forked = text.replace("output %z", "output %z, %m")
    assert devices(analyzed(forked, "bernoulli2")[0]) == "c=bpu m=bpu y=cpu z=bpu"
    activated = text.replace("conv2d(%x, @w)", "conv2d(%x, @w) {activation=relu}")
    assert devices(analyzed(activated, "bernoulli2")[0]) == "c=bpu m=bpu y=cpu z=bpu"


@pytest.mark.parametrize("op", ["sigmoid", "sin", "cos", "tanh", "silu"])
def test_a_large_table_is_the_bpus_with_a_remark(op: str) -> None:
    text = f"input %x: f32[1,8,64,64]\n%c = conv2d(%x, @w) {{activation=relu}} from(c, r)\n%y = {op}(%c)\n%z = conv2d(%y, @w)\noutput %z"
    graph, remarks = analyzed(text, "bernoulli2")
    assert devices(graph) == "c=bpu y=bpu z=bpu", "the convolution before it ends no BPU run"
    (remark,) = remarks
    assert remark.node == "y" and "may run on the CPU at run time" in remark.message and "limit 8192" in remark.message
    assert analyzed(text.replace("64,64", "16,16"), "bernoulli2")[1] == []
    assert analyzed(text, "bayes")[1] == []


FLATTEN = """
    input %x: f32[1,8,SIZE]
    param @f: f32[4,FEATURES] = #random(3, [4,FEATURES])
    %c = OP
    %r = reshape(%c) {shape=[1,-1]}
    %y = linear(%r, @f)
    output %y
"""


@pytest.mark.parametrize(
    ("size", "features", "op", "expected"),
    [
        ("9,9", 392, "conv2d(%x, @w)", "c=bpu r=bpu y=bpu"),
        ("9,3", 56, "conv2d(%x, @w)", "c=bpu r=bpu y=bpu"),
        ("10,9", 448, "conv2d(%x, @w)", "c=bpu r=cpu y=bpu"),
        ("7,7", 392, "selu(%x)", "c=cpu r=cpu y=bpu"),
    ],
)  # fmt: skip
def test_a_flatten_of_at_most_7x7_is_absorbed_into_the_linear_layer(size: str, features: int, op: str, expected: str) -> None:
    text = FLATTEN.replace("SIZE", size).replace("FEATURES", str(features)).replace("OP", op)
    for march in ("bernoulli", "bernoulli2"):
        assert devices(analyzed(text, march)[0]) == expected
    if "r=bpu" in expected:
        graph, _ = analyzed(text, "bernoulli2", passes="analyze-support,partition")
        assert {each.subgraph for each in graph.nodes} == {0}
        assert devices(analyzed(text, "bernoulli2", hybrid_dict={"op": ["linear"]})[0]) == "c=bpu r=cpu y=cpu"
        both = text.replace("output %y", "output %y, %r")
        assert devices(analyzed(both, "bernoulli2")[0]) == "c=bpu r=cpu y=bpu", "the model returns the features"


def test_a_flattened_map_may_have_more_features_than_a_vector() -> None:
    text = """
        input %x: f32[1,512,7,7]
        param @f: f32[2,25088] = #random(3, [2,25088])
        %c = OP(%x)
        %r = reshape(%c) {shape=[1,-1]}
        %y = linear(%r, @f)
        output %y
    """
    assert devices(analyzed(text.replace("OP", "relu"), "bernoulli2")[0]) == "c=bpu r=bpu y=bpu"
    graph, _ = analyzed(text.replace("OP", "selu"), "bernoulli2")
    assert devices(graph) == "c=cpu r=cpu y=cpu"
    assert (why(graph, "y").actual, why(graph, "y").limit) == ("25088 features", "16384")


def test_a_residual_below_rank_four_is_not_fused_into_a_linear_layer() -> None:
    text = """
        input %x: f32[4,8]
        param @f: f32[8,8] = #random(3, [8,8])
        %l = linear(%x, @f)
        %y = add(%l, %x)
        output %y
    """
    graph, _ = analyzed(text, "bernoulli2", passes="fuse-conv,analyze-support")
    assert devices(graph) == "l=bpu y=cpu" and why(graph, "y").actual == "rank 2"
    assert devices(analyzed(text, "bayes", passes="fuse-conv,analyze-support")[0]) == "y=bpu"


def test_a_product_with_a_vector_is_a_convolution_whose_change_of_rank_belongs_to_it() -> None:
    text = """
        input %x: f32[4,8]
        param @v: f32[1,8] = #random(3, [1,8])
        %p = linear(%x, @v) from(y)
        %y = reshape(%p) {shape=[4]} from(y)
        output %y
    """
    for march in ("bernoulli", "bernoulli2", "bayes"):
        assert devices(analyzed(text, march)[0]) == "p=bpu y=bpu"
    apart = text.replace("[4,8]\n", "[4,8]\n", 1).replace("from(y)\n        %y", "from(p)\n        %y")
    assert devices(analyzed(apart, "bernoulli2")[0]) == "p=bpu y=cpu"


@pytest.mark.parametrize("march", [spec.name for spec in all_specs()])
@pytest.mark.parametrize("shape", ["", "1", "1,8,1,1", "1,8,4,4", "4"])
def test_a_quotient_by_a_constant_goes_where_the_product_goes(march: str, shape: str) -> None:
    text = f"input %x: f32[1,8,4,4]\nparam @k: f32[{shape}] = #random(3, [{shape}])\n%y = OP(%x, @k)\n%z = conv2d(%y, @w)\noutput %z"
    product, quotient = (devices(analyzed(text.replace("OP", op), march)[0]) for op in ("mul", "div"))
    assert product == quotient


def test_an_add_between_a_cpu_operand_and_cpu_users_is_float_on_bernoulli2() -> None:
    text = """
        input %x: f32[1,8,16,16]
        %c = conv2d(%x, @w1)
        %a = selu(%c)
        %k = add(%c, %a)
        %y = selu(%k)
        output %y
    """
    assert devices(analyzed(text, "bernoulli2")[0]) == "c=bpu a=cpu k=cpu y=cpu"
    assert devices(analyzed(text, "bernoulli2", high_precision=QAT)[0]) == "c=bpu a=cpu k=bpu y=cpu"


# --- rank, products, slices of the input --------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["leaky_relu(%x)", "exp(%x)", "relu(%x)", "cat(%x, %x) {axis=1}", "gelu(%x)"])
def test_ranks_other_than_four_are_the_cpus_on_bernoulli2(op: str) -> None:
    text = f"input %x: f32[1,8,16]\n%y = {op}\n%z = reshape(%y) {{shape=[1,1,-1,16]}}\noutput %z"
    graph, _ = analyzed(text, "bernoulli2", high_precision=QAT)
    assert "y=cpu" in devices(graph)
    assert (why(graph, "y").step, why(graph, "y").actual) == ("context", "rank 3")


def test_without_shapes_the_context_rules_are_conditions_too() -> None:
    graph, _ = analyzed("input %x: f32[*]\n%y = leaky_relu(%x)\noutput %y", "bernoulli2", high_precision=QAT)
    assert devices(graph) == "y=bpu"
    assert str(why(graph, "y")).startswith("accepted if element-wise ops") and why(graph, "y").step == "context"


def test_a_context_reason_names_the_marches_that_run_the_node() -> None:
    graph, _ = analyzed("input %x: f32[1,1,4,8]\ninput %y: f32[1,1,8,4]\n%m = matmul(%x, %y)\noutput %m", "bernoulli2")
    assert why(graph, "m").hint == "bayes and bayes-e run it"
    five = "input %x: f32[1,3,8,8,2]\nparam @g: f32[1,3,8,8,2] = #random(0, [1,3,8,8,2])\n%y = add(%x, @g)\noutput %y"
    assert why(analyzed(five, "bayes")[0], "y").hint == "bayes-e runs it"


PRODUCT = """
    input %x: f32[1,8]
    param @a: f32[16,8] = #random(0, [16,8])
    param @b: f32[4,16] = #random(1, [4,16])
    param @half: f32[] = [0.5]
    %y = linear(%x, @a)
    %s = sigmoid(%y)
    %m = mul(%s, @half)
    %k = mul(%m, %m)
    %z = linear(%k, @b)
    output %z
"""


def test_behind_a_constant_product_the_result_stays_four_d() -> None:
    assert devices(analyzed(PRODUCT, "bernoulli2")[0]) == "y=bpu s=bpu m=bpu k=bpu z=bpu"
    graph, _ = analyzed(PRODUCT, "bernoulli2", hybrid_dict={"node_name": ["y"]})
    assert devices(graph) == "y=cpu s=cpu m=cpu k=cpu z=bpu"
    assert "only behind a product there" in why(graph, "s").rule


def test_a_product_of_two_runtime_operands_is_the_cpus_on_bernoulli2() -> None:
    text = "input %x: f32[1,1,4,8]\ninput %y: f32[1,1,8,4]\n%m = matmul(%x, %y)\noutput %m"
    graph, _ = analyzed(text, "bernoulli2")
    assert why(graph, "m").actual == "two runtime operands"
    assert devices(analyzed(text, "bayes")[0]) == "m=bpu"
    constant = "input %x: f32[1,1,4,8]\nparam @k: f32[8,4] = #random(0, [8,4])\n%m = matmul(%x, @k)\noutput %m"
    assert devices(analyzed(constant.replace("[1,1,4,8]", "[4,8]"), "bernoulli2")[0]) == "m=bpu"


def test_a_convolution_with_computed_weights_is_the_cpus() -> None:
    text = "input %x: f32[1,8,16,16]\ninput %k: f32[8,1,5,5]\n%y = conv2d(%x, %k) {groups=8}\noutput %y"
    for spec in all_specs():
        graph, _ = analyzed(text, spec.name)
        assert why(graph, "y").rule.startswith("weight and bias are constants")


FOCUS = """
    input %x: f32[1,3,16,16]
    %a = slice(%x) {axes=[2], starts=[0], ends=[16], steps=[2]}
    %b = slice(%a) {axes=[3], starts=[0], ends=[16], steps=[2]}
    %c = slice(%x) {axes=[2], starts=[1], ends=[16], steps=[2]}
    %d = slice(%c) {axes=[3], starts=[1], ends=[16], steps=[2]}
    %k = cat(%b, %d) {axis=1}
    param @f: f32[8,6,3,3] = #random(3, [8,6,3,3])
    %y = conv2d(%k, @f)
    output %y
"""


def test_focus_slices_are_the_cpus_on_x3_and_the_bpus_later() -> None:
    graph, _ = analyzed(FOCUS, "bernoulli2")
    assert devices(graph) == "a=cpu b=cpu c=cpu d=cpu k=cpu y=bpu"
    assert why(graph, "b").rule == "strided slices of the model's input run on the CPU on bernoulli2"
    for march in ("bayes", "bayes-e"):
        assert devices(analyzed(FOCUS, march)[0]) == "a=bpu b=bpu c=bpu d=bpu k=bpu y=bpu"


def test_5d_add_with_a_constant_is_the_cpus_on_bayes_while_pow_is_not() -> None:
    text = """
        input %x: f32[1,3,8,8,2]
        param @grid: f32[1,3,8,8,2] = #random(0, [1,3,8,8,2])
        %p = pow_scalar(%x) {exponent=2.0}
        %y = add(%p, @grid)
        output %y
    """
    graph, _ = analyzed(text, "bayes")
    assert devices(graph) == "p=bpu y=cpu" and why(graph, "y").actual == "5-D with a constant"


# --- tails ----------------------------------------------------------------------------------------------------------------------

TAIL = """
    input %x: f32[1,8,16,16]
    %c0 = conv2d(%x, @w) {activation=relu} from(conv, relu)
    %y = conv2d(%c0, @w) {activation=ACTIVATION} from(last, y)
    output %y
"""


@pytest.mark.parametrize(("activation", "op"), [("relu", "relu"), ("relu6", "clamp")])
def test_the_activation_of_a_tail_convolution_is_split_off(activation: str, op: str) -> None:
    graph, remarks = analyzed(TAIL.replace("ACTIVATION", activation))
    assert devices(graph) == "c0=bpu last=bpu y=cpu"
    assert node(graph, "y").op.name == op and node(graph, "last").attributes["activation"] == "none"
    assert why(graph, "y").actual == "last emits int32"
    assert [remark.node for remark in remarks] == ["y"]


def test_a_fake_quant_keeps_the_activation_in_the_convolution() -> None:
    graph, _ = analyzed(TAIL.replace("ACTIVATION", "relu"), high_precision=QAT)
    assert devices(graph) == "c0=bpu y=bpu"
    graph, _ = analyzed(TAIL.replace("ACTIVATION", "relu"), high_precision=frozenset({"y"}))
    assert devices(graph) == "c0=bpu last=bpu y=cpu"


def test_a_run_that_ends_at_a_cpu_node_has_a_tail_too_but_not_beside_a_bpu_user() -> None:
    text = """
        input %x: f32[1,8,16,16]
        %c = conv2d(%x, @w) {activation=relu} from(conv, c)
        %s = selu(%c)
        output %s
    """
    assert devices(analyzed(text)[0]) == "conv=bpu c=cpu s=cpu"
    forked = text.replace("output %s", "%z = conv2d(%c, @w)\n        output %s, %z")
    assert devices(analyzed(forked)[0]) == "c=bpu s=cpu z=bpu"


def test_leaky_relu_at_the_tail_is_float_on_bernoulli2_only_and_other_tables_stay() -> None:
    text = "input %x: f32[1,8,16,16]\n%c = conv2d(%x, @w1)\n%y = OP(%c)\noutput %y"
    assert devices(analyzed(text.replace("OP", "leaky_relu"), "bernoulli2")[0]) == "c=bpu y=cpu"
    assert devices(analyzed(text.replace("OP", "leaky_relu"), "bayes-e")[0]) == "c=bpu y=bpu"
    assert devices(analyzed(text.replace("OP", "silu"), "bernoulli2")[0]) == "c=bpu y=bpu"


@pytest.mark.parametrize("march", [spec.name for spec in all_specs()])
def test_the_permute_of_an_nhwc_head_is_absorbed(march: str) -> None:
    text = "input %x: f32[1,8,16,16]\n%c = conv2d(%x, @w)\n%y = transpose(%c) {perm=[0,2,3,1]}\noutput %y"
    graph, _ = analyzed(text, march)
    assert devices(graph) == "c=bpu y=bpu" and "absorbed" in why(graph, "y").rule


def test_the_final_flatten_is_the_cpus_on_bayes_e() -> None:
    text = "input %x: f32[1,8,3,3]\n%c = conv2d(%x, @w)\n%y = reshape(%c) {shape=[1,8]}\noutput %y"
    assert devices(analyzed(text, "bayes-e")[0]) == "c=bpu y=cpu"
    assert devices(analyzed(text, "bayes")[0]) == "c=bpu y=bpu"
    assert devices(analyzed(text, "bayes-e", high_precision=QAT)[0]) == "c=bpu y=bpu"


# --- outside the stubs, and hybrid=False ---------------------------------------------------------------------------------------

STUBS = """
    input %x: f32[1,8,16,16]
    %n = sigmoid(%x)
    %q = quantize(%n) {stub=true}
    %c = conv2d(%q, @w)
    %d = dequantize(%c) {stub=true}
    %s = softmax(%d) {axis=1}
    %t = sigmoid(%s)
    output %t
"""


def test_what_lies_outside_the_stubs_is_float() -> None:
    graph, _ = analyzed(STUBS)
    assert devices(graph) == "n=cpu c=bpu s=cpu t=cpu"
    assert why(graph, "n").actual == "before the QuantStub q" and why(graph, "t").actual == "behind the DeQuantStub d"


def test_without_hybrid_only_what_lies_between_the_stubs_must_run_on_the_bpu() -> None:
    graph, _ = analyzed(STUBS, hybrid=False)
    assert devices(graph) == "n=cpu c=bpu s=cpu t=cpu"


def test_without_hybrid_every_refused_op_is_listed_with_its_reasons() -> None:
    text = """
        input %x: f32[1,8,16,16]
        %a = softsign(%x) loc("body.act:softsign#0" "net.py:7")
        %c = conv2d(%a, @w)
        %b = log_softmax(%c) {axis=1}
        output %b
    """
    with pytest.raises(SupportError) as error:
        analyzed(text, hybrid=False)
    message = str(error.value)
    assert message.startswith("2 operations cannot run on the BPU of bayes; pass hybrid=True")
    assert "a [body.act:softsign#0 (net.py:7)] (softsign): softsign is not in bayes's torch table" in message
    assert "b (log_softmax)" in message and "\n  c " not in message


# --- overrides -------------------------------------------------------------------------------------------------------------------


def test_cpu_by_request_always_holds_and_says_which_entry() -> None:
    graph, _ = analyzed("input %x: f32[1,8,16,16]\n%y = conv2d(%x, @w)\noutput %y", hybrid_dict={"op": ["conv2d"]})
    reason = why(graph, "y")
    assert (reason.step, reason.actual) == ("override", "op 'conv2d' -> cpu")


def test_bpu_by_request_is_for_opt_in_ops() -> None:
    text = "input %x: f32[1,8,16,16]\n%c = conv2d(%x, @w)\n%y = softmax(%c) {axis=1}\n%z = conv2d(%y, @w)\noutput %z"
    assert "y=cpu" in devices(analyzed(text)[0])
    graph, _ = analyzed(text, hybrid_dict={"bpu": {"op": [("softmax", "int16")]}})
    assert "y=bpu" in devices(graph) and node(graph, "y").request is not None
    assert why(graph, "y").step == "override"


def test_an_impossible_bpu_request_is_an_error_with_the_rule() -> None:
    text = 'input %x: f32[1,8,16,16]\n%y = selu(%x) loc("act:selu#0" "net.py:3")\noutput %y'
    with pytest.raises(
        OverrideError, match=r"y \[act:selu#0 \(net.py:3\)\] cannot run on the BPU .* Selu runs on the CPU on bayes"
    ):
        analyzed(text, hybrid_dict={"bpu": {"op": ["selu"]}})


# --- properties --------------------------------------------------------------------------------------------------------------------

_OPS = ("relu", "sigmoid", "selu", "softmax", "neg", "tanh")


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """A random DAG of unary ops, adds, cats and reshapes on `[1,4,4,4]`."""
    graph = Graph("random")
    values = [graph.add_input("x", TensorType(DType.FLOAT32, (1, 4, 4, 4)))]
    for index in range(draw(st.integers(1, 14))):
        kind = draw(st.sampled_from((*_OPS, "add", "cat", "slice")))
        operands = [draw(st.sampled_from(values)) for _ in range(2 if kind in ("add", "cat") else 1)]
        name, origin = f"n{index}", (f"n{index // draw(st.integers(1, 2))}",)
        if kind == "cat":
            joined = graph.add_node("cat", operands, {"axis": 2}, name=f"{name}_cat", origin=origin)
            node_ = graph.add_node(
                "slice", [joined.result], {"axes": [2], "starts": [0], "ends": [4]}, name=name, origin=origin
            )
        elif kind == "slice":
            node_ = graph.add_node("slice", operands, {"axes": [1], "starts": [0], "ends": [4]}, name=name, origin=origin)
        else:
            node_ = graph.add_node(kind, operands, {"axis": 1} if kind == "softmax" else {}, name=name, origin=origin)
        values.append(node_.result)
    graph.set_outputs([values[-1]])
    graph.remove_dead_code()
    return graph


@settings(max_examples=60, deadline=None)
@given(graphs(), st.sampled_from([spec.name for spec in all_specs()]), st.booleans())
def test_the_analysis_is_a_fixed_point_that_keeps_operations_together(graph: Graph, march: str, calibrated: bool) -> None:
    context = PassContext(get_spec(march), high_precision=None if calibrated else QAT)
    AnalyzeSupport().run(graph, context)
    text = str(graph)
    assert not AnalyzeSupport().run(graph, context).changed and str(graph) == text
    by_origin: dict[str, list[Node]] = {}
    for each in graph.nodes:
        assert each.support is not None
        assert each.support.accepted or each.support.reasons
        for name in each.origin:
            by_origin.setdefault(name, []).append(each)
        if not check_node(get_spec(march), each).accepted:
            assert not each.support.accepted
        if each.op.name == "slice" and each.support.accepted:
            producer = each.operands[0].producer
            follows = march == "bayes-e" or producer is None or (producer.support is not None and producer.support.accepted)
            assert follows
    for name, members in by_origin.items():
        assert is_divisible(name, members) or len({each.support.accepted for each in members if each.support}) == 1


@settings(max_examples=40, deadline=None)
@given(graphs(), st.sampled_from([spec.name for spec in all_specs()]), st.randoms(use_true_random=False))
def test_verdicts_do_not_depend_on_the_order_of_the_nodes(graph: Graph, march: str, random: Random) -> None:
    shuffled = Graph("random")
    values = {value.name: shuffled.add_input(value.name, value.type) for value in graph.inputs}
    waiting = list(graph.nodes)
    while waiting:
        ready = [each for each in waiting if all(operand.name in values for operand in each.operands)]
        each = random.choice(ready)
        waiting.remove(each)
        twin = shuffled.add_node(
            each.op, [values[operand.name] for operand in each.operands], each.attributes, name=each.name, origin=each.origin
        )
        values[twin.name] = twin.result
    shuffled.set_outputs([values[value.name] for value in graph.outputs])
    context = PassContext(get_spec(march))
    verdicts = []
    for each_graph in (graph, shuffled):
        AnalyzeSupport().run(each_graph, context)
        verdicts.append({each.name: each.support.accepted for each in each_graph.nodes if each.support is not None})
    assert verdicts[0] == verdicts[1]
