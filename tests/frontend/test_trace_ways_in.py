"""What may be given as a model and as inputs, and what tracing does to other threads."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lowering_harness import compare, run_graph
from torch import nn

import hqc
from hqc.errors import InputError, ShapeError, TraceError
from hqc.frontend.fx import as_traceable, leaf_paths, lower_graph_module, trace
from hqc.frontend.fx.assumptions import check_assumption


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Linear(8, 4)
        self.drop, self.scale = nn.Dropout(0.1), nn.Parameter(torch.ones(4))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = F.relu(self.norm(self.conv(x)), inplace=True)
        x = F.interpolate(F.max_pool2d(x, 2), scale_factor=2, mode="nearest") + x
        crop = x[:, 1:3, -2]
        y = self.drop(F.gelu(self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1)))) * self.scale
        a, b = y.chunk(2, 1)
        return {"out": torch.cat([a, b.sigmoid()], 1).softmax(-1), "crop": crop}


X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def same_as_eager(model: Any, reference: nn.Module, *inputs: torch.Tensor) -> None:
    traced = trace(as_traceable(model)[0], inputs)
    lowered = lower_graph_module(traced, inputs)
    with torch.no_grad():
        expected = reference(*inputs)
    compare(run_graph(lowered, {v.name: t.numpy() for v, t in zip(lowered.graph.inputs, inputs, strict=True)}), expected, 1e-5)


def test_exported_program_is_a_graph_of_ordinary_calls() -> None:
    model = Net().eval()
    program = torch.export.export(model, (X,))
    same_as_eager(program, model, X)
    traced = trace(program)  # type: ignore[arg-type]
    assert not any(isinstance(node.target, torch._ops.OpOverload) for node in traced.graph.nodes)
    assert dict(traced.named_parameters()).keys() == dict(model.named_parameters()).keys()
    assert isinstance(hqc.lower(program, X).name, str)  # type: ignore[arg-type]


def test_exported_program_keeps_nested_inputs() -> None:
    class Nested(nn.Module):
        def forward(self, pair: tuple[torch.Tensor, dict[str, torch.Tensor]], *, bias: torch.Tensor) -> torch.Tensor:
            return pair[0] * pair[1]["scale"] + bias

    pair, bias = (X, {"scale": X + 1}), X - 1
    traced = trace(torch.export.export(Nested(), (pair,), {"bias": bias}))  # type: ignore[arg-type]
    torch.testing.assert_close(traced(pair, bias=bias), X * (X + 1) + X - 1)


class Decomposed(nn.Module):
    """Layers that decompositions take apart, or call otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.pool = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.MaxPool2d(3, 2, 1)
        self.up, self.group, self.head = nn.ConvTranspose2d(8, 4, 2, 2), nn.GroupNorm(2, 4), nn.Linear(4, 5)
        self.tokens = nn.LayerNorm(5)

    def forward(self, x: torch.Tensor) -> Any:
        y = F.relu6(self.norm(self.conv(x)))
        y, places = F.max_pool2d(self.pool(y), 2, return_indices=True)
        y = F.hardswish(self.group(self.up(y))) + F.adaptive_avg_pool2d(F.celu(x[:, :1], 0.5), 8)
        z = self.tokens(self.head(y.flatten(2).transpose(1, 2))).softmax(-1)
        return (
            F.grid_sample(y, z[..., :2].reshape(2, 8, 8, 2), align_corners=False) * F.hardsigmoid(F.selu(y)),
            z.norm(dim=-1),
            places,
        )


def test_decomposed_program_has_the_layers_of_the_model() -> None:
    """Core ATen: `convolution`, `addmm` with a transposed weight, pools with indices and their like are read as what they were."""
    torch.manual_seed(0)
    model, x = Decomposed().eval(), torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    program = torch.export.export(model, (x,)).run_decompositions()
    traced = trace(program)
    for got, expected in zip(traced(x), model(x), strict=True):
        torch.testing.assert_close(got, expected)
    assert {type(module) for module in traced.modules()} >= {nn.Conv2d, nn.BatchNorm2d}
    own, read = (Counter(node.op.name for node in hqc.lower(item, x).nodes) for item in (model, program))
    for name in (
        "conv2d",
        "conv_transpose2d",
        "linear",
        "max_pool2d",
        "batch_norm",
        "group_norm",
        "layer_norm",
        "softmax",
        "grid_sample",
    ):
        assert read[name] == own[name], name


def test_program_with_torch_vmap_leaves_torch_as_it_was() -> None:
    class Mapped(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.vmap(lambda row: row * 2 + row.mean())(x)

    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    traced = trace(torch.export.export(Mapped(), (x,)))
    torch.testing.assert_close(traced(x), Mapped()(x))
    torch.rand(1)  # raises inside of a vmap that nobody left


def test_program_exported_in_training_mode_is_refused() -> None:
    program = torch.export.export(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train(), (X,))
    with pytest.raises(InputError, match="exported in training mode"):
        trace(program)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_give_a_converted_copy(dtype: torch.dtype, caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).to(dtype)
    converted, (sentence,) = as_traceable(model)
    assert str(dtype).removeprefix("torch.") in sentence
    assert {tensor.dtype for tensor in model.state_dict().values()} == {dtype, torch.int64}
    assert {tensor.dtype for tensor in converted.state_dict().values()} == {torch.float32, torch.int64}
    with caplog.at_level(logging.WARNING):
        hqc.lower(model, X)
    assert sentence in caplog.text


def test_float32_models_are_not_copied() -> None:
    model = Net()
    assert as_traceable(model) == (model, [])


def test_unborn_models_are_refused_in_one_sentence() -> None:
    lazy = nn.Sequential(nn.LazyConv2d(4, 1), nn.ReLU())
    with pytest.raises(InputError, match="0: lazy modules whose sizes are not known yet; run the model once"):
        hqc.lower(lazy, X)
    lazy(X)
    same_as_eager(lazy, lazy, X)


def test_arguments_of_the_example_inputs_are_checked() -> None:
    class Two(nn.Module):
        def forward(self, x: torch.Tensor, mode: str = "sum", factor: float = 1.0) -> torch.Tensor:
            return x * factor if mode == "sum" else x

    assert "mul" in [node.name for node in trace(Two(), (X, "sum", 2.0)).graph.nodes]
    assert "mul" not in [node.name for node in trace(Two(), {"x": X, "mode": "max"}).graph.nodes]
    fixed = [str(item) for item in trace(Two(), (X, "sum", 2.0)).meta["hqc_assumptions"]]
    assert fixed == [
        "the graph is right where `mode` is sum, as with the example inputs",
        "the graph is right where `factor` is 2.0, as with the example inputs",
    ]
    with pytest.raises(InputError, match="the model has no input y; it takes x, mode, factor"):
        trace(Two(), {"x": X, "y": X})


class Steered(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[2] % 4:
            x = F.pad(x, (0, 0, 0, 1))
        for i in range(x.shape[3]):
            x = x + i
        return x if x.dim() == 4 else x * 2


def test_assumptions_about_sizes_are_recorded_with_their_lines() -> None:
    line = Steered.forward.__code__.co_firstlineno
    found = trace(Steered(), torch.zeros(1, 3, 8, 2)).meta["hqc_assumptions"]
    assert [str(item) for item in found] == [
        f"test_trace_ways_in.py:{line + 1}: the graph is right where `x.shape[2] % 4` is 0, as with the example inputs",
        f"test_trace_ways_in.py:{line + 3}: the graph is right where `x.shape[3]` is 2, as with the example inputs",
    ]
    assert [(item.node, item.value) for item in found] == [("mod", False), ("getitem_1", 2)]
    check_assumption(0, False, True, str(found[0]))
    with pytest.raises(ShapeError, match="these inputs give 3: prepare the model again"):
        check_assumption(3, False, True, str(found[0]))


class OnData(nn.Module):
    def forward(self, x: torch.Tensor, flip: bool = False) -> torch.Tensor:
        y = x * 2
        if y.mean() > 0:
            y = -y
        return y


def test_branch_on_data_is_refused_with_its_line_and_cures() -> None:
    line = OnData.forward.__code__.co_firstlineno + 2
    with pytest.raises(TraceError, match=rf"^test_trace_ways_in\.py:{line}: a branch tests the value of `gt`.*leaf_modules"):
        trace(OnData(), X)
    model = nn.Sequential(OnData(), nn.ReLU())
    assert leaf_paths(model, [model[0], nn.ReLU]) == ["0", nn.ReLU]
    assert "call_module" in [node.op for node in trace(model, X, leaf_modules=["0"]).graph.nodes]


def test_no_proxy_stays_behind() -> None:
    import gc

    from hqc.frontend.fx.proxies import RecordingProxy

    class Keeps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cache: dict[Any, Any] = {"a": [1]}
            self.seen: set[Any] = set()
            self.holder = Holder()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.cache[x.shape[2]] = x
            self.cache["a"].append(x)
            self.seen.add(x.shape[3])
            self.holder.last = x
            return x * 2

    model = Keeps()
    trace(model, X)
    assert model.cache == {"a": [1]}
    assert model.seen == set()
    assert not vars(model.holder)
    gc.collect()
    # isinstance would ask dead weak proxies; proxies of other tests' models are not this one's
    found = [item for item in gc.get_objects() if issubclass(type(item), RecordingProxy)]
    assert not any(getattr(object.__getattribute__(item, "tracer"), "root", None) is model for item in found)


class Holder:
    """A plain object that a model holds."""


# --- threads ---------------------------------------------------------------------------------------------------------------


class Slow(Net):
    """Lets other threads run in the middle of its trace."""

    gate: threading.Event | None = None
    inside: threading.Event | None = None

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = x * 1
        if self.inside is not None and self.gate is not None:
            self.inside.set()
            assert self.gate.wait(30)
        return super().forward(x)


def test_other_threads_run_models_while_one_traces() -> None:
    """Modules, factories, `math`, and functions whose code the trace has swapped do what they did."""
    Slow.gate, Slow.inside = threading.Event(), threading.Event()
    try:
        model, other = Slow().eval(), Net().eval()
        expected = other(X)
        results: list[Any] = []
        tracing = threading.Thread(target=lambda: results.append(trace(model, X)))
        tracing.start()
        assert Slow.inside.wait(30)
        got = other(X)
        assert torch.equal(torch.arange(3), torch.tensor([0, 1, 2]))
        assert int(torch.tensor(3)) == 3 and isinstance(X, torch.Tensor)
        Slow.gate.set()
        tracing.join()
    finally:
        Slow.gate = Slow.inside = None
    for key, value in expected.items():
        assert torch.equal(value, got[key])
    assert [node.name for node in results[0].graph.nodes][1:] == [
        "mul",
        *[n.name.replace("mul", "mul_1") for n in trace(other, X).graph.nodes][1:],
    ]


def test_traces_of_several_threads_are_as_good_as_one() -> None:
    models = [Net().eval() for _ in range(6)]
    expected = [node.name for node in trace(models[0], X).graph.nodes]
    results: dict[int, list[str]] = {}

    def work(index: int) -> None:
        for _ in range(3):
            models[index](X)
            results[index] = [node.name for node in trace(models[index], X).graph.nodes]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(models))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == dict.fromkeys(range(6), expected)


def test_patches_are_gone_after_a_trace() -> None:
    before = (nn.Module.__call__, nn.Module.__getattr__, torch.arange, torch.autocast.__init__, Steered.forward.__code__)
    trace(Steered(), torch.zeros(1, 3, 8, 2))
    with pytest.raises(TraceError):
        trace(OnData(), X)
    assert before == (
        nn.Module.__call__,
        nn.Module.__getattr__,
        torch.arange,
        torch.autocast.__init__,
        Steered.forward.__code__,
    )


class TakesMore(nn.Module):
    def forward(self, x: torch.Tensor, **more: torch.Tensor) -> torch.Tensor:
        return x * 2


def test_inputs_that_only_keywords_take_are_named() -> None:
    x = torch.randn(1, 4)
    with pytest.raises(InputError, match="forward takes other by name only"):
        hqc.explain(TakesMore(), {"x": x, "other": x}, march="bayes")
    assert [row.name for row in hqc.explain(TakesMore(), {"x": x}, march="bayes").placement.rows] == ["mul"]
    with pytest.raises(InputError, match="forward takes other by name only"):
        hqc.explain(TakesOnlyMore(), {"other": x}, march="bayes")
    with pytest.raises(InputError, match="forward takes gain by name only"):
        hqc.explain(GainBehindMany(), {"x": x, "gain": x}, march="bayes")


class TakesOnlyMore(nn.Module):
    def forward(self, **more: torch.Tensor) -> torch.Tensor:
        return more["other"] * 2


class GainBehindMany(nn.Module):
    def forward(self, x: torch.Tensor, *others: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
        return x * gain


class NamedImage(nn.Module):
    def forward(self, *, image: torch.Tensor) -> torch.Tensor:
        return image * 2


class NamedGain(nn.Module):
    def forward(
        self, x: torch.Tensor, doubled: bool = True, *, gain: torch.Tensor, offset: torch.Tensor | None = None
    ) -> torch.Tensor:
        y = x * gain if doubled else x
        return y if offset is None else y + offset


@pytest.mark.parametrize(
    ("model", "names"),
    [(NamedImage(), ["image"]), (NamedGain(), ["x", "gain"]), (NamedGain(), ["offset", "gain", "x"])],
)
def test_inputs_by_name_only_are_inputs_behind_the_positional_ones(model: nn.Module, names: list[str]) -> None:
    given = {name: torch.randn(1, 4, generator=torch.Generator().manual_seed(index)) for index, name in enumerate(names)}
    torch.testing.assert_close(trace(model, given)(**given), model(**given))
    compiled = hqc.compile(model, given, march="bayes", calibration_data=[given])
    torch.testing.assert_close(torch.as_tensor(compiled.simulate(given)), model(**given), atol=0.1, rtol=0.0)


def test_an_input_by_name_only_that_is_left_out_is_named() -> None:
    with pytest.raises(InputError, match="example inputs lack gain"):
        hqc.explain(NamedGain(), {"x": torch.randn(1, 4)}, march="bayes")


class NestedWithViewWrites(nn.Module):
    """Writes through views, of what is read later, between nested inputs and outputs."""

    def forward(self, given: dict[str, Any]) -> dict[str, Any]:
        y = given["images"][0] * 2
        y[:, 1:3].add_(1)
        rows = y.view(1, 4, -1)
        rows[:, 0] = 0.0
        y[..., 2:4].mul_(given["images"][1]["gain"])
        return {"all": [y + 0, (rows.sum(-1),)], "mean": y.mean((2, 3))}


def test_program_with_nested_inputs_and_view_writes_is_what_eager_computes() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(1, 4, 8, 8, generator=generator)
    given = {"images": [images, {"gain": torch.rand(1, 1, 1, 2, generator=generator)}]}
    model = NestedWithViewWrites()
    program = torch.export.export(model, (given,))
    compiled = hqc.compile(program, (given,), march="bayes", calibration_data=[(given,)])
    result, expected = compiled.simulate(given), model(given)
    assert result.keys() == expected.keys()
    for got, wanted in (
        (result["all"][0], expected["all"][0]),
        (result["all"][1][0], expected["all"][1][0]),
        (result["mean"], expected["mean"]),
    ):
        spread = float(wanted.abs().max())
        torch.testing.assert_close(torch.as_tensor(got), wanted, atol=0.05 * spread, rtol=0.0)
