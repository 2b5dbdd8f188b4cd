"""Loops whose number of turns is known are what their turns compute."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx_harness import run_lowered, session

import hqc
from hqc.errors import LoweringError
from hqc.frontend.onnx import lower_onnx
from hqc.workflow.onnx_module import module_of

X = np.linspace(-1, 1, 24, dtype=np.float32).reshape(4, 1, 6)


def model(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 13]>\n{text}')


WEIGHTS = f"w = Constant<value = float[6,6] {{{', '.join(['0.25', '-0.5', '0.125', '0.5', '-0.25', '0.75'] * 6)}}}>()"
STEP = """
    element = Gather(x, place)
    sum = MatMul(element, w)
    joined = Add(sum, state)
    next = Tanh(joined)
    row = Identity(next)
"""
COUNTED = f"""net (float[4,1,6] x) => (float[1,6] last, float[4,1,6] rows) {{
    {WEIGHTS}
    turns = Constant<value = int64 {{4}}>()
    start = Constant<value = float[1,6] {{0, 0, 0, 0, 0, 0}}>()
    last, rows = Loop <body = step (int64 place, bool going, float[1,6] state) => (bool on, float[1,6] next, float[1,6] row)
        {{ on = Identity(going) {STEP} }}> (turns, , start)
}}"""
CONDITION = f"""net (float[4,1,6] x) => (float[4,1,6] rows) {{
    {WEIGHTS}
    begin = Constant<value = int64 {{0}}>()
    end = Constant<value = int64 {{4}}>()
    go = Less(begin, end)
    start = Constant<value = float[1,6] {{0, 0, 0, 0, 0, 0}}>()
    final, last, rows = Loop <body = step (int64 turn, bool going, int64 place, float[1,6] state)
            => (bool on, int64 following, float[1,6] next, float[1,6] row)
        {{ one = Constant<value = int64 {{1}}>() following = Add(place, one) on = Less(following, end) {STEP} }}> (, go, begin, start)
}}"""
SCANNED = f"""net (float[4,1,6] x) => (float[1,6] last, float[1,4,6] rows) {{
    {WEIGHTS}
    start = Constant<value = float[1,6] {{0, 0, 0, 0, 0, 0}}>()
    last, rows = Scan <num_scan_inputs = 1, scan_input_directions = [1], scan_output_axes = [1], scan_output_directions = [1],
        body = step (float[1,6] state, float[1,6] element) => (float[1,6] next, float[1,6] row)
        {{ sum = MatMul(element, w) joined = Add(sum, state) next = Tanh(joined) row = Identity(next) }}> (start, x)
}}"""


@pytest.mark.parametrize("text", [COUNTED, CONDITION, SCANNED], ids=["counted", "condition", "scan"])
def test_a_loop_is_its_turns(text: str) -> None:
    proto = model(text)
    lowered = lower_onnx(proto)
    assert not lowered.opaque and sum(node.op.name == "linear" for node in lowered.graph.nodes) == 4
    for got, want in zip(run_lowered(lowered, {"x": X}), session(proto).run(None, {"x": X}), strict=True):
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_a_loop_has_a_plan_and_a_torch_form() -> None:
    rows = hqc.explain(model(COUNTED), march="bayes").placement.rows
    assert sum(row.op == "linear" and row.device == "bpu" for row in rows) == 4
    assert module_of(model(COUNTED)) is not None


def test_a_loop_that_data_ends_is_not_unrolled() -> None:
    text = CONDITION.replace(
        "on = Less(following, end)", "total = ReduceSum<keepdims = 0>(state) limit = Cast<to = 1>(end) on = Less(total, limit)"
    )
    with pytest.raises(LoweringError, match="a condition that its turns compute decides how many there are"):
        lower_onnx(model(text))


def test_a_loop_of_too_many_turns_stays_as_it_is() -> None:
    lowered = lower_onnx(
        model(COUNTED.replace("int64 {4}", "int64 {1000000}").replace("float[4,1,6] rows", "float[1000000,1,6] rows"))
    )
    assert len(lowered.opaque) == 1 and "it would become more than 20000 operations" in " ".join(lowered.warnings)


@pytest.mark.parametrize("word", ["while", "in", "lambda"])
def test_python_s_words_are_names_in_files(word: str) -> None:
    node = onnx.helper.make_node("MatMul", ["x", "w"], [f"/{word}/{word}/MatMul_output_0"], name=f"/{word}/{word}/MatMul")
    other = onnx.helper.make_node("Relu", [node.output[0]], [word], name=f"/{word}/Relu")
    info = onnx.helper.make_tensor_value_info
    weight = onnx.numpy_helper.from_array(np.eye(6, dtype=np.float32), "w")
    graph = onnx.helper.make_graph([node, other], "net", [info("x", 1, [1, 6])], [info(word, 1, [1, 6])], [weight])
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    assert module_of(proto) is not None
