"""Ways to damage an ONNX model: the bytes of its file, or what the file says."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import onnx

Damage = Callable[[random.Random, onnx.ModelProto], None]
SIZES = (0, -1, 1, 2, 3, 7, 2**31, 2**40, -(2**40), 2**62)
OPERATORS = (
    "Conv", "Relu", "Reshape", "Transpose", "Concat", "Slice", "Gather", "Resize", "MatMul", "Gemm", "Pad", "Split", "Expand", "Tile",
    "MaxPool", "AveragePool", "ConvTranspose", "Softmax", "ReduceMean", "Clip", "Pow", "Where", "Cast", "Einsum", "LSTM", "If", "Loop",
    "BatchNormalization", "LayerNormalization", "QuantizeLinear", "DequantizeLinear", "ConstantOfShape", "Range", "TopK", "Squeeze",
    "Unsqueeze", "Flatten", "ArgMax", "DepthToSpace", "PRelu", "NonZero", "Nonsense", "OneHot", "Constant", "Shape", "Upsample",
)  # fmt: skip


def corpus() -> list[onnx.ModelProto]:
    """Small models that hold most kinds of things a file can hold."""
    texts = [
        "(float[N,3,8,8] x) => (float[N,4] y) { c = Conv<pads = [1,1,1,1]>(x, k) r = Relu(c) p = GlobalAveragePool(r) y = Flatten(p) }",
        """(float[1,4,6,6] x) => (float[1,144] y) { s = Shape(x) z = Constant<value_ints = [0]>() b = Gather(s, z)
            m = Constant<value_ints = [-1]>() t = Concat<axis = 0>(b, m) y = Reshape(x, t) }""",
        """(float[1,4,6,6] x) => (float[1,4,6,6] y) <float s = {0.1}, int8 z = {0}> { q = QuantizeLinear(x, s, z)
            d = DequantizeLinear(q, s, z) a, b = Split<axis = 1>(d) y = Concat<axis = 1>(b, a) }""",
        """(float[1,6,4] x) => (float[1,6,4] y) { t = Transpose<perm = [0,2,1]>(x) m = MatMul(x, t) f = Softmax<axis = -1>(m)
            y = MatMul(f, x) }""",
        """(float[1,2,4,4] x, int64[2] i) => (float[1,2,8,8] y, float[2,2,4,4] g) { e = Constant<value = float[0] {}>()
            s = Constant<value = float[4] {1.0, 1.0, 2.0, 2.0}>() y = Resize<mode = "nearest">(x, e, s)
            flag = Constant<value = bool {1}>() h = If(flag) <then_branch = a () => (float[1,2,4,4] t) { t = Relu(x) },
            else_branch = b () => (float[1,2,4,4] u) { u = Neg(x) }> w = LRN<size = 3>(h) v = Squeeze(w, l) g = Gather<axis = 0>(h, o) }""",
    ]  # fmt: skip
    made = []
    for text in texts:
        proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 13]>\nnet {text}')
        used = {name for node in proto.graph.node for name in node.input}
        weights = {"k": np.ones((4, 3, 3, 3), np.float32), "l": np.array([0], np.int64), "o": np.array([0, 0], np.int64)}
        proto.graph.initializer.extend(
            onnx.numpy_helper.from_array(array, name) for name, array in weights.items() if name in used
        )
        made.append(proto)
    return made


def damaged_bytes(rng: random.Random, data: bytes) -> bytes:
    """Cut, overwritten, or with a piece in it twice."""
    kind, at = rng.randrange(3), rng.randrange(len(data))
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + bytes(rng.randrange(256) for _ in range(rng.choice((1, 1, 4)))) + data[at + 1 :]
    return data[:at] + data[at : at + rng.randrange(40)] + data[at:]


def _node(rng: random.Random, model: onnx.ModelProto) -> onnx.NodeProto:
    return rng.choice(list(model.graph.node))


def _names(model: onnx.ModelProto) -> list[str]:
    made = [name for node in model.graph.node for name in node.output]
    return [*made, *(item.name for item in (*model.graph.input, *model.graph.initializer)), "", "lost"]


def another_operator(rng: random.Random, model: onnx.ModelProto) -> None:
    _node(rng, model).op_type = rng.choice(OPERATORS)


def another_domain(rng: random.Random, model: onnx.ModelProto) -> None:
    _node(rng, model).domain = rng.choice(("com.microsoft", "mine", "ai.onnx.ml"))


def another_operand(rng: random.Random, model: onnx.ModelProto) -> None:
    node = _node(rng, model)
    if node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice(_names(model))


def fewer_or_more_operands(rng: random.Random, model: onnx.ModelProto) -> None:
    node = _node(rng, model)
    if node.input and rng.random() < 0.5:
        del node.input[rng.randrange(len(node.input)) :]
    else:
        node.input.append(rng.choice(_names(model)))


def another_order(rng: random.Random, model: onnx.ModelProto) -> None:
    nodes = list(model.graph.node)
    rng.shuffle(nodes)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def lost_node(rng: random.Random, model: onnx.ModelProto) -> None:
    del model.graph.node[rng.randrange(len(model.graph.node))]


def fewer_or_more_results(rng: random.Random, model: onnx.ModelProto) -> None:
    node = _node(rng, model)
    if rng.random() < 0.5:
        node.output.append(f"more{len(node.output)}")
    elif node.output:
        del node.output[-1]


def another_attribute(rng: random.Random, model: onnx.ModelProto) -> None:
    """Other numbers, another type, or one that the operator does not have."""
    node = _node(rng, model)
    name = rng.choice(
        [*(item.name for item in node.attribute), "axis", "axes", "pads", "perm", "kernel_shape", "strides", "to", "group"]
    )
    kept = [item for item in node.attribute if item.name != name]
    value: object = rng.choice((
        rng.choice(SIZES), [rng.choice(SIZES) for _ in range(rng.randrange(5))], "text", rng.random() * 10, [0.5, 1.5],
    ))  # fmt: skip
    copies = [onnx.AttributeProto.FromString(item.SerializeToString()) for item in kept]
    del node.attribute[:]
    node.attribute.extend(copies)
    if value != []:
        node.attribute.append(onnx.helper.make_attribute(name, value))


def another_shape(rng: random.Random, model: onnx.ModelProto) -> None:
    item = rng.choice([*model.graph.input, *model.graph.output])
    sizes = item.type.tensor_type.shape.dim
    if sizes and rng.random() < 0.7:
        sizes[rng.randrange(len(sizes))].dim_value = rng.choice(SIZES)
    elif rng.random() < 0.5:
        item.type.tensor_type.ClearField("shape")
    elif sizes:
        del sizes[0]


def another_type(rng: random.Random, model: onnx.ModelProto) -> None:
    rng.choice([*model.graph.input, *model.graph.output]).type.tensor_type.elem_type = rng.randrange(24)


def another_initializer(rng: random.Random, model: onnx.ModelProto) -> None:
    """Other sizes, another type, fewer bytes, bytes elsewhere."""
    tensors = [
        *model.graph.initializer,
        *(item.t for node in model.graph.node for item in node.attribute if item.HasField("t")),
    ]
    if not tensors:
        return
    tensor = rng.choice(tensors)
    kind = rng.randrange(5)
    if kind == 0 and tensor.dims:
        tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(SIZES)
    elif kind == 1:
        tensor.data_type = rng.randrange(24)
    elif kind == 2:
        tensor.raw_data = tensor.raw_data[: rng.randrange(len(tensor.raw_data) + 1)]
    elif kind == 3:
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=rng.choice(("gone.bin", "../up.bin", "/etc/hostname", "")))
    else:
        tensor.name = "lost"


def another_opset(rng: random.Random, model: onnx.ModelProto) -> None:
    model.opset_import[0].version = rng.choice((0, 6, 7, 9, 11, 17, 21, 26, 2**40))


def same_name_twice(rng: random.Random, model: onnx.ModelProto) -> None:
    node = _node(rng, model)
    if node.output:
        node.output[0] = rng.choice(_names(model))


DAMAGES: tuple[Damage, ...] = (
    another_operator, another_domain, another_operand, fewer_or_more_operands, another_order, lost_node, fewer_or_more_results,
    another_attribute, another_shape, another_type, another_initializer, another_opset, same_name_twice,
)  # fmt: skip
