"""Whole-integer models, as TFLite's converters write them: integers in, integers moved, put together and padded, integers out."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx_harness import session

import hqc
from hqc.frontend.onnx import lower_onnx, read_model
from hqc.ir import DType


def model(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\nnet {text}')


def whole_integer(kind: str, zero: int) -> onnx.ModelProto:
    """A channels-last image, a convolution, a cat of moved integers and a pad with the number that stands for 0."""
    return model(f"""({kind}[1,4,4,2] x) => ({kind}[1,4,6,4] y)
        <float s = {{0.05}}, {kind} z = {{{zero}}}, float[2,2,1,1] w = {{0.5, -0.25, 1.0, 0.75}}, int64[8] pads = {{0,0,1,0,0,0,1,0}},
         {kind} fill = {{{zero}}}> {{
        image = Transpose<perm = [0, 3, 1, 2]>(x)
        real = DequantizeLinear(image, s, z)
        features = Conv(real, w)
        q = QuantizeLinear(features, s, z)
        both = Concat<axis = 1>(image, q)
        padded = Pad(both, pads, fill)
        sum = DequantizeLinear(padded, s, z)
        positive = Relu(sum)
        result = QuantizeLinear(positive, s, z)
        y = Transpose<perm = [0, 3, 2, 1]>(result)
    }}""")


@pytest.mark.parametrize(("kind", "zero"), [("int8", 0), ("int8", 3), ("uint8", 128), ("uint8", 100)])
def test_a_whole_integer_model_takes_and_gives_the_real_numbers(kind: str, zero: int) -> None:
    proto = whole_integer(kind, zero)
    q = (zero + np.random.default_rng(0).integers(-60, 61, (1, 4, 4, 2))).astype(kind)  # nothing saturates
    wanted = (session(proto).run(None, {"x": q})[0].astype(np.float32) - zero) * 0.05
    compiled = hqc.compile(proto, march="bayes")
    assert [value.type.dtype for value in compiled.graph.inputs] == [DType.FLOAT32]
    found = compiled.simulate((q.astype(np.float32) - zero) * np.float32(0.05))
    steps = np.abs(found - wanted) / 0.05
    assert steps.max() <= (1.01 if zero in (0, 128) else 3.0)  # another zero point makes the grids coarser
    said = "; ".join(map(str, compiled.remarks))
    assert f"the input x takes real numbers, where the file has integers that stand for them: ({kind} - {zero}) * 0.05" in said
    assert "the output y is integers in the file; here it is the real numbers that those stand for" in said


def test_integers_that_something_else_reads_stay_integers() -> None:
    proto = model("""(int8[1,4] x) => (float[1,4] y, int64[1,4] n) <float s = {0.1}, int8 z = {0}> {
        y = DequantizeLinear(x, s, z)
        n = Cast<to = 7>(x)
    }""")
    assert read_model(proto).grids == {}
    assert [value.type.dtype for value in lower_onnx(proto).graph.inputs] == [DType.INT8]


def test_readers_on_two_grids_leave_the_integers() -> None:
    proto = model("""(int8[1,4] x) => (float[1,4] y, float[1,4] n) <float s = {0.1}, float t = {0.2}, int8 z = {0}> {
        y = DequantizeLinear(x, s, z)
        n = DequantizeLinear(x, t, z)
    }""")
    assert read_model(proto).grids == {}
