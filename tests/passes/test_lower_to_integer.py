"""lower-to-integer: integer ops, multipliers, tables and biases as docs/arithmetic.md says, op by op."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt
import pytest
from ir_check import assert_text, graph_of, run_passes, transform

from hqc import arithmetic
from hqc.errors import CompileError, QuantizationError
from hqc.ir import Graph, Trait, all_ops
from hqc.ir.graph import constant_array
from hqc.march import March, get_spec
from hqc.passes import PassContext
from hqc.passes.lower_to_integer import accepts, lowering_of
from hqc.passes.pipeline_text import parse_passes

PASS = "lower-to-integer"
F32 = np.float32


def lower(body: str, march: str = "bayes") -> Graph:
    """The integer graph of a scaled one; dequantize nodes are added for the values called `y...`."""
    return transform(body, f"settle-rounding,{PASS}", march, stage="scaled")


def shape_of(node: str) -> str:
    """The shape of the value `y`, as text."""
    found = re.search(r"%y: \w+\[([\d,]*)\]", node)
    assert found is not None, node
    return found.group(1)


def unary(node: str, march: str = "bayes", shape: str = "1,2,4,4", scale: str = "q(i8, 0.5)") -> Graph:
    """One BPU node `y` on a quantized input `q`."""
    text = f"""
        input %x: f32[{shape}]
        %q: f32[{shape}] {scale} = quantize(%x) cpu
        {node}
        %d: f32[{shape_of(node)}] = dequantize(%y) cpu
        output %d
        """
    return lower(text, march)


def binary(node: str, march: str = "bayes", a: str = "q(i8, 0.5)", b: str = "q(i8, 0.25)", parameter: str = "") -> Graph:
    """One BPU node `y` on quantized inputs `a` and `b` and perhaps a parameter."""
    text = f"""
        input %x: f32[1,4]
        input %z: f32[1,4]
        {parameter}
        %a: f32[1,4] {a} = quantize(%x) cpu
        %b: f32[1,4] {b} = quantize(%z) cpu
        {node}
        %d: f32[{shape_of(node)}] = dequantize(%y) cpu
        output %d
        """
    return lower(text, march)


def array(graph: Graph, name: str) -> npt.NDArray[np.int64]:
    return constant_array(graph.value(name))


def requant_of(ratio: npt.ArrayLike, bits: int = 8) -> npt.NDArray[np.int64]:
    return arithmetic.requant_params(ratio, bits).array


# --- completeness ------------------------------------------------------------------------------------------------------


def test_every_op_that_some_march_runs_has_an_integer_lowering() -> None:
    missing = set()
    for march in March:
        rules = get_spec(march).rules
        for name in rules:
            devices = {entry.row.device for hybrid in (True, False) for entry in rules[name].all_entries(hybrid=hybrid)}
            definition = next(op for op in all_ops() if op.name == name)
            runs = any("BPU" in str(device) for device in devices) and not rules[name].binding.never
            if runs and not rules[name].binding.internal and lowering_of(definition) is None:
                missing.add(name)
    assert missing == set()


def test_every_table_op_has_a_lowering_by_its_trait() -> None:
    table_ops = [op for op in all_ops() if op.has(Trait.LUT)]
    assert table_ops
    assert all(lowering_of(op) is not None for op in table_ops)


def test_an_op_without_integer_arithmetic_is_named_with_its_source() -> None:
    with pytest.raises(CompileError, match=r"y \[m:ln#0 \(net.py:3\)\]: layer_norm has no integer arithmetic"):
        unary('%y: f32[1,2,4,4] q(i8, 0.5) = layer_norm(%q) bpu.0 loc("m:ln#0" "net.py:3")')


def test_cpu_nodes_stay_as_they_are_and_values_keep_names_and_scales() -> None:
    graph = lower(
        """
        input %x: f32[1,4]
        %s: f32[1,4] = selu(%x) cpu from(selu)
        %q: f32[1,4] q(i8, 0.5) = quantize(%s) {stub=true} cpu
        %y: f32[1,4] q(i8, 0.25) = sigmoid(%q) bpu.3 from(sigmoid)
        %d: f32[1,4] = dequantize(%y) cpu
        output %d as "result"
        """,
        "bernoulli",
    )
    assert_text(
        graph,
        """
        CHECK: %s: f32[1,4] = selu(%x) cpu from(selu)
        CHECK-NEXT: %q: i8[1,4] q(i8, 0.5, floor) = quantize(%s) {rounding=floor, stub=true, integer=true} cpu
        CHECK-NEXT: %y: i8[1,4] q(i8, 0.25, floor) = int_lut(%q, @y_table) bpu.3 from(sigmoid)
        CHECK-NEXT: %d: f32[1,4] = dequantize(%y) cpu
        CHECK-NEXT: output %d as "result"
        """,
    )


def test_shapes_and_types_of_an_integer_graph_can_be_inferred_for_another_batch() -> None:
    graph = unary("%y: f32[1,2,2,2] q(i8, 0.5) = max_pool2d(%q) {kernel=[2,2], stride=[2,2]} bpu.0")
    other = graph.with_batch(3)
    assert str(other.value("q").type) == "i8[3,2,4,4]"
    assert str(other.value("y").type) == "i8[3,2,2,2]"
    assert str(other.value("d").type) == "f32[3,2,2,2]"


def test_no_pass_of_the_pipeline_touches_an_integer_graph() -> None:
    graph = conv("i32, axis=1, [0.0005, 0.001, 0.002]")
    before = str(graph)
    for name in (
        "insert-boundaries{form=qat}",
        "insert-boundaries{form=deployed}",
        "propagate-scales",
        "unify-cat-scales",
        PASS,
    ):
        (item,) = parse_passes(name)
        assert not item.run(graph, PassContext(get_spec("bayes"))).changed
        assert str(graph) == before


# --- multiply-accumulate -------------------------------------------------------------------------------------------------

CONV = """
    input %x: f32[1,2,4,4]
    param @w: f32[3,2,1,1] q(i8, axis=0, [0.01, 0.02, 0.04]) = [1.0, 0.5, -2.0, 0.25, 0.015, 0.0]
    param @b: f32[3] = [0.5, -0.25, 1.0]
    %q: f32[1,2,4,4] q(IN, 0.05) = quantize(%x) cpu
    %y: f32[1,3,4,4] q(OUT) = conv2d(%q, @w, @bEXTRA) {activation=ACT} bpu.0
    %d: f32[1,3,4,4] = dequantize(%y) cpu
    output %d
    """


def conv(out: str = "i8, 0.1", act: str = "none", march: str = "bayes", int_in: str = "i8", extra: str = "") -> Graph:
    return lower(CONV.replace("OUT", out).replace("ACT", act).replace("IN", int_in).replace("EXTRA", extra), march)


def acc_scale() -> npt.NDArray[np.float64]:
    return np.float64(F32(0.05)) * np.array([0.01, 0.02, 0.04], F32).astype(np.float64)


def test_convolution_weights_bias_and_multipliers() -> None:
    graph = conv()
    assert_text(graph, "CHECK: %y: i8[1,3,4,4] q(i8, 0.1) = int_conv2d(%q, @w_int8, @y_bias, @y_requant) bpu.0")
    assert array(graph, "w_int8").ravel().tolist() == [100, 50, -100, 12, 0, 0]  # 12.5 and 0.375: half to even
    assert array(graph, "y_bias").tolist() == arithmetic.quantize_bias(np.array([0.5, -0.25, 1.0], F32), acc_scale()).tolist()
    assert array(graph, "y_bias").dtype == np.int32
    assert np.array_equal(array(graph, "y_requant"), requant_of(acc_scale() / np.float64(F32(0.1))))
    assert "w" not in graph.values


def test_fused_activations_bound_the_result() -> None:
    assert conv(act="relu").value("y").producer.attributes["clip_min"] == 0
    six = conv(act="relu6").value("y").producer
    assert (six.attributes["clip_min"], six.attributes["clip_max"]) == (0, 60)
    assert conv("i8, 0.01", "relu6").value("y").producer.attributes["clip_max"] == 127


def test_int16_results_and_operands_use_64_bit_requantization() -> None:
    graph = conv("i16, 0.001")
    assert graph.value("y").producer.attributes["mode"] == "multiply64"
    assert np.array_equal(array(graph, "y_requant"), requant_of(acc_scale() / np.float64(F32(0.001)), 16))
    assert array(graph, "y_bias").dtype == np.int32
    assert array(conv(int_in="i16"), "y_bias").dtype == np.int64


def test_high_precision_results_are_the_accumulator() -> None:
    graph = conv("i32, axis=1, [0.0005, 0.001, 0.002]")
    node = graph.value("y").producer
    assert node.attributes["mode"] == "none"
    assert len(node.inputs) == 3
    assert np.array_equal(graph.value("y").quant.scale, acc_scale().astype(F32))
    with pytest.raises(QuantizationError, match="relu6 cannot be fused into a high-precision"):
        conv("i32, axis=1, [0.0005, 0.001, 0.002]", "relu6")


def test_a_residual_joins_the_accumulator_with_its_own_multiplier() -> None:
    body = CONV.replace("%y: f32", "%r: f32[1,3,4,4] q(i8, 3.0) = quantize(%s) cpu\n    %y: f32").replace(
        "input %x", "input %s: f32[1,3,4,4]\n    input %x"
    )
    graph = lower(body.replace("OUT", "i8, 0.1").replace("ACT", "relu").replace("IN", "i8").replace("EXTRA", ", %r"))
    assert_text(
        graph, "CHECK: %y: i8[1,3,4,4] q(i8, 0.1) = int_conv2d(%q, @w_int8, @y_bias, @y_requant, %r, @y_residual_requant)"
    )
    m, p, s = array(graph, "y_residual_requant")
    assert (p == 0).all()
    assert np.allclose(m * 2.0**-s, 3.0 / acc_scale(), rtol=2**-15)
    assert (m < 2**15).all()
    assert (m >= 2**14).all()


def test_bernoulli_shifts_and_has_an_int8_bias_scale() -> None:
    body = (
        CONV.replace("0.01, 0.02, 0.04", "0.015625, 0.03125, 0.0625")
        .replace("0.05)", "0.0625)")
        .replace("EXTRA", "")
        .replace("ACT", "none")
        .replace("IN", "i8")
    )
    graph = lower(body.replace("OUT", "i8, 0.125"), "bernoulli")
    acc = 0.0625 * np.array([0.015625, 0.03125, 0.0625])
    assert array(graph, "y_requant").tolist() == [[1, 1, 1], [0, 0, 0], [7, 6, 5]]
    assert graph.value("y").producer.attributes["mode"] == "shift"
    # one power-of-two scale for the layer's bias: max 1.0 -> 1/127.5 -> 2^-6
    assert array(graph, "y_bias").tolist() == (np.array([32, -16, 64]) * (2.0**-6 / acc)).astype(int).tolist()
    with pytest.raises(QuantizationError, match=r"y: the result's scale is .* times finer .* only shifts right"):
        lower(body.replace("OUT", "i8, 0.0009765625"), "bernoulli")


def test_layers_that_share_a_weight_share_its_integers() -> None:
    graph = lower(
        """
        input %x: f32[1,2]
        param @w: f32[2,2] q(i8, axis=0, [0.01, 0.02]) = [1.0, 0.5, -2.0, 0.25]
        %q: f32[1,2] q(i8, 0.05) = quantize(%x) cpu
        %l: f32[1,2] q(i8, 0.05) = linear(%q, @w) bpu.0
        %y: f32[1,2] q(i8, 0.05) = linear(%l, @w) bpu.0
        %d: f32[1,2] = dequantize(%y) cpu
        output %d
        """
    )
    assert [name for name in graph.parameters if "int8" in name] == ["w_int8"]


def test_grouped_transposed_convolution_repeats_the_scales_of_its_axis_for_every_group() -> None:
    graph = lower(
        """
        input %x: f32[1,4,2,2]
        param @w: f32[4,2,1,1] q(i8, axis=1, [0.01, 0.02]) = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
        %q: f32[1,4,2,2] q(i8, 0.5) = quantize(%x) cpu
        %y: f32[1,4,2,2] q(i8, 0.5) = conv_transpose2d(%q, @w) {groups=2} bpu.0
        %d: f32[1,4,2,2] = dequantize(%y) cpu
        output %d
        """
    )
    scale = np.array([0.01, 0.02, 0.01, 0.02], F32).astype(np.float64)
    assert np.array_equal(array(graph, "y_requant"), requant_of(0.5 * scale / 0.5))
    assert array(graph, "w_int8").ravel().tolist() == [10, 10, 30, 20, 50, 30, 70, 40]


def test_an_accumulator_that_could_overflow_is_refused_with_the_numbers() -> None:
    with pytest.raises(
        QuantizationError, match=r"y: the accumulator may reach \d+, beyond the 2147483647 of 32 bits \(140000 products"
    ):
        lower(
            """
            input %x: f32[1,140000]
            param @w: f32[1,140000] q(i8, axis=0, [0.0001]) = #random(0, [1,140000])
            %q: f32[1,140000] q(i8, 0.05) = quantize(%x) cpu
            %y: f32[1,1] q(i8, 1.0) = linear(%q, @w) bpu.0
            %d: f32[1,1] = dequantize(%y) cpu
            output %d
            """
        )


def test_a_lone_batch_norm_becomes_a_depthwise_convolution() -> None:
    graph = lower(
        """
        input %x: f32[1,2,4,4]
        param @mean: f32[2] = [1.0, -1.0]
        param @var: f32[2] = [4.0, 1.0]
        param @gamma: f32[2] = [2.0, -0.5]
        param @beta: f32[2] = [0.5, 0.25]
        %q: f32[1,2,4,4] q(i8, 0.5) = quantize(%x) cpu
        %y: f32[1,2,4,4] q(i8, 0.25) = batch_norm(%q, @mean, @var, @gamma, @beta) {eps=0.0} bpu.0
        %d: f32[1,2,4,4] = dequantize(%y) cpu
        output %d
        """
    )
    assert_text(graph, "CHECK: %y: i8[1,2,4,4] q(i8, 0.25) = int_conv2d(%q, @y_weight, @y_bias, @y_requant) {groups=2} bpu.0")
    scale = graph.value("y_weight").quant.scale.astype(np.float64)
    assert np.abs(array(graph, "y_weight").ravel()).tolist() == [127, 127]
    assert np.allclose(array(graph, "y_bias") * 0.5 * scale, [0.5 - 1.0, 0.25 - 0.5], atol=0.5 * scale.max())
    assert "gamma" not in graph.values


def test_matmul_of_activations_and_with_a_constant() -> None:
    graph = binary(
        "%t: f32[4,1] q(i8, 0.25) = transpose(%b) {perm=[1,0]} bpu.0\n        %y: f32[1,1] q(i8, 0.125) = matmul(%a, %t) bpu.0"
    )
    assert_text(graph, "CHECK: %y: i8[1,1] q(i8, 0.125) = int_matmul(%a, %t, @y_requant)")
    assert np.array_equal(array(graph, "y_requant"), requant_of(0.5 * 0.25 / 0.125))
    graph = binary("%y: f32[1,1] q(i8, 0.5) = matmul(%a, @w) bpu.0", parameter="param @w: f32[4,1] = [1.27, -0.5, 0.0, 0.01]")
    assert array(graph, "y_w_int8").ravel().tolist() == [127, -50, 0, 1]


# --- element-wise --------------------------------------------------------------------------------------------------------


def test_add_and_sub_bring_operands_to_a_common_unit() -> None:
    graph = binary("%y: f32[1,4] q(i8, 0.3) = add(%a, %b) bpu.0")
    node = graph.value("y").producer
    assert (node.attributes["k_a"], node.attributes["k_b"]) == (2**14, 2**13)
    assert np.array_equal(array(graph, "y_requant"), requant_of(0.5 / 2**14 / np.float64(F32(0.3))))
    assert binary("%y: f32[1,4] q(i8, 0.3) = sub(%a, %b) bpu.0").value("y").producer.attributes["k_b"] == -(2**13)
    wide = binary("%y: f32[1,4] q(i16, 0.001) = add(%a, %b) bpu.0", b="q(i16, 0.25)").value("y").producer
    assert (wide.attributes["k_a"], wide.attributes["k_b"], wide.attributes["mode"]) == (2**24, 2**23, "multiply64")


@pytest.mark.parametrize(
    ("expression", "k_a", "constant"),
    [
        ("add(%a, @c)", 2**14, 98304),
        ("add(@c, %a)", 2**14, 98304),
        ("sub(%a, @c)", 2**14, -98304),
        ("sub(@c, %a)", -(2**14), 98304),
    ],
)
def test_a_uniform_constant_is_added_in_the_unit_of_the_activation(expression: str, k_a: int, constant: int) -> None:
    graph = binary(f"%y: f32[1,4] q(i8, 0.3) = {expression} bpu.0", parameter="param @c: f32[] = 3.0")
    node = graph.value("y").producer
    assert (node.attributes["k_a"], node.attributes["k_b"]) == (k_a, 1)
    assert array(graph, "y_constant").tolist() == constant
    assert array(graph, "y_constant").dtype == np.int32


def test_a_constant_too_large_for_int32_in_the_activations_unit_coarsens_the_unit() -> None:
    graph = binary("%y: f32[1,4] q(i8, 1e+5) = add(%a, @c) bpu.0", parameter="param @c: f32[] = 1e+6")
    unit = 1e6 / 127 / 2**14
    assert array(graph, "y_constant").tolist() == pytest.approx(1e6 / unit, rel=1e-6)
    assert graph.value("y").producer.attributes["k_a"] == round(0.5 / unit)


def test_a_constant_tensor_is_quantized_before_it_is_added() -> None:
    graph = binary("%y: f32[1,4] q(i8, 0.3) = sub(%a, @c) bpu.0", parameter="param @c: f32[1,4] = [2.54, -1.0, 0.02, 0.0]")
    step = np.float64(F32(2.54 / 127))
    factor = arithmetic.add_factor(step, 0.5 / 2**14)
    assert array(graph, "y_constant").ravel().tolist() == [-127 * factor, 50 * factor, -factor, 0]


def test_mul_of_tensors_and_by_a_tensor_constant() -> None:
    graph = binary("%y: f32[1,4] q(i8, 0.3) = mul(%a, %b) bpu.0")
    assert_text(graph, "CHECK: %y: i8[1,4] q(i8, 0.3) = int_mul(%a, %b, @y_requant)")
    assert np.array_equal(array(graph, "y_requant"), requant_of(0.125 / np.float64(F32(0.3))))
    graph = binary("%y: f32[1,4] q(i8, 0.5) = mul(@c, %a) bpu.0", parameter="param @c: f32[1,4] = [1.27, -1.0, 0.02, 0.0]")
    assert array(graph, "y_c_int8").ravel().tolist() == [127, -100, 2, 0]


def test_mul_by_a_scalar_folds_into_the_scale() -> None:
    same = binary("%y: f32[1,4] q(i8, 1.5) = mul(%a, @c) bpu.0", parameter="param @c: f32[] = 3.0")
    assert_text(same, "CHECK: %y: i8[1,4] q(i8, 1.5) = int_requantize(%a) {mode=clip}")
    negative = binary("%y: f32[1,4] q(i8, 1.5) = mul(@c, %a) bpu.0", parameter="param @c: f32[] = -3.0")
    assert_text(negative, "CHECK: %y: i8[1,4] q(i8, 1.5) = int_mul(%a, @y_sign, @y_requant)")
    assert np.array_equal(array(negative, "y_requant"), requant_of(1.0))
    observed = binary("%y: f32[1,4] q(i8, 0.75) = div(%a, @c) bpu.0", parameter="param @c: f32[] = 0.5")
    assert np.array_equal(array(observed, "y_requant"), requant_of(1.0 / 0.75))
    zero = binary("%y: f32[1,4] q(i8, 0.75) = mul(%a, @c) bpu.0", parameter="param @c: f32[] = 0.0")
    assert array(zero, "y_c_int8").tolist() == 0


def test_mul_by_a_scalar_on_bernoulli_quantizes_the_scalar_to_a_power_of_two_scale() -> None:
    graph = binary("%y: f32[1,4] q(i8, 0.5) = mul(%a, @c) bpu.0", "bernoulli", parameter="param @c: f32[] = 3.0")
    assert (array(graph, "y_c_int8").tolist(), float(graph.value("y_c_int8").quant.scale)) == (96, 2.0**-5)
    assert array(graph, "y_requant").tolist() == [1, 0, 5]
    with pytest.raises(QuantizationError, match=r"a constant of 100 is beyond 63.5"):
        binary("%y: f32[1,4] q(i8, 0.5) = mul(%a, @c) bpu.0", "bernoulli", parameter="param @c: f32[] = 100.0")


def test_division_is_exact_for_tensors_and_a_table_for_a_scalar_numerator() -> None:
    graph = binary("%y: f32[1,4] q(i8, 0.1) = div(%a, %b) bpu.0")
    assert graph.value("y").producer.attributes["ratio"] == 0.5 / (0.25 * np.float64(F32(0.1)))
    graph = binary("%y: f32[1,4] q(i8, 0.1) = div(@c, %a) bpu.0", parameter="param @c: f32[] = 3.0")
    table = array(graph, "y_table")
    assert (table[128 + 1], table[128 + 2], table[0], table[128]) == (60, 30, 0, 127)


def test_a_power_with_one_scalar_is_a_table_and_of_two_tensors_refused() -> None:
    square = binary("%y: f32[1,4] q(i8, 1.0) = pow(%a, @c) bpu.0", parameter="param @c: f32[] = 2.0")
    assert array(square, "y_table")[128 + 6] == 9
    exponential = binary("%y: f32[1,4] q(i8, 1.0) = pow(@c, %a) bpu.0", parameter="param @c: f32[] = 2.0")
    assert array(exponential, "y_table")[128 + 6] == 8
    with pytest.raises(CompileError, match="y: the BPU has no power of two tensors"):
        binary("%y: f32[1,4] q(i8, 1.0) = pow(%a, %b) bpu.0")


def test_maximum_where_and_cat_requantize_operands_once_to_the_results_grid() -> None:
    graph = binary(
        """%m: f32[1,4] q(i8, 0.25) = maximum(%a, %b) bpu.0
        %g: b1[1,4] = greater(%a, %b) bpu.0
        %w: f32[1,4] q(i8, 0.25) = where(%g, %a, %m) bpu.0
        %y: f32[1,16] q(i8, 0.25) = cat(%a, %w, %b, @c) {axis=1} bpu.0""",
        parameter="param @c: f32[1,4] = [1.0, -0.1, 100.0, 0.3]",
    )
    assert_text(
        graph,
        """
        CHECK: %a_requantize: i8[1,4] q(i8, 0.25) = int_requantize(%a, @a_requant) bpu.0
        CHECK-NEXT: %m: i8[1,4] q(i8, 0.25) = maximum(%a_requantize, %b)
        CHECK: %g: b1[1,4] = greater(%a, %b_requantize)
        CHECK-NEXT: %w: i8[1,4] q(i8, 0.25) = where(%g, %a_requantize, %m)
        CHECK-NEXT: %y: i8[1,16] q(i8, 0.25) = cat(%a_requantize, %w, %b, @c_i8) {axis=1}
        """,
    )
    assert np.array_equal(array(graph, "a_requant"), requant_of(2.0))
    assert array(graph, "c_i8").ravel().tolist() == [4, 0, 127, 1]


def test_comparisons_use_the_larger_scale_and_the_wider_type() -> None:
    graph = binary(
        "%y: b1[1,4] = less(%a, %b) bpu.0".replace("%y", "%p") + "\n        %y: f32[1,4] q(i8, 0.5) = where(%p, %a, %a) bpu.0",
        b="q(i16, 0.25)",
    )
    assert_text(
        graph,
        """
        CHECK: %a_requantize: i16[1,4] q(i16, 0.5) = int_requantize(%a) {mode=clip, dtype=i16}
        CHECK: %b_requantize: i16[1,4] q(i16, 0.5) = int_requantize(%b, @b_requant) {mode=multiply64, dtype=i16}
        CHECK: %p: b1[1,4] = less(%a_requantize, %b_requantize)
        """,
    )


def test_a_comparison_with_a_constant_beyond_the_range_takes_the_constants_scale() -> None:
    node = "%p: b1[1,4] = less(%a, @c) bpu.0\n        %y: f32[1,4] q(i8, 0.5) = where(%p, %a, %a) bpu.0"
    graph = binary(node, parameter="param @c: f32[] = 127.0")
    assert_text(graph, "CHECK: %a_requantize: i8[1,4] q(i8, 1.0) = int_requantize(%a, @a_requant)")
    assert array(graph, "c_i8").tolist() == 127
    assert "a_requantize" not in binary(node, parameter="param @c: f32[] = 6.0").values


def test_a_constant_that_saturates_in_a_cat_leaves_a_remark() -> None:
    text = """
        input %x: f32[1,2]
        param @c: f32[1,2] = [100.0, 1.0]
        %q: f32[1,2] q(i8, 0.5) = quantize(%x) cpu
        %y: f32[1,4] q(i8, 0.5) = cat(%q, @c) {axis=1} bpu.0
        %d: f32[1,4] = dequantize(%y) cpu
        output %d
        """
    (remark,) = run_passes(graph_of(text, "scaled"), PASS)
    assert remark.message == "the constant c saturates by 36.5 at the scale 0.5"
    assert run_passes(graph_of(text.replace("100.0", "63.4"), "scaled"), PASS) == []


def test_a_constant_with_its_own_quantization_keeps_it() -> None:
    graph = binary(
        "%y: f32[1,4] q(i16, 0.001) = mul(%a, @c) bpu.0", parameter="param @c: f32[1,4] q(i16, 0.001) = [1.0, 2.0, 3.0, 4.0]"
    )
    assert array(graph, "y_c_int16").ravel().tolist() == [1000, 2000, 3000, 4000]


@pytest.mark.parametrize(
    ("node", "name"),
    [
        ("%y: f32[1,2,4,4] q(i8, 0.5) = prelu(%q, %r) bpu.0", "r"),
        ("%y: f32[1,2,4,4] q(i8, 0.5) = conv2d(%q, @w, %r) bpu.0", "r"),
        ("%y: f32[1,2,4,4] q(i8, 0.5) = batch_norm(%q, %r, %r) bpu.0", "r"),
    ],
)
def test_an_operand_that_must_be_constant_is_named_when_it_is_not(node: str, name: str) -> None:
    text = f"""
        input %x: f32[1,2,4,4]
        input %s: f32[2]
        param @w: f32[2,2,1,1] q(i8, 0.01) = [1.0, 1.0, 1.0, 1.0]
        %q: f32[1,2,4,4] q(i8, 0.5) = quantize(%x) cpu
        %r: f32[2] q(i8, 0.5) = quantize(%s) cpu
        {node}
        %d: f32[1,2,4,4] = dequantize(%y) cpu
        output %d
        """
    with pytest.raises(QuantizationError, match=f"y: {name} is computed at run time, but .* needs it as a constant on the BPU"):
        lower(text)


def test_requantize_between_grids() -> None:
    graph = unary("%y: f32[1,2,4,4] q(i16, 0.25) = requantize(%q) {dtype=i16} bpu.0")
    assert_text(graph, "CHECK: %y: i16[1,2,4,4] q(i16, 0.25) = int_requantize(%q, @y_requant) {mode=multiply64, dtype=i16}")
    graph = unary("%y: f32[1,2,4,4] q(i16, 0.5) = requantize(%q) {dtype=i16} bpu.0")
    assert_text(graph, "CHECK: int_requantize(%q) {mode=clip, dtype=i16}")


# --- functions of one tensor -----------------------------------------------------------------------------------------------


def test_relu_and_clamp_compare_integers_at_the_operands_scale() -> None:
    assert_text(unary("%y: f32[1,2,4,4] q(i8, 0.5) = relu(%q) bpu.0"), "CHECK: = clamp(%q) {min=0.0} bpu.0")
    assert_text(
        unary("%y: f32[1,2,4,4] q(i8, 0.5) = clamp(%q) {min=-1.3, max=6.0} bpu.0"), "CHECK: = clamp(%q) {min=-3.0, max=12.0}"
    )
    assert_text(
        unary("%y: f32[1,2,4,4] q(i8, 0.5) = clamp(%q) {min=-inf, max=1e+30} bpu.0"),
        "CHECK: = clamp(%q) {min=-128.0, max=127.0}",
    )


def test_tables_round_half_up_and_floor_on_bernoulli() -> None:
    node = "%y: f32[1,2,4,4] q(i8, 0.0078125) = sigmoid(%q) bpu.0"
    for march, half in (("bayes", 0.5), ("bernoulli", 0.0)):
        table = array(unary(node, march), "y_table")
        x = np.arange(-128, 128) * 0.5
        assert np.array_equal(table, np.clip(np.floor(1 / (1 + np.exp(-x)) / 0.0078125 + half), -128, 127))
        assert table.dtype == np.int8


def test_int16_tables_have_an_entry_for_every_integer() -> None:
    graph = unary("%y: f32[1,2,4,4] q(i16, 0.001) = leaky_relu(%q) {slope=0.1} bpu.0", scale="q(i16, 0.001)")
    table = array(graph, "y_table")
    assert (table.shape, table.dtype) == ((65536,), np.dtype(np.int16))
    assert (table[0], table[32768], table[65535]) == (-3277, 0, 32767)


def test_prelu_has_int16_slopes_and_two_requantizations() -> None:
    text = """
        input %x: f32[1,2,4,4]
        param @slope: f32[2] = [0.25, -0.1]
        %q: f32[1,2,4,4] q(i8, 0.5) = quantize(%x) cpu
        %y: f32[1,2,4,4] q(i8, 0.25) = prelu(%q, @slope) bpu.0
        %d: f32[1,2,4,4] = dequantize(%y) cpu
        output %d
        """
    graph = lower(text, "bernoulli2")
    assert_text(
        graph, "CHECK: %y: i8[1,2,4,4] q(i8, 0.25) = int_prelu(%q, @y_weight, @y_requant_positive, @y_requant_negative)"
    )
    step = 2.0**-16  # the smallest power of two that holds 0.25 in int16
    assert array(graph, "y_weight").tolist() == [16384, -6554]
    assert np.array_equal(array(graph, "y_requant_positive"), requant_of(2.0))
    assert np.array_equal(array(graph, "y_requant_negative"), requant_of(2.0 * step))


def test_softmax_has_an_exponential_table_and_requantizes_from_q31() -> None:
    graph = unary("%y: f32[1,2,4,4] q(i8, 0.0078125) = softmax(%q) {axis=1} bpu.0")
    table = array(graph, "y_table")
    assert (table.shape, int(table[0]), int(table[1])) == ((256,), 32768, round(32768 * np.exp(-0.5)))
    assert np.array_equal(array(graph, "y_requant"), requant_of(2.0**-31 / 0.0078125))
    assert (
        array(unary("%y: f32[1,2,4,4] q(i16, 0.0001) = softmax(%q) {axis=1} bpu.0", scale="q(i16, 0.001)"), "y_table").size
        == 65536
    )


# --- layout, pools, reductions, resize -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "node",
    [
        "%y: f32[1,2,2,2] q(i8, 0.5) = max_pool2d(%q) {kernel=[2,2], stride=[2,2]} bpu.0",
        "%y: f32[1,2,1,1] q(i8, 0.5) = adaptive_max_pool2d(%q) {output_size=[1,1]} bpu.0",
        "%y: f32[1,32] q(i8, 0.5) = reshape(%q) {shape=[1,32]} bpu.0",
        "%y: f32[1,4,4,2] q(i8, 0.5) = transpose(%q) {perm=[0,2,3,1]} bpu.0",
        "%y: f32[1,1,4,4] q(i8, 0.5) = slice(%q) {axes=[1], starts=[1], ends=[2]} bpu.0",
        "%y: f32[1,2,4] q(i8, 0.5) = reduce_max(%q) {axes=[3]} bpu.0",
        "%y: f32[1,8,2,2] q(i8, 0.5) = pixel_unshuffle(%q) {factor=2} bpu.0",
        "%y: f32[1,2,8,4] q(i8, 0.5) = tile(%q) {repeats=[1,1,2,1]} bpu.0",
    ],
)
def test_ops_that_move_elements_keep_their_form_on_integers(node: str) -> None:
    expected = node.replace("f32[", "i8[", 1)
    assert expected in str(unary(node))


def test_pad_fills_with_the_quantized_value() -> None:
    node = "%y: f32[1,2,4,6] q(i8, 0.5) = pad(%q) {pads=[0,0,0,1,0,0,0,1], value=VALUE} bpu.0"
    assert unary(node.replace("VALUE", "-1.5")).value("y").producer.attributes["value"] == -3.0
    assert unary(node.replace("VALUE", "0.9"), "bernoulli").value("y").producer.attributes["value"] == 1.0


def test_a_pad_with_another_value_than_0_has_a_scale_of_its_own_and_its_operand_is_requantized_to_it() -> None:
    node = "%y: f32[1,2,4,6] q(i8, 1.0) = pad(%q) {pads=[0,0,0,1,0,0,0,1], value=100.0} bpu.0"
    for march in ("bayes", "bernoulli"):
        graph = unary(node, march)
        assert_text(graph, "CHECK: %q_requantize: i8[1,2,4,4] q(i8, 1.0{{.*}}) = int_requantize(%q")
        assert graph.value("y").producer.attributes["value"] == 100.0


def test_average_pool_has_one_divisor_or_one_for_each_position() -> None:
    node = "%y: f32[1,2,2,2] q(i8, 0.25) = avg_pool2d(%q) {kernel=[3,3], stride=[2,2], padding=[1,1,0,0]MORE} bpu.0"
    uniform = unary(node.replace("MORE", ""))
    assert np.array_equal(array(uniform, "y_requant"), requant_of(2.0 / 9.0))
    excluded = unary(node.replace("MORE", ", count_include_pad=false"))
    assert array(excluded, "y_requant").shape == (3, 2, 2)
    assert np.array_equal(array(excluded, "y_requant"), requant_of(2.0 / np.array([[4.0, 6.0], [6.0, 9.0]])))


def test_adaptive_average_pool_of_unequal_windows() -> None:
    graph = unary("%y: f32[1,2,3,2] q(i8, 0.25) = adaptive_avg_pool2d(%q) {output_size=[3,2]} bpu.0")
    assert np.array_equal(array(graph, "y_requant"), requant_of(2.0 / np.full((3, 2), 4.0))[:, 0, 0])
    graph = unary("%y: f32[1,2,3,2] q(i8, 0.25) = adaptive_avg_pool2d(%q) {output_size=[3,2]} bpu.0", shape="1,2,5,4")
    assert np.array_equal(array(graph, "y_requant"), requant_of(2.0 / np.array([[4.0, 4.0], [6.0, 6.0], [4.0, 4.0]])))


def test_bernoulli_pools_with_a_gain_in_as_many_stages_as_it_needs() -> None:
    small = unary("%y: f32[1,2,2,2] q(i8, 0.5) = avg_pool2d(%q) {kernel=[3,3], stride=[1,1]} bpu.0", "bernoulli")
    assert_text(
        small,
        "CHECK: %y: i8[1,2,2,2] q(i8, 0.5, floor) {{.*}} = int_avg_pool2d(%q) {kernel=[3,3], stride=[1,1], gain=56, mode=clip}",
    )
    large = unary("%y: f32[1,2,1,1] q(i8, 0.5) = adaptive_avg_pool2d(%q) {output_size=[1,1]} bpu.0", "bernoulli", "1,2,14,14")
    assert_text(
        large,
        """
        CHECK: %y_stage0: i8[1,2,1,7] q(i8, 0.5, floor) {{.*}} = int_avg_pool2d(%q) {kernel=[14,2], stride=[14,2], gain=18, mode=clip} bpu.0
        CHECK-NEXT: %y: i8[1,2,1,1] q(i8, 0.5, floor) {{.*}} = int_avg_pool2d(%y_stage0) {kernel=[1,7], stride=[1,7], gain=73
        """,
    )


REFUSED_ON_BERNOULLI = [
    (
        "f32[1,2,2,2] avg_pool2d(%q) {kernel=[14,14], stride=[1,1]}",
        "1,2,15,15",
        "windows that overlap or are padded do not split",
    ),
    (
        "f32[1,2,2,2] avg_pool2d(%q) {kernel=[3,3], stride=[2,2], padding=[1,1,0,0], count_include_pad=false}",
        "1,2,4,4",
        "divides every window of an average pool by the kernel's size: count_include_pad=False",
    ),
    (
        "f32[1,2,3,3] avg_pool2d(%q) {kernel=[2,2], stride=[2,2], ceil_mode=true}",
        "1,2,5,5",
        "divides every window of an average pool by the kernel's size: ceil_mode=True leaves a window over the edge",
    ),
    ("f32[1,2,3,3] adaptive_avg_pool2d(%q) {output_size=[3,3]}", "1,2,4,4", "pools with windows of one size: 4x4 to 3x3"),
    ("f32[1,2,1,1] adaptive_avg_pool2d(%q) {output_size=[1,1]}", "1,2,37,37", "or splits into such windows: 37x37 gives 0.000"),
    ("f32[1,2,4] mean(%q) {axes=[3]}", "1,2,4,3", "divides only by shifting"),
]


@pytest.mark.parametrize(("node", "shape", "reason"), REFUSED_ON_BERNOULLI)
def test_bernoulli_refuses_averages_that_a_gain_cannot_express(node: str, shape: str, reason: str) -> None:
    kind, call = node.split(" ", 1)
    line = f"%y: {kind} q(i8, 0.5) = {call} bpu.0"
    with pytest.raises(CompileError, match=re.escape(reason)):
        unary(line, "bernoulli", shape)
    graph = graph_of(f"input %q: f32[{shape}]\n{line}\noutput %y")
    (pool,) = graph.nodes
    assert reason in str(accepts(pool, get_spec("bernoulli")))
    assert accepts(pool, get_spec("bernoulli2")) is None


@pytest.mark.parametrize("height", range(1, 65))
def test_every_bernoulli_pool_stage_is_accepted_and_stages_multiply_to_the_window(height: int) -> None:
    for width in (1, height, 20):
        stages = arithmetic.bernoulli_pool_stages(height, width)
        if stages is None:
            assert height > 31 or width > 31  # only large primes have no accepted factor
            continue
        assert np.prod([h for h, _ in stages]) == height
        assert np.prod([w for _, w in stages]) == width
        assert all(0.95 <= h * w * (512 // (h * w)) / 512 <= 1 for h, w in stages)


def test_means_and_sums_requantize_an_integer_sum() -> None:
    mean = unary("%y: f32[1,2] q(i8, 0.125) = mean(%q) {axes=[2,-1]} bpu.0")
    assert_text(mean, "CHECK: %y: i8[1,2] q(i8, 0.125) = int_sum(%q, @y_requant) {axes=[2,3]}")
    assert np.array_equal(array(mean, "y_requant"), requant_of(0.5 / 16 / 0.125))
    total = unary("%y: f32[] q(i8, 4.0) = sum(%q) bpu.0")
    assert_text(total, "CHECK: %y: i8[] q(i8, 4.0) = int_sum(%q, @y_requant) {axes=[0,1,2,3]}")
    assert np.array_equal(array(total, "y_requant"), requant_of(0.125))


def test_a_spatial_mean_on_bernoulli_is_a_pool() -> None:
    graph = unary("%y: f32[1,2] q(i8, 0.5) = mean(%q) {axes=[2,3]} bpu.0", "bernoulli", "1,2,7,7")
    assert_text(
        graph,
        """
        CHECK: %y_stage0: i8[1,2,1,1] q(i8, 0.5, floor) {{.*}} = int_avg_pool2d(%q) {kernel=[7,7], stride=[7,7], gain=10, mode=clip}
        CHECK-NEXT: %y_flat: i8[1,2] q(i8, 0.5, floor) = reshape(%y_stage0) {shape=[0,0]}
        CHECK-NEXT: %y: i8[1,2] q(i8, 0.5, floor) = int_requantize(%y_flat) {mode=clip}
        """,
    )


def test_resize_gets_the_marchs_fraction_bits_and_a_remark_where_they_are_too_few() -> None:
    node = "%y: f32[1,2,8,8] q(i8, 0.5) = resize2d(%q) {scale_factor=[2.0,2.0], mode=bilinear} bpu.0"
    assert_text(unary(node), "CHECK: int_resize2d(%q) {size=[8,8], mode=bilinear}")
    assert_text(unary(node, "bernoulli2"), "CHECK: int_resize2d(%q) {size=[8,8], mode=bilinear, fraction_bits=8}")
    text = """
        input %x: f32[1,1,1,300]
        %q: f32[1,1,1,300] q(i8, 0.5) = quantize(%x) cpu
        %y: f32[1,1,1,700] q(i8, 0.5) = resize2d(%q) {size=[1,700], mode=nearest} bpu.0
        %d: f32[1,1,1,700] = dequantize(%y) cpu
        output %d
        """
    (remark,) = run_passes(graph_of(text, "scaled"), PASS, "bernoulli2")
    assert "resizing 1x300 to 1x700 with 8 fraction bits is off by up to" in remark.message
    assert run_passes(graph_of(text, "scaled"), PASS, "bayes") == []
    with pytest.raises(CompileError, match="the BPU resizes nearest or bilinear, not bicubic"):
        unary(node.replace("bilinear", "bicubic"))


def test_argmax_reads_integers() -> None:
    graph = lower(
        """
        input %x: f32[1,4]
        %q: f32[1,4] q(i8, 0.5) = quantize(%x) cpu
        %y: i64[1] = argmax(%q) {axis=1} bpu.0
        output %y
        """
    )
    assert_text(graph, "CHECK: %y: i64[1] = argmax(%q) {axis=1} bpu.0")


# --- arithmetic used here ----------------------------------------------------------------------------------------------------


def test_fast_weight_quantization_is_the_plain_one() -> None:
    rng = np.random.default_rng(1)
    weight = rng.normal(size=(5, 3, 3, 3)).astype(F32)
    scale = rng.uniform(0.001, 0.05, 5).astype(F32)
    assert np.array_equal(arithmetic.quantize_weight(weight, scale, 0), arithmetic.quantize(weight, scale, axis=0))
    weight[2, 1, 0, 0] = np.nan
    with pytest.raises(QuantizationError, match="NaN"):
        arithmetic.quantize_weight(weight, scale, 0)


def test_residual_parameters_have_no_upper_limit_but_agree_with_requantization_below_it() -> None:
    ratio = np.array([1e-12, 0.3, 1.0, 777.7, 30000.0])
    residual, plain = arithmetic.residual_params(ratio), arithmetic.requant_params(ratio)
    assert np.array_equal(residual.multiplier, plain.multiplier)
    assert np.array_equal(residual.post_shift, plain.post_shift)
    large = arithmetic.residual_params(2.0**22)
    assert arithmetic.rounding_shift_right(127 * large.multiplier, large.post_shift) == 127 * 2**22
