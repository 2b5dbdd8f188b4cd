"""Models whose Python code takes no proxies: the graph comes from torch.export, over the model's own tree."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lowering_harness import compare, run_graph
from torch import Tensor, nn

import hqc
from hqc.errors import TraceError
from hqc.frontend.fx import lower_graph_module, trace
from hqc.frontend.fx.locations import MODULE_META, SOURCE_META, TYPES_META
from hqc.march import set_march
from hqc.nn import QuantStub
from hqc.quantization import get_default_qat_qconfig, prepare_qat_fx

needs_vmap = pytest.mark.skipif(torch.__version__.startswith("2.4."), reason="export of torch 2.4 does not take vmap")


class Standardized(nn.Conv2d):
    """A convolution that is not just that: of another weight."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(F.pad(x, (1, 1, 1, 1)), weight, self.bias)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 4).reshape(4, 1, 1))
        self.plain = torch.linspace(-1, 1, 4).reshape(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x))) * self.scale + self.plain


class ThroughVmap(nn.Module):
    """`torch.vmap` takes no proxies."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.standardized = Block(), Standardized(4, 4, 3)
        self.again = self.block

    def forward(self, x: Tensor, flag: bool = True, shift: Tensor | None = None) -> dict[str, Any]:
        y = self.standardized(self.again(self.block(x))) + torch.tensor([0.5])
        if flag:
            y = torch.vmap(lambda row: row * 2 + 1)(y)
        y[:, 0].add_(1.0)
        return {"y": y, "rest": [y.mean((2, 3)) if shift is None else y + shift]}


X = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))


def model_of() -> ThroughVmap:
    torch.manual_seed(0)
    return ThroughVmap().eval()


@needs_vmap
@pytest.mark.parametrize("example", [X, (X, False), {"x": X, "shift": X[:1]}], ids=["plain", "constant", "by name"])
def test_computes_what_torch_computes(example: Any) -> None:
    model = model_of()
    before = {path: repr(vars(module)) for path, module in model.named_modules()}
    traced = trace(model, example)
    assert {path: repr(vars(module)) for path, module in model.named_modules()} == before
    args, named = ((), example) if isinstance(example, dict) else (example if isinstance(example, tuple) else (example,), {})
    with torch.no_grad():
        expected = model(*args, **named)
    lowered = lower_graph_module(traced, example)
    tensors = [item for item in (*args, *named.values()) if isinstance(item, Tensor)]
    feeds = {value.name: item.numpy() for value, item in zip(lowered.graph.inputs, tensors, strict=True)}
    compare(run_graph(lowered, feeds), expected, 1e-5)


@needs_vmap
def test_graph_is_over_the_models_own_modules() -> None:
    model = model_of()
    traced = trace(model, X)
    called = {node.target: node for node in traced.graph.nodes if node.op == "call_module"}
    assert {"block.conv", "block.norm"} <= set(called) and not any("standardized" in str(path) for path in called)
    assert traced.get_submodule("block.conv") is model.block.conv
    assert dict(traced.named_parameters()).keys() == dict(model.named_parameters()).keys()
    conv = called["block.conv"]
    assert conv.meta[MODULE_META] == "block.conv"
    assert [name.rpartition(".")[2] for name in conv.meta[TYPES_META]] == ["ThroughVmap", "Block", "Conv2d"]
    assert conv.meta[SOURCE_META].startswith("test_exported_trace.py:")
    assert "torch.export" in traced.meta["hqc_warnings"][0] and "test_exported_trace.py" in traced.meta["hqc_warnings"][0]


@needs_vmap
def test_goes_the_whole_way(tmp_path: Path) -> None:
    compiled = hqc.compile(model_of(), X, march="bayes", calibration_data=[X])
    assert compiled.simulate(X)["y"].shape == (2, 4, 6, 6)
    assert compiled.export(tmp_path / "net.onnx", flavour="runnable").executed
    set_march("bayes")
    prepared = prepare_qat_fx(Stubbed().eval(), {"": get_default_qat_qconfig()}, hybrid=True, example_inputs=(X,))
    assert any(type(module).__name__ == "QuantStub" for module in prepared.modules())
    prepared(X)["y"].square().mean().backward()
    assert all(parameter.grad is not None for parameter in prepared.parameters())


class Stubbed(ThroughVmap):
    def __init__(self) -> None:
        super().__init__()
        self.quant = QuantStub()

    def forward(self, x: Tensor) -> Any:  # type: ignore[override]
        return super().forward(self.quant(x))


class Counting(ThroughVmap):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Any:  # type: ignore[override]
        self.count.add_(1)
        return super().forward(x * self.count)


class BranchesOnData(ThroughVmap):
    def forward(self, x: Tensor) -> Any:  # type: ignore[override]
        return super().forward(x if x.sum() > 0 else -x)


class ReadsANumber(ThroughVmap):
    def forward(self, x: Tensor) -> Any:  # type: ignore[override]
        return super().forward(x * x.max().item())


@pytest.mark.parametrize("cls", [Counting, BranchesOnData, ReadsANumber])
def test_what_export_would_get_wrong_is_refused_with_the_first_reason(cls: type[nn.Module]) -> None:
    with pytest.raises(TraceError, match=r"test_exported_trace\.py:\d+: "):
        trace(cls().eval(), X)


def test_modules_that_shall_be_leaves_are_not_opened() -> None:
    with pytest.raises(TraceError, match=r"test_exported_trace\.py:\d+: "):
        trace(model_of(), X, leaf_modules=["block"])


def test_names_of_inputs_may_have_gaps(tmp_path: Path) -> None:
    class Gaps(nn.Module):
        def forward(self, x: Tensor, k: int = 3, m: Tensor | None = None, z: Tensor | None = None) -> Tensor:
            assert m is None
            return x * k if z is None else x * k + z

    example = {"x": X, "z": X + 1}
    assert hqc.explain(copy.deepcopy(Gaps()), example, march="bayes").graph.inputs[1].name == "z"
    compiled = hqc.compile(Gaps(), example, march="bayes", calibration_data=[example])
    assert abs(compiled.simulate(example) - (X * 3 + X + 1).numpy()).max() < 0.5
    assert compiled.export(tmp_path / "gaps.onnx", flavour="runnable").executed


class ManyTensors(nn.Module):
    """Functions of any number of tensors, whose operators take a list."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = torch.vmap(lambda row: row.sum())(x)
        a, b = torch.broadcast_tensors(x, y[:, None])
        return a + b, torch.block_diag(x, x), torch.einsum("ij,kj->ik", a, x), *torch.meshgrid(y, y, indexing="ij")


@needs_vmap
def test_functions_of_any_number_of_tensors() -> None:
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    traced = trace(ManyTensors(), x)
    assert "torch.export" in traced.meta["hqc_warnings"][0]
    torch.testing.assert_close(traced(x), ManyTensors()(x))
