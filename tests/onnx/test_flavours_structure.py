"""What each flavour writes, as text: where the pairs go and where they do not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx_text import model_text, scaled

from hqc.arithmetic import bernoulli_pool_stages
from hqc.backends.onnx import emit
from hqc.errors import ExportError
from hqc.ir.parser import parse


def lines(text: str, flavour: str = "horizon", march: str = "bayes") -> list[str]:
    return model_text(emit(scaled(text, march), flavour=flavour)).splitlines()


def pairs(text: str, march: str = "bayes") -> list[str]:
    """Names of the values that a pair follows, in order."""
    return [node.input[0] for node in emit(scaled(text, march)).graph.node if node.op_type == "HzQuantize"]


CONV = """
input %x: f32[1,2,4,4]
param @w: f32[3,2,1,1] q(i8, axis=0, [0.5,0.25,0.125]) = #random(1, [3,2,1,1])
%q: f32[1,2,4,4] q(i8, 0.5) = quantize(%x) cpu
%c: f32[1,3,4,4] q(i8, 0.25) = conv2d(%q, @w) {activation=relu} bpu.0
%d: f32[1,3,4,4] = dequantize(%c) cpu
output %d as "y"
"""


def test_horizon_pairs_stand_at_the_boundary_on_the_weight_and_on_the_result() -> None:
    assert lines(CONV) == [
        "input x: float32[1,2,4,4]",
        "q/HzQuantize = horizon.HzQuantize(x, q/scale, q/zero_point) {axis=-1, bits=8}",
        "q/HzDequantize = horizon.HzDequantize(q/HzQuantize, q/scale, q/zero_point) {axis=-1, bits=8}",
        "w/HzQuantize = horizon.HzQuantize(w, w/scale, w/zero_point) {axis=0, bits=8}",
        "w/HzDequantize = horizon.HzDequantize(w/HzQuantize, w/scale, w/zero_point) {axis=0, bits=8}",
        "c/Conv = Conv(q/HzDequantize, w/HzDequantize) "
        "{dilations=[1,1], group=1, kernel_shape=[1,1], pads=[0,0,0,0], strides=[1,1]}",
        "c = Relu(c/Conv)",
        "c/HzQuantize = horizon.HzQuantize(c, c/scale, q/zero_point) {axis=-1, bits=8}",
        "y = horizon.HzDequantize(c/HzQuantize, c/scale, q/zero_point) {axis=-1, bits=8}",
        "output y: float32[1,3,4,4]",
    ]


def test_runnable_has_the_same_nodes_and_a_body_for_each_variant() -> None:
    graph = parse(f"graph @g march=bayes stage=scaled {{\n{CONV}\n}}")
    horizon, runnable = emit(graph), emit(graph, flavour="runnable")
    assert [(n.name, n.input, n.output, n.attribute) for n in horizon.graph.node] == [
        (n.name, n.input, n.output, n.attribute) for n in runnable.graph.node
    ]
    assert [n.op_type for n in runnable.graph.node if n.domain] == [
        "HzQuantize", "HzDequantize", "HzQuantizeAxis0Rank4", "HzDequantizeAxis0Rank4", "HzQuantize", "HzDequantize",
    ]  # fmt: skip
    text = model_text(runnable).splitlines()
    first = text.index("function horizon.HzQuantize(x, scale, zero_point)")
    assert [line.split(" = ")[1].split("(")[0] for line in text[first + 1 : first + 5]] == ["Div", "Round", "Clip", "Cast"]
    onnx.checker.check_model(runnable)


def test_qdq_is_standard_ops_with_integer_weights_in_the_file() -> None:
    graph = parse(f"graph @g march=bayes stage=scaled {{\n{CONV}\n}}")
    model = emit(graph, flavour="qdq")
    assert [n.op_type for n in model.graph.node] == [
        "QuantizeLinear", "DequantizeLinear", "Cast", "Mul", "Conv", "Relu", "QuantizeLinear", "DequantizeLinear",
    ]  # fmt: skip
    assert [item.domain for item in model.opset_import] == [""]
    weight = next(i for i in model.graph.initializer if i.name == "w/quantized")
    assert weight.data_type == onnx.TensorProto.INT8
    assert "w" not in [i.name for i in model.graph.initializer]


def test_no_pair_after_values_that_keep_their_operands_grid() -> None:
    assert pairs("""
        input %x: f32[1,2,4,4]
        %q: f32[1,2,4,4] q(i8, 0.5) = quantize(%x) cpu
        %a: f32[1,2,2,2] q(i8, 0.5) = max_pool2d(%q) {kernel=[2,2], stride=[2,2]} bpu.0
        %b: f32[1,2,2,2] q(i8, 0.5) = relu(%a) bpu.0
        %c: f32[1,8] q(i8, 0.5) = reshape(%b) {shape=[1,8]} bpu.0
        %n: f32[1,2,8,8] q(i8, 0.5) = resize2d(%q) {size=[8,8]} bpu.0
        %d: f32[1,8] = dequantize(%c) cpu
        %e: f32[1,2,8,8] = dequantize(%n) cpu
        output %d
        output %e
    """) == ["x"]


def test_pair_after_a_pass_through_result_with_another_grid_and_after_each_requantize() -> None:
    assert pairs("""
        input %x: f32[1,2,4,4]
        %q: f32[1,2,4,4] q(i8, 0.5) = quantize(%x) cpu
        %a: f32[1,2,4,4] q(i8, 0.25) = relu(%q) bpu.0
        %r: f32[1,2,4,4] q(i16, 0.01) = requantize(%a) {dtype=i16} bpu.0
        %d: f32[1,2,4,4] = dequantize(%r) cpu
        output %d
    """) == ["x", "a", "a/HzDequantize"]


def test_bilinear_resize_is_rounded_down_to_its_operands_grid() -> None:
    text = """
        input %x: f32[1,2,4,4]
        %q: f32[1,2,4,4] q(i8, 0.5) = quantize(%x) cpu
        %n: f32[1,2,8,8] q(i8, 0.5) = resize2d(%q) {size=[8,8], mode=bilinear} bpu.0
        %d: f32[1,2,8,8] = dequantize(%n) cpu
        output %d
    """
    assert pairs(text) == ["x", "n"]
    assert [line.split(" = ")[1].split("(")[0] for line in lines(text, "runnable") if "= horizon" in line] == [
        "horizon.HzQuantize", "horizon.HzDequantize", "horizon.HzQuantizeOffGrid", "horizon.HzDequantize",
    ]  # fmt: skip


def test_high_precision_results_and_indices_get_no_pair() -> None:
    assert pairs("""
        input %x: f32[1,2,4,4]
        param @w: f32[3,2,1,1] q(i8, axis=0, [0.5,0.25,0.125]) = #random(1, [3,2,1,1])
        %q: f32[1,2,4,4] q(i8, 0.5) = quantize(%x) cpu
        %c: f32[1,3,4,4] q(i32, axis=1, [0.25,0.125,0.0625]) = conv2d(%q, @w) bpu.0
        %i = argmax(%q) {axis=1} bpu.0
        %d: f32[1,3,4,4] = dequantize(%c) cpu
        output %d
        output %i
    """) == ["x", "w"]


def test_a_weight_shared_with_a_cpu_node_stays_float_for_it() -> None:
    text = """
        input %x: f32[1,2,4,4]
        param @w: f32[3,2,1,1] q(i8, axis=0, [0.5,0.25,0.125]) = #random(1, [3,2,1,1])
        %f = conv2d(%x, @w) cpu
        %q: f32[1,2,4,4] q(i8, 0.5) = quantize(%x) cpu
        %c: f32[1,3,4,4] q(i8, 0.25) = conv2d(%q, @w) bpu.0
        %c2: f32[1,3,4,4] q(i8, 0.25) = conv2d(%q, @w) bpu.0
        %d = dequantize(%c) cpu
        %d2 = dequantize(%c2) cpu
        output %f
        output %d
        output %d2
    """
    convs = [line.split("Conv(")[1].split(")")[0] for line in lines(text) if "= Conv(" in line]
    assert convs == ["x, w", "q/HzDequantize, w/HzDequantize", "q/HzDequantize, w/HzDequantize"]
    assert pairs(text).count("w") == 1


def test_bernoulli_rounds_activations_down_and_weights_to_nearest() -> None:
    text = [line for line in lines(CONV, "runnable", "bernoulli") if "= horizon.HzQuantize" in line]
    assert [line.split("horizon.")[1].split("(")[0] for line in text] == [
        "HzQuantizeFloor", "HzQuantizeAxis0Rank4", "HzQuantizeFloor",
    ]  # fmt: skip


def test_bernoulli_average_pool_has_the_kernels_gain_and_stays_on_the_grid() -> None:
    text = """
        input %x: f32[1,2,6,6]
        %q: f32[1,2,6,6] q(i8, 0.5) = quantize(%x) {rounding=floor} cpu
        %p: f32[1,2,2,2] q(i8, 0.5) = avg_pool2d(%q) {kernel=[3,3], stride=[3,3]} bpu.0
        %d = dequantize(%p) cpu
        output %d
    """
    graph = scaled(text, "bernoulli")
    model = emit(graph, flavour="runnable")
    assert [n.op_type for n in model.graph.node] == [
        "HzQuantizeFloor", "HzDequantize", "AveragePool", "Mul", "HzQuantizeOffGrid", "HzDequantize",
    ]  # fmt: skip
    gain = next(i for i in model.graph.initializer if i.name == model.graph.node[3].input[1])
    assert onnx.numpy_helper.to_array(gain) == np.float32(9 * 56 / 512)


def test_bernoulli_pools_large_windows_in_stages() -> None:
    text = """
        input %x: f32[1,2,14,14]
        %q: f32[1,2,14,14] q(i8, 0.5) = quantize(%x) cpu
        %p: f32[1,2,1,1] q(i8, 0.5) = adaptive_avg_pool2d(%q) {output_size=[1,1]} bpu.0
        %m: f32[1,2] q(i8, 0.25) = mean(%q) {axes=[2,3]} bpu.0
        %d = dequantize(%p) cpu
        %e = dequantize(%m) cpu
        output %d
        output %e
    """
    graph = scaled(text, "bernoulli")
    stages = bernoulli_pool_stages(14, 14)
    assert stages == ((14, 2), (1, 7))
    pair = ["HzQuantizeOffGrid", "HzDequantize"]
    stage = ["AveragePool", "Mul", *pair]
    expected = ["HzQuantizeFloor", "HzDequantize", *stage, *stage, *stage, *stage, "Reshape", "HzQuantizeFloor", "HzDequantize"]
    model = emit(graph, flavour="runnable")
    assert [n.op_type for n in model.graph.node] == expected
    windows = [attribute for n in model.graph.node for attribute in n.attribute if attribute.name == "kernel_shape"]
    kernels = [list(attribute.ints) for attribute in windows]
    assert kernels == [list(stage) for stage in stages] * 2


def test_bernoulli_bias_is_an_8_bit_power_of_two_grid() -> None:
    text = CONV.replace("%q:", "param @b = [0.75, -0.5, 0.25]\n%q:").replace("(%q, @w)", "(%q, @w, @b)")
    assert "b/HzQuantize = horizon.HzQuantize(b, b/scale, q/zero_point) {axis=-1, bits=8}" in lines(text, march="bernoulli")
    assert not any(line.startswith("b/") for line in lines(text, march="bayes"))


def test_an_output_called_like_an_input_gets_a_name_of_its_own() -> None:
    text = 'input %x: f32[1,2]\n%y = relu(%x) cpu\noutput %y as "x"\noutput %x as "z"'
    assert lines(text) == ["input x: float32[1,2]", "x_output = Relu(x)", "z = Identity(x)", "output x_output: float32[1,2]",
                           "output z: float32[1,2]"]  # fmt: skip


def test_an_output_name_that_another_value_has_in_the_ir_goes_to_the_output() -> None:
    text = 'input %x: f32[1,2]\n%y = relu(%x) cpu\n%z = neg(%y) cpu\noutput %z as "y"'
    assert lines(text)[1:3] == ["y_value = Relu(x)", "y = Neg(y_value)"]


def test_one_value_returned_twice_is_copied() -> None:
    text = 'input %x: f32[1,2]\n%y = relu(%x) cpu\noutput %y as "a"\noutput %y as "b"'
    assert lines(text)[1:3] == ["a = Relu(x)", "b = Identity(a)"]


def test_quantize_without_a_scale_is_refused_with_its_source_line() -> None:
    text = 'input %x: f32[1,2]\n%q = quantize(%x) cpu loc("quant:quantize#0" "net.py:12")\noutput %q'
    with pytest.raises(ExportError, match=r"q \[quant:quantize#0 \(net.py:12\)\]: its result has no scale"):
        lines(text)


def test_nodes_carry_their_place_in_the_users_program() -> None:
    graph = parse('graph @g stage=scaled {\ninput %x: f32[1]\n%y = silu(%x) cpu loc("head:silu#0" "net.py:3")\noutput %y\n}')
    assert {node.doc_string for node in emit(graph).graph.node} == {"head:silu#0 (net.py:3)"}


@pytest.mark.parametrize("flavour", ["horizon", "runnable", "qdq"])
def test_every_value_has_a_static_type(flavour: str) -> None:
    graph = scaled(CONV, "bernoulli")
    model = emit(graph, flavour=flavour)
    typed = {i.name for i in (*model.graph.value_info, *model.graph.output)}
    assert {name for node in model.graph.node for name in node.output} == typed
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    assert "" not in names
