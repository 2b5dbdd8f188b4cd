"""Tracing: leaves, names, locations, warnings, and no effect on the model."""

from __future__ import annotations

import copy
import functools
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.ao.nn.quantized import FloatFunctional
from torch.ao.quantization import DeQuantStub, QuantStub

import hqc
import hqc.frontend.fx
from hqc.errors import InputError, LoweringError, TraceError
from hqc.frontend.fx import proxies, trace


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.prelu = nn.PReLU()

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return F.selu(self.prelu(self.conv(input)))


class Hybrid(nn.Module):
    """The shape of the guide's example, with a FloatFunctional."""

    def __init__(self) -> None:
        super().__init__()
        self.quant = QuantStub()
        self.conv0 = nn.Conv2d(3, 3, 1)
        self.block = Block()
        self.unused = nn.ReLU()
        self.add = FloatFunctional()
        self.identity = nn.Identity()
        self.dequant = DeQuantStub()

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        x = self.identity(self.conv0(self.quant(input)))
        x = self.block(x)
        x = self.identity(x)
        return self.dequant(self.add.add(x, F.selu(x)))


def names(gm: torch.fx.GraphModule) -> list[str]:
    return [node.name for node in gm.graph.nodes]


def test_node_names_are_those_of_stock_fx() -> None:
    expected = "input_1 quant conv0 identity block_conv block_prelu selu identity_1 selu_1 add add_1 dequant output"
    gm = trace(Hybrid())
    assert names(gm) == expected.split()
    kinds = {node.name: node.op for node in gm.graph.nodes}
    assert (kinds["add"], kinds["add_1"], kinds["quant"]) == ("get_attr", "call_method", "call_module")


def test_tree_keeps_unused_modules_in_order_and_class() -> None:
    gm = copy.deepcopy(trace(Hybrid()))
    assert list(gm._modules) == ["quant", "conv0", "block", "unused", "add", "identity", "dequant"]
    assert type(gm.block) is Block


def test_locations_name_the_users_line_and_the_enclosing_modules() -> None:
    metas = {node.name: node.meta for node in trace(Hybrid()).graph.nodes}
    first = Block.forward.__code__.co_firstlineno
    assert metas["selu"]["hqc_source"] == f"test_trace.py:{first + 1}"
    assert metas["selu"]["hqc_module"] == "block"
    assert metas["block_conv"]["hqc_module"] == "block.conv"
    assert [name.rpartition(".")[2] for name in metas["block_conv"]["hqc_module_types"]] == ["Hybrid", "Block", "Conv2d"]
    assert metas["add_1"]["hqc_module"] == "add"


def test_sequential_models_have_no_user_line() -> None:
    gm = trace(nn.Sequential(nn.Conv2d(1, 1, 1), nn.Sequential(nn.ReLU())))
    assert {node.meta["hqc_source"] for node in gm.graph.nodes} == {""}
    assert [node.meta["hqc_module"] for node in gm.graph.nodes][1:3] == ["0", "1.0"]


def test_traced_module_survives_copy_pickle_and_second_trace_under_the_same_names() -> None:
    gm = trace(Hybrid())
    x = torch.randn(1, 3, 4, 4)
    for other in (copy.deepcopy(gm), pickle.loads(pickle.dumps(gm)), trace(gm)):
        assert names(other) == names(gm)
        assert torch.equal(other(x), gm(x))
    assert [n.meta["hqc_source"] for n in trace(gm).graph.nodes] == [n.meta["hqc_source"] for n in gm.graph.nodes]


def test_graph_module_of_stock_fx_gets_locations() -> None:
    gm = trace(torch.fx.symbolic_trace(nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU())))
    assert [node.meta["hqc_module"] for node in gm.graph.nodes][1:3] == ["0", "1"]


class Stateful(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(2))
        self.conv = nn.Conv2d(3, 3, 1)
        self.last: Any = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1
        self.last = x
        self.conv.note = x
        if self.training:
            x = x * 2
        return self.conv(x) + torch.tensor([1.0])


def test_model_is_left_as_it_was() -> None:
    model = Stateful()
    model.conv.eval()
    before = {name: set(module.__dict__) for name, module in model.named_modules()}
    gm = trace(model)
    assert {name: set(module.__dict__) for name, module in model.named_modules()} == before
    assert model.training
    assert not model.conv.training
    assert model.last is None
    assert model.count.tolist() == [0, 0]
    assert "_tensor_constant0" in names(gm)
    assert torch.equal(gm(torch.ones(1, 3, 2, 2)), model.eval()(torch.ones(1, 3, 2, 2)))


def test_training_branch_and_changed_buffer_are_reported() -> None:
    line = Stateful.forward.__code__.co_firstlineno + 4
    warnings = trace(Stateful()).meta["hqc_warnings"]
    assert any(f"test_trace.py:{line}: a branch on self.training" in warning for warning in warnings)
    assert any("forward changes the buffer count" in warning for warning in warnings)
    assert len(warnings) == 2


def test_mode_is_restored_after_a_failure() -> None:
    class Fails(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    model = Fails()
    with pytest.raises(TraceError):
        trace(model)
    assert model.training


def _function(code: str) -> nn.Module:
    namespace: dict[str, Any] = {"torch": torch, "nn": nn}
    body = "\n".join(f"        {line}" for line in code.splitlines())
    source = f"class Model(nn.Module):\n    def forward(self, x):\n{body}\n"
    exec(compile(source, "user_net.py", "exec"), namespace)
    model: nn.Module = namespace["Model"]()
    return model


UNTRACEABLE = {
    "if x.sum() > 0:\n    x = -x\nreturn x": "user_net.py:3: a branch tests the value of `gt` (gt), computed at user_net.py:3",
    "for row in x:\n    pass\nreturn x": "user_net.py:3: a loop runs over, or a call unpacks, `x` (x)",
    "y = x + 1\nreturn y[:len(y)]": "user_net.py:4: len() of a traced tensor is not known while tracing",
    "return sum(x[i] for i in range(x.shape[0]))": "user_net.py:3: Python needs the value of a size, `getitem` (getitem), computed "
    "at user_net.py:3; give example_inputs so that sizes are known",
    "return x + int(x[0])": "user_net.py:3: Python needs the value of `getitem` (getitem), computed at user_net.py:3, which is known "
    "only when the model runs",
    "return self.missing(x)": "user_net.py:3: the model raised AttributeError while it was traced: 'Model' object has no",
    "return nn.Linear(2, 2)(x)": "user_net.py:3: a module is called that is not a submodule of Model",
}


@pytest.mark.parametrize("code", UNTRACEABLE)
def test_untraceable_code_is_explained_with_its_line(code: str) -> None:
    with pytest.raises(TraceError) as caught:
        trace(_function(code))
    message = str(caught.value)
    assert message.startswith(UNTRACEABLE[code])
    assert "\n" not in message


def test_modules_without_state_that_forward_makes_are_traced_through() -> None:
    code = "return nn.Softmax(dim=-1)(nn.Sequential(nn.ReLU(), nn.Upsample(scale_factor=2))(x))"
    gm, x = trace(_function(code)), torch.randn(1, 2, 4, 4)
    assert names(gm) == ["x", "relu", "interpolate", "softmax", "output"]
    assert torch.equal(gm(x), _function(code)(x))


MASKS = {
    "method": "mask = x.new_ones(4).long()\nmask[1:3] = 2\nif (mask == 2).sum() == 2:\n    x = -x\nreturn x",
    "through a view": "mask = x.new_zeros(2, 4)\nrow = mask[0]\nrow.add_(3.0)\nif mask.sum() == 12:\n    x = -x\nreturn x",
    "asked before": "mask = x.new_zeros(4)\nif mask.any():\n    return x\nmask.fill_(1)\nreturn -x if mask.all() else x",
    "written later": "mask = x.new_zeros(4)\ntotal = mask.sum()\nmask.fill_(1)\nreturn x if total > 0 else -x",
}


@pytest.mark.parametrize("code", MASKS.values(), ids=MASKS)
def test_branches_on_constants_that_are_written_in_place_are_known(code: str) -> None:
    x = torch.randn(2, 4)
    gm = trace(_function(code), (x,))
    assert torch.equal(gm(x), -x)


def test_a_branch_on_a_mask_that_data_is_written_into_is_refused() -> None:
    code = "mask = x.new_zeros(4)\nmask[0] = x[0, 0]\nreturn x if mask.any() else -x"
    with pytest.raises(TraceError, match="a branch tests the value of `any_1`"):
        trace(_function(code), (torch.randn(2, 4),))


def test_branch_error_offers_the_ways_out() -> None:
    with pytest.raises(TraceError, match=r"concrete_args.*leaf_modules.*hqc\.frontend\.fx\.wrap"):
        trace(_function("return x if x.sum() > 0 else -x"))


@hqc.frontend.fx.wrap
def keep_positive(x: torch.Tensor, floor: float = 0.0) -> torch.Tensor:
    return x if x.sum() > floor else -x


class Wrapped(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return keep_positive(x * 2, floor=1.0)


def test_wrapped_function_is_one_node_and_still_callable() -> None:
    gm = trace(Wrapped())
    assert names(gm) == ["x", "mul", "keep_positive", "output"]
    x = torch.full((2,), -1.0)
    assert torch.equal(gm(x), Wrapped()(x))
    assert names(pickle.loads(pickle.dumps(gm))) == names(gm)


class Leaf(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


class Declared(Leaf):
    _hqc_leaf = True


@pytest.mark.parametrize("chosen", [Leaf, "0", "instance"])
def test_leaf_modules_by_class_path_or_instance(chosen: Any) -> None:
    model = nn.Sequential(Leaf(), nn.ReLU())
    gm = trace(model, leaf_modules=[model[0] if chosen == "instance" else chosen])
    assert [node.op for node in gm.graph.nodes] == ["placeholder", "call_module", "call_module", "output"]


def test_class_that_declares_itself_a_leaf() -> None:
    assert "call_module" in [node.op for node in trace(nn.Sequential(Declared())).graph.nodes]


def test_subclass_of_a_torch_module_is_a_leaf_only_while_it_keeps_the_code() -> None:
    class Named(nn.Conv2d):
        def __init__(self) -> None:
            super().__init__(3, 3, 1)

    class Standardized(Named):
        def _conv_forward(self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
            return super()._conv_forward(input, weight - weight.mean(), bias)

    assert [node.op for node in trace(nn.Sequential(Named())).graph.nodes][1] == "call_module"
    assert "call_function" in [node.op for node in trace(nn.Sequential(Standardized())).graph.nodes]


class Optional_(nn.Module):
    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None, double: bool = False) -> torch.Tensor:
        if mask is not None:
            x = x * mask
        return x * 2 if double else x


def test_defaults_are_constants_unless_asked_for() -> None:
    model = Optional_()
    assert names(trace(model)) == ["x", "mask", "double", "output"]
    assert "mul" in names(trace(model, symbolic_args=["mask"]))
    assert "mul" in names(trace(model, concrete_args={"double": True}))
    x = torch.ones(2)
    assert torch.equal(trace(model)(x), x)
    with pytest.raises(InputError, match="forward has no argument masks; it has x, mask, double"):
        trace(model, concrete_args={"masks": None})


def test_float_functional_in_a_module_list() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.adds = nn.ModuleList(FloatFunctional() for _ in range(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.adds[1].mul_scalar(self.adds[0].add(x, x), 2.0)

    gm = trace(Model())
    assert [node.op for node in gm.graph.nodes] == [
        "placeholder",
        "get_attr",
        "call_method",
        "get_attr",
        "call_method",
        "output",
    ]
    assert torch.equal(gm(torch.ones(2)), torch.full((2,), 4.0))


def test_assignment_to_a_slice_is_recorded() -> None:
    gm = trace(_function("x = x.clone()\nx[:, 0] = 2.0\nreturn x"))
    assert "setitem" in names(gm)
    assert gm(torch.zeros(1, 2)).tolist() == [[2.0, 0.0]]


def test_input_that_is_no_module_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"the model must be a torch\.nn\.Module or a torch\.export\.ExportedProgram, got function"
    ):
        trace(lambda x: x)  # type: ignore[arg-type]


class Asserts(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.dim() == 4 and x.shape[1] == 3, (
            "images"  # on more than one line
        )
        return x.relu()


def test_assertions_about_shapes_leave_no_nodes() -> None:
    assert names(trace(Asserts())) == ["x", "relu", "output"]


SIZES = {
    "one_size": lambda x: torch.flatten(x, x.dim() - 2),
    "sizes": lambda x: F.avg_pool2d(x, x.size()[2:]),
    "sizes_in_a_tuple": lambda x: torch.reshape(x, (x.size(0), -1)),
    "sizes_and_a_number": lambda x: torch.reshape(x, (*x.size()[:1], -1)),
    "by_name": lambda x: F.avg_pool2d(x, kernel_size=x.size()[2:]),
    "one_of_two_overloads": lambda x: torch.movedim(x, x.dim() - 1, 1),
    "factory": lambda x: x + torch.zeros(x.size()),
}


@pytest.mark.parametrize("torch_takes_proxies", [True, False])
@pytest.mark.parametrize("name", SIZES)
def test_sizes_and_dimensions_of_compiled_functions_may_be_traced(name, torch_takes_proxies, monkeypatch):
    """In torch 2.4 compiled functions refuse proxies for numbers; the patches for that hold on any torch."""
    if not torch_takes_proxies:
        monkeypatch.setattr(proxies, "takers_of_plain_numbers", proxies.compiled_functions)
    before = {where: getattr(*where) for where in proxies.compiled_functions()}

    class Net(nn.Module):
        def forward(self, x):
            return SIZES[name](x)

    x = torch.rand(2, 3, 4, 5)
    traced = trace(Net(), (x,))
    torch.testing.assert_close(traced(x), Net()(x))
    assert all(getattr(*where) is function for where, function in before.items())


HELD = {  # as `from torch.nn.functional import interpolate` holds them: taken before anything is traced
    "interpolate": functools.partial(F.interpolate, scale_factor=2, mode="bilinear"),
    "upsample": functools.partial(F.upsample, scale_factor=2),
    "unfold": functools.partial(F.unfold, kernel_size=2),
    "adaptive_avg_pool2d": functools.partial(F.adaptive_avg_pool2d, output_size=1),
    "max_pool2d": functools.partial(F.max_pool2d, kernel_size=2),
    "softmax": functools.partial(F.softmax, dim=1),
    "pad": functools.partial(F.pad, pad=(1, 1)),
}


@pytest.mark.parametrize("name", HELD)
def test_functions_that_a_model_holds_are_nodes_of_torchs_own(name: str) -> None:
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.call = HELD[name]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.call(x)

    x = torch.rand(1, 4, 8, 8)
    targets = [node.target for node in trace(Holder(), (x,)).graph.nodes if node.op == "call_function"]
    stock = [node.target for node in fx.symbolic_trace(Holder()).graph.nodes if node.op == "call_function"]
    assert targets == stock


def test_a_sparse_tensor_that_is_written_has_no_memory_to_look_for() -> None:
    """Beside a branch on a mask that forward fills: the search for who wrote the mask met the sparse tensor (found by the fuzzer)."""

    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            rows = x.to_sparse()
            rows.mul_(2.0)
            mask = x.new_ones(3)
            mask[0] = 0.0
            return x * 2.0 if mask.sum() > 1.0 else rows.to_dense()

    with pytest.raises(LoweringError, match="to_sparse returns a sparse_coo tensor"):
        hqc.explain(Net(), (torch.randn(1, 3),), march="bayes")


class ListOfAsMany(nn.Module):
    def forward(self, x):
        rows = torch.stack(x.size(1) * (x.sum(1),), 1)
        return torch.cat([rows] * x.size(0)) + x.new_zeros([1] * x.dim()) + sum([1] * x.shape[-1])


def test_a_list_times_a_size_is_a_list_of_as_many():
    x = torch.rand(2, 3, 4)
    traced = trace(ListOfAsMany().eval(), x)
    torch.testing.assert_close(traced(x), ListOfAsMany()(x))


class Normed(nn.Module):
    """A block of self attention in the words of one for cross attention: the second input is None, and its norm nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.norm_of_other = nn.LayerNorm(4), nn.Identity()

    def forward(self, x: torch.Tensor, other: torch.Tensor | None = None) -> torch.Tensor:
        x, other = self.norm(x), self.norm_of_other(other)
        return x if other is None else x + other


def test_an_identity_of_nothing_is_nothing() -> None:
    model, x = Normed(), torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    assert names(trace(model, x)) == ["x", "other", "norm", "output"]
    torch.testing.assert_close(trace(model, (x, x))(x, x), model(x, x))


class ReplacesItsMean(nn.Module):
    def __init__(self):
        super().__init__()
        self.mean = torch.tensor([1.0, 2.0, 3.0])

    def forward(self, x):
        self.mean = self.mean.type_as(x)
        centred = x - self.mean
        batch, channels = centred.shape
        return centred.view(batch, channels, 1) * channels + self.mean.view(1, -1, 1)


def test_a_shape_behind_an_attribute_that_forward_replaces_is_known():
    x = torch.rand(2, 3)
    model = ReplacesItsMean()
    torch.testing.assert_close(trace(model, x)(x), ReplacesItsMean()(x))
    assert torch.equal(model.mean, torch.tensor([1.0, 2.0, 3.0]))


def test_a_tensor_of_unknown_shape_is_a_tensor_and_named_where_its_length_is_asked() -> None:
    class Model(nn.Module):
        def forward(self, x: Any) -> Any:
            found = torch.unique((x * 4).int())
            if not isinstance(found, torch.Tensor):
                raise TypeError("another framework's")
            return x.sum() + len(found)

    with pytest.raises(TraceError, match=r"length of `unique`.*has no shape that is known"):
        trace(Model(), (torch.rand(8),))
