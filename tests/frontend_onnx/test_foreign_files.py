"""What converters other than torch.onnx write: patterns of tf2onnx, onnxconverter-common and torch's dynamo exporter, rebuilt small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx_harness import run_lowered, session

import hqc
from hqc.errors import LoweringError
from hqc.frontend.onnx import KeptNode, lower_onnx
from hqc.ir import DType, Graph, TensorType
from hqc.workflow.onnx_call import OnnxCall
from hqc.workflow.onnx_module import module_of


def model(text: str, opset: int = 17) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]>\nnet {text}')


def ops(proto: onnx.ModelProto) -> list[str]:
    return [row.op for row in hqc.explain(proto, march="bayes").placement.rows]


def test_gelu_in_half_precision_is_gelu() -> None:
    """onnxconverter-common rounds the constants of a network by which its activations are told."""
    proto = model("""(float16[1,4,8,8] x) => (float16[1,4,8,8] y) {
        scaled = Div(x, root)
        error = Erf(scaled)
        shifted = Add(error, one)
        product = Mul(x, shifted)
        y = Mul(product, half)
    }""")
    numbers = {"root": 2**0.5, "one": 1.0, "half": 0.5}
    proto.graph.initializer.extend(numpy_helper.from_array(np.array(each, np.float16), name) for name, each in numbers.items())
    assert ops(proto) == ["gelu"]


def test_nearest_by_tensorflow_s_coordinates_is_a_resize_where_it_grows() -> None:
    grows = """(float[1,2,4,4] x) => (float[1,2,8,12] y) <float[4] scales = {1, 1, 2, 3}> {
        y = Resize<mode = "nearest", coordinate_transformation_mode = "tf_half_pixel_for_nn", nearest_mode = "floor">(x, , scales)
    }"""
    x = np.random.default_rng(0).standard_normal((1, 2, 4, 4)).astype(np.float32)
    proto = model(grows, 13)
    lowered = lower_onnx(proto)
    assert [node.op.name for node in lowered.graph.nodes] == ["resize2d"]
    np.testing.assert_array_equal(run_lowered(lowered, {"x": x})[0], session(proto).run(None, {"x": x})[0])
    shrinks = model(grows.replace("1, 1, 2, 3", "1, 1, 0.5, 0.5").replace("1,2,8,12", "1,2,2,2"), 13)
    lowered = lower_onnx(shrinks)
    assert [node.op.name for node in lowered.graph.nodes] == [
        "opaque"
    ]  # the pixels right of the middle, torch takes the left ones
    np.testing.assert_array_equal(run_lowered(lowered, {"x": x})[0], session(shrinks).run(None, {"x": x})[0])


def test_a_constant_cast_like_an_activation_is_a_constant() -> None:
    """Torch's dynamo exporter writes the bounds of a clamp that way."""
    proto = model("""(float[1,4] x) => (float[1,4] y) <int64 low = {0}, int64 high = {6}> {
        least = CastLike(low, x)
        most = CastLike(high, x)
        y = Clip(x, least, most)
    }""")
    assert "opaque" not in {node.op.name for node in lower_onnx(proto).graph.nodes} and len(ops(proto)) == 1


def test_what_became_a_constant_is_one_in_the_form_of_a_kept_node() -> None:
    """Operands that the IR folds after the file was read (found: `zip() argument 2 is shorter` at export)."""
    kept = KeptNode(helper.make_node("CumSum", ["x", "axis"], ["y"]), {"": 17}, ("x", "axis"))
    graph = Graph("net")
    x = graph.add_input("x", TensorType(DType.FLOAT32, (2, 3)))
    axis = graph.add_parameter("axis", np.array(1, np.int64))
    node = graph.add_node("opaque", [x, axis], {"id": "CumSum"}, name="y", types=[x.type])
    form = OnnxCall(kept).form(node)
    assert [item.name for item in form.graph.input] == ["x"] and [item.name for item in form.graph.initializer] == ["axis"]


@pytest.mark.parametrize("layout", [0, 1])
def test_a_recurrent_layer_of_a_new_opset_is_written_where_it_is_what_opset_11_has(layout: int, tmp_path: Path) -> None:
    """Torch's dynamo exporter writes `layout=0` out."""
    random = np.random.default_rng(0)
    shape = [5, 1, 3] if layout == 0 else [1, 5, 3]
    result = [5, 1, 1, 2] if layout == 0 else [1, 5, 1, 2]
    node = helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=2, layout=layout)
    graph = helper.make_graph(
        [node],
        "net",
        [helper.make_tensor_value_info("x", 1, shape)],
        [helper.make_tensor_value_info("y", 1, result)],
        [
            numpy_helper.from_array(random.standard_normal(s).astype(np.float32), n)
            for n, s in (("w", (1, 8, 3)), ("r", (1, 8, 2)))
        ],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    explanation = hqc.explain(proto, march="bayes")
    (row,) = explanation.placement.rows
    assert ("no file" in str(row) or "cannot be written" in str(explanation)) == (layout == 1)
    if layout == 0:
        module, _ = module_of(proto)
        assert module is not None


def test_a_layer_norm_of_tensorflow_is_one_operation() -> None:
    """tf2onnx writes the means as global pools, and the whole as one product and one sum with the input."""
    proto = model("""(float[1,6,8] x) => (float[1,6,8] y) <float eps = {0.001}> {
        m = GlobalAveragePool(x)  n = Neg(m)  d = Sub(x, m)  s = Mul(d, d)  v = GlobalAveragePool(s)  e = Add(v, eps)
        r = Sqrt(e)  i = Reciprocal(r)  g = Mul(i, gamma)  p = Mul(x, g)  q = Mul(n, g)  b = Add(q, beta)  y = Add(p, b)
    }""")
    random = np.random.default_rng(0)
    for name in ("gamma", "beta"):
        proto.graph.initializer.append(numpy_helper.from_array(random.standard_normal((1, 1, 8)).astype(np.float32), name))
    lowered, x = lower_onnx(proto), random.standard_normal((1, 6, 8)).astype(np.float32)
    assert [node.op.name for node in lowered.graph.nodes] == ["layer_norm"]
    np.testing.assert_allclose(run_lowered(lowered, {"x": x})[0], session(proto).run(None, {"x": x})[0], rtol=1e-4, atol=1e-5)


def test_a_detector_that_ends_in_its_own_suppression_is_told_to_be_cut() -> None:
    proto = model("""(float[1,4,4] boxes, float[1,2,4] scores) => (int64[n,3] y) <int64 most = {10}, float overlap = {0.5}> {
        y = NonMaxSuppression(boxes, scores, most, overlap)
    }""")
    with pytest.raises(LoweringError, match="whose size depends on the data; a deployed graph needs static shapes: cut it off"):
        lower_onnx(proto)
