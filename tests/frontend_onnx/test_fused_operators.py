"""Operators that onnxruntime's optimizer makes of several: read as those, with the numbers of onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper
from onnx_harness import run_lowered, session
from torch import nn
from torch.nn import functional as F

import hqc
from hqc.errors import LoweringError
from hqc.frontend.onnx import lower_onnx

IMAGE, ROWS = (1, 4, 6, 5), (1, 7, 8)
CASES: dict[str, tuple[tuple[int, ...], str, list[tuple[int, ...]], dict[str, Any], str]] = {
    "conv": (IMAGE, "FusedConv", [(3, 4, 3, 3), (3,)], {"activation": "Relu", "pads": [1, 1, 1, 1]}, "conv2d relu"),
    "conv without bias": (IMAGE, "FusedConv", [(3, 4, 1, 1)], {"activation": "Sigmoid"}, "conv2d sigmoid"),
    "leaky": (
        IMAGE, "FusedConv", [(4, 1, 3, 3), (4,)],
        {"activation": "LeakyRelu", "activation_params": [0.2], "group": 4}, "conv2d leaky_relu",
    ),
    "clip": (IMAGE, "FusedConv", [(3, 4, 3, 3)], {"activation": "Clip", "activation_params": [0.0, 6.0]}, "conv2d clamp"),
    "sum": (IMAGE, "FusedConv", [(4, 4, 1, 1), (4,), IMAGE], {"activation": "Relu"}, "conv2d add relu"),
    "gemm": ((2, 8), "FusedGemm", [(5, 8), (5,)], {"activation": "Relu", "transB": 1}, "linear relu"),
    "gemm leaky": (
        (2, 8), "FusedGemm", [(8, 5), (5,)], {"activation": "LeakyRelu", "activation_alpha": 0.3}, "linear leaky_relu"
    ),
    "matmul": (ROWS, "FusedMatMul", [(8, 3)], {"alpha": 0.25}, "linear mul"),
    "matmul transposed": (ROWS, "FusedMatMul", [(1, 3, 7)], {"transA": 1, "transB": 1}, "transpose matmul"),
    "gelu": (ROWS, "Gelu", [], {}, "gelu"),
    "bias gelu": (ROWS, "BiasGelu", [(8,)], {}, "add gelu"),
    "fast gelu": (ROWS, "FastGelu", [(8,)], {}, "add gelu"),
    "quick gelu": (ROWS, "QuickGelu", [], {"alpha": 1.702}, "mul sigmoid mul"),
    "skip norm": (ROWS, "SkipLayerNormalization", [ROWS, (8,), (8,), (8,)], {"epsilon": 1e-4}, "add add layer_norm"),
    "skip norm of mean squares": (ROWS, "SkipSimplifiedLayerNormalization", [ROWS, (8,)], {}, "add pow_scalar mean add sqrt div mul"),
}  # fmt: skip


def model_of(
    op: str, shape: tuple[int, ...], constants: list[np.ndarray], domain: str = "com.microsoft", **attributes: Any
) -> onnx.ModelProto:
    names = [f"c{index}" for index in range(len(constants))]
    node = helper.make_node(op, ["x", *names], ["y"], "fused", domain=domain, **attributes)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [helper.make_empty_tensor_value_info("y")],
        [onnx.numpy_helper.from_array(array, name) for name, array in zip(names, constants, strict=True)],
    )
    opsets = [helper.make_opsetid("", 13), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


@pytest.mark.parametrize("name", CASES)
def test_a_fused_operator_is_what_it_was_made_of(name: str) -> None:
    shape, op, constants, attributes, expected = CASES[name]
    rng = np.random.default_rng(1)
    arrays = [rng.standard_normal(size).astype(np.float32) for size in constants]
    model = model_of(op, shape, arrays, **attributes)
    lowered = lower_onnx(model)
    assert " ".join(node.op.name for node in lowered.graph.nodes) == expected
    assert {node.loc.label for node in lowered.graph.nodes} == {"fused"}
    x = rng.standard_normal(shape).astype(np.float32)
    (wanted,) = session(model).run(None, {"x": x})
    np.testing.assert_allclose(run_lowered(lowered, {"x": x})[0], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("op", ["LayerNormalization", "SimplifiedLayerNormalization"])
def test_norms_that_the_runtime_had_before_the_standard(op: str) -> None:
    arrays = [np.linspace(0.5, 1.5, 8, dtype=np.float32)] * (1 + (op == "LayerNormalization"))
    model = model_of(op, ROWS, arrays, domain="", axis=-1, epsilon=1e-3)
    x = np.random.default_rng(2).standard_normal(ROWS).astype(np.float32)
    (wanted,) = session(model).run(None, {"x": x})
    np.testing.assert_allclose(run_lowered(lower_onnx(model), {"x": x})[0], wanted, rtol=1e-4, atol=1e-4)


def test_a_file_in_the_layout_of_one_processor_is_refused_with_what_to_do() -> None:
    model = model_of("Conv", IMAGE, [np.zeros((8, 4, 1, 1), np.float32)], domain="com.microsoft.nchwc")
    with pytest.raises(LoweringError, match=r"fused .* of com.microsoft.nchwc: .* save it with .*ORT_ENABLE_EXTENDED at most"):
        lower_onnx(model)


@pytest.mark.parametrize("attributes", [{"activation": "Clip"}, {"activation": "Nothing"}, {"activation": 3}, {"pads": "x"}])
def test_damaged_operators_are_refused_in_a_sentence(attributes: dict[str, Any]) -> None:
    with pytest.raises(LoweringError, match="fused"):
        lower_onnx(model_of("FusedConv", IMAGE, [np.zeros((8, 4, 1, 1), np.float32)], **attributes))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.point = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1)
        self.last, self.head = nn.Conv2d(8, 8, 3), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.norm(self.stem(x)))
        y = F.relu(self.point(y) + y)
        y = F.adaptive_avg_pool2d(F.gelu(self.last(y)), 1)
        return F.relu(self.head(y.flatten(1)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.onnx, about the exporter that needs nothing else
def test_an_optimized_file_has_the_plan_of_the_file_it_was_made_from(tmp_path: Path) -> None:
    plain, best = tmp_path / "net.onnx", tmp_path / "best.onnx"
    image = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    torch.onnx.export(Net().eval(), (image,), str(plain), opset_version=17, dynamo=False)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(best)
    onnxruntime.InferenceSession(str(plain), options, providers=["CPUExecutionProvider"])
    assert any(node.domain == "com.microsoft" for node in onnx.load(best).graph.node)
    for march in ("bernoulli2", "bayes"):
        plans = [
            sorted((row.op, row.device) for row in hqc.explain(file, march=march).placement.rows) for file in (plain, best)
        ]
        assert plans[0] == plans[1]
