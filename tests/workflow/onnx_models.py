"""Small ONNX models for tests of the workflow: written as text, with seeded weights."""

from __future__ import annotations

import numpy as np
import onnx


def model(text: str, opset: int = 17, **weights: tuple[int, ...] | np.ndarray) -> onnx.ModelProto:
    """`text`: inputs, outputs and nodes. `weights`: initializers, arrays or the shapes of random ones."""
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}, "com.microsoft" : 1]>\nnet {text}')
    rng = np.random.default_rng(0)
    for name, given in weights.items():
        array = given if isinstance(given, np.ndarray) else (rng.standard_normal(given) * 0.3).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    for index, node in enumerate(proto.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    return proto


def images(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape, np.float32) * 2 - 1


def classifier(batch: str = "N") -> onnx.ModelProto:
    """Convolutions with a residual, a pool, and a linear layer behind a reshape; names that Python cannot spell."""
    text = f"""(float[{batch},3,8,8] x) => (float[{batch},5] y) {{
        a = Conv<pads = [1,1,1,1]>(x, w1, b1)
        r = Relu(a)
        c = Conv<pads = [1,1,1,1]>(r, w2)
        s = Add(c, r)
        t = Relu(s)
        p = GlobalAveragePool(t)
        f = Flatten(p)
        y = Gemm<transB = 1>(f, w3, b3)
    }}"""
    proto = model(text, w1=(8, 3, 3, 3), b1=(8,), w2=(8, 8, 3, 3), w3=(5, 8), b3=(5,))
    spelled = {"x": "input.1", "a": "/stem/Conv_output_0", "r": "/stem/Relu_output_0", "y": "scores:0"}
    for node in proto.graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                names[index] = spelled.get(name, name)
    proto.graph.node[0].name, proto.graph.node[1].name = "/stem/Conv", "/stem/Relu"
    proto.graph.input[0].name, proto.graph.output[0].name = "input.1", "scores:0"
    return proto
