"""What the cards declare: types of partly unknown operands, values against torch, ranges against values, bad constants."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from hqc.errors import InputError, ParseError
from hqc.ir import DType, Graph, Node, TensorType, Trait, all_ops, parse
from hqc.ir.evaluate import evaluate
from hqc.ir.op import OpDef

X = "param @x = #random(1, [2,4,6,5])\n"
V = "param @x = #random(1, [2,4,3,6,5])\n"
M = "param @m: b1[5] = [true,false,true,true,false]\n"
I = "param @i: i64[2,3] = [0, 1, -1, 3, 2, 0]\n"  # noqa: E741
C = "param @c = #random(5, [4])\n"
P = "param @p: f32[4] = [0.5, 1.0, 2.0, 0.25]\n"

# One node per op that is written for reals: parameters, the node, and what torch computes.
CASES: dict[str, tuple[str, str, Callable[..., Any]]] = {
    "conv2d": (
        X + "param @w = #random(2, [6,2,3,2])\nparam @b = #random(3, [6])\n",
        "conv2d(@x, @w, @b) {stride=[2,1], padding=[1,2,1,2], dilation=[1,2], groups=2, activation=relu6}",
        lambda x, w, b: F.relu6(F.conv2d(x, w, b, (2, 1), (1, 2), (1, 2), 2)),
    ),
    "conv_transpose2d": (
        X + "param @w = #random(2, [4,3,3,2])\nparam @b = #random(3, [6])\n",
        "conv_transpose2d(@x, @w, @b) {stride=[2,3], padding=[1,0,1,0], output_padding=[1,0], dilation=[1,2], groups=2}",
        lambda x, w, b: F.conv_transpose2d(x, w, b, (2, 3), (1, 0), (1, 0), 2, (1, 2)),
    ),
    "conv3d": (
        V + "param @w = #random(2, [6,2,2,3,2])\nparam @b = #random(3, [6])\n",
        "conv3d(@x, @w, @b) {stride=[1,2,1], padding=[1,0,2,1,0,2], dilation=[1,1,2], groups=2}",
        lambda x, w, b: F.conv3d(x, w, b, (1, 2, 1), (1, 0, 2), (1, 1, 2), 2),
    ),
    "conv_transpose3d": (
        V + "param @w = #random(2, [4,3,2,3,2])\nparam @b = #random(3, [6])\n",
        "conv_transpose3d(@x, @w, @b) "
        "{stride=[2,3,1], padding=[1,0,1,1,0,1], output_padding=[1,0,0], dilation=[1,2,1], groups=2}",
        lambda x, w, b: F.conv_transpose3d(x, w, b, (2, 3, 1), (1, 0, 1), (1, 0, 0), 2, (1, 2, 1)),
    ),
    "linear": (
        X + "param @w = #random(2, [3,5])\nparam @b = #random(3, [3])\nparam @r = #random(4, [2,4,6,3])\n",
        "linear(@x, @w, @b, @r) {activation=relu}",
        lambda x, w, b, r: F.relu(F.linear(x, w, b) + r),
    ),
    "matmul": (X + "param @w = #random(2, [4,5,3])\n", "matmul(@x, @w)", torch.matmul),
    "prelu": (X + C, "prelu(@x, @c)", F.prelu),
    "batch_norm": (X + C + P, "batch_norm(@x, @c, @p, @p, @c)", lambda x, c, p: F.batch_norm(x, c, p, p, c)),
    "layer_norm": (
        X + "param @w = #random(2, [6,5])\n",
        "layer_norm(@x, @w, @w) {normalized_ndim=2}",
        lambda x, w: F.layer_norm(x, (6, 5), w, w),
    ),
    "group_norm": (X + C, "group_norm(@x, @c, @c) {groups=2}", lambda x, c: F.group_norm(x, 2, c, c)),
    "instance_norm": (X + C, "instance_norm(@x, @c, @c)", lambda x, c: F.instance_norm(x, weight=c, bias=c)),
    "lp_normalize": (X, "lp_normalize(@x) {axes=[1]}", lambda x: F.normalize(x)),
    "reduce_l1": (X, "reduce_l1(@x) {axes=[1,-1]}", lambda x: torch.linalg.vector_norm(x, 1, (1, 3))),
    "reduce_l2": (X, "reduce_l2(@x) {keepdims=true}", lambda x: x.norm().reshape(1, 1, 1, 1)),
    "reduce_sum_square": (X, "reduce_sum_square(@x) {axes=[2]}", lambda x: (x * x).sum(2)),
    "reduce_log_sum": (P, "reduce_log_sum(@p) {axes=[0]}", lambda p: p.sum(0).log()),
    "reduce_log_sum_exp": (X, "reduce_log_sum_exp(@x) {axes=[1,2], keepdims=true}", lambda x: x.logsumexp((1, 2), True)),
    "softmax": (X, "softmax(@x) {axis=1}", lambda x: x.softmax(1)),
    "log_softmax": (X, "log_softmax(@x) {axis=-1}", lambda x: x.log_softmax(-1)),
    "max_pool2d": (
        X,
        "max_pool2d(@x) {kernel=[2,2], stride=[3,2], padding=[1,1,1,1], dilation=[2,1], ceil_mode=true}",
        lambda x: F.max_pool2d(x, 2, (3, 2), 1, (2, 1), ceil_mode=True),
    ),
    "avg_pool2d": (
        X,
        "avg_pool2d(@x) {kernel=[3,2], stride=[2,2], padding=[1,1,1,1], ceil_mode=true, count_include_pad=false}",
        lambda x: F.avg_pool2d(x, (3, 2), 2, 1, ceil_mode=True, count_include_pad=False),
    ),
    "avg_pool2d with padding counted": (
        X,
        "avg_pool2d(@x) {kernel=[3,2], stride=[2,2], padding=[1,1,1,1], ceil_mode=true}",
        lambda x: F.avg_pool2d(x, (3, 2), 2, 1, ceil_mode=True),
    ),
    "adaptive_avg_pool2d": (X, "adaptive_avg_pool2d(@x) {output_size=[4,2]}", lambda x: F.adaptive_avg_pool2d(x, (4, 2))),
    "adaptive_max_pool2d": (X, "adaptive_max_pool2d(@x) {output_size=[4,2]}", lambda x: F.adaptive_max_pool2d(x, (4, 2))),
    **{
        f"grid_sample {mode} {padding} {'aligned' if align else ''}": (
            X + "param @g = #random(2, [2,7,3,2])\n",
            f"grid_sample(@x, @g) {{mode={mode}, padding_mode={padding}, align_corners={str(align).lower()}}}",
            functools.partial(F.grid_sample, mode=mode, padding_mode=padding, align_corners=align),
        )
        for mode in ("bilinear", "nearest", "bicubic")
        for padding in ("zeros", "border", "reflection")
        for align in (False, True)
    },
    "resize2d": (X, "resize2d(@x) {size=[9,3]}", lambda x: F.interpolate(x, (9, 3))),
    "resize2d nearest by a factor": (
        X,
        "resize2d(@x) {scale_factor=[1.7,2.3]}",
        lambda x: F.interpolate(x, scale_factor=(1.7, 2.3)),
    ),
    "resize2d bilinear": (
        X,
        "resize2d(@x) {scale_factor=[1.5,0.7], mode=bilinear}",
        lambda x: F.interpolate(x, scale_factor=(1.5, 0.7), mode="bilinear"),
    ),
    "resize2d aligned": (
        X,
        "resize2d(@x) {size=[4,9], mode=bilinear, align_corners=true}",
        lambda x: F.interpolate(x, (4, 9), mode="bilinear", align_corners=True),
    ),
    "resize2d bicubic": (
        X,
        "resize2d(@x) {size=[4,9], mode=bicubic}",
        lambda x: F.interpolate(x, (4, 9), mode="bicubic"),
    ),
    "pad": (X, "pad(@x) {pads=[0,0,1,2,0,0,2,1], mode=reflect}", lambda x: F.pad(x, (2, 1, 1, 2), mode="reflect")),
    "cast": (X, "cast(@x) {dtype=i64}", lambda x: x.long()),
    "where": (X + M, "where(@m, @x, @x)", lambda x, m: torch.where(m, x, x)),
    "gather": (X + I, "gather(@x, @i) {axis=1}", lambda x, i: x[:, i]),
}


def graph_of(parameters: str, line: str) -> Graph:
    return parse(f"graph @test {{\n{parameters}%y = {line}\noutput %y\n}}")


@pytest.mark.parametrize("name", CASES)
def test_a_card_computes_what_torch_computes(name: str) -> None:
    parameters, line, function = CASES[name]
    graph = graph_of(parameters, line)
    tensors = [torch.from_numpy(np.array(value.array)) for value in graph.parameters.values()]
    expected = function(*tensors).numpy()
    found = evaluate(graph, {})["y"]
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)


def test_an_op_that_declares_nothing_is_named() -> None:
    graph = parse('graph @t {\ninput %x: f32[1]\n%y: f32[1] = opaque(%x) {id="mine"}\noutput %y\n}')
    with pytest.raises(InputError, match="y: what opaque computes is not declared"):
        evaluate(graph, {"x": [1.0]})


# --- unknown sizes -----------------------------------------------------------------------------------------------------

_RANDOM_LINES = [
    *(line for _, line, _ in CASES.values()),
    "add(@x, @c4)",
    "mul(@x, @row)",
    "reshape(@x) {shape=[0,-1]}",
    "reshape(@x) {shape=[-1,4,30]}",
    "reshape(@x) {shape=[0,0,30]}",
    "reshape(@x) {shape=[8,30]}",
    "transpose(@x) {perm=[0,3,1,2]}",
    "slice(@x) {axes=[1,-1], starts=[1,-3], ends=[9223372036854775807,-1], steps=[2,1]}",
    "split(@x) {axis=1, sizes=[1,3]}",
    "cat(@x, @x2) {axis=2}",
    "pad(@x) {pads=[0,1,0,2,0,0,-1,1], value=0.5}",
    "expand(@row) {shape=[3,-1,2,5]}",
    "tile(@x) {repeats=[2,1,1,3]}",
    "pixel_shuffle(@x) {factor=2}",
    "pixel_unshuffle(@x2) {factor=1}",
    "reduce_max(@x) {axes=[1,-1], keepdims=true}",
    "mean(@x)",
    "sum(@x) {axes=[0]}",
    "argmax(@x) {axis=1}",
]
_MORE = (
    X + M + I + C + P + "param @w = #random(2, [6,2,3,2])\nparam @b = #random(3, [6])\nparam @c4 = #random(5, [4,1,1])\n"
    "param @row = #random(6, [1,1,5])\nparam @x2 = #random(1, [2,4,3,5])\nparam @r = #random(4, [2,4,6,3])\n"
)


def _node(index: int) -> Node:
    cases = list(CASES.values())
    parameters, line = cases[index][:2] if index < len(cases) else (_MORE, _RANDOM_LINES[index])
    names = "%y, %z" if line.startswith("split") else "%y"
    (node,) = parse(f"graph @test {{\n{parameters}{names} = {line}\noutput %y\n}}").nodes
    return node


NODES = [_node(index) for index in range(len(_RANDOM_LINES))]


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_inference_with_sizes_erased_is_a_generalization(data: st.DataObject) -> None:
    """Whatever sizes are hidden: nothing is refused, no size is wrong, and what needs no hidden size is known."""
    node = data.draw(st.sampled_from(NODES))
    types = [None if type is None else _erased(data, type) for type in node.operand_types]
    full = node.op.infer(node.operand_types, node.attributes)
    found = node.op.infer(types, node.attributes)
    assert len(found) == len(full)
    for type, exact in zip(found, full, strict=True):
        assert type.agrees(exact), f"{node.op.name}{list(map(str, types))} -> {type}, in full {exact}"
        if type.sizes is None:
            assert any(operand is not None and operand.sizes is None for operand in types)
    if types == list(node.operand_types):
        assert found == full


def _erased(data: st.DataObject, type: TensorType) -> TensorType:
    assert type.sizes is not None
    if data.draw(st.integers(0, 5)) == 0:
        return type.with_shape(None)
    return type.with_shape(tuple(None if data.draw(st.booleans()) else size for size in type.sizes))


def test_every_float_op_is_among_the_erased() -> None:
    named = {node.op.name for node in NODES} | {"opaque"}
    unary = {op.name for op in all_ops() if len(op.operands) == 1 and op.has(Trait.ELEMENTWISE)}
    binary = {op.name for op in all_ops() if len(op.operands) == 2 and op.has(Trait.ELEMENTWISE)}  # one inference for all
    same = {
        "identity",
        "dropout",
        "quantize",
        "dequantize",
        "reduce_min",
        "argmin",
        "gain_pool2d",
        "reduce_l1",
        "reduce_l2",
        "reduce_sum_square",
        "reduce_log_sum",
        "reduce_log_sum_exp",
    }  # those of a named op
    missing = {op.name for op in all_ops() if not op.has(Trait.INTEGER)} - named - unary - binary - same
    assert not missing


def test_nothing_is_refused_for_what_is_unknown() -> None:
    unknown = TensorType(DType.FLOAT32)
    values = {"int": 1, "float": 1.0, "ints": (1, 1), "dtype": DType.FLOAT32, "str": "x"}
    for definition in all_ops():
        if definition.has(Trait.OPAQUE):
            continue
        required = {attr.name: values[attr.kind] for attr in definition.attributes if attr.required}
        if definition.name == "transpose":
            required["perm"] = (1, 0)
        count = max(1, sum(1 for operand in definition.operands if not operand.optional))
        for result in definition.infer([unknown] * count, definition.complete_attributes(required)):
            assert result.shape in (None, ()) or definition.name in ("reshape", "expand"), definition.name


# --- empty results and constants out of range ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("slice(%x) {axes=[1], starts=[4], ends=[9]}", r"the result of slice would be f32\[2,0,6,5\], without elements"),
        ("split(%x) {axis=1, sizes=[4,0]}", r"the result of split would be f32\[2,0,6,5\], without elements"),
        ("pad(%x) {pads=[0,0,-6,0,0,0,0,0]}", r"the result of pad would be f32\[2,4,0,5\], without elements"),
        ("reshape(%x) {shape=[2,4,30,0]}", "cannot reshape"),
        ("gather(%x, @far) {axis=1}", "index 4 is out of range for axis 1 of size 4"),
        ("gather(%x, @low) {axis=1}", "index -5 is out of range for axis 1 of size 4"),
        ("pad(%x) {pads=[0,0,6,0,0,0,0,0], mode=reflect}", "a reflecting pad of 6 needs more than 6 elements on axis 2"),
        ("pad(%b) {pads=[0,1], value=300.0}", r"u8\[3\] is padded with 300.0, which u8 cannot hold"),
        ("layer_norm(%x) {normalized_ndim=5}", r"layer_norm over 5 axes of f32\[2,4,6,5\]"),
        ("group_norm(%x) {groups=3}", "4 channels do not divide into 3 groups"),
    ],
)
def test_what_cannot_be_computed_is_refused_by_inference(line: str, message: str) -> None:
    names = "%y, %z" if line.startswith("split") else "%y"
    text = (
        "input %x: f32[2,4,6,5]\ninput %b: u8[3]\nparam @far: i64[2] = [0, 4]\nparam @low: i64[1] = [-5]\n"
        f"{names} = {line}\noutput %y"
    )
    with pytest.raises(ParseError, match=message):
        parse(text)


def test_bounds_that_an_integer_type_cannot_hold_never_bind() -> None:
    graph = parse("input %x: u8[3]\n%y = clamp(%x) {min=-1.0, max=300.0}\n%z = clamp(%x) {min=inf}\noutput %y\noutput %z")
    values = evaluate(graph, {"x": np.array([0, 7, 255], np.uint8)})
    assert values["y"].tolist() == [0, 7, 255]
    assert values["z"].tolist() == [255, 255, 255]


# --- ranges --------------------------------------------------------------------------------------------------------------

RANGED = [op for op in all_ops() if op.bounds is not None and op.compute is not None]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_values_are_inside_the_declared_range(data: st.DataObject) -> None:
    node = data.draw(st.sampled_from([node for node in INTEGER_NODES if node.op in RANGED]))
    ranges, arrays = [], []
    for type, name in zip(node.operand_types, (operand.name for operand in node.operands), strict=True):
        assert type is not None and type.shape is not None
        low = data.draw(st.integers(-128, 127))
        high = data.draw(st.integers(low, 127))
        if name in ("m", "i"):
            low, high = 0, 1
        rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
        arrays.append(rng.integers(low, high + 1, type.shape).astype(type.dtype.numpy))
        ranges.append((low, high))
    assert node.op.bounds is not None and node.op.compute is not None
    bounds = node.op.bounds(ranges, node.attributes)
    if bounds is None:
        return
    computed = node.op.compute(arrays, node.attributes)
    for array in computed if isinstance(computed, list) else [computed]:
        assert bounds[0] <= array.min() and array.max() <= bounds[1], (node.op.name, ranges, bounds)


_RANGED_LINES = [
    "relu(%x)", "clamp(%x) {min=-3.0, max=100.0}", "clamp(%x) {min=2.5}", "maximum(%x, %z)", "minimum(%x, %z)", "where(%m, %x, %z)",
    "cat(%x, %z) {axis=1}", "pad(%x) {pads=[0,0,1,0,0,0,0,2], value=-7.0}", "pad(%x) {pads=[0,0,1,0,0,0,0,2], mode=edge}",
    "max_pool2d(%x) {kernel=[2,2], stride=[1,1], padding=[1,0,0,1]}", "adaptive_max_pool2d(%x) {output_size=[2,1]}",
    "reduce_max(%x) {axes=[1]}", "reduce_min(%x)", "reshape(%x) {shape=[-1]}", "transpose(%x) {perm=[0,2,3,1]}",
    "slice(%x) {axes=[1], starts=[0], ends=[1]}", "split(%x) {axis=1, sizes=[2]}", "pixel_shuffle(%s) {factor=2}",
    "pixel_unshuffle(%x) {factor=2}", "expand(%x) {shape=[2,-1,-1,-1]}", "tile(%x) {repeats=[1,1,2,1]}", "gather(%x, %i) {axis=1}",
    "identity(%x)", "dropout(%x)",
]  # fmt: skip


def _integer_node(line: str) -> Node:
    inputs = "input %x: i8[1,2,4,4]\ninput %z: i8[1,2,4,4]\ninput %s: i8[1,4,2,2]\ninput %m: b1[4]\ninput %i: i64[3]\n"
    (node,) = parse(f"{inputs}%y = {line}\noutput %y").nodes
    return node


INTEGER_NODES = [_integer_node(line) for line in _RANGED_LINES]


def test_every_declared_range_is_checked() -> None:
    def missing(op: OpDef) -> bool:
        return op not in {node.op for node in INTEGER_NODES}

    assert not [op.name for op in RANGED if missing(op)]


def test_convolutions_of_rows_are_those_of_images_of_height_one() -> None:
    graph = parse(
        "param @x = #random(1, [2,4,9])\nparam @w = #random(2, [6,2,3])\nparam @v = #random(3, [4,3,3])\nparam @b = #random(4, [6])\n"
        "%y = conv2d(@x, @w, @b) {stride=[1,2], padding=[0,1,0,1], groups=2}\n"
        "%z = conv_transpose2d(@x, @v, @b) {stride=[1,2], groups=2}\noutput %y\noutput %z"
    )
    x, w, v, b = (torch.from_numpy(np.array(value.array)) for value in graph.parameters.values())
    values = evaluate(graph, {})
    np.testing.assert_allclose(values["y"], F.conv1d(x, w, b, 2, 1, groups=2), rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(values["z"], F.conv_transpose1d(x, v, b, 2, groups=2), rtol=2e-5, atol=2e-6)
