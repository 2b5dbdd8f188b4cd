"""place-observers: who is observed, in which dtype, by whose qconfig, and who shares a scale."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ir_check import assert_text, graph_of, run_passes

from hqc.errors import QConfigError
from hqc.ir import DType, Graph
from hqc.march import get_spec
from hqc.passes import PassContext
from hqc.passes.place_observers import PlaceObservers
from hqc.passes.qconfigs import ActivationConfig, QConfigTable

INT8 = ActivationConfig("q8", 'the global entry ""')
NAMED = ActivationConfig("named", 'module_name "conv"', 2, DType.INT16, scope="conv")
OUT = ActivationConfig("out", 'module_name "conv"', 2, None, scope="conv")

FUSED = """
input %x: f32[1,3,8,8]
param @w = #random(0, [4,3,1,1])
%q = quantize(%x) {stub=true} cpu from(quant)
%relu = conv2d(%q, @w) {activation=relu} bpu.0 from(conv, bn, relu)
%p = max_pool2d(%relu) {kernel=[2,2], stride=[2,2]} bpu.0 from(pool)
%s = sigmoid(%p) bpu.0 from(s)
%d = dequantize(%s) {stub=true} cpu from(dequant)
output %d
"""
TAIL = """
input %x: f32[1,3,8,8]
param @w = #random(0, [4,3,1,1])
%q = quantize(%x) {stub=true} cpu from(quant)
%conv = conv2d(%q, @w) {activation=ACT} bpu.0 from(conv, relu)
%d = dequantize(%conv) {stub=true} cpu from(dequant)
output %d
"""


def place(body: str, march: str = "bayes", *, qat: bool = True, share: bool = False, **entries: ActivationConfig) -> Graph:
    graph = graph_of(body, "bounded")
    context = PassContext(
        get_spec(march), high_precision=frozenset() if qat else None, qconfigs=QConfigTable(entries, default=INT8)
    )
    PlaceObservers(share=share).run(graph, context)
    assert not PlaceObservers(share=share).run(graph, context).changed
    return graph


def observed(graph: Graph) -> dict[str, str]:
    """Value -> key of its qconfig."""
    return {name: value.observation.qconfig for name, value in graph.values.items() if value.observation is not None}


def test_quantize_and_results_with_a_scale_of_their_own_are_observed_and_pass_through_ones_are_not() -> None:
    assert_text(
        place(FUSED),
        """
        CHECK: %q: f32[1,3,8,8] observe(i8, source="the global entry \\"\\"", qconfig=q8) = quantize
        CHECK-NEXT: %relu: f32[1,4,8,8] observe(i8, source="the global entry \\"\\"", qconfig=q8) = conv2d
        CHECK-NEXT: %p: f32[1,4,4,4] = max_pool2d
        CHECK-NEXT: %s: f32[1,4,4,4] observe(i8, source="the global entry \\"\\"", qconfig=q8) = sigmoid
        CHECK-NEXT: %d: f32[1,4,4,4] = dequantize
        """,
    )


def dtypes(graph: Graph) -> dict[str, DType]:
    return {name: value.observation.dtype for name, value in graph.values.items() if value.observation is not None}


SAMPLED = """
input %x: f32[1,4,8,8]
input %g: f32[1,2,8,8]
%q = quantize(%x) {stub=true} cpu from(quant)
%p = quantize(%g) {stub=true} cpu from(grid_quant)
%t = transpose(%p) {perm=[0,2,3,1]} bpu.0 from(permute)
%y = grid_sample(%q, %t) bpu.0 from(sample)
%e = exp(%y) bpu.0 from(exp)
output %e
"""


def test_sampling_positions_are_16_bits_wide_unless_an_entry_of_their_own_says_otherwise() -> None:
    assert dtypes(place(SAMPLED)) == {"q": DType.INT8, "p": DType.INT16, "e": DType.INT8}
    named = ActivationConfig("named", 'module_name "grid_quant"', 2, DType.INT8, scope="grid_quant")
    assert dtypes(place(SAMPLED, grid_quant=named))["p"] is DType.INT8
    also_read = SAMPLED.replace("output %e", "%a = add(%p, %p) bpu.0 from(add)\noutput %e\noutput %a")
    assert dtypes(place(also_read))["p"] is DType.INT8


def test_images_that_are_sampled_have_8_bits() -> None:
    wide = ActivationConfig("wide", 'module_name "quant"', 2, DType.INT16, scope="quant")
    with pytest.raises(QConfigError, match=r"reads q as qint16 \(module_name \"quant\"\), grid_sample has qint8;"):
        place(SAMPLED, quant=wide)


def test_a_pad_is_observed_unless_it_fills_with_zeros() -> None:
    body = """
    input %x: f32[1,4]
    %q = quantize(%x) {stub=true} cpu from(quant)
    %zeros = pad(%q) {pads=[0,1,0,1]} bpu.0 from(zeros)
    %edge = pad(%zeros) {pads=[0,1,0,1], mode=edge, value=3.0} bpu.0 from(edge)
    %ones = pad(%edge) {pads=[0,1,0,1], value=1.0} bpu.0 from(ones)
    output %ones
    """
    assert observed(place(body)).keys() == {"q", "ones"}


def test_without_qconfigs_everything_is_int8() -> None:
    graph = graph_of(FUSED, "bounded")
    run_passes(graph, "place-observers", "bernoulli2")
    assert_text(graph, 'CHECK: %s: f32[1,4,4,4] observe(i8, source="the default") = sigmoid')


@pytest.mark.parametrize("member", ["conv", "bn", "relu"])
def test_the_member_of_a_group_with_the_strongest_entry_decides(member: str) -> None:
    graph = place(FUSED, **{member: NAMED})
    assert observed(graph) == {"q": "q8", "relu": "named", "s": "q8"}
    assert graph.value("relu").observation.dtype is DType.INT16  # type: ignore[union-attr]


def test_entries_of_equal_rank_that_differ_are_an_error_naming_both() -> None:
    other = ActivationConfig("other", 'module_name "relu"', 2, scope="relu")
    with pytest.raises(QConfigError, match=r'conv, bn, relu.*module_name "conv" for conv, module_name "relu" for relu'):
        place(FUSED, conv=NAMED, relu=other)
    assert observed(place(FUSED, conv=NAMED, relu=replace(other, key="named")))["relu"] == "named"
    inside = replace(other, source='module_name "conv.relu"', scope="conv.relu")
    assert observed(place(FUSED, conv=NAMED, relu=inside))["relu"] == "other"


def test_no_activation_counts_where_the_group_ends_a_segment() -> None:
    tail = TAIL.replace("ACT", "none")
    assert observed(place(tail, conv=OUT)) == {"q": "q8"}
    assert observed(place(tail)) == {"q": "q8", "conv": "q8"}
    assert observed(place(FUSED, conv=OUT))["relu"] == "q8"
    with pytest.raises(QConfigError, match=r"conv, bn, relu .* without activation .*p.* reads its result on the BPU"):
        place(FUSED, conv=OUT, relu=OUT)
    with pytest.raises(QConfigError, match="s needs a fake quant, and its qconfig has no activation entry"):
        place(FUSED, s=OUT)


def test_a_calibrated_model_ends_in_int32_unless_the_activation_needs_a_scale() -> None:
    for activation, names in (("none", {"q"}), ("relu", {"q"}), ("relu6", {"q", "conv"})):
        assert observed(place(TAIL.replace("ACT", activation), qat=False)).keys() == names
    with pytest.raises(QConfigError, match=r"relu6 .* has no high-precision"):
        place(TAIL.replace("ACT", "relu6"), conv=OUT, relu=OUT)


def test_a_boundary_takes_the_qconfig_of_what_it_quantizes_and_an_inserted_stub_that_of_its_reader() -> None:
    body = """
    input %x: f32[1,4]
    %x_quant = quantize(%x) {stub=true} cpu
    %a = sigmoid(%x_quant) bpu.0 from(a)
    %d = dequantize(%a) cpu
    %b = selu(%d) cpu from(b)
    %b_q = quantize(%b) cpu
    %c = tanh(%b_q) bpu.1 from(c)
    output %c
    """
    assert observed(place(body, a=replace(NAMED, key="a"), b=replace(NAMED, key="b"))) == {
        "x_quant": "a", "a": "a", "b_q": "b", "c": "q8",
    }  # fmt: skip


def test_the_last_part_of_one_operation_that_keeps_the_scale_is_observed() -> None:
    body = """
    input %x: f32[1,4]
    %q = quantize(%x) {stub=true} cpu from(quant)
    %sum = add(%q, %q) bpu.0 from(add_relu)
    %add_relu = relu(%sum) bpu.0 from(add_relu)
    output %add_relu
    """
    assert observed(place(body)).keys() == {"q", "add_relu"}
    assert observed(place(body.replace("relu(%sum) bpu.0 from(add_relu)", "relu(%sum) bpu.0 from(other)"))).keys() == {
        "q",
        "sum",
    }


def test_dtypes_meet_the_rows_of_the_operations_that_make_and_read_the_value() -> None:
    wide = replace(NAMED, source='module_name "p"')
    assert place(FUSED, relu=NAMED).value("relu").observation.dtype is DType.INT16  # type: ignore[union-attr]
    body = FUSED.replace("sigmoid(%p)", "avg_pool2d(%p) {kernel=[2,2], stride=[2,2]}").replace("[1,4,4,4]", "[1,4,2,2]")
    with pytest.raises(QConfigError, match=r's makes s as qint16 \(module_name "p"\), avg_pool2d has qint8'):
        place(body, s=wide)
    with pytest.raises(QConfigError, match=r's reads p as qint16 \(module_name "conv"\), avg_pool2d has qint8'):
        place(body, conv=NAMED)
    with pytest.raises(QConfigError, match=r"s asks for qint16 .* which bernoulli2 does not have; it has qint8"):
        place(FUSED, "bernoulli2", s=wide)
    with pytest.raises(QConfigError, match="scales per channel of its activation"):
        place(FUSED, s=replace(INT8, ch_axis=1))


def test_an_operation_that_no_entry_covers_is_named() -> None:
    graph = graph_of(FUSED, "bounded")
    with pytest.raises(QConfigError, match=r"quant.* feeds the BPU and has no qconfig|q feeds the BPU and has no qconfig"):
        PlaceObservers().run(graph, PassContext(get_spec("bayes"), qconfigs=QConfigTable()))


GROUP = """
input %x: f32[1,3,8,8]
param @w = #random(0, [4,3,1,1])
%q = quantize(%x) {stub=true} cpu from(quant)
%a = conv2d(%q, @w) bpu.0 from(a)
%b = conv2d(%q, @w) bpu.0 from(b)
%m = max_pool2d(%b) {kernel=[1,1], stride=[1,1]} bpu.0 from(m)
%c = cat(%a, %m) {axis=1} bpu.0 from(c)
%s = sigmoid(%c) bpu.0 from(s)
output %s
"""


@pytest.mark.parametrize(("qat", "share", "grouped"), [(True, False, False), (True, True, True), (False, False, True)])
def test_values_that_a_cat_ties_are_one_group(qat: bool, share: bool, grouped: bool) -> None:
    graph = place(GROUP, "bernoulli", qat=qat, share=share)
    groups = {name: value.observation.group for name, value in graph.values.items() if value.observation is not None}
    assert groups == {"q": "", "a": "a" * grouped, "b": "a" * grouped, "c": "a" * grouped, "s": ""}
    elsewhere = place(GROUP, "bayes", qat=qat, share=share)
    assert not any(value.observation.group for value in elsewhere.values.values() if value.observation is not None)
