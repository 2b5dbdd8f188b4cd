"""Each rule of the verifier has a graph that breaks it and only it, and the error shows node, source line and values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from hqc.errors import VerificationError
from hqc.ir import DType, Graph, Node, QuantParams, TensorType, Trait, check, parse, verify
from hqc.ir.rules import CAT_SCALES_UNIFIED, RULES
from hqc.ir.verifier import rules_of


@dataclass(frozen=True)
class FakeMarch:
    requantize_at_cat: bool = True
    power_of_two: bool = False

    def keeps_scale(self, node: Node) -> bool:
        return node.op.has(Trait.PASS_THROUGH)


SCALED = """graph @net stage=scaled {
  input %x: f32[1,4,8,8]
  param @w q(i8, axis=0, [0.1, 0.1, 0.2, 0.2]) = #random(0, [4,4,1,1])
  %q: f32[1,4,8,8] q(i8, 0.5) = quantize(%x) cpu
  %c: f32[1,4,8,8] q(i8, 0.25) = conv2d(%q, @w) bpu.0 accepted loc("m:conv2d#0" "net.py:7")
  %p: f32[1,4,4,4] q(i8, 0.25) = max_pool2d(%c) {kernel=[2,2], stride=[2,2]} bpu.0 accepted
  %k: f32[1,8,4,4] q(i8, 0.5) = cat(%p, %p) {axis=1} bpu.0 accepted
  %d: f32[1,8,4,4] = dequantize(%k) cpu
  %y: f32[1,8,4,4] = selu(%d) cpu refused("no selu")
  output %y
}
"""
INTEGER = """graph @net stage=integer {
  input %x: f32[1,4,8,8]
  param @w: i8[4,4,1,1] = #random(0)
  param @r: i64[3] = [16384, 0, 20]
  %q: i8[1,4,8,8] q(i8, 0.5) = quantize(%x) cpu
  %c: i8[1,4,8,8] q(i8, 0.25) = int_conv2d(%q, @w, none, @r) bpu.0 accepted
  %d: f32[1,4,8,8] = dequantize(%c) cpu
  output %d
}
"""


def node(graph: Graph, name: str) -> Node:
    producer = graph.value(name).producer
    assert producer is not None
    return producer


def test_sound_graphs_pass_every_rule() -> None:
    verify(parse(SCALED), march=FakeMarch())
    verify(parse(INTEGER), march=FakeMarch(requantize_at_cat=False))


def break_names(graph: Graph) -> None:
    graph.value("y").name = "z"


def break_uses(graph: Graph) -> None:
    graph.value("c")._uses.clear()


def break_order(graph: Graph) -> None:
    first, last = node(graph, "q"), node(graph, "y")
    twin = graph.add_node("relu", [last.result], name="late", before=first)
    twin.device, twin.support = last.device, last.support


def break_outputs(graph: Graph) -> None:
    graph.set_outputs([graph.value("y"), graph.value("d")], ["o", "o"])


def break_attributes(graph: Graph) -> None:
    node(graph, "p").attributes["kernel"] = [2, 2]


def break_types(graph: Graph) -> None:
    graph.value("d").type = TensorType(DType.FLOAT32, (1, 8, 4, 5))
    graph.value("y").type = TensorType(DType.FLOAT32, (1, 8, 4, 5))


def break_scales(graph: Graph) -> None:
    graph.value("w").quant = QuantParams([0.5, 0.5], axis=0)


def break_support(graph: Graph) -> None:
    node(graph, "c").support = None


def break_device(graph: Graph) -> None:
    node(graph, "y").device = None


def break_refusal(graph: Graph) -> None:
    node(graph, "c").support = node(graph, "y").support


def break_subgraph(graph: Graph) -> None:
    node(graph, "d").subgraph = 1


def break_acyclic(graph: Graph) -> None:
    """c -> p (CPU) -> k with c and k in one subgraph."""
    node(graph, "p").device, node(graph, "p").subgraph = node(graph, "y").device, None
    dequantize = graph.add_node("dequantize", [graph.value("c")], name="dc", after=node(graph, "c"))
    node(graph, "p").set_input(0, dequantize.result)
    graph.value("p").quant = None
    quantize = graph.add_node("quantize", [graph.value("p")], name="qp", after=node(graph, "p"))
    quantize.result.quant = QuantParams(0.25)
    for boundary in (dequantize, quantize):
        boundary.device = node(graph, "y").device
    node(graph, "k").set_input(0, quantize.result)
    node(graph, "k").set_input(1, quantize.result)


def break_entry(graph: Graph) -> None:
    graph.value("x").quant = QuantParams(0.5)
    node(graph, "c").set_input(0, graph.value("x"))


def break_exit(graph: Graph) -> None:
    node(graph, "y").set_input(0, graph.value("k"))


def break_scaled(graph: Graph) -> None:
    graph.value("k").quant = None


def break_weight_scale(graph: Graph) -> None:
    graph.value("w").quant = None


def break_same_grid(graph: Graph) -> None:
    graph.value("p").quant = QuantParams(0.5)


def break_cat_scale(graph: Graph) -> None:
    graph.properties.add(CAT_SCALES_UNIFIED)


BROKEN_SCALED: list[tuple[str, Callable[[Graph], None], str]] = [
    ("names", break_names, "the value registered as y calls itself z"),
    ("uses", break_uses, "p: c does not list it as a user of operand 0"),
    ("order", break_order, "late: it reads y, which is not defined before it"),
    ("outputs", break_outputs, "two outputs are called o"),
    ("attributes", break_attributes, "p: attribute kernel is [2, 2] (list), must be like (2, 2) (tuple)"),
    ("types", break_types, "d: d is f32[1,8,4,5], by its operands it is f32[1,8,4,4]"),
    ("scales", break_scales, "w is f32[4,4,1,1] with 2 scales along axis 0"),
    ("support", break_support, "c [m:conv2d#0 (net.py:7)]: nobody has said whether the BPU can run it"),
    ("device", break_device, "y: it has no device"),
    ("device", break_refusal, "c [m:conv2d#0 (net.py:7)]: it is on the BPU, which refuses it: no selu"),
    ("subgraph", break_subgraph, "d: it is not on the BPU and belongs to subgraph 1"),
    ("acyclic", break_acyclic, "no order of execution exists: "),
    (
        "boundary",
        break_entry,
        "c [m:conv2d#0 (net.py:7)]: it runs on the BPU and reads x of the graph's input without a quantize",
    ),
    ("boundary", break_exit, "y: it runs on the CPU and reads k of the BPU's cat without a dequantize"),
    ("scaled", break_scaled, "k: k has no scale"),
    ("weight-scale", break_weight_scale, "c [m:conv2d#0 (net.py:7)]: its weight w has no scale"),
    ("same-grid", break_same_grid, "p: p has QuantParams(scale=0.5"),
    ("cat-scale", break_cat_scale, "k: p has QuantParams(scale=0.25"),
]


def break_integer_ops(graph: Graph) -> None:
    relu = graph.add_node("add", [graph.value("c"), graph.value("c")], name="s", after=node(graph, "c"))
    relu.result.quant = QuantParams(0.25)
    conv = node(graph, "c")
    relu.device, relu.subgraph, relu.support = conv.device, conv.subgraph, conv.support


def break_float_operand(graph: Graph) -> None:
    pad = graph.add_parameter("f", graph.value("w").array.astype("float32"))  # type: ignore[union-attr]
    node(graph, "c").set_input(1, pad)


def break_integer_types(graph: Graph) -> None:
    graph.value("c").quant = QuantParams(0.25, DType.INT16)


def break_real_outputs(graph: Graph) -> None:
    graph.set_outputs([graph.value("c")], ["logits"])


def _with_rows(rows: object) -> Callable[[Graph], None]:
    def break_rows(graph: Graph) -> None:
        node(graph, "c").set_input(3, graph.add_parameter("rows", np.array(rows, np.int64)))

    return break_rows


def break_missing_rows(graph: Graph) -> None:
    node(graph, "c").set_input(3, None)


def break_residual_rows(graph: Graph) -> None:
    conv = node(graph, "c")
    conv.set_input(4, graph.value("q"))
    conv.set_input(5, graph.add_parameter("rows", np.array([1, 1, 3])))


def break_bias(graph: Graph) -> None:
    node(graph, "c").set_input(2, graph.add_parameter("b", np.zeros(3, np.int32)))


def break_clip(graph: Graph) -> None:
    node(graph, "c").attributes["clip_min"] = 200
    node(graph, "c").attributes["clip_max"] = 100


def break_table(graph: Graph) -> None:
    table = graph.add_parameter("t", np.zeros(255, np.int8))
    conv = node(graph, "c")
    lut = graph.add_node("int_lut", [conv.result, table], name="l", after=conv)
    lut.result.quant = conv.result.quant
    lut.device, lut.subgraph, lut.support = conv.device, conv.subgraph, conv.support


BROKEN_INTEGER: list[tuple[str, Callable[[Graph], None], str]] = [
    ("integer-ops", break_integer_ops, "s: add computes on real numbers"),
    ("integer-ops", break_float_operand, "c: f is f32[4,4,1,1]"),
    ("integer-types", break_integer_types, "c: c is i8[1,4,8,8], its quantization says i16"),
    (
        "requant-rows",
        _with_rows([16384, -1, 20]),
        "c: requant holds what no ratio of scales gives: the pre-shift p is -1, ",
    ),
    ("requant-rows", _with_rows([40000, 0, 20]), "the multiplier M is 40000"),
    ("requant-rows", _with_rows([-3, 0, 20]), "the multiplier M is -3"),
    ("requant-rows", _with_rows([16384, 0, 64]), "the post-shift S is 64"),
    ("requant-rows", _with_rows([[9] * 4, [0, 0, 99, 0], [9] * 4]), "the pre-shift p of channel 2 is 99"),
    ("requant-rows", _with_rows([[9] * 5, [0] * 5, [9] * 5]), "c: requant has rows for 5 channels, the result has 4"),
    ("requant-rows", _with_rows([16384, 20]), "is int64 of the shape [2], it takes the three rows M, p and S"),
    ("requant-rows", _with_rows(np.zeros((3, 7, 8))), "has rows for [7, 8] positions, the result is i8[1,4,8,8]"),
    ("requant-rows", break_missing_rows, "requant is missing, which the mode multiply takes"),
    (
        "requant-rows",
        break_residual_rows,
        "the pre-shift p is 1, in mode residual it is from 0 to 0",
    ),
    ("integer-constants", break_bias, "c: its bias has the shape [3], its result 4 channels"),
    ("integer-constants", break_clip, "c: it clips from 200 to 100"),
    ("integer-constants", break_table, "l: its table has 255 entries, for i8 it takes 256"),
    ("real-outputs", break_real_outputs, "the output logits is i8[1,4,8,8] with a scale"),
]


@pytest.mark.parametrize(
    ("text", "rule", "damage", "message"),
    [(SCALED, *case) for case in BROKEN_SCALED] + [(INTEGER, *case) for case in BROKEN_INTEGER],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_each_rule_catches_its_damage_and_no_other_rule_fires(
    text: str, rule: str, damage: Callable[[Graph], None], message: str
) -> None:
    graph = parse(text)
    damage(graph)
    violations = check(graph, march=FakeMarch(requantize_at_cat=False))
    assert {violation.rule for violation in violations} == {rule}
    statement = next(known.statement for known in RULES if known.name == rule)
    with pytest.raises(VerificationError) as caught:
        verify(graph, march=FakeMarch(requantize_at_cat=False))
    assert message in str(caught.value)
    assert f"(rule {rule}: {statement})" in str(caught.value)


def test_every_scale_is_a_power_of_two_where_the_march_only_shifts() -> None:
    march = FakeMarch(power_of_two=True)
    graph = parse(SCALED)
    found = [str(violation) for violation in check(graph, march=march) if violation.rule == "power-of-two"]
    assert [text.partition(" (rule")[0] for text in found] == ["c [m:conv2d#0 (net.py:7)]: w has the scale 0.100000001"]
    graph.value("w").quant = QuantParams([0.5, 0.25, 2.0**-14, 2.0**-28], axis=0)
    verify(graph, march=march)


def test_every_rule_has_a_graph_that_breaks_it() -> None:
    assert {rule for rule, _, _ in BROKEN_SCALED + BROKEN_INTEGER} | {"power-of-two"} == {rule.name for rule in RULES}


def test_rules_hold_from_their_stage_on() -> None:
    graph = parse("input %x: f32[1]\n%y = relu(%x)\noutput %y")
    assert check(graph) == []
    assert {violation.rule for violation in check(graph, stage="supported")} == {"support"}
    assert {violation.rule for violation in check(graph, stage="partitioned")} == {"support", "device"}
    assert [rule.name for rule in rules_of("lowered")] == [
        "names", "uses", "order", "outputs", "attributes", "types", "scales",
    ]  # fmt: skip
    assert len(rules_of("integer")) == len(RULES)


def test_unknown_stage_is_an_error() -> None:
    with pytest.raises(VerificationError, match="there is no stage 'done'; stages: lowered"):
        check(Graph(), stage="done")


def test_error_counts_what_it_does_not_spell_out() -> None:
    lines = "\n".join(f"%y{index} = relu(%x)" for index in range(9))
    with pytest.raises(VerificationError, match="and 4 more"):
        verify(parse(f"input %x: f32[1]\n{lines}"), stage="supported")


def test_indices_and_truth_values_may_cross_devices_as_they_are() -> None:
    graph = parse("""graph stage=bounded {
      input %x: f32[1,4]
      input %i: i64[2]
      %q = quantize(%x) cpu
      %g = gather(%q, %i) {axis=1} bpu.0 accepted
      %a = argmax(%g) {axis=1} bpu.0 accepted
      %b = cast(%a) {dtype=f32} cpu refused("cast")
      output %b
    }""")
    verify(graph)


def test_a_dequantize_does_not_lead_into_the_bpu() -> None:
    graph = parse("""graph stage=bounded {
      input %x: f32[1,4]
      %q = quantize(%x) cpu
      %d = dequantize(%q) cpu
      %y = relu(%d) bpu.0 accepted
      output %y
    }""")
    assert [violation.message for violation in check(graph)] == [
        "it runs on the BPU and reads d of the CPU's dequantize without a quantize between"
    ]


def test_cycle_is_found_whatever_the_numbering_and_shown_step_by_step() -> None:
    graph = parse("""graph stage=partitioned {
      input %x: f32[1]
      %a = relu(%x) bpu.1 accepted
      %b = relu(%x) bpu.0 accepted
      %c = relu(%a) cpu refused("r")
      %d = relu(%b) cpu refused("r")
      %e = relu(%d) bpu.1 accepted
      %f = relu(%c) bpu.0 accepted
      output %e, %f
    }""")
    (violation,) = check(graph)
    assert violation.rule == "acyclic"
    steps = violation.message.partition(": ")[2].split(" -> ")
    assert steps[0] == steps[-1]
    assert {step.split()[0] for step in steps} <= {"a", "b", "c", "d", "e", "f"}
    assert len(steps) == 5


def test_a_bpu_node_without_a_subgraph_is_named() -> None:
    graph = parse("graph stage=partitioned {\ninput %x: f32[1]\n%y = relu(%x) bpu accepted\noutput %y\n}")
    assert [str(violation) for violation in check(graph)] == [
        "y: it is on the BPU and belongs to no subgraph (rule subgraph: BPU nodes, and no others, belong to a subgraph)"
    ]


def test_a_boundary_op_does_not_run_on_the_bpu() -> None:
    graph = parse("graph stage=partitioned {\ninput %x: f32[1]\n%y = quantize(%x) bpu.0\noutput %y\n}")
    assert [violation.message for violation in check(graph)] == ["quantize is a boundary op on the BPU"]


def test_an_attribute_that_inference_would_stumble_over_is_reported() -> None:
    graph = parse(SCALED)
    node(graph, "c").attributes["padding"] = (1, 1)
    assert [violation.message for violation in check(graph)] == ["conv2d: attribute padding must have 4 entries, got (1, 1)"]
    del node(graph, "c").attributes["padding"]
    assert [violation.message for violation in check(graph)] == [
        "attribute padding is missing, must be like (0, 0, 0, 0) (tuple)"
    ]


def test_structure_is_checked_before_anything_that_relies_on_it() -> None:
    graph = parse(SCALED)
    break_uses(graph)
    break_types(graph)
    assert {violation.rule for violation in check(graph)} == {"uses"}
