"""Exported programs and their GraphModules the whole way: writes by index and through views, layers without tensors, upsampling layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lowering_harness import compare, run_graph
from torch import Tensor, nn

import hqc
from hqc.frontend.fx import as_traceable, lower_graph_module, trace
from hqc.march import set_march
from hqc.nn import QuantStub
from hqc.quantization import (
    convert_fx,
    get_default_calib_qconfig,
    get_default_qat_qconfig,
    prepare_calibration_fx,
    prepare_qat_fx,
)


class Writes(nn.Module):
    """Writes by constant indices, through views of views, and where a mask holds."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).clone()
        index = torch.tensor([0, 2, 1])
        y[:, index] = y[:, 3:] * 2
        y[:, :, 0] = 1.0
        y[:, 0, 1:3] += 2
        y[:, :, 2][:, index, 1] = 7.0
        y[..., -1] = y[..., 0]
        y[y > 3.0] = 0.5
        return y


class Adds(nn.Module):
    """`accumulate=True`: an index that comes twice adds twice."""

    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        return y.index_put_((torch.tensor([1, 1]),), torch.ones(2, *x.shape[1:]), accumulate=True)


class Upsampled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 8, 3, 2, 1), nn.ConvTranspose2d(8, 4, 3, 2, 1, 1, groups=2)

    def forward(self, x: Tensor) -> dict[str, Any]:
        y = F.relu(self.down(x))
        return {"y": self.up(y), "rest": [F.interpolate(y, scale_factor=2.0), y.mean((2, 3))]}


class Dropping(nn.Module):
    """A dropout inside a layer of its own: the exported tree has only what holds tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.ModuleDict({"dense": nn.Linear(8, 8), "drop": nn.Dropout(0.5)})

    def forward(self, x: Tensor) -> Tensor:
        return self.block["drop"](self.block["dense"](x)) + x


class Stubbed(nn.Module):
    """A graph of ATen operators as a part of an ordinary model."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.quant, self.inner = QuantStub(), inner

    def forward(self, x: Tensor) -> Any:
        return self.inner(self.quant(x))


X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
NETWORKS = pytest.mark.parametrize("network", [Writes, Adds, Upsampled, Dropping], ids=lambda cls: cls.__name__)


def exported(network: type[nn.Module], dynamic: bool = False) -> tuple[nn.Module, torch.export.ExportedProgram]:
    torch.manual_seed(0)
    model = network().eval()
    shapes = ({0: torch.export.Dim("batch", min=2, max=16)},) if dynamic else None
    return model, torch.export.export(model, (X,), dynamic_shapes=shapes)


@NETWORKS
@pytest.mark.parametrize("form", ["program", "decomposed", "dynamic", "graph"])
def test_computes_what_the_model_computes(network: type[nn.Module], form: str) -> None:
    model, program = exported(network, dynamic=form == "dynamic" and network is not Adds)
    given: Any = {"decomposed": lambda: program.run_decompositions(), "graph": program.module}.get(form, lambda: program)()
    lowered = lower_graph_module(trace(as_traceable(given)[0], X), X)
    compare(run_graph(lowered, {lowered.graph.inputs[0].name: X.numpy()}), model(X), 1e-5)


@NETWORKS
@pytest.mark.parametrize("form", ["program", "part"])
def test_goes_the_whole_way(network: type[nn.Module], form: str) -> None:
    set_march("bayes")
    model, program = exported(network)
    given: Any = program if form == "program" else Stubbed(program.module())
    before = dict(given.named_parameters()) if form == "part" else {}
    options: Any = {"hybrid": True, "example_inputs": (X,)}
    calibrated = prepare_calibration_fx(given, {"": get_default_calib_qconfig()}, **options).eval()
    compare_close(calibrated(X), model(X), 1e-5)
    convert_fx(calibrated)
    prepared = prepare_qat_fx(given, {"": get_default_qat_qconfig()}, **options)
    prepared(X)
    prepared.eval()
    compare_close(convert_fx(prepared)(X), model(X), 0.2)
    if form == "part":
        assert all(parameter is before[name] for name, parameter in given.named_parameters())


def test_upsampling_layers_are_layers_and_dropouts_act_in_training() -> None:
    set_march("bayes")
    _, program = exported(Upsampled)
    assert any(isinstance(module, nn.ConvTranspose2d) for module in trace(program).modules())
    model, program = exported(Dropping)
    options: Any = {"hybrid": True, "example_inputs": (X,)}
    prepared = prepare_calibration_fx(program, {"": get_default_calib_qconfig()}, **options)
    assert not torch.equal(prepared.train()(X), prepared(X))
    compare_close(prepared.eval()(X), model(X), 1e-5)


def test_graph_of_aten_operators_compiles() -> None:
    model, program = exported(Upsampled)
    compiled = hqc.compile(program.module(), X, march="bayes", calibration_data=[X])
    assert torch.as_tensor(compiled.simulate(X)["y"]).shape == model(X)["y"].shape


def compare_close(found: Any, expected: Any, share: float) -> None:
    flat = torch.utils._pytree.tree_leaves
    for one, two in zip(flat(found), flat(expected), strict=True):
        one = torch.as_tensor(getattr(one, "dequantize", lambda one=one: one)())
        assert one.shape == two.shape
        assert (one - two).abs().max() <= share * two.abs().max()
