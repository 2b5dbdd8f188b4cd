"""Cat on bernoulli: with optimize_graph the members train with one scale; without it, deployment unifies and says what it costs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hqc.march import March, set_march
from hqc.nn import QuantStub
from hqc.quantization import (
    FakeQuantState,
    convert_fx,
    get_default_qat_out_qconfig,
    get_default_qat_qconfig,
    prepare_qat_fx,
    set_fake_quantize,
)
from hqc.workflow.deploy import deploy
from hqc.workflow.prepared import ObservedGraphModule


class Branches(nn.Module):
    """Two convolutions of very different ranges, one behind a pool, concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.quant = QuantStub()
        self.small, self.large, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 1), nn.Conv2d(8, 4, 1)
        self.large.weight.data *= 8

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.quant(x)
        pooled = nn.functional.max_pool2d(self.large(x), 3, 1, 1)
        return self.last(torch.cat([self.small(x), pooled], 1))


DATA = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def observed(march: March, optimize_graph: bool) -> ObservedGraphModule:
    set_march(march)
    torch.manual_seed(0)
    qconfigs = {"": get_default_qat_qconfig(), "module_name": [("last", get_default_qat_out_qconfig())]}
    model = prepare_qat_fx(Branches(), qconfigs, hybrid=True, optimize_graph=optimize_graph)
    model(DATA)
    set_fake_quantize(model, FakeQuantState.VALIDATION)
    return model


def warnings(model: ObservedGraphModule) -> list[str]:
    return [str(remark) for remark in deploy(model).remarks if remark.severity == "warning"]


def test_members_share_one_scale_with_optimize_graph_each_with_its_own_observer() -> None:
    model = observed(March.BERNOULLI, optimize_graph=True)
    small, large = model.small.activation_post_process, model.large.activation_post_process
    assert small in large.members and small.members is large.members
    assert small.activation_post_process.max_val < large.activation_post_process.max_val
    assert small.calculate_qparams()[0] == large.calculate_qparams()[0] >= large.activation_post_process.scale() / 2
    assert not warnings(model)


def test_deployment_unifies_and_warns_without_it() -> None:
    model = observed(March.BERNOULLI, optimize_graph=False)
    assert model.small.activation_post_process not in model.large.activation_post_process.members
    (warning,) = warnings(model)
    assert "small" in warning
    assert "SQNR" in warning
    assert "optimize_graph=True" in warning


def test_other_marches_requantize_and_do_not_share() -> None:
    model = observed(March.BERNOULLI2, optimize_graph=True)
    assert model.small.activation_post_process not in model.large.activation_post_process.members


@pytest.mark.parametrize("optimize_graph", [True, False])
def test_converted_model_runs_with_the_unified_scale(optimize_graph: bool) -> None:
    model = observed(March.BERNOULLI, optimize_graph)
    cat = next(node for node in deploy(model).scaled.nodes if node.op.name == "cat")
    assert len({value.quant for value in (*cat.operands, cat.result)}) == 1
    assert convert_fx(model)(DATA).shape == (2, 4, 8, 8)
