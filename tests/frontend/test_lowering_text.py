"""The text of lowered graphs: names, origins, locations, constants, shapes."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lowering_harness import Function, lower_model
from torch import nn
from torch.ao.nn.quantized import FloatFunctional
from torch.ao.quantization import DeQuantStub, QuantStub

import hqc
import hqc.ir
from hqc.frontend.fx import lower_graph_module, trace
from hqc.ir import Graph


def nodes(graph: Graph) -> list[str]:
    """The node lines without types and locations: `name = op(operands) {attributes}`."""
    lines = [line.strip() for line in str(graph).splitlines() if " = " in line and line.strip().startswith("%")]
    return [re.sub(r": \w+\[[^]]*\]", "", line.split(" loc(")[0]).replace("%", "") for line in lines]


def lowered(function: Callable[[torch.Tensor], Any], *shape: int) -> list[str]:
    return nodes(lower_model(Function(function), torch.zeros(shape)).graph)


def unknown(function: Callable[[torch.Tensor], Any], channels: int = 4) -> list[str]:
    """Lowered without example inputs, behind a convolution with `channels` outputs."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, channels, 1)

        def forward(self, x: torch.Tensor) -> Any:
            return function(self.conv(x))

    return nodes(lower_model(Model()).graph)[1:]


def test_text_reads_back() -> None:
    graph = lower_model(nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU()), torch.zeros(1, 1, 2, 2)).graph
    assert hqc.ir.parse(str(graph)) == graph


def test_scalars_and_scalar_tensors_give_the_same_graph() -> None:
    plain = lower_model(Function(lambda x: x + 3), torch.zeros(2)).graph
    tensor = lower_model(Function(lambda x: x + torch.tensor(3)), torch.zeros(2)).graph
    assert nodes(plain) == nodes(tensor) == ["add = add(x, @add_b)"]
    assert plain.value("add_b").type == tensor.value("add_b").type == hqc.ir.TensorType(hqc.ir.DType.FLOAT32, ())


def test_last_node_has_the_fx_name_and_steps_have_theirs() -> None:
    assert lowered(lambda x: torch.stack([x, x + 1]), 2, 3) == [
        "add = add(x, @add_b)",
        "stack_item0 = reshape(x) {shape=[1,2,3]}",
        "stack_item1 = reshape(add) {shape=[1,2,3]}",
        "stack = cat(stack_item0, stack_item1) {axis=0}",
    ]


def test_names_of_steps_avoid_fx_names() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.max_1 = nn.Conv2d(2, 2, 1, padding=1, padding_mode="reflect")
            self.max_1_pad = nn.ReLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.max_1_pad(self.max_1(x))

    graph = lower_model(Model(), torch.zeros(1, 2, 4, 4)).graph
    assert [node.name for node in graph.nodes] == ["max_1_pad_1", "max_1", "max_1_pad"]
    assert [node.origin for node in graph.nodes] == [("max_1",), ("max_1",), ("max_1_pad",)]


def test_results_are_named_after_the_nodes_that_take_them() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        _, b, _ = x.chunk(3, dim=1)
        return b * 2

    model = lower_model(Function(function), torch.zeros(1, 6, 2, 2))
    (split, _) = model.graph.nodes
    assert [value.name for value in split.results] == ["getitem", "getitem_1", "getitem_2"]
    assert split.origin == ("chunk",)


def test_unread_results_exist_under_numbered_names() -> None:
    model = lower_model(Function(lambda x: x.split(2, dim=1)[1]), torch.zeros(1, 6, 2, 2))
    (split,) = model.graph.nodes
    assert [value.name for value in split.results] == ["split_0", "getitem", "split_2"]


def test_location_has_path_count_line_and_types() -> None:
    class Head(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.relu(x) + F.relu(-x)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Sequential(Head())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(x)

    graph = lower_model(Net(), torch.zeros(1, 2)).graph
    line = Head.forward.__code__.co_firstlineno + 1
    locs = [node.loc for node in graph.nodes]
    assert [loc.path for loc in locs] == ["head.0:relu#0", "head.0:neg#0", "head.0:relu#1", "head.0:add#0"]
    assert {loc.source for loc in locs} == {f"test_lowering_text.py:{line}"}
    assert [name.rpartition(".")[2] for name in locs[0].module_type] == ["Net", "Sequential", "Head"]
    assert locs[0].module == "head.0"


def test_shared_module_is_two_nodes_with_one_weight() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(self.conv(x))

    model = Twice()
    graph = lower_model(model, torch.zeros(1, 2, 3, 3)).graph
    assert nodes(graph) == [
        "conv = conv2d(x, @conv.weight, @conv.bias)",
        "conv_1 = conv2d(conv, @conv.weight, @conv.bias)",
    ]
    assert [node.loc.path for node in graph.nodes] == ["conv:conv2d#0", "conv:conv2d#1"]
    weight = graph.value("conv.weight").array
    assert weight is not None
    assert weight.ctypes.data == model.conv.weight.data_ptr()


def test_stubs_identity_and_float_functional() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.quant, self.dequant, self.add, self.identity = QuantStub(), DeQuantStub(), FloatFunctional(), nn.Identity()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.identity(self.quant(x))
            return self.dequant(self.add.add_relu(x, self.add.cat([x], 1)))

    assert nodes(lower_model(Net(), torch.zeros(1, 2)).graph) == [
        "quant = quantize(x) {stub=true}",
        "identity = identity(quant)",
        "cat = cat(identity) {axis=1}",
        "add_relu_sum = add(identity, cat)",
        "add_relu = relu(add_relu_sum)",
        "dequant = dequantize(add_relu) {stub=true}",
    ]


def test_batch_is_written_as_a_copied_size() -> None:
    for function in (
        lambda x: x.view(x.size(0), -1),
        lambda x: x.reshape(x.shape[0], 12),
        lambda x: torch.flatten(x, 1),
        lambda x: x.view(2, -1),
    ):
        (line,) = lowered(function, 2, 3, 2, 2)
        assert re.fullmatch(r"\w+ = reshape\(x\) \{shape=\[0,(-1|12)\]\}", line)


def test_shape_arithmetic_leaves_no_nodes() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        b, c, h, w = x.shape
        assert x.dim() == 4
        return x.view(b, c // 2, 2, h * w).sum(2) / (h * w) ** 0.5

    assert [line.split(" = ")[1].split("(")[0] for line in lowered(function, 2, 4, 3, 3)] == ["reshape", "sum", "div"]


def test_outputs_have_the_users_keys() -> None:
    model = lower_model(Function(lambda x: {"a": x + 1, "b": [x * 2, x * 3], "n": 7}), torch.zeros(2))
    assert model.graph.output_names == ["a", "b_0", "b_1"]
    assert model.outputs["n"] == 7
    assert model.outputs["b"][1].index == 2


def test_value_returned_twice_has_two_output_names() -> None:
    graph = lower_model(Function(lambda x: [x.relu()] * 2), torch.zeros(2)).graph
    assert graph.output_names == ["relu", "relu_1"]
    assert graph.outputs[0] is graph.outputs[1]


def test_training_mode_does_not_matter() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1), nn.Dropout())
    x = torch.zeros(1, 1, 2, 2)
    assert str(lower_graph_module(trace(model.train()), x).graph) == str(lower_graph_module(trace(model.eval()), x).graph)


def test_march_and_name() -> None:
    graph = hqc.lower(nn.Sequential(nn.ReLU()), torch.zeros(1), name="net")
    assert (graph.name, graph.march, graph.stage) == ("net", None, "lowered")


# --- without example inputs ----------------------------------------------------------------------------------------------


UNKNOWN: dict[str, tuple[Callable[[torch.Tensor], Any], str]] = {
    "flatten": (lambda x: x.flatten(1), "flatten = reshape(conv) {shape=[0,-1]}"),
    "view": (lambda x: x.view(x.size(0), -1), "view = reshape(conv) {shape=[0,-1]}"),
    "view_shape": (lambda x: x.view(*x.shape[:2], -1), "view = reshape(conv) {shape=[0,4,-1]}"),
    "pool_flatten": (
        lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1),
        """adaptive_avg_pool2d = adaptive_avg_pool2d(conv) {output_size=[1,1]}
        flatten = reshape(adaptive_avg_pool2d) {shape=[0,-1]}""",
    ),
    "squeeze": (
        lambda x: F.adaptive_avg_pool2d(x, 1).squeeze(-1),
        """adaptive_avg_pool2d = adaptive_avg_pool2d(conv) {output_size=[1,1]}
        squeeze = reshape(adaptive_avg_pool2d) {shape=[0,4,1]}""",
    ),
    "chunk": (lambda x: x.chunk(2, 1), "chunk_0, chunk_1 = split(conv) {axis=1, sizes=[2,2]}"),
    "channels": (lambda x: x[:, : x.shape[1] // 2], "getitem_1 = slice(conv) {axes=[1], starts=[0], ends=[2]}"),
    "interpolate": (
        lambda x: F.interpolate(x[:, :2], size=x.shape[2:]),
        """getitem = slice(conv) {axes=[1], starts=[0], ends=[2]}
        interpolate = resize2d(getitem)""",
    ),
    "pad": (lambda x: F.pad(x, (1, 0)), "pad = pad(conv) {pads=[0,0,0,1,0,0,0,0]}"),
    "transpose": (lambda x: x.transpose(1, -1), "transpose = transpose(conv) {perm=[0,3,2,1]}"),
    "cat": (
        lambda x: torch.cat([x, x], -3).chunk(4, 1)[3],
        """cat = cat(conv, conv) {axis=1}
        chunk_0, chunk_1, chunk_2, getitem = split(cat) {axis=1, sizes=[2,2,2,2]}""",
    ),
    "tokens": (
        lambda x: x.flatten(2).transpose(1, 2),
        """flatten = reshape(conv) {shape=[0,4,-1]}
        transpose = transpose(flatten) {perm=[0,2,1]}""",
    ),
    "expand": (
        lambda x: x[:, :1].expand(-1, 4, -1, -1),
        """getitem = slice(conv) {axes=[1], starts=[0], ends=[1]}
        expand = expand(getitem) {shape=[-1,4,-1,-1]}""",
    ),
    "softmax": (lambda x: x.softmax(-1), "softmax = softmax(conv) {axis=3}"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_without_example_inputs(name: str) -> None:
    function, expected = UNKNOWN[name]
    assert unknown(function) == [line.strip() for line in expected.splitlines()]


def test_types_have_the_sizes_that_are_known_without_example_inputs() -> None:
    graph = hqc.lower(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d((2, 3)), nn.Flatten()))
    assert [str(node.results[0].type) for node in graph.nodes] == ["f32[?,4,?,?]", "f32[?,4,?,?]", "f32[?,4,2,3]", "f32[?,24]"]
    assert [str(value.type) for value in graph.inputs] == ["f32[?,?,?,?]"]


def test_an_input_beside_the_image_may_have_another_rank() -> None:
    class ImageAndVector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, image: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
            return torch.cat([self.conv(image).mean((2, 3)), vector], 1)

    graph = hqc.lower(ImageAndVector())
    assert [str(value.type) for value in graph.inputs] == ["f32[*]", "f32[*]"]
    assert [str(value.type) for value in graph.outputs] == ["f32[?,?]"]
