"""propagate-scales: every real value on the BPU gets a scale, or the user learns which one has none."""

from __future__ import annotations

import numpy as np
import pytest
from ir_check import assert_text, graph_of, run_passes, transform

from hqc import arithmetic
from hqc.errors import QuantizationError
from hqc.ir import DType

PASS = "propagate-scales"


def propagate(body: str, march: str = "bayes", options: str = "") -> str:
    return str(transform(body, PASS + options, march, stage="bounded"))


def test_scales_travel_down_and_up_through_nodes_that_keep_them() -> None:
    graph = transform(
        """
        input %x: f32[1,4,8,8]
        %q: f32[1,4,8,8] = quantize(%x) cpu
        %p: f32[1,4,4,4] = max_pool2d(%q) {kernel=[2,2], stride=[2,2]} bpu.0
        %r: f32[1,4,4,4] q(i8, 0.5) = relu(%p) bpu.0
        %s: f32[4,16] = reshape(%r) {shape=[4,16]} bpu.0
        %t: f32[16,4] = transpose(%s) {perm=[1,0]} bpu.0
        %d: f32[16,4] = dequantize(%t) cpu
        output %d
        """,
        PASS,
        stage="bounded",
    )
    for name in ("q", "p", "r", "s", "t"):
        assert float(graph.value(name).quant.scale) == 0.5
    assert graph.value("x").quant is None
    assert graph.value("d").quant is None


def test_an_average_pool_keeps_the_scale_on_bernoulli_only() -> None:
    body = """
        input %x: f32[1,4,8,8]
        %q: f32[1,4,8,8] q(i8, 0.5) = quantize(%x) cpu
        %p: f32[1,4,4,4] = avg_pool2d(%q) {kernel=[2,2], stride=[2,2]} bpu.0
        %d: f32[1,4,4,4] = dequantize(%p) cpu
        output %d
        """
    assert "%p: f32[1,4,4,4] q(i8, 0.5) = avg_pool2d" in propagate(body, "bernoulli")
    with pytest.raises(QuantizationError, match=r"p: p \(avg_pool2d\) has no scale; give it an activation qconfig"):
        propagate(body, "bayes")


def test_results_of_a_split_all_take_the_operands_scale() -> None:
    text = propagate(
        """
        input %x: f32[1,4]
        %q: f32[1,4] q(i8, 0.5) = quantize(%x) cpu
        %a: f32[1,2], %b: f32[1,2] = split(%q) {axis=1, sizes=[2,2]} bpu.0
        %c: f32[1,2] = dequantize(%a) cpu
        %d: f32[1,2] = dequantize(%b) cpu
        output %c
        output %d
        """
    )
    assert "%a: f32[1,2] q(i8, 0.5), %b: f32[1,2] q(i8, 0.5) = split(%q)" in text


def test_a_cat_without_a_scale_takes_the_common_one_of_its_operands() -> None:
    body = """
        input %x: f32[1,4]
        %q: f32[1,4] q(i8, 0.5) = quantize(%x) cpu
        %a: f32[1,4] q(i8, OTHER) = sigmoid(%q) bpu.0
        %c: f32[1,8] = cat(%q, %a) {axis=1} bpu.0
        %d: f32[1,8] = dequantize(%c) cpu
        output %d
        """
    assert "%c: f32[1,8] q(i8, 0.5) = cat" in propagate(body.replace("OTHER", "0.5"))
    with pytest.raises(QuantizationError, match=r"c \(cat\) has no scale"):
        propagate(body.replace("OTHER", "0.25"))


def test_a_product_with_a_scalar_folds_into_the_scale() -> None:
    graph = transform(
        """
        input %x: f32[1,4]
        param @c: f32[] = -3.0
        param @h: f32[] = 8.0
        %q: f32[1,4] q(i8, 0.5) = quantize(%x) cpu
        %m: f32[1,4] = mul(%q, @c) bpu.0
        %v: f32[1,4] = div(%m, @h) bpu.0
        %d: f32[1,4] = dequantize(%v) cpu
        output %d
        """,
        PASS,
        stage="bounded",
    )
    assert float(graph.value("m").quant.scale) == 1.5
    assert float(graph.value("v").quant.scale) == 0.1875


# --- what is missing ---------------------------------------------------------------------------------------------------


def test_a_missing_scale_names_the_node_its_source_and_the_others() -> None:
    with pytest.raises(QuantizationError) as error:
        propagate(
            """
            input %x: f32[1,4]
            %q: f32[1,4] q(i8, 0.5) = quantize(%x) cpu
            %a: f32[1,4] = sigmoid(%q) bpu.0 loc("head:sigmoid#0" "net.py:12")
            %b: f32[1,4] = sigmoid(%a) bpu.0
            %d: f32[1,4] = dequantize(%b) cpu
            output %d
            """
        )
    assert "a [head:sigmoid#0 (net.py:12)]: a (sigmoid) has no scale (nor has b)" in str(error.value)


def test_a_quantize_without_a_scale_is_an_error() -> None:
    with pytest.raises(QuantizationError, match=r"q \(quantize\) has no scale"):
        propagate(
            """
            input %x: f32[1,4]
            %q: f32[1,4] = quantize(%x) cpu
            %a: f32[1,4] q(i8, 0.5) = sigmoid(%q) bpu.0
            %d: f32[1,4] = dequantize(%a) cpu
            output %d
            """
        )


# --- high precision ----------------------------------------------------------------------------------------------------


def test_a_conv_that_only_the_cpu_reads_becomes_int32_with_the_accumulators_scale() -> None:
    graph = transform(
        """
        input %x: f32[1,2,4,4]
        param @w: f32[3,2,1,1] = [1.0, 0.5, -2.0, 0.25, 0.0, 0.0]
        %q: f32[1,2,4,4] q(i8, 0.3) = quantize(%x) cpu
        %c: f32[1,3,4,4] = conv2d(%q, @w) bpu.0
        %d: f32[1,3,4,4] = dequantize(%c) cpu
        output %d
        """,
        PASS,
        stage="bounded",
    )
    weight, result = graph.value("w").quant, graph.value("c").quant
    expected = arithmetic.scale_from_range([0.0, -2.0, 0.0], [1.0, 0.25, 0.0])
    expected[2] = expected[1]  # an all-zero channel takes the largest scale of the layer
    assert weight.axis == 0
    assert np.array_equal(weight.scale, expected)
    assert (result.dtype, result.axis) == (DType.INT32, 1)
    assert np.array_equal(result.scale, (np.float64(np.float32(0.3)) * expected.astype(np.float64)).astype(np.float32))


def test_a_high_precision_linear_has_its_channels_on_the_last_axis_and_layout_nodes_move_them() -> None:
    text = propagate(
        """
        input %x: f32[1,5,2]
        param @w: f32[3,2] = [1.0, 0.5, -2.0, 0.25, 0.5, 0.5]
        %q: f32[1,5,2] q(i8, 0.5) = quantize(%x) cpu
        %l: f32[1,5,3] = linear(%q, @w) bpu.0
        %t: f32[1,3,5] = transpose(%l) {perm=[0,2,1]} bpu.0
        %r: f32[3,5] = reshape(%t) {shape=[3,5]} bpu.0
        %d: f32[3,5] = dequantize(%r) cpu
        output %d
        """
    )
    assert "%l: f32[1,5,3] q(i32, axis=2," in text
    assert "%t: f32[1,3,5] q(i32, axis=1," in text
    assert "%r: f32[3,5] q(i32, axis=0," in text


def test_a_high_precision_output_in_the_middle_of_a_segment_names_its_consumer() -> None:
    with pytest.raises(QuantizationError, match=r"c has no activation scale.*high-precision.*but s reads it on the BPU"):
        propagate(
            """
            input %x: f32[1,2,4,4]
            param @w: f32[2,2,1,1] = [1.0, 0.5, -2.0, 0.25]
            %q: f32[1,2,4,4] q(i8, 0.5) = quantize(%x) cpu
            %c: f32[1,2,4,4] = conv2d(%q, @w) bpu.0
            %s: f32[1,2,4,4] q(i8, 0.5) = sigmoid(%c) bpu.0
            %d: f32[1,2,4,4] = dequantize(%s) cpu
            output %d
            """
        )


def test_a_reshape_that_mixes_channels_cannot_pass_a_high_precision_value() -> None:
    with pytest.raises(QuantizationError, match=r"c has no activation scale.*but r reads it on the BPU"):
        propagate(
            """
            input %x: f32[1,2,4,4]
            param @w: f32[2,2,1,1] = [1.0, 0.5, -2.0, 0.25]
            %q: f32[1,2,4,4] q(i8, 0.5) = quantize(%x) cpu
            %c: f32[1,2,4,4] = conv2d(%q, @w) bpu.0
            %r: f32[1,32] = reshape(%c) {shape=[1,32]} bpu.0
            %d: f32[1,32] = dequantize(%r) cpu
            output %d
            """
        )


# --- conflicts ---------------------------------------------------------------------------------------------------------

CONFLICT = """
    input %x: f32[1,4]
    %q: f32[1,4] q(i8, 0.5) = quantize(%x) cpu
    %r: f32[4,1] q(i8, 0.25) = reshape(%q) {shape=[4,1]} bpu.0
    %a: f32[3,1], %b: f32[1,1] = split(%r) {axis=0, sizes=[3,1]} bpu.0
    %d: f32[3,1] = dequantize(%a) cpu
    output %d
    """


def test_a_conflict_becomes_a_requantize_before_the_node() -> None:
    graph = graph_of(CONFLICT, "bounded")
    (remark,) = run_passes(graph, PASS)
    assert_text(
        graph,
        """
        CHECK: %q_requantize: f32[1,4] q(i8, 0.25) = requantize(%q) bpu.0
        CHECK-NEXT: %r: f32[4,1] q(i8, 0.25) = reshape(%q_requantize)
        """,
    )
    assert remark.node == "q_requantize"


def test_a_conflict_is_an_error_by_policy() -> None:
    with pytest.raises(
        QuantizationError, match=r"r: reshape keeps its operand's scale, but q has i8 scale 0.5 and r i8 scale 0.25"
    ):
        propagate(CONFLICT, options="{conflict=error}")


def test_a_conflict_at_one_result_of_several_is_requantized_behind_it() -> None:
    text = propagate(
        """
        input %x: f32[1,4]
        %q: f32[1,4] q(i8, 0.5) = quantize(%x) cpu
        %a: f32[1,2], %b: f32[1,2] q(i8, 0.25) = split(%q) {axis=1, sizes=[2,2]} bpu.0
        %c: f32[1,2] = dequantize(%a) cpu
        %d: f32[1,2] = dequantize(%b) cpu
        output %c
        output %d
        """
    )
    assert "%a: f32[1,2] q(i8, 0.5), %b: f32[1,2] q(i8, 0.5) = split(%q)" in text
    assert "%b_requantize: f32[1,2] q(i8, 0.25) = requantize(%b)" in text
    assert "%d: f32[1,2] = dequantize(%b_requantize)" in text


# --- what a march cannot have ------------------------------------------------------------------------------------------

ONE = """
    input %x: f32[1,4]
    %q: f32[1,4] q(i8, 0.5) = quantize(%x) cpu
    %a: f32[1,4] QUANT = sigmoid(%q) bpu.0
    %d: f32[1,4] = dequantize(%a) cpu
    output %d
    """


def test_int16_is_refused_where_the_march_lacks_it() -> None:
    assert "q(i16, 0.5)" in propagate(ONE.replace("QUANT", "q(i16, 0.5)"), "bayes")
    for march in ("bernoulli", "bernoulli2"):
        with pytest.raises(QuantizationError, match=f"a is quantized to i16, which {march} does not have"):
            propagate(ONE.replace("QUANT", "q(i16, 0.5)"), march)


def test_bernoulli_refuses_a_scale_that_is_not_a_power_of_two() -> None:
    assert propagate(ONE.replace("QUANT", "q(i8, 0.3)"), "bernoulli2")
    with pytest.raises(QuantizationError, match=r"the scale 0.3\d* of a is not a power of two"):
        propagate(ONE.replace("QUANT", "q(i8, 0.3)"), "bernoulli")


def test_an_activation_with_one_scale_per_channel_is_refused() -> None:
    with pytest.raises(QuantizationError, match="a has one scale per channel"):
        propagate(ONE.replace("QUANT", "q(i8, axis=1, [0.5, 0.5, 0.5, 0.5])"))


# --- weights -----------------------------------------------------------------------------------------------------------

TRANSPOSED = """
    input %x: f32[1,4,2,2]
    param @w: f32[4,3,1,1] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, -7.0, -8.0, 9.0, 1.0, 1.0, 1.0]
    param @b: f32[6] = BIAS
    %q: f32[1,4,2,2] q(i8, 0.5) = quantize(%x) cpu
    %c: f32[1,6,2,2] q(i8, 0.5) = conv_transpose2d(%q, @w, @b) {groups=2} bpu.0
    %d: f32[1,6,2,2] = dequantize(%c) cpu
    output %d
    """


def test_transposed_convolution_has_its_weight_scales_on_axis_one_shared_by_the_groups() -> None:
    graph = transform(TRANSPOSED.replace("BIAS", "[0.0, 0.0, 0.0, 0.0, 0.0, 0.0]"), PASS, stage="bounded")
    quant = graph.value("w").quant
    assert quant.axis == 1
    assert np.array_equal(quant.scale, arithmetic.scale_from_range([-7.0, -8.0, 0.0], [4.0, 5.0, 9.0]))


def test_weights_on_bernoulli_have_power_of_two_scales() -> None:
    graph = transform(TRANSPOSED.replace("BIAS", "[0.0, 0.0, 0.0, 0.0, 0.0, 0.0]"), PASS, "bernoulli", stage="bounded")
    assert graph.value("w").quant.scale.tolist() == [2.0**-4, 2.0**-3, 2.0**-3]


def test_observed_weight_scales_stay() -> None:
    body = TRANSPOSED.replace("BIAS", "[0.0, 0.0, 0.0, 0.0, 0.0, 0.0]").replace(
        "f32[4,3,1,1] =", "f32[4,3,1,1] q(i8, axis=1, [0.1, 0.2, 0.3]) ="
    )
    assert transform(body, PASS, stage="bounded").value("w").quant.scale.tolist() == pytest.approx([0.1, 0.2, 0.3])
    with pytest.raises(QuantizationError, match="scales along axis 0, the output channels are on axis 1"):
        transform(body.replace("axis=1, [0.1, 0.2, 0.3]", "axis=0, [0.1, 0.2, 0.3, 0.4]"), PASS, stage="bounded")


def test_headroom_raises_the_weight_scale_of_the_channel_whose_bias_is_too_large() -> None:
    graph = graph_of(TRANSPOSED.replace("BIAS", "[0.0, 0.0, 0.0, 0.0, 5e+7, 0.0]"), "bounded")
    (remark,) = run_passes(graph, PASS)
    quant = graph.value("w").quant
    plain = arithmetic.scale_from_range([-7.0, -8.0, 0.0], [4.0, 5.0, 9.0])
    assert quant.scale[[0, 2]].tolist() == plain[[0, 2]].tolist()
    assert 5e7 / (0.5 * float(quant.scale[1])) <= 2**29 < 5e7 / (0.5 * float(np.nextafter(quant.scale[1], np.float32(0))))
    assert "weight scales of 1 of 3 channels raised (channel 1:" in remark.message


def test_headroom_that_no_bernoulli_scale_gives_is_an_error_with_the_numbers() -> None:
    with pytest.raises(QuantizationError, match=r"c: a bias or residual of 5e\+08 does not fit the accumulator"):
        transform(TRANSPOSED.replace("BIAS", "[0.0, 0.0, 0.0, 0.0, 5e+8, 0.0]"), PASS, "bernoulli", stage="bounded")


def test_headroom_counts_the_residual() -> None:
    graph = graph_of(
        """
        input %x: f32[1,1,2,2]
        input %y: f32[1,1,2,2]
        param @w: f32[1,1,1,1] = [1e-6]
        %q: f32[1,1,2,2] q(i8, 1e-3) = quantize(%x) cpu
        %r: f32[1,1,2,2] q(i8, 1.0) = quantize(%y) cpu
        %c: f32[1,1,2,2] q(i8, 1.0) = conv2d(%q, @w, none, %r) bpu.0
        %d: f32[1,1,2,2] = dequantize(%c) cpu
        output %d
        """,
        "bounded",
    )
    run_passes(graph, PASS)
    assert float(graph.value("w").quant.scale[0]) == pytest.approx(128.0 / (1e-3 * 2**29), rel=1e-6)


def test_weights_that_are_not_finite_are_refused() -> None:
    with pytest.raises(QuantizationError, match="the weight w holds values that are not finite"):
        transform(TRANSPOSED.replace("BIAS", "[0.0, 0.0, 0.0, 0.0, 0.0, 0.0]").replace("-7.0", "nan"), PASS, stage="bounded")
