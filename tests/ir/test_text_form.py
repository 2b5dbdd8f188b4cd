"""The text form: what prints, what may be left out, and that reading gives back what was printed."""

from __future__ import annotations

import numpy as np
import pytest

from hqc.ir import (
    Device,
    DType,
    Graph,
    Location,
    QuantParams,
    Reason,
    Request,
    Support,
    TensorType,
    parse,
    print_graph,
)
from hqc.ir.sidecar import sidecar_arrays

FULL = """graph @net march=bayes-e stage=scaled properties=[a-b, c] {
  input %x: f32[1,3,8,8]
  scales @conv.weight.scale = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
  param @conv.weight: f32[6,3,1,1] q(i8, axis=0, @conv.weight.scale) = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, \
10.0, 11.0, 12.0, 13.0, 14.0, 15.0, 16.0, 17.0]
  param @slope: f32[] = 0.25
  param @index: i64[3] = [2, 0, 1]
  param @mask: b1[2] = [true, false]
  %q: f32[1,3,8,8] q(i8, 0.0078125, fixed) = quantize(%x) {stub=true} cpu loc("quant:quantize#0" "net.py:12")
  %conv: f32[1,6,8,8] q(i8, 0.0064) = conv2d(%q, @conv.weight, none, %q6) {activation=relu6} bpu.0 accepted loc("c:conv2d#0") \
from(conv, relu)
  %a: f32[1,2,8,8], %b: f32[1,4,8,8] = split(%conv) {axis=1, sizes=[2,4]} bpu.0 accepted("rule A", limit="4"; "rule B", step=context)
  %r: f32[1,2,8,8] = relu(%a) cpu refused("size in 1..4", actual="9", limit="4", hint="split \\"it\\"") \
request(cpu, "module_name=r", i16) loc("" "" "net.Block" "net.Net")
  %i: f32[1,3,8,8] q(i8, 0.5, fixed, floor) = gather(%conv, @index) {axis=1} cpu
  %j: f32[1,3,8,8] observe(i16, rounding=floor, group=i, policy=operand, source="module_name \\"a\\"", qconfig=k) = relu(%i)
  %k: f32[1,3,8,8] observe(i8) = relu(%j)
  output %r as "logits"
  output %b
}
"""


def full_text() -> str:
    return FULL.replace(", none, %q6", ", none, none").replace(", none, none)", ")")


def test_every_construct_round_trips_byte_for_byte() -> None:
    text = full_text()
    assert print_graph(parse(text)) == text
    assert str(parse(text)) == text


def test_absent_operand_prints_none_when_a_later_one_is_present() -> None:
    graph = parse("""
        input %x: f32[1,4,8,8]
        param @w = #random(0, [4,4,1,1])
        %y = conv2d(%x, @w, none, %x)
        output %y
    """)
    assert "conv2d(%x, @w, none, %x)" in str(graph)
    (node,) = parse(str(graph)).nodes
    assert node.operand("bias") is None
    assert node.operand("residual").name == "x"  # type: ignore[union-attr]


def test_types_header_and_braces_may_be_left_out() -> None:
    graph = parse("input %x: f32[1,3]\n%y = relu(%x) // comment\n\n%z, %w = split(%y) {axis=1, sizes=[1,2]}\noutput %z, %w")
    assert graph.name == "graph"
    assert graph.stage == "lowered"
    assert [str(value.type) for value in graph.outputs] == ["f32[1,1]", "f32[1,2]"]
    assert graph.output_names == ["z", "w"]


def test_quantization_may_stand_without_a_type() -> None:
    graph = parse("input %x: f32[4]\n%y q(i16, 0.5) = relu(%x)\noutput %y")
    assert graph.value("y").quant == QuantParams(0.5, DType.INT16)
    assert graph.value("y").type == TensorType(DType.FLOAT32, (4,))


def test_attributes_equal_to_the_default_are_left_out_and_come_back() -> None:
    graph = parse(
        "input %x: f32[1,3,8,8]\n%y = max_pool2d(%x) {kernel=[2,2], stride=[2,2], padding=[0,0,0,0], ceil_mode=false}"
    )
    assert "{kernel=[2,2], stride=[2,2]}" in str(graph)
    (node,) = graph.nodes
    assert node.attributes["dilation"] == (1, 1)


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-05, float("inf"), float("-inf"), 0.1, 3.4028234663852886e38])
def test_float_attributes_keep_every_bit(value: float) -> None:
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.FLOAT32, (2,)))
    node = graph.add_node("pad", [x], {"pads": (0, 0), "value": value}, name="y")
    graph.set_outputs([node.result])
    (read,) = parse(str(graph)).nodes
    assert np.float64(read.attributes["value"]).tobytes() == np.float64(value).tobytes()


@pytest.mark.parametrize(
    "array",
    [
        np.array([0.1, 1e-45, 3.4028235e38, -0.0, np.inf, -np.inf, np.nan], np.float32),
        np.array([0.1, 1e-320, np.pi], np.float64),
        np.array([-128, 127], np.int8),
        np.array([0, 255], np.uint8),
        np.array([-(2**63), 2**63 - 1], np.int64),
        np.array(True),
        np.array(2.5, np.float32),
        np.zeros((0, 3), np.float32),
        np.arange(24, dtype=np.int32).reshape(2, 3, 4),
    ],
    ids=lambda array: f"{array.dtype}{list(array.shape)}",
)
def test_small_parameters_keep_every_bit_inline(array: np.ndarray) -> None:
    graph = Graph()
    graph.set_outputs([graph.add_parameter("p", array)])
    again = parse(str(graph)).value("p").array
    assert again is not None
    assert again.dtype == array.dtype
    assert again.shape == array.shape
    assert again.tobytes() == array.tobytes()


def test_random_float32_parameters_round_trip() -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, 64, dtype=np.uint64).astype(np.uint32)
    array = bits.view(np.float32)
    array = np.where(np.isnan(array), np.float32(1), array)
    graph = Graph()
    graph.set_outputs([graph.add_parameter("p", array)])
    assert parse(str(graph)) == graph


def test_parameters_above_64_elements_print_as_a_hash_of_their_content() -> None:
    graph = Graph()
    big = np.arange(65, dtype=np.float32)
    graph.set_outputs([graph.add_parameter("p", big), graph.add_parameter("same", big.copy())])
    lines = [line for line in str(graph).splitlines() if "#sha256:" in line]
    assert len(lines) == 2
    assert lines[0].rpartition("=")[2] == lines[1].rpartition("=")[2]
    assert len(sidecar_arrays(graph)) == 1
    assert parse(str(graph), parameters={"p": big, "same": big}) == graph
    assert parse(str(graph), parameters=sidecar_arrays(graph)) == graph


def test_the_hash_tells_dtype_and_shape_apart() -> None:
    graph = Graph()
    zeros = [np.zeros(100, np.float32), np.zeros(100, np.int32), np.zeros((10, 10), np.float32)]
    graph.set_outputs([graph.add_parameter(f"p{index}", array) for index, array in enumerate(zeros)])
    assert len(sidecar_arrays(graph)) == 3


def test_equal_long_scales_share_one_line_and_do_not_clash_with_values() -> None:
    graph = Graph()
    scale = np.linspace(0.1, 1, 100, dtype=np.float32)
    first = graph.add_parameter("w", np.zeros((100, 1), np.float32), QuantParams(scale, axis=0))
    second = graph.add_parameter("v", np.zeros((100, 1), np.float32), QuantParams(scale.copy(), axis=0))
    taken = graph.add_parameter("w.scale", np.zeros(1, np.float32))
    graph.set_outputs([first, second, taken])
    text = str(graph)
    assert text.count("scales @") == 1
    assert "q(i8, axis=0, @w.scale_1)" in text
    assert parse(text, parameters=sidecar_arrays(graph)) == graph


def test_a_changed_scale_changes_one_line() -> None:
    before = parse("input %x: f32[1,8]\n%y q(i8, 0.5) = relu(%x)\n%z q(i8, 0.5) = relu(%y)\noutput %z")
    after = before.clone()
    after.value("y").quant = QuantParams(0.25)
    changed = [(a, b) for a, b in zip(str(before).splitlines(), str(after).splitlines(), strict=True) if a != b]
    assert changed == [("  %y: f32[1,8] q(i8, 0.5) = relu(%x)", "  %y: f32[1,8] q(i8, 0.25) = relu(%x)")]


def test_equality_ignores_locations_which_print_on_request() -> None:
    here, there = (parse(f'input %x: f32[4]\n%y = relu(%x) cpu loc("a:relu#0" "net.py:{line}")\noutput %y') for line in (1, 2))
    assert here == there
    assert str(here) != str(there)
    assert "net.py" not in print_graph(here, locations=False) == print_graph(there, locations=False)


def test_odd_names_and_texts_are_quoted_and_come_back() -> None:
    graph = Graph('a "b"\n', march="bayes")
    x = graph.add_input("images/0:1 {", TensorType(DType.FLOAT32, (1,)))
    node = graph.add_node(
        "relu", [x], name="é.1-x", loc=Location('p"\\', "a b.py:1 // no comment", ("T",)), origin=("1st", "inf", "ok")
    )
    node.support = Support(False, (Reason("rule\nwith \u2028 breaks", "(", ")", ";", "my step"),))
    node.request = Request(Device.BPU, "")
    graph.set_outputs([node.result], ["out\tput"])
    text = str(graph)
    assert len(text.splitlines()) >= 4
    assert parse(text) == graph


def test_splat_flat_nested_and_random_constants() -> None:
    graph = parse("""
        param @splat: i32[2,3] = 7
        param @flat: f32[2,2] = [1, 2, 3, 4]
        param @nested = [[1, 2], [3, 4]]
        param @scalar = 2
        param @random = #random(3, [2,2])
        param @same: f32[2,2] = #random(3)
        param @bytes: u8[1000] = #random(0)
        output @splat, @flat, @nested, @scalar, @random, @same, @bytes
    """)
    array = {name: value.array for name, value in graph.parameters.items()}
    np.testing.assert_array_equal(array["splat"], np.full((2, 3), 7, np.int32))
    np.testing.assert_array_equal(array["flat"], array["nested"])
    assert array["scalar"].shape == ()  # type: ignore[union-attr]
    np.testing.assert_array_equal(array["random"], array["same"])
    assert array["bytes"].max() > 250  # type: ignore[union-attr]


def test_written_type_wins_for_boundary_integer_and_opaque_ops() -> None:
    graph = parse("""
        input %x: f32[1,4]
        %q: i8[1,4] q(i8, 0.5) = quantize(%x) cpu
        %o: f32[2,2], %p: i64[1] = opaque(%q) {id="f"}
        output %o, %p
    """)
    assert graph.value("q").type.dtype is DType.INT8
    assert graph.value("p").type == TensorType(DType.INT64, (1,))
    assert parse(str(graph)) == graph


def test_a_written_shape_may_refine_an_unknown_one() -> None:
    graph = parse("input %x: f32[*]\n%y: f32[1,4] = relu(%x)\n%z = relu(%x)\noutput %y, %z")
    assert graph.value("y").shape == (1, 4)
    assert graph.value("z").shape is None
    assert parse(str(graph)) == graph


def test_graphs_differ_by_parameter_bits_scales_and_annotations() -> None:
    text = "input %x: f32[1,4]\nparam @w = #random(0, [4,100])\n%m = matmul(%x, @w)\noutput %m"
    graph = parse(text)
    assert parse(text) == graph
    assert parse(text.replace("random(0", "random(1")) != graph
    assert parse(text.replace("(%x, @w)", "(%x, @w) cpu")) != graph
    assert parse(text.replace("%m =", "%m q(i8, 1.0) =")) != graph
    assert graph != text


def test_clone_is_equal_and_independent() -> None:
    graph = parse(full_text())
    twin = graph.clone()
    assert twin == graph
    next(iter(twin.nodes)).attributes["stub"] = False
    twin.properties.clear()
    assert str(graph) == full_text()
