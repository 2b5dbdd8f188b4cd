"""Files as users have them: open batches, constants anywhere, branches, quantized models, and files that cannot be read."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import onnx
import pytest
from damage import DAMAGES, corpus, damaged_bytes
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx_harness import run_lowered, session

from hqc.errors import HqcError, InputError, LoweringError
from hqc.frontend.onnx import lower_onnx
from hqc.ir import verify

CORPUS = [proto.SerializeToString() for proto in corpus()]


def model(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\nnet {text}')


def computes_what_onnxruntime_computes(proto: onnx.ModelProto, **feeds: np.ndarray) -> None:
    lowered = lower_onnx(proto)
    for got, want in zip(run_lowered(lowered, feeds), session(proto).run(None, feeds), strict=True):
        assert got.shape == want.shape and got.dtype == want.dtype
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_an_open_batch_is_one_and_other_open_sizes_are_asked_for() -> None:
    assert lower_onnx(model("(float[N,3,8,8] x) => (float[N,3,8,8] y) { y = Relu(x) }")).graph.inputs[0].shape == (1, 3, 8, 8)
    open_sizes = model("(float[N,3,H,W] x) => (float[N,3,H,W] y) { y = Relu(x) }")
    with pytest.raises(InputError, match=r"input x are not known \(\[N, 3, H, W\]\); give them with --input x=1,3,224,224"):
        lower_onnx(open_sizes)
    assert lower_onnx(open_sizes, {"x": (2, 3, 4, 5)}).graph.outputs[0].shape == (2, 3, 4, 5)


def test_a_given_shape_must_fit_the_file() -> None:
    proto = model("(float[N,3,8,8] x) => (float[N,3,8,8] y) { y = Relu(x) }")
    with pytest.raises(InputError, match=r"declared as \[N, 3, 8, 8\], which \[1, 4, 8, 8\] does not fit"):
        lower_onnx(proto, {"x": (1, 4, 8, 8)})
    with pytest.raises(InputError, match="has no input y; its inputs: x"):
        lower_onnx(proto, {"y": (1, 3, 8, 8)})


def test_shape_arithmetic_is_folded_into_one_reshape() -> None:
    proto = model("""(float[N,4,6,6] x) => (float[N,C] y) {
        shape = Shape(x)
        zero = Constant<value_ints = [0]>()
        batch = Gather(shape, zero)
        rest = Constant<value_ints = [-1]>()
        target = Concat<axis = 0>(batch, rest)
        y = Reshape(x, target)
    }""")
    assert [node.op.name for node in lower_onnx(proto).graph.nodes] == ["reshape"]
    computes_what_onnxruntime_computes(proto, x=np.random.default_rng(0).random((1, 4, 6, 6), np.float32))


def test_a_branch_with_a_known_condition_is_the_branch_that_it_takes() -> None:
    proto = model("""(float[2,3] x) => (float[2,3] y) {
        flag = Constant<value = bool {1}>()
        y = If(flag) <then_branch = a () => (float[2,3] t) { t = Relu(x) }, else_branch = b () => (float[2,3] e) { e = Neg(x) }>
    }""")
    assert [node.op.name for node in lower_onnx(proto).graph.nodes] == ["relu"]


def test_local_functions_are_opened_up() -> None:
    proto = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17, "mine" : 1]>
        net (float[2,3] x) => (float[2,3] y) { y = mine.twice(x) }
        <domain: "mine", opset_import: ["" : 17]> twice (a) => (b) { c = Relu(a)  b = Add(c, c) }""")
    assert [node.op.name for node in lower_onnx(proto).graph.nodes] == ["relu", "add"]


def test_what_the_ir_cannot_say_keeps_its_onnx_form_and_says_why() -> None:
    proto = model("(float[1,8,4,4] x) => (float[1,8,4,4] y) { h = Relu(x) y = LRN<size = 3>(h) }")
    lowered = lower_onnx(proto)
    assert [node.op.name for node in lowered.graph.nodes] == ["relu", "opaque"]
    (kept,) = lowered.opaque.values()
    assert kept.node.op_type == "LRN" and "LRN stays as it is, on the CPU" in lowered.warnings[0]
    computes_what_onnxruntime_computes(proto, x=np.random.default_rng(0).random((1, 8, 4, 4), np.float32))


def test_the_files_names_are_the_values_names_and_module_paths_the_locations() -> None:
    proto = model("(float[1,3,8,8] x, float[4,3,3,3] w) => (float[1,4,6,6] y) { y = Conv(x, w) }")
    proto.graph.node[0].name = "/layer1/conv/Conv"
    (node,) = lower_onnx(proto).graph.nodes
    assert node.name == "y" and node.loc.module == "layer1.conv" and node.loc.label == "/layer1/conv/Conv"


# --- quantized models --------------------------------------------------------------------------------------------------


def test_quantize_dequantize_pairs_become_scales() -> None:
    proto = model("""(float[1,2,4,4] x) => (float[1,3,4,4] y)
        <float s = {0.1}, int8 z = {0}, float ws = {0.5}, int8 w = {1}>
        { q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = Conv(d, weight) }""")
    rng = np.random.default_rng(0)
    q = rng.integers(-128, 128, (3, 2, 1, 1)).astype(np.int8)
    scales = np.array([0.1, 0.2, 0.4], np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(q, "wq"))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(scales, "wscale"))
    proto.graph.node.insert(0, helper.make_node("DequantizeLinear", ["wq", "wscale"], ["weight"], axis=0))
    graph = lower_onnx(proto).graph
    quantize, _, conv = graph.nodes
    assert quantize.op.name == "quantize" and float(quantize.result.quant.scale) == np.float32(0.1)
    weight = conv.operand("weight")
    np.testing.assert_array_equal(weight.quant.scale, scales)
    np.testing.assert_array_equal(weight.array, q * scales[:, None, None, None])


@pytest.mark.parametrize(("zero", "kept"), [(128, True), (0, False), (100, False)])
def test_a_zero_point_off_the_middle_keeps_its_range_and_is_said(zero: int, kept: bool) -> None:
    proto = model("""(float[1,4] x) => (float[1,4] y) <float s = {0.1}>
        { q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }""")
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(zero, np.uint8), "z"))
    lowered = lower_onnx(proto)
    scale = float(next(iter(lowered.graph.nodes)).result.quant.scale)
    assert kept == (scale == np.float32(0.1)) == (not lowered.warnings)
    assert scale * 127.5 >= max(zero, 255 - zero) * 0.1 * 0.999 or kept


# --- files that cannot be read -------------------------------------------------------------------------------------------


def damaged(tmp_path: Path, change) -> Path:  # type: ignore[no-untyped-def]
    path = tmp_path / "net.onnx"
    proto = model("(float[1,3,8,8] x) => (float[1,4,6,6] y) { w = Identity(k) y = Conv(x, w) }")
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((4, 3, 3, 3), np.float32), "k"))
    data = change(proto)
    path.write_bytes(data if isinstance(data, bytes) else proto.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.SerializeToString()[:200], "cannot be read as an ONNX model|claims|cannot be read"),
        (lambda p: b"", "no ONNX model"),
        (lambda p: b"\x80\x04nonsense", "cannot be read as an ONNX model|no ONNX model"),
        (lambda p: setattr(p.opset_import[0], "version", 6), "is of opset 6; hqc reads 7 to"),
        (lambda p: p.graph.node[0].input.__setitem__(0, "y"), "which nothing before it makes"),
        (lambda p: p.graph.node[1].input.__setitem__(0, "y"), "which nothing before it makes"),
        (lambda p: setattr(p.graph.node[1], "op_type", "Convolve"), "Convolve is no operator of opset 17"),
        (lambda p: p.graph.initializer[0].dims.__setitem__(0, 2**40), "which is too large"),
        (lambda p: p.graph.initializer[0].dims.__setitem__(0, 5), "cannot be read"),
        (lambda p: setattr(p.graph.output[0], "name", "lost"), "nothing makes the output lost"),
        (lambda p: setattr(p.graph.input[0].type.tensor_type, "elem_type", TensorProto.COMPLEX64), "complex64"),
        (lambda p: p.graph.input[0].type.tensor_type.shape.dim.__delitem__(0), "rank|4|three|dimensional|image"),
    ],
)  # fmt: skip
def test_a_bad_file_gives_one_sentence(tmp_path: Path, change, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises((InputError, LoweringError, HqcError), match=message) as caught:
        lower_onnx(damaged(tmp_path, change))
    assert "\n" not in str(caught.value)


def test_nodes_may_come_in_any_order() -> None:
    """Runtimes take them so, and some converters append the casts of the inputs (half precision)."""
    text = """(float[1,3,8,8] x) => (float[1,3,8,8] y) {
        half = Cast<to = 10>(x)
        rest = Neg(half)
        low = Sigmoid(rest)
        sum = Add(low, half)
        y = Cast<to = 1>(sum)
    }"""
    proto, plain = model(text), lower_onnx(model(text))
    for order in ([1, 2, 3, 4, 0], [4, 3, 2, 1, 0], [3, 0, 4, 2, 1]):
        nodes = [proto.graph.node[index] for index in order]
        mixed = onnx.ModelProto()
        mixed.CopyFrom(proto)
        del mixed.graph.node[:]
        mixed.graph.node.extend(nodes)
        before = mixed.SerializeToString()
        assert {node.name for node in lower_onnx(mixed).graph.nodes} == {node.name for node in plain.graph.nodes}
        assert mixed.SerializeToString() == before, "the caller's model stays as it is"


def test_a_file_may_not_ask_for_endless_memory() -> None:
    proto = model("""(float[1] x) => (float[N] y) {
        size = Constant<value_ints = [1000000, 1000000]>()
        big = ConstantOfShape(size)
        y = Add(x, big)
    }""")
    with pytest.raises(LoweringError, match=r"asks for a tensor of sizes \[1000000, 1000000\], which is too large"):
        lower_onnx(proto)


def test_missing_external_data_is_named(tmp_path: Path) -> None:
    path = damaged(tmp_path, lambda p: None)
    proto = onnx.load(path)
    onnx.save_model(proto, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(InputError, match=r"weights\.bin"):
        lower_onnx(path)


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_damaged_file_is_read_or_refused_in_one_sentence(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    """Bytes cut, overwritten or doubled; operators, operands, attributes, shapes, types and data that do not fit."""
    rng = random.Random(seed)
    proto = onnx.ModelProto.FromString(rng.choice(CORPUS))
    path = tmp_path_factory.getbasetemp() / "damaged.onnx"
    if rng.random() < 0.25:
        path.write_bytes(damaged_bytes(rng, proto.SerializeToString()))
    else:
        for damage in rng.choices(DAMAGES, k=rng.choice((1, 1, 2))):
            damage(rng, proto)
        path.write_bytes(proto.SerializeToString())
    sentence = ""
    try:
        verify(lower_onnx(path).graph)
    except HqcError as error:
        sentence = str(error)
    assert sentence.isprintable(), repr(sentence)


def test_the_models_to_damage_are_whole() -> None:
    assert [len(list(lower_onnx(onnx.ModelProto.FromString(data)).graph.nodes)) for data in CORPUS] == [4, 1, 4, 4, 3]


def test_names_that_are_no_text_are_refused() -> None:
    proto = model("(float[1,3] x) => (float[1,3] y) { y = Relu(x) }")
    proto.graph.node[0].name = "a\nb"
    with pytest.raises(InputError, match=r"is damaged: a name in it is 'a\\nb'"):
        lower_onnx(proto)


def test_a_call_with_more_operands_than_its_function_has_is_refused() -> None:
    proto = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
        net (float[1,3] x) => (float[1,3] y) { y = own.twice(x, x) }
        <domain: "own", opset_import: ["" : 17]> twice (a) => (b) { b = Add(a, a) }""")
    with pytest.raises(InputError, match="a function of the file does not fit a call of it"):
        lower_onnx(proto)
