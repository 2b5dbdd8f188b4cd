"""What cannot be lowered is refused in one sentence with the node and the user's line; in-place writes are made functional."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lowering_harness import Function, check, lower_model
from torch import nn

import hqc
from hqc.errors import HqcError, InputError, LoweringError, ShapeError
from hqc.frontend.fx import lower_graph_module, trace, wrap

IMAGE = torch.randn(2, 4, 6, 6)


def user_model(body: str, **modules: nn.Module) -> nn.Module:
    """A model whose forward is `body`, in the file user_net.py (first line of the body: line 3)."""
    namespace: dict[str, Any] = {"torch": torch, "nn": nn, "F": F}
    lines = "\n".join(f"        {line}" for line in body.splitlines())
    exec(compile(f"class Model(nn.Module):\n    def forward(self, x):\n{lines}\n", "user_net.py", "exec"), namespace)
    model: nn.Module = namespace["Model"]()
    for name, module in modules.items():
        model.add_module(name, module)
    return model


REFUSED: dict[str, tuple[str, type[HqcError], str]] = {
    "one_hot": ("return F.one_hot(x.argmax(1))", LoweringError, "one_hot without num_classes has as many as the data says"),
    "computed_mask": ("return x[x > 0]", LoweringError, "an index by a computed mask has a size that depends on data"),
    "places_that_hold": (
        "return x.flatten()[torch.nonzero(x.flatten() > 0).squeeze(1)].mean()",
        LoweringError,
        "nonzero gives a tensor whose shape depends on the data ([0, 1] for some numbers, [288, 1] for others)",
    ),
    "selected": (
        "return x.masked_select(x > 0).sum()",
        LoweringError,
        "masked_select gives a tensor whose shape depends on the data",
    ),
    "where_of_condition": ("return torch.where(x > 0)[0]", LoweringError, "gives as many indices as the data has"),
    "computed_repeats": (
        "return x.repeat_interleave(x.argmax(1)[0, 0], dim=3)",
        LoweringError,
        "by a tensor that is computed gives a size that depends on data",
    ),
    "random": ("return x + torch.rand_like(x)", LoweringError, "rand_like (user_net.py:3): rand_like draws random numbers"),
    "random_in_place": ("return (x * 1).log_normal_()", LoweringError, "log_normal_ draws random numbers"),
    "active_dropout": ("return F.dropout(x)", LoweringError, "dropout is active in inference; pass training=self.training"),
    "active_batch_norm": (
        "return F.batch_norm(x, torch.zeros(4), torch.ones(4), training=True)",
        LoweringError,
        "batch norm with training=True uses the statistics of the batch",
    ),
    "eight bits": (
        "return x.to(torch.float8_e4m3fn)",
        LoweringError,
        "to (user_net.py:3): the IR has no element type for torch.float8_e4m3fn",
    ),
    "value": ("return x * x.sum().item()", LoweringError, "item (user_net.py:3): .item() needs the values of a tensor"),
    "attribute": ("return x.nbytes", LoweringError, "the attribute .nbytes of a tensor is not supported"),
    "softmax_without_dim": ("return F.softmax(x)", LoweringError, "softmax without dim is ambiguous"),
    "dynamic_result": ("return x[x > 0].view(4, 7)", HqcError, "user_net.py:3"),
    "shapes": ("y = x[:, :3]\nreturn x + y", ShapeError, "user_net.py:4"),
    "failing_call": ("return torch.cross(x, x, dim=1)", LoweringError, "cross failed on operands f32[2,4,6,6]"),
    "no_tensor": ("return torch.is_nonzero(x.sum())", LoweringError, "is_nonzero"),
    "constant_failure": ("return x + torch.ones(x.shape[1]).view(3, 9)", LoweringError, "view failed on constants"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusal(name: str) -> None:
    body, kind, expected = REFUSED[name]
    with pytest.raises(kind) as caught:
        lower_model(user_model(body), IMAGE)
    message = str(caught.value)
    assert expected in message
    assert "user_net.py:" in message
    assert "\n" not in message


NEED_SIZES = {
    "chunk": ("return x.chunk(2, 1)", "the size of x along axis 1 must be known here; give example_inputs"),
    "shuffle": ("b, c, h, w = x.shape\nreturn x.view(b, 2, 2, h, w)", "are not known; give example_inputs"),
    "opaque": ("return x.cumsum(1)", "cumsum has no lowering; to run it as it is, on the CPU, its result must be known"),
    "arithmetic": ("return x[:, : x.shape[1] // 2]", "the slice bound (x.shape[1] // 2) is not known; give example_inputs"),
    "constant": ("return x + torch.ones(x.shape[1], 1, 1)", "the size x.shape[1] is not known; give example_inputs"),
}


@pytest.mark.parametrize("name", NEED_SIZES)
def test_sizes_that_are_needed_are_asked_for(name: str) -> None:
    body, expected = NEED_SIZES[name]
    with pytest.raises(LoweringError) as caught:
        lower_model(user_model(body))
    assert expected in str(caught.value)
    assert "user_net.py:" in str(caught.value)
    lower_model(user_model(body), IMAGE)


# --- example inputs ------------------------------------------------------------------------------------------------------


class Two(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor, scale: torch.Tensor | None = None) -> torch.Tensor:
        z = x + y
        return z if scale is None else z * scale


def test_example_inputs_by_position_and_name() -> None:
    x = torch.zeros(1, 2)
    by_name = hqc.lower(Two(), {"y": x, "x": np.zeros((1, 2), np.float32)})
    assert str(by_name) == str(hqc.lower(Two(), (x, x)))
    assert [value.name for value in by_name.inputs] == ["x", "y"]
    assert [value.name for value in hqc.lower(Two(), (x, x, x)).inputs] == ["x", "y", "scale"]


WRONG_INPUTS = [
    ((torch.zeros(1),), "example inputs lack y; the model takes x, y, scale"),
    ((torch.zeros(1),) * 4, "the model takes 3 input(s) (x, y, scale), got 4 example inputs"),
    ({"x": torch.zeros(1), "y": torch.zeros(1), "z": torch.zeros(1)}, "the model has no input z; it takes x, y, scale"),
    ((torch.zeros(1), torch.zeros(1, dtype=torch.float16)), "the example input y has dtype torch.float16"),
    ((torch.zeros(1), "text"), "the example input y is a str, not a tensor"),
]


@pytest.mark.parametrize(("inputs", "message"), WRONG_INPUTS)
def test_wrong_example_inputs(inputs: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        hqc.lower(Two(), inputs)
    assert message in str(caught.value)


def test_nested_inputs_become_inputs_of_their_own() -> None:
    class Pyramid(nn.Module):
        def forward(self, features: Any) -> torch.Tensor:
            return features["low"] + features["high"][0]

    x = torch.ones(1, 2)
    graph = hqc.lower(Pyramid(), ({"low": x, "high": [x, x]},))
    assert [value.name for value in graph.inputs] == ["features_low", "features_high_0", "features_high_1"]


def test_wrong_input_shape_names_the_node_and_line() -> None:
    model = user_model("return self.conv(x)", conv=nn.Conv2d(3, 2, 1))
    with pytest.raises(ShapeError, match=r"conv.*user_net\.py:3.*4 channels, the weight expects 3"):
        lower_model(model, IMAGE)


def test_model_must_be_a_module() -> None:
    with pytest.raises(InputError, match=r"the model must be a torch\.nn\.Module or a torch\.export\.ExportedProgram, got int"):
        hqc.lower(3)  # type: ignore[arg-type]


def test_half_precision_model_is_refused() -> None:
    with pytest.raises(LoweringError, match=r"conv\.weight has dtype torch\.bfloat16.*\.float\(\)"):
        lower_model(user_model("return self.conv(x)", conv=nn.Conv2d(4, 2, 1).bfloat16()), IMAGE)


def test_model_without_values_is_refused() -> None:
    with pytest.raises(LoweringError, match=r"conv \(user_net\.py:3\): conv\.weight is on the meta device and has no values"):
        lower_model(user_model("return self.conv(x)", conv=nn.Conv2d(4, 2, 1, device="meta")), IMAGE)


def test_hooks_are_reported() -> None:
    conv = nn.Conv2d(4, 2, 1)
    conv.register_forward_hook(lambda *_: None)
    assert not lower_model(user_model("return self.conv(x)", conv=conv), IMAGE).warnings
    conv.register_forward_hook(lambda module, inputs, output: float(output.sum()))
    lowered = lower_model(user_model("return self.conv(x)", conv=conv), IMAGE)
    assert lowered.warnings == ["conv (user_net.py:3): hooks of the module conv are not part of the graph"]


# --- in-place writes -----------------------------------------------------------------------------------------------------

IN_PLACE: dict[str, Callable[[torch.Tensor], Any]] = {
    "every_name_sees_the_write": lambda x: (lambda y: [y, y.relu_(), y + 1])(x - 1),
    "identity_is_the_same_tensor": lambda x: (lambda y: [y.contiguous().mul_(2), y])(x + 1),
    "function_with_inplace": lambda x: (lambda y: [F.hardtanh(y, 0, 1, inplace=True), y])(x * 3),
    "positional_inplace": lambda x: (lambda y: [F.relu(y, True), y])(x - 1),
    "copy_is_not_written": lambda x: (lambda y: [y.clone().mul_(2), y])(x + 1),
    "dead_view": lambda x: (lambda y: y.view(2, -1).add_(1))(x + 1),
    "unknown_in_place_method": lambda x: (lambda y: [y.cumsum_(1), y])(x + 1),
    "dtype_of_the_target": lambda x: (lambda y: y.add_(1.0) if False else y.mul_(2))((x > 0).float()),
}


@pytest.mark.parametrize("name", IN_PLACE)
def test_in_place_writes_give_what_torch_gives(name: str) -> None:
    check(Function(IN_PLACE[name]), IMAGE)


def test_augmented_assignment_that_nobody_else_sees() -> None:
    lowered = check(
        user_model("y = self.conv(x)\ny += x\nn = x.shape[1]\nm = n\nn += 1\nreturn y * m / n", conv=nn.Conv2d(4, 4, 1)), IMAGE
    )
    assert [node.name for node in lowered.graph.nodes] == ["conv", "add", "mul", "truediv"]


def test_in_place_relu_module_changes_the_shortcut_too() -> None:
    model = user_model("y = self.conv(x)\nreturn self.relu(y) + y", conv=nn.Conv2d(4, 4, 1), relu=nn.ReLU(inplace=True))
    lowered = check(model, IMAGE)
    add = lowered.graph.outputs[0].producer
    assert add is not None
    assert add.inputs[0] is add.inputs[1]


SHARED_WRITES = {
    "view_read_later": "y = x + 1\nz = y.view(2, -1)\ny += 1\nreturn z + y.view(2, -1)",
    "base_read_later": "y = x + 1\ny[:, 0].mul_(2)\nreturn y",
    "other_name": "y = x + 1\nz = y\ny += 1\nreturn y * z",
    "chunk": "a, b = (x + 1).chunk(2, 1)\na.add_(1)\nreturn a + b",
}


@pytest.mark.parametrize("name", SHARED_WRITES)
def test_write_into_shared_memory_is_made_explicit(name: str) -> None:
    """Without example inputs too; see test_views.py for programs of views."""
    model = user_model(SHARED_WRITES[name])
    check(model, IMAGE)
    lower_graph_module(trace(model), IMAGE)


REFUSED_WRITES = {
    "view_without_inverse": (
        "y = x + 1\ny.unfold(2, 2, 1).mul_(2)\nreturn y",
        "mul_ (user_net.py:4): writes in place into unfold, which shares memory with add, read later by output",
    ),
    "view_or_copy": (
        "y = x + 1\nz = y.reshape(2, -1)\nz += 1\nreturn z.sum() + y",
        "add_1 (user_net.py:5): writes in place into reshape, which shares memory with add, read later by add_2 at user_net.py:6",
    ),
    "parameter": (
        "self.norm.weight.add_(x.mean())\nreturn x",
        "writes in place into the parameter or buffer behind",
    ),
}


@pytest.mark.parametrize("name", REFUSED_WRITES)
def test_write_that_renaming_cannot_express_is_refused(name: str) -> None:
    body, expected = REFUSED_WRITES[name]
    with pytest.raises(LoweringError) as caught:
        lower_graph_module(trace(user_model(body, norm=nn.BatchNorm2d(4))), IMAGE)  # no shapes: who knows what reshape does
    assert expected in str(caught.value)


# --- opaque calls --------------------------------------------------------------------------------------------------------


@wrap
def halves(x: torch.Tensor, factor: float) -> tuple[torch.Tensor, torch.Tensor]:
    return (x * factor, x[:, :1]) if x.sum() > -1e9 else (x, x)


def test_wrapped_function_runs_as_an_opaque_node() -> None:
    def forward(x: torch.Tensor) -> torch.Tensor:
        a, b = halves(x, 0.5)
        return a + b

    lowered = check(Function(forward), IMAGE)
    node = next(iter(lowered.graph.nodes))
    assert (node.op.name, node.attributes["id"], [v.name for v in node.results]) == (
        "opaque",
        "halves",
        ["getitem", "getitem_1"],
    )
    assert str(node.results[1].type) == "f32[2,1,6,6]"


def test_opaque_module_is_kept_as_it_was_when_lowered() -> None:
    class Scale(nn.Module):
        _hqc_leaf = True

        def __init__(self) -> None:
            super().__init__()
            self.factor = nn.Parameter(torch.tensor(2.0))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if self.training else x * self.factor

    model = nn.Sequential(Scale()).train()
    lowered = lower_graph_module(trace(model), torch.ones(1, 2))
    with torch.no_grad():
        model[0].factor.fill_(5.0)
    (call,) = lowered.opaque.values()
    assert call(np.ones((1, 2), np.float32)).tolist() == [[2.0, 2.0]]


def test_opaque_call_does_not_write_its_operands() -> None:
    lowered = lower_model(Function(lambda x: x.cumsum_(1)), torch.ones(1, 2))
    (call,) = lowered.opaque.values()
    array = np.ones((1, 2), np.float32)
    assert call(array).tolist() == [[1.0, 2.0]]
    assert array.tolist() == [[1.0, 1.0]]
