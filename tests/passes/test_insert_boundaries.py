"""insert-boundaries: where fake quants and dequants stand in training, and what is left of them on the device."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_check import assert_text, run_passes, transform

from hqc.errors import QuantizationError
from hqc.ir import Device, DType, Graph, Node, QuantParams, TensorType, Value
from hqc.passes.node_facts import is_dequantize, is_quantize, on_bpu, on_cpu, on_grid_side

QAT, DEPLOYED = "insert-boundaries{form=qat}", "insert-boundaries{form=deployed}"


# --- the form of hybrid QAT --------------------------------------------------------------------------------------------


def test_qat_puts_a_fake_quant_after_a_cpu_producer_and_a_dequant_before_a_cpu_consumer() -> None:
    graph = transform(
        """
        input %x: f32[1,4]
        %quant: f32[1,4] = quantize(%x) {stub=true} cpu
        %prelu: f32[1,4] = selu(%quant) cpu from(prelu)
        %relu: f32[1,4] = relu(%prelu) bpu.0
        %selu_1: f32[1,4] = selu(%relu) cpu from(a, selu_1)
        %dequant: f32[1,4] = dequantize(%selu_1) {stub=true} cpu
        output %dequant
        """,
        QAT,
    )
    assert_text(
        graph,
        """
        CHECK: %quant: f32[1,4] = quantize(%x)
        CHECK-NEXT: %prelu_input_dequant_0: f32[1,4] = dequantize(%quant) cpu
        CHECK-NEXT: %prelu: f32[1,4] = selu(%prelu_input_dequant_0)
        CHECK-NEXT: %prelu_activation_post_process: f32[1,4] = quantize(%prelu) cpu
        CHECK-NEXT: %relu: f32[1,4] = relu(%prelu_activation_post_process)
        CHECK-NEXT: %selu_1_input_dequant_0: f32[1,4] = dequantize(%relu) cpu
        CHECK-NEXT: %selu_1: f32[1,4] = selu(%selu_1_input_dequant_0)
        CHECK-NEXT: %dequant: f32[1,4] = dequantize(%selu_1) {stub=true}
        """,
    )


def test_qat_reroutes_only_the_bpu_users_of_a_cpu_value() -> None:
    graph = transform(
        """
        input %x: f32[1,4]
        %a: f32[1,4] = selu(%x) cpu
        %b: f32[1,4] = relu(%a) bpu.0
        %c: f32[1,4] = selu(%a) cpu
        %d: f32[1,4] = relu(%a) bpu.1
        output %b
        output %c
        output %d
        """,
        QAT,
    )
    assert_text(
        graph,
        """
        CHECK: %a_activation_post_process: f32[1,4] = quantize(%a)
        CHECK-NEXT: %b: f32[1,4] = relu(%a_activation_post_process)
        CHECK-NEXT: %c: f32[1,4] = selu(%a)
        CHECK-NEXT: %d: f32[1,4] = relu(%a_activation_post_process)
        CHECK-NEXT: output %b
        """,
    )


def test_qat_dequantizes_each_operand_of_a_cpu_node_under_its_position() -> None:
    graph = transform(
        """
        input %x: f32[1,4]
        %q: f32[1,4] = quantize(%x) {stub=true} cpu
        %a: f32[1,4] = relu(%q) bpu.0
        %c: f32[1,4] = selu(%x) cpu
        %s: f32[1,4] = add(%c, %a) cpu
        %t: f32[1,4] = mul(%a, %a) cpu
        output %s
        output %t
        """,
        QAT,
    )
    assert_text(
        graph,
        """
        CHECK: %s_input_dequant_1: f32[1,4] = dequantize(%a)
        CHECK-NEXT: %s: f32[1,4] = add(%c, %s_input_dequant_1)
        CHECK-NEXT: %t_input_dequant_0: f32[1,4] = dequantize(%a)
        CHECK-NEXT: %t_input_dequant_1: f32[1,4] = dequantize(%a)
        CHECK-NEXT: %t: f32[1,4] = mul(%t_input_dequant_0, %t_input_dequant_1)
        """,
    )


def test_qat_quantizes_each_used_result_of_a_cpu_node_with_several() -> None:
    graph = transform(
        """
        input %x: f32[1,4]
        %l: f32[1,1], %m: f32[1,1], %r: f32[1,2] = split(%x) {axis=1, sizes=[1,1,2]} cpu
        %a: f32[1,1] = relu(%l) bpu.0
        %c: f32[1,2] = relu(%r) bpu.1
        output %a
        output %m
        output %c
        """,
        QAT,
    )
    text = str(graph)
    assert "%l_activation_post_process" in text
    assert "%r_activation_post_process" in text
    assert "%m_activation_post_process" not in text


def test_qat_puts_nothing_before_stubs_and_outputs() -> None:
    graph = transform(
        """
        input %x: f32[1,4]
        %a: f32[1,4] = selu(%x) cpu
        %q: f32[1,4] = quantize(%a) {stub=true} cpu
        %b: f32[1,4] = relu(%q) bpu.0
        %d: f32[1,4] = dequantize(%b) {stub=true} cpu
        output %b
        output %d
        """,
        QAT,
    )
    assert len(graph) == 4


def test_qat_refuses_an_unquantized_input_and_says_where_the_stub_goes() -> None:
    body = """
        input %image: f32[1,4]
        %a: f32[1,4] = relu(%image) bpu.0
        %b: f32[1,4] = selu(%image) cpu
        output %a
        output %b
        """
    with pytest.raises(
        QuantizationError, match=r"graph input image is read by a, .*put a QuantStub between the input image and a"
    ):
        transform(body, QAT)
    graph = transform(body, "insert-boundaries{form=qat,auto-stub=true}")
    assert_text(
        graph,
        """
        CHECK: %image_quant: f32[1,4] = quantize(%image) {stub=true} cpu
        CHECK-NEXT: %a: f32[1,4] = relu(%image_quant)
        CHECK: %b: f32[1,4] = selu(%image) cpu
        """,
    )


def test_qat_refuses_a_dequant_stub_in_front_of_the_bpu() -> None:
    body = """
        input %x: f32[1,4]
        %q: f32[1,4] = quantize(%x) {stub=true} cpu
        %a: f32[1,4] = relu(%q) bpu.0
        %d: f32[1,4] = dequantize(%a) {stub=true} cpu
        %b: f32[1,4] = relu(%d) bpu.1
        output %b
        """
    with pytest.raises(QuantizationError, match="remove the DeQuantStub, or put a QuantStub between d and b"):
        transform(body, QAT)


# --- the form that is deployed -----------------------------------------------------------------------------------------

PREPARED = """
    input %x: f32[1,4]
    %quant: f32[1,4] q(i8, 0.5) = quantize(%x) {stub=true} cpu
    %a: f32[1,4] = add(%quant, %quant) bpu.0
    %a_activation_post_process: f32[1,4] q(i8, 0.25) = quantize(%a) cpu
    %c_input_dequant_0: f32[1,4] = dequantize(%a_activation_post_process) cpu
    %c: f32[1,4] = selu(%c_input_dequant_0) cpu
    %c_activation_post_process: f32[1,4] q(i8, 0.125) = quantize(%c) cpu
    %d_input_dequant_0: f32[1,4] = dequantize(%a_activation_post_process) cpu
    %d: f32[1,4] = tan(%d_input_dequant_0) cpu
    %b: f32[1,4] = relu(%c_activation_post_process) bpu.1
    %e: f32[1,4] = relu(%a_activation_post_process) bpu.0
    %dequant: f32[1,4] = dequantize(%b) {stub=true} cpu
    output %dequant as "y"
    output %d
    output %e
    """


def test_deployed_absorbs_fake_quants_of_bpu_values_and_shares_one_dequantize() -> None:
    assert_text(
        transform(PREPARED, DEPLOYED),
        """
        CHECK: %quant: f32[1,4] q(i8, 0.5) = quantize(%x)
        CHECK-NEXT: %a: f32[1,4] q(i8, 0.25) = add(%quant, %quant) bpu.0
        CHECK-NEXT: %a_dequantize: f32[1,4] = dequantize(%a) cpu
        CHECK-NEXT: %c: f32[1,4] = selu(%a_dequantize) cpu
        CHECK-NEXT: %c_activation_post_process: f32[1,4] q(i8, 0.125) = quantize(%c) cpu
        CHECK-NEXT: %d: f32[1,4] = tan(%a_dequantize) cpu
        CHECK-NEXT: %b: f32[1,4] = relu(%c_activation_post_process) bpu.1
        CHECK-NEXT: %e: f32[1,4] = relu(%a) bpu.0
        CHECK-NEXT: %e_dequantize: f32[1,4] = dequantize(%e)
        CHECK-NEXT: %dequant: f32[1,4] = dequantize(%b) {stub=true} cpu
        CHECK-NEXT: output %dequant as "y"
        CHECK-NEXT: output %d
        CHECK-NEXT: output %e_dequantize as "e"
        """,
    )


def test_deployed_folds_dequantize_and_quantize_of_one_grid() -> None:
    graph = transform(
        """
        input %x: f32[1,4]
        %q: f32[1,4] q(i8, 0.5) = quantize(%x) {stub=true} cpu
        %a: f32[1,4] q(i8, 0.5) = relu(%q) bpu.0
        %d: f32[1,4] = dequantize(%a) {stub=true} cpu
        %q2: f32[1,4] q(i8, 0.5) = quantize(%d) {stub=true} cpu
        %b: f32[1,4] q(i8, 0.5) = relu(%q2) bpu.0
        output %b
        """,
        DEPLOYED,
    )
    assert_text(graph, "CHECK: %b: f32[1,4] q(i8, 0.5) = relu(%a) bpu.0")
    assert [node.name for node in graph.nodes] == ["q", "a", "b", "b_dequantize"]


def test_deployed_keeps_a_scale_that_the_user_fixed() -> None:
    graph = transform(
        """
        input %x: f32[1,4]
        %q: f32[1,4] q(i8, 0.5) = quantize(%x) {stub=true} cpu
        %a: f32[1,4] q(i8, 0.5) = sigmoid(%q) bpu.0
        %b: f32[1,4] q(i8, 0.5, fixed) = quantize(%a) {stub=true} cpu
        %c: f32[1,4] = sigmoid(%b) bpu.0
        output %c
        """,
        DEPLOYED,
    )
    assert_text(graph, "CHECK: %a: f32[1,4] q(i8, 0.5, fixed) = sigmoid(%q)")


def test_a_cpu_value_that_was_fake_quantized_in_training_stays_so() -> None:
    graph = transform(
        """
        input %x: f32[1,4]
        %a: f32[1,4] q(i8, 0.5) = selu(%x) cpu
        %b: f32[1,4] = relu(%a) bpu.0
        %c: f32[1,4] = tan(%a) cpu
        output %b
        output %c
        """,
        DEPLOYED,
    )
    assert_text(
        graph,
        """
        CHECK: %a: f32[1,4] = selu(%x)
        CHECK-NEXT: %a_quantize: f32[1,4] q(i8, 0.5) = quantize(%a)
        CHECK-NEXT: %a_quantize_dequantize: f32[1,4] = dequantize(%a_quantize)
        CHECK-NEXT: %b: f32[1,4] = relu(%a_quantize)
        CHECK: %c: f32[1,4] = tan(%a_quantize_dequantize)
        """,
    )


def test_deployed_requantizes_where_a_bpu_value_gets_another_grid() -> None:
    graph = transform(
        """
        input %x: f32[1,4]
        %q: f32[1,4] q(i8, 0.5) = quantize(%x) {stub=true} cpu
        %a: f32[1,4] q(i8, 0.5) = sigmoid(%q) bpu.0
        %q2: f32[1,4] q(i16, 0.25) = quantize(%a) {dtype=i16, stub=true} cpu
        %b: f32[1,4] = sigmoid(%q2) bpu.0
        output %b
        """,
        DEPLOYED,
    )
    assert_text(
        graph,
        """
        CHECK: %q2: f32[1,4] q(i16, 0.25) = requantize(%a) {dtype=i16} bpu.0
        CHECK-NEXT: %b: f32[1,4] = sigmoid(%q2)
        """,
    )


def test_deployed_sees_the_scale_behind_nodes_that_keep_it() -> None:
    graph = transform(
        """
        input %x: f32[1,4]
        %q: f32[1,4] q(i8, 0.5) = quantize(%x) {stub=true} cpu
        %a: f32[4,1] = reshape(%q) {shape=[4,1]} bpu.0
        %same: f32[4,1] q(i8, 0.5) = quantize(%a) cpu
        %other: f32[4,1] q(i8, 0.25) = quantize(%a) cpu
        %b: f32[4,1] = sigmoid(%same) bpu.0
        %c: f32[4,1] = sigmoid(%other) bpu.0
        output %b
        output %c
        """,
        DEPLOYED,
    )
    assert_text(
        graph,
        """
        CHECK: %a: f32[4,1] = reshape(%q)
        CHECK-NEXT: %other: f32[4,1] q(i8, 0.25) = requantize(%a)
        CHECK-NEXT: %b: f32[4,1] = sigmoid(%a)
        CHECK: %c: f32[4,1] = sigmoid(%other)
        """,
    )


def test_deployed_keeps_what_a_quant_stub_does_to_a_cpu_consumer() -> None:
    graph = transform(
        """
        input %x: f32[1,4]
        %q: f32[1,4] q(i8, 0.5) = quantize(%x) {stub=true} cpu
        %a: f32[1,4] = selu(%q) cpu
        output %a
        output %q
        """,
        DEPLOYED,
    )
    assert_text(
        graph,
        """
        CHECK: %q: f32[1,4] q(i8, 0.5) = quantize(%x)
        CHECK-NEXT: %q_dequantize: f32[1,4] = dequantize(%q)
        CHECK-NEXT: %a: f32[1,4] = selu(%q_dequantize)
        CHECK: output %q_dequantize as "q"
        """,
    )


def test_deployed_keeps_two_quantizations_of_one_cpu_value_apart_and_merges_equal_ones() -> None:
    graph = transform(
        """
        input %x: f32[1,4]
        %q1: f32[1,4] q(i8, 0.5) = quantize(%x) {stub=true} cpu
        %q2: f32[1,4] q(i8, 0.25) = quantize(%x) {stub=true} cpu
        %q3: f32[1,4] q(i8, 0.5) = quantize(%x) {stub=true} cpu
        %q4: f32[1,4] q(i8, 0.125) = quantize(%q1) {stub=true} cpu
        %a: f32[1,4] = relu(%q1) bpu.0
        %b: f32[1,4] = relu(%q2) bpu.1
        %c: f32[1,4] = relu(%q3) bpu.2
        %d: f32[1,4] = relu(%q4) bpu.3
        output %a
        output %b
        output %c
        output %d
        """,
        DEPLOYED,
    )
    assert_text(
        graph,
        """
        CHECK: %q1: f32[1,4] q(i8, 0.5) = quantize(%x)
        CHECK: %q1_dequantize: f32[1,4] = dequantize(%q1)
        CHECK: %q4: f32[1,4] q(i8, 0.125) = quantize(%q1_dequantize)
        CHECK: %c: f32[1,4] = relu(%q1)
        CHECK: %d: f32[1,4] = relu(%q4)
        """,
    )
    assert "q3" not in graph.values


def test_deployed_places_boundaries_in_a_float_graph_without_scales() -> None:
    graph = transform(
        """
        input %x: f32[1,4]
        %a: f32[1,4] = relu(%x) bpu.0
        %b: f32[1,4] = selu(%a) cpu
        %c: f32[1,4] = relu(%b) bpu.1
        output %c
        output %a
        """,
        DEPLOYED,
    )
    assert_text(
        graph,
        """
        CHECK: %x_quantize: f32[1,4] = quantize(%x) cpu
        CHECK-NEXT: %a: f32[1,4] = relu(%x_quantize)
        CHECK-NEXT: %a_dequantize: f32[1,4] = dequantize(%a)
        CHECK-NEXT: %b: f32[1,4] = selu(%a_dequantize)
        CHECK-NEXT: %b_quantize: f32[1,4] = quantize(%b)
        CHECK-NEXT: %c: f32[1,4] = relu(%b_quantize)
        CHECK-NEXT: %c_dequantize: f32[1,4] = dequantize(%c)
        CHECK-NEXT: output %c_dequantize as "c"
        CHECK-NEXT: output %a_dequantize as "a"
        """,
    )


def test_deployed_never_changes_a_high_precision_output_that_is_also_quantized() -> None:
    graph = transform(
        """
        input %x: f32[1,4]
        param @w: f32[4,4] = #random(0, [4,4])
        %q: f32[1,4] q(i8, 0.5) = quantize(%x) {stub=true} cpu
        %l: f32[1,4] = linear(%q, @w) bpu.0
        %d: f32[1,4] = dequantize(%l) {stub=true} cpu
        %q2: f32[1,4] q(i8, 0.25) = quantize(%l) {stub=true} cpu
        %r: f32[1,4] = relu(%q2) bpu.0
        output %d
        output %r
        """,
        DEPLOYED,
    )
    assert graph.value("l").quant is None
    assert_text(graph, "CHECK: %q2: f32[1,4] q(i8, 0.25) = requantize(%l)")


def test_indices_cross_without_a_boundary() -> None:
    graph = transform(
        """
        input %x: f32[1,4]
        %q: f32[1,4] = quantize(%x) {stub=true} cpu
        %a: i64[1] = argmax(%q) {axis=1} bpu.0
        %b: i64[1] = abs(%a) cpu
        output %b
        """,
        DEPLOYED,
    )
    assert [node.name for node in graph.nodes] == ["q", "a", "b"]


# --- properties --------------------------------------------------------------------------------------------------------


@st.composite
def placed_graphs(draw: st.DrawFn) -> Graph:
    """Random DAGs of one- and two-operand nodes with random devices; inputs reach the BPU through a QuantStub only."""
    graph = Graph("random")
    graph.stage = "partitioned"
    type = TensorType(DType.FLOAT32, (1, 4))
    inputs = [graph.add_input(f"x{i}", type) for i in range(draw(st.integers(1, 2)))]
    values: list[Value] = list(inputs)
    stubs = []
    for value in inputs:
        stub = graph.add_node("quantize", [value], {"stub": True}, name=f"{value.name}_stub")
        stub.device, stub.result.quant = Device.CPU, draw(st.sampled_from([None, QuantParams(0.5)]))
        stubs.append(stub.result)
    values += stubs
    for index in range(draw(st.integers(1, 10))):
        bpu = draw(st.booleans())
        allowed = [v for v in values if not bpu or v.producer is not None]
        operands = draw(st.lists(st.sampled_from(allowed), min_size=1, max_size=2))
        node = graph.add_node("add" if len(operands) == 2 else "selu", operands, name=f"n{index}", origin=[f"n{index}"])
        node.device = Device.BPU if bpu else Device.CPU
        node.subgraph = index if bpu else None
        values.append(node.result)
    outputs = draw(
        st.lists(st.sampled_from([v for v in values if v.producer is not None]), min_size=1, max_size=3, unique=True)
    )
    graph.set_outputs(outputs)
    return graph


def edges(graph: Graph) -> list[tuple[Value, Node]]:
    return [(value, node) for node in graph.nodes for value in node.data_operands]


@given(placed_graphs())
@settings(max_examples=60, deadline=None)
def test_qat_boundaries_are_complete_and_minimal(graph: Graph) -> None:
    run_passes(graph, QAT)
    for value, node in edges(graph):
        if on_bpu(node):
            assert on_grid_side(value), f"{node.name} reads {value.name} unquantized"
        elif on_cpu(node):
            assert not on_grid_side(value), f"{node.name} reads {value.name} without a dequantize"
    for node in graph.nodes:
        if is_dequantize(node):
            assert on_grid_side(node.operands[0])
            assert len(node.result.uses) == 1
            assert on_cpu(node.users[0])
        elif is_quantize(node) and not node.attributes["stub"]:
            producer = node.operands[0].producer
            assert producer is not None
            assert on_cpu(producer)
            assert node.users
            assert all(on_bpu(user) for user in node.users)
    for value in graph.values.values():
        fake_quants = [user for user in value.users if is_quantize(user) and not user.attributes["stub"]]
        assert len(fake_quants) <= 1


@given(placed_graphs(), st.booleans())
@settings(max_examples=60, deadline=None)
def test_deployed_boundaries_are_complete_and_minimal(graph: Graph, prepared: bool) -> None:
    names = list(graph.output_names)
    if prepared:
        run_passes(graph, QAT)
    run_passes(graph, DEPLOYED)
    assert graph.output_names == names
    for value, node in edges(graph):
        if on_bpu(node):
            assert on_grid_side(value), f"{node.name} reads {value.name} unquantized"
        elif on_cpu(node):
            assert not on_grid_side(value), f"{node.name} reads {value.name} without a dequantize"
    assert not any(on_grid_side(value) for value in graph.outputs)
    for value in graph.values.values():
        boundaries = [user for user in value.users if is_dequantize(user)]
        assert len(boundaries) <= 1
        assert not boundaries or on_grid_side(value)
        quantizes = [user for user in value.users if is_quantize(user)]
        assert not (quantizes and value.producer is not None and on_bpu(value.producer))
        assert not any(a.result.quant == b.result.quant for a, b in itertools.combinations(quantizes, 2))
    for node in graph.nodes:
        if is_quantize(node) or is_dequantize(node):
            assert node.result.has_uses or graph.is_output(node.result)


@given(placed_graphs())
@settings(max_examples=40, deadline=None)
def test_deployed_form_is_the_same_from_the_float_graph_and_from_the_prepared_one(graph: Graph) -> None:
    prepared = graph.clone()
    run_passes(prepared, QAT)
    run_passes(prepared, DEPLOYED)
    run_passes(graph, DEPLOYED)
    assert shape_of(prepared) == shape_of(graph)


def shape_of(graph: Graph) -> list[tuple[str, list[str], str]]:
    """Nodes with the real computation behind each operand, boundary nodes by what they do."""
    return sorted(
        (node.op.name, [origin_of(value) for value in node.operands], "" if node.device is None else node.device.value)
        for node in graph.nodes
    )


def origin_of(value: Value) -> str:
    while value.producer is not None and (is_quantize(value.producer) or is_dequantize(value.producer)):
        value = value.producer.operands[0]
    return value.name


def test_an_unused_fake_quant_of_a_bpu_value_still_gives_its_scale() -> None:
    graph = transform(
        """
        input %x: f32[1,4]
        %q: f32[1,4] q(i8, 0.5) = quantize(%x) {stub=true} cpu
        %a: f32[1,4] = sigmoid(%q) bpu.0
        %unused: f32[1,4] q(i8, 0.25) = quantize(%a) cpu
        output %a
        """,
        DEPLOYED,
    )
    assert_text(graph, "CHECK: %a: f32[1,4] q(i8, 0.25) = sigmoid(%q)")
    assert "unused" not in graph.values
