"""Models are deeper than Python's stack, and ways that part and meet again are walked once."""

from __future__ import annotations

import copy
import operator
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import fx, nn

import hqc
from hqc.frontend.fx.assumptions import depends_on_sizes
from hqc.structures import reached

DEPTH = 1020
"""More than Python's limit of recursion."""


class Views(nn.Module):
    """A write into what a long chain of views shares."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        view = base = x * 2
        for _ in range(DEPTH):
            view = view.view(1, 3, 4, 4)
        base[:, 0] = 1.0
        return view + 1


DEEP = {
    "relu": lambda: nn.Sequential(*(nn.ReLU() for _ in range(DEPTH))),
    "pool": lambda: nn.Sequential(*(nn.MaxPool2d(1, 1) for _ in range(DEPTH))),
    "dropout": lambda: nn.Sequential(*(nn.Dropout() for _ in range(DEPTH))),
    "views": Views,
}


@pytest.mark.parametrize("kind", DEEP)
def test_deep_models_are_planned(kind: str) -> None:
    graph = hqc.explain(DEEP[kind](), torch.rand(1, 3, 4, 4), march="bayes").graph
    assert copy.deepcopy(graph) == graph == pickle.loads(pickle.dumps(graph))


def test_a_deep_quantized_file_is_read(tmp_path: Path) -> None:
    import onnx
    from onnx import helper, numpy_helper

    scale, zero = numpy_helper.from_array(np.float32(0.1), "s"), numpy_helper.from_array(np.int8(0), "z")
    nodes = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q0"])]
    nodes += [helper.make_node("MaxPool", [f"q{i}"], [f"q{i + 1}"], kernel_shape=[1, 1]) for i in range(DEPTH)]
    nodes += [helper.make_node("DequantizeLinear", [f"q{DEPTH}", "s", "z"], ["y"])]
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3, 4, 4]) for name in "xy"]
    model = helper.make_model(
        helper.make_graph(nodes, "deep", ends[:1], ends[1:], [scale, zero]), opset_imports=[helper.make_opsetid("", 13)]
    )
    onnx.save(model, tmp_path / "deep.onnx")
    assert sum(node.op.name == "max_pool2d" for node in hqc.lower(tmp_path / "deep.onnx").nodes) == DEPTH


def test_a_walk_takes_each_of_what_meets_again_once() -> None:
    graph = fx.Graph()
    doubled = graph.call_method("dim", (graph.placeholder("x"),))
    sizes = graph.call_method("size", (doubled,))
    for _ in range(200):
        doubled = graph.call_function(operator.add, (doubled, doubled))
        sizes = graph.call_function(operator.add, (doubled, sizes))
    assert not depends_on_sizes(doubled) and depends_on_sizes(sizes)
    assert list(reached(0, lambda n: [n + 1, n + 2, n + 1] if n < 3 else [])) == [0, 1, 3, 2, 4]
