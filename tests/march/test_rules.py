"""Support rules: limits of the tables with numbers, hints, conditions, and which table decides."""

from __future__ import annotations

import pytest
from march_check import ask, conv, last_node

from hqc.ir import Device, DType, Reason, Request, Trait, all_ops
from hqc.march import all_specs, get_spec
from hqc.march.bindings import BINDINGS
from hqc.march.predicates import CONDITIONS, MEASURES
from hqc.march.rules import Checker, check_node
from hqc.march.table import find_row

FEATURE = "input %x: f32[1,8,16,16]\n"


def unary(op: str, attributes: str = "", shape: str = "1,8,16,16") -> str:
    options = f" {{{attributes}}}" if attributes else ""
    return f"input %x: f32[{shape}]\n%y = {op}(%x){options}\noutput %y"


def binary(op: str, a: str, b: str) -> str:
    return f"input %a: f32[{a}]\ninput %b: f32[{b}]\n%y = {op}(%a, %b)\noutput %y"


def with_constant(op: str, a: str, b: str, fill: str = "#random(0, [{b}])") -> str:
    return f"input %a: f32[{a}]\nparam @b: f32[{b}] = {fill.format(b=b)}\n%y = {op}(%a, @b)\noutput %y"


# --- answers ---------------------------------------------------------------------------------------------------------------


def test_a_refusal_carries_rule_actual_value_limit_and_the_marches_that_run_it() -> None:
    verdict = ask("bernoulli2", conv(weight="8,8,9,9"))
    assert verdict.reasons == (
        Reason("kernel at most 7x7 on bernoulli2", "9x9", "7x7", "bayes and bayes-e run it", id="kernel_w"),
    )
    assert str(verdict.reasons[0]) == "kernel at most 7x7 on bernoulli2: 9x9, limit 7x7 (bayes and bayes-e run it)"
    assert ask("bayes", conv(weight="8,8,9,9")).accepted


def test_every_broken_rule_is_listed() -> None:
    verdict = ask("bernoulli2", conv(weight="8,8,9,9", attributes="dilation=[3,3]"))
    assert len(verdict.reasons) >= 2 and not verdict.accepted
    rules = " | ".join(reason.rule for reason in verdict.reasons)
    assert "kernel" in rules and "dilation" in rules


def test_no_hint_where_no_march_runs_the_node() -> None:
    (reason,) = ask("bayes", unary("group_norm", "groups=2")).reasons
    assert reason.hint == ""


def test_without_shapes_the_answer_is_conditional_on_the_rules_that_need_them() -> None:
    verdict = ask("bernoulli2", "input %x: f32[*]\n%y = sigmoid(%x)\noutput %y")
    assert verdict.accepted
    assert any(reason.rule.startswith("batch") and reason.condition for reason in verdict.reasons)
    assert not any("elements" in reason.rule for reason in verdict.reasons), "advice is no condition"


def test_attributes_decide_even_without_shapes() -> None:
    text = "input %x: f32[*]\n%y = max_pool2d(%x) {kernel=[65,65], stride=[2,2]}\noutput %y"
    assert ask("bernoulli2", text).reasons[0].actual == "65x65"


def sampled(attributes: str = "", image: str = "1,4,16,16") -> str:
    return f"input %x: f32[{image}]\ninput %g: f32[1,8,8,2]\n%y = grid_sample(%x, %g) {{{attributes}}}\noutput %y"


# --- single rules ------------------------------------------------------------------------------------------------------------

REFUSED = [
    ("bernoulli2", conv(weight="8,8,3,9"), "kernel at most 7x7", "3x9"),
    ("bayes", conv(64, weight="8,8,33,33"), "kernel at most 31x31", "33x33"),
    ("bernoulli2", conv(8, weight="8,5000,1,1"), "channels of a plain convolution", "5000"),
    ("bernoulli2", conv(8, weight="4,3000,1,1", attributes="dilation=[2,2]"), "channels per group", "3000"),
    ("bernoulli2", conv(attributes="dilation=[3,3]"), "dilation 1, or powers of two", "dilation 3x3 with stride 1x1"),
    ("bayes", conv(attributes="dilation=[2,2], stride=[2,2]"), "stride of a dilated convolution 1", "2, 2"),
    ("bayes", conv(33, attributes="dilation=[2,2]"), "the dilation divides", "33x33 with dilation 2x2"),
    ("bernoulli2", unary("avg_pool2d", "kernel=[9,9], stride=[1,1]"), "kernel at most 7x7", "9x9"),
    ("bernoulli2", unary("argmax", "axis=2"), "axis 1", "2"),
    ("bernoulli2", unary("pixel_shuffle", "factor=4", "1,16,8,8"), "block size 2", "4"),
    ("bayes", unary("pixel_shuffle", "factor=2", "1,8,8,8"), "a multiple of 4 result channels", "2"),
    ("bernoulli2", unary("pad", "pads=[0,1,0,0,0,0,0,0]"), "only height and width change", "pads [0, 1, 0, 0, 0, 0, 0, 0]"),
    ("bayes", unary("pad", "pads=[0,0,1,1,0,0,1,1], mode=reflect"), "constant padding", "reflect"),
    ("bernoulli2", unary("mean", "axes=[1], keepdims=true"), "over height and width together", "axes [1]"),
    ("bayes", unary("mean", "axes=[3]"), "keepdims=True", "keepdims=False"),
    ("bayes", unary("reduce_max", "axes=[2,3], keepdims=true"), "number of axes 1", "2"),
    ("bayes", unary("resize2d", "size=[48,48], mode=nearest"), "factors are powers of two", "3x3"),
    ("bayes", unary("resize2d", "size=[32,32], mode=bicubic"), "nearest or linear", "bicubic"),
    ("bayes", sampled("mode=bicubic"), "nearest or linear", "bicubic"),
    ("bayes-e", sampled("padding_mode=reflection"), "zeros or its border", "reflection"),
    ("bayes", sampled(image="1,4,1025,8"), "height at most 1024", "1025"),
    ("bayes", sampled(image="1,4,1024,800"), "positions (height x width) of the image at most 737280", "819200"),
    ("bernoulli2", sampled(), "runs on the CPU", ""),
    ("bernoulli", sampled(), "runs on the CPU", ""),
    ("bayes", unary("adaptive_avg_pool2d", "output_size=[5,5]"), "multiple of the output size", "16x16 to 5x5"),
    ("bayes", unary("split", "axis=0, sizes=[1]"), "an axis other than the first", "axis 0"),
    ("bayes", unary("expand", "shape=[1,8,16,16]", "1,1,1,16"), "axes that change size at most 1", "2"),
    ("bernoulli2", binary("add", "1,8,4,4", "1,8,1,4"), "operands NCHW", "[1, 8, 4, 4] and [1, 8, 1, 4]"),
    ("bernoulli2", with_constant("add", "1,8,4,4", ""), "operands NCHW", "[1, 8, 4, 4] and []"),
    ("bernoulli2", with_constant("add", "1,8,4,4", "4,4"), "operands NCHW", "[1, 8, 4, 4] and [4, 4]"),
    ("bernoulli2", with_constant("mul", "1,8,4,4", "1,8,1,1", "[0.0,1,2,3,4,5,6,7]"), "no zeros", "a constant with zeros"),
    ("bayes", with_constant("div", "1,8,4,4", "1", "[0.0]"), "no constant operand", "a constant operand"),
    ("bayes", with_constant("div", "1,8,4,4", "1", "[1e-40]"), "no constant operand", "a constant operand"),
    ("bayes", binary("maximum", "1,8,1,4", "1,8,4,1"), "only one operand is broadcast", "[1, 8, 1, 4] and [1, 8, 4, 1]"),
    ("bayes", binary("add", "1,2,1,4,1", "1,1,3,1,5"), "two neighbouring axes", "[1, 2, 1, 4, 1] and [1, 1, 3, 1, 5]"),
    ("bayes", binary("matmul", "1,2,4,8", "8,4"), "operands of equal rank", "2 and 4"),
    ("bayes", with_constant("prelu", "1,8,4,4", "8"), "PRelu runs on the CPU", ""),
    ("bayes", "input %x: i64[1,8]\ninput %z: i64[1,8]\n%y = add(%x, %z)\noutput %y", "operands are real numbers", "x is i64"),
    ("bayes", "input %x: f64[1,8,4,4]\n%y = relu(%x)\noutput %y", "numbers are float32", "x is f64"),
    (
        "bayes",
        "input %x: f32[1,4,8,8]\ninput %w: f32[4,4,3,3]\n%y = conv2d(%x, %w)\noutput %y",
        "weight and bias are constants",
        "w is computed",
    ),
    (
        "bernoulli2",
        "input %x: f32[1,4,8,8]\nparam @w: f32[4,4,1,1] = #random(0, [4,4,1,1])\n%y = conv_transpose2d(%x, @w)\noutput %y",
        "kernel from 2x2 to 14x14",
        "1x1",
    ),
    (
        "bernoulli2",
        "input %x: f32[1,17000]\nparam @w: f32[2,17000] = #random(0, [2,17000])\n%y = linear(%x, @w)\noutput %y",
        "at most 16384 input features",
        "17000",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("march", "text", "rule", "actual"), REFUSED, ids=[f"{m}-{r}" for m, _, r, _ in REFUSED])
def test_a_limit_refuses_with_its_numbers(march: str, text: str, rule: str, actual: str) -> None:
    verdict = ask(march, text)
    assert not verdict.accepted
    found = [reason for reason in verdict.reasons if rule in reason.rule]
    assert found, [str(reason) for reason in verdict.reasons]
    assert found[0].actual == actual
    assert found[0].step == "capability"


ACCEPTED = [
    ("bernoulli2", conv(attributes="stride=[2,2]")),  # the dilation rule is about dilated convolutions only
    ("bernoulli2", conv(8, weight="8,3000,1,1")),  # plain convolutions have the wider channel limit
    ("bernoulli2", unary("silu", "", "1,64,64,64")),  # not in the ONNX table: the torch row, without a size limit
    ("bernoulli2", unary("leaky_relu", "", "1,64,64,64")),
    ("bernoulli2", unary("adaptive_avg_pool2d", "output_size=[1,1]", "1,16,224,224")),  # split into windows of 7, 4, 4, 2
    ("bernoulli2", unary("max_pool2d", "kernel=[13,13], stride=[1,1], padding=[6,6,6,6]")),
    ("bernoulli2", unary("sigmoid", "", "1,8160,1,1")),  # aligned to 32 channels
    ("bernoulli2", with_constant("mul", "1,8,4,4", "1", "[0.5]")),
    ("bernoulli2", binary("mul", "1,8,4,4", "1,8,1,1")),
    ("bernoulli2", unary("split", "axis=1, sizes=[2,6]").replace("%y =", "%y, %z =")),  # unequal parts run as slices
    ("bayes", unary("split", "axis=1, sizes=[2,2,4]").replace("%y =", "%y, %z, %u =")),
    ("bayes", unary("reshape", "shape=[1,8,256]")),
    ("bayes", binary("add", "1,8,1,4", "1,1,16,4")),  # mutual broadcast
    ("bayes", binary("add", "1,2,3,4,5", "1,2,3,4,5")),
    ("bayes", unary("resize2d", "size=[48,40], mode=bilinear")),
    ("bayes", unary("hardswish")),
    ("bayes", binary("matmul", "1,2,4,8", "1,2,8,4")),
    ("bayes-e", with_constant("matmul", "1,2,4,8", "8,4")),
    ("bernoulli", unary("max_pool2d", "kernel=[3,3], stride=[2,2]")),
    ("bayes", sampled("mode=nearest, padding_mode=border, align_corners=true", "1,4,720,1024")),
    ("bayes-e", sampled()),
]


@pytest.mark.parametrize(("march", "text"), ACCEPTED)
def test_what_lies_within_the_limits_is_accepted(march: str, text: str) -> None:
    verdict = ask(march, text)
    assert verdict.accepted, [str(reason) for reason in verdict.reasons]


def test_the_batch_of_the_example_inputs_does_not_decide() -> None:
    assert ask("bernoulli2", unary("tanh", "", "32,8,16,16")).accepted
    assert ask("bernoulli2", binary("mul", "32,8,4,4", "32,8,1,1")).accepted


def test_a_batch_that_the_model_makes_does_decide() -> None:
    text = "input %x: f32[1,8,16,16]\n%r = reshape(%x) {shape=[2,4,16,16]}\n%y = tanh(%r)\noutput %y"
    assert ask("bernoulli2", text).reasons[0].rule == "batch 1 on bernoulli2"


def test_a_spelled_out_op_needs_every_part() -> None:
    (reason,) = ask("bernoulli2", unary("hardswish")).reasons
    assert reason.rule == "hardswish (HardSigmoid) runs on the CPU on bernoulli2 (onnx table)"


def test_fused_only_ops_alone_run_as_an_inserted_unit_convolution() -> None:
    verdict = ask("bernoulli2", unary("relu"))
    assert verdict.accepted and "inserted unit convolution" in verdict.reasons[0].rule
    assert ask("bayes", unary("relu")).reasons == ()


# --- opt-in ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["softmax", "minimum", "equal", "greater", "less"])
def test_opt_in_ops_run_on_the_cpu_unless_asked_for(op: str) -> None:
    text = unary(op, "axis=1") if op == "softmax" else binary(op, "1,8,4,4", "1,8,4,4")
    node = last_node(text)
    refused = check_node(get_spec("bayes"), node)
    assert not refused.accepted and "only on request" in refused.reasons[0].rule and op in refused.reasons[0].hint
    node.request = Request(Device.BPU, "test")
    assert check_node(get_spec("bayes"), node).accepted


def test_an_opt_in_op_names_the_limits_that_asking_would_meet() -> None:
    reasons = check_node(get_spec("bayes"), last_node(unary("softmax", "axis=1", "1,8,16"))).reasons
    assert "only on request" in reasons[0].rule and reasons[0].hint.startswith("then ask for it with")
    assert reasons[1].rule == "rank 4 on bayes"


def test_an_opt_in_op_has_its_limits_when_asked_for() -> None:
    node = last_node(unary("softmax", "axis=1", "1,8,16"))
    node.request = Request(Device.BPU, "test")
    assert check_node(get_spec("bayes"), node).reasons[0].rule == "rank 4 on bayes"


def test_int16_is_for_the_marches_and_ops_that_have_it() -> None:
    node = last_node(unary("sigmoid"))
    node.request = Request(Device.BPU, "test", DType.INT16)
    assert check_node(get_spec("bayes"), node).accepted
    refused = check_node(get_spec("bernoulli2"), node)
    assert (refused.reasons[0].actual, refused.reasons[0].limit) == ("i16", "i8")
    product = last_node(binary("matmul", "1,2,4,8", "1,2,8,4"))
    product.request = Request(Device.BPU, "test", DType.INT16)
    assert not check_node(get_spec("bernoulli2"), product).accepted


def test_rows_that_name_operands_give_each_its_own_dtypes() -> None:
    node, checker = last_node(sampled()), Checker(get_spec("bayes"))
    assert {dtype.bits for dtype in checker.dtypes(node, "x")} == {dtype.bits for dtype in checker.dtypes(node)} == {8}
    assert {dtype.bits for dtype in checker.dtypes(node, "grid")} == {8, 16}
    layer = last_node(conv())
    assert checker.dtypes(layer, "residual") == checker.dtypes(layer, "x")  # not named


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        (conv(), {8, 16}),  # int16 comes from the torch table
        (unary("relu"), {8, 16}),
        (unary("avg_pool2d", "kernel=[2,2], stride=[2,2]"), {8}),
        (binary("matmul", "1,2,4,8", "1,2,8,4"), {8}),
        (unary("silu"), {8, 16}),
        (unary("reshape", "shape=[1,-1]"), {8, 16}),
    ],
)
def test_activation_dtypes_are_those_of_either_table_within_the_march(text: str, bits: set[int]) -> None:
    node = last_node(text)
    assert {dtype.bits for dtype in Checker(get_spec("bayes")).dtypes(node)} == bits
    assert {dtype.bits for dtype in Checker(get_spec("bernoulli2")).dtypes(node)} == {8}


def test_a_dequantize_does_not_hide_the_end_of_the_model() -> None:
    text = "input %x: f32[1,8,4,4]\n%y = softmax(%x) {axis=1}\nTAIL"
    for tail, accepted in (("%d = dequantize(%y) {stub=true}\noutput %d", True), ("%z = relu(%y)\noutput %z", False)):
        node = last_node(text.replace("TAIL", tail))
        producer = node.operands[0].producer
        assert producer is not None
        producer.request = Request(Device.BPU, "test")
        assert check_node(get_spec("bernoulli2"), producer).accepted is accepted


# --- which table governs -------------------------------------------------------------------------------------------------------


def test_the_torch_table_decides_without_hybrid() -> None:
    prelu = "input %x: f32[1,8,4,4]\nparam @s: f32[1] = [0.25]\n%y = prelu(%x, @s)\noutput %y"
    for march, hybrid, accepted in (
        ("bayes", True, False), ("bayes", False, True), ("bernoulli2", True, True), ("bernoulli2", False, False),
    ):  # fmt: skip
        assert ask(march, prelu, hybrid=hybrid).accepted is accepted
    assert ask("bayes", unary("softmax", "axis=1"), hybrid=False).accepted


def test_an_op_that_no_torch_row_has_is_refused_without_hybrid() -> None:
    (reason,) = ask("bayes", unary("softsign"), hybrid=False).reasons
    assert reason.rule == "softsign is not in bayes's torch table"


def test_bernoulli_has_what_bernoulli2_has_on_the_bpu_and_says_that_it_is_assumed() -> None:
    for name, rules in get_spec("bernoulli").rules.items():
        for op, entry in rules.onnx.items():
            twin = find_row("onnx", "bernoulli2", op)
            assert twin is not None and entry.row.assumed, name
            assert entry.row.device == (twin.device if twin.device in ("BPU", "BPU_FUSED") else "CPU")
            assert entry.row.limits == twin.limits
    verdict = ask("bernoulli", conv(weight="8,8,9,9"))
    assert verdict.reasons[0].rule == "kernel at most 7x7 on bernoulli, assumed from bernoulli2"


# --- completeness ----------------------------------------------------------------------------------------------------------------


def test_every_op_of_the_ir_has_an_answer_on_every_march() -> None:
    names = {definition.name for definition in all_ops()}
    assert set(BINDINGS) == names
    for spec in all_specs():
        assert set(spec.rules) == names
        for name, rules in spec.rules.items():
            described = rules.binding.internal or rules.binding.never or rules.onnx or rules.torch
            assert described, f"{name} has no row on {spec.name}"
            assert len(rules.onnx) == len(rules.binding.onnx), f"{name} names an ONNX op that {spec.name}'s table lacks"


def test_every_limit_of_every_bound_row_is_a_rule() -> None:
    for spec in all_specs():
        for name, rules in spec.rules.items():
            for entry in (*rules.onnx.values(), *rules.torch.values()):
                for limit in entry.row.limits:
                    known = limit.key in MEASURES or any(key == limit.key for key, _ in CONDITIONS)
                    known |= limit.key in ("fm_x_weight", "weight_x_fm", "fm_x_fm", "dims")
                    assert known, f"{spec.name} {name}: no predicate for {limit}"
                if entry.row.limits:
                    assert entry.rules, f"{spec.name} {name}: {entry.row.op} lost its limits"
                for rule in entry.rules:
                    assert rule.statement and "None" not in rule.statement, (name, rule.statement)


def test_table_ops_only_exist_for_ops_without_a_table_of_their_own() -> None:
    for name, binding in BINDINGS.items():
        if not binding.onnx and binding.torch and not binding.internal and not binding.never:
            assert name in {"silu", "gelu"}, f"{name}: bind its ONNX op, or say here that opset 11 has none"


def test_one_checker_gives_the_same_answers_as_fresh_ones() -> None:
    spec = get_spec("bernoulli2")
    checker = Checker(spec)
    for _, text, *_ in REFUSED:
        node = last_node(text)
        assert checker.check(node) == checker.check(node) == check_node(spec, node)


def test_integer_ops_are_accepted_everywhere() -> None:
    integer = [definition.name for definition in all_ops() if definition.has(Trait.INTEGER)]
    assert integer
    for spec in all_specs():
        assert all(spec.rules[name].binding.internal for name in integer)


def test_a_known_size_decides_although_others_are_unknown() -> None:
    text = "input %x: f32[?,{c},?,?]\n%y = cat(%x, %x) {{axis=1}}\noutput %y"
    known, wide, unknown = (ask("bernoulli2", text.format(c=c)) for c in (16, 8192, "?"))
    assert known.accepted and not known.reasons
    assert [reason.actual for reason in wide.reasons] == ["8192, 8192", "16384"]
    assert [reason.rule for reason in unknown.reasons] == [
        "input channels at most 2048",
        "output channels at most 2048",
    ]
