"""Files are standard ONNX: strict shape inference agrees with what they state, and a second runtime computes the same."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from test_integer_flavour import lowered, scaled_network

from hqc.backends.onnx import emit
from hqc.backends.onnx.verify import run_model
from hqc.ir.parser import parse

FLAVOURS = ("runnable", "qdq", "integer")


def whole_network(flavour: str, march: str = "bayes") -> onnx.ModelProto:
    return emit(lowered(march) if flavour == "integer" else scaled_network(march), flavour=flavour)


@pytest.mark.parametrize("march", ["bernoulli", "bayes"])
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_strict_inference_agrees_with_every_stated_type(flavour: str, march: str) -> None:
    model = whole_network(flavour, march)
    onnx.checker.check_model(model, full_check=True)
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.value_info[:]
    inferred = {i.name: i for i in onnx.shape_inference.infer_shapes(bare, strict_mode=True, data_prop=True).graph.value_info}
    stated = {i.name: i for i in model.graph.value_info}
    assert len(stated) > 20
    for name, info in stated.items():
        assert inferred[name].type == info.type, name


SMALL = """
graph @g march=MARCH stage=scaled {
  input %x: f32[1,2,6,6]
  param @w: f32[3,2,3,3] q(i8, axis=0, [0.5,0.25,0.125]) = #random(1, [3,2,3,3])
  param @b = [0.5, -0.25, 0.125]
  %q: f32[1,2,6,6] q(i8, 0.0625) = quantize(%x) cpu
  %c: f32[1,3,6,6] q(i8, 0.25) = conv2d(%q, @w, @b) {padding=[1,1,1,1], activation=relu} bpu.0
  %m: f32[1,3,3,3] q(i8, 0.25) = max_pool2d(%c) {kernel=[2,2], stride=[2,2]} bpu.0
  %a: f32[1,3,1,1] q(i8, 0.25) = avg_pool2d(%m) {kernel=[3,3], stride=[3,3]} bpu.0
  %d: f32[1,3,1,1] = dequantize(%a) cpu
  %e: f32[1,3,3,3] = dequantize(%m) cpu
  output %d as "pooled"
  output %e as "features"
}
"""


@pytest.mark.parametrize("march", ["bernoulli", "bayes"])
def test_onnx_reference_evaluator_runs_the_function_bodies_and_computes_the_same(march: str) -> None:
    """Every number is dyadic, so that the order of float sums does not matter."""
    model = emit(parse(SMALL.replace("MARCH", march)), flavour="runnable")
    feeds = {"x": np.random.default_rng(0).normal(0, 3, (1, 2, 6, 6)).astype(np.float32)}
    expected = run_model(model, feeds)
    for name, result in zip(("pooled", "features"), ReferenceEvaluator(model).run(None, feeds), strict=True):
        np.testing.assert_array_equal(result, expected[name])
