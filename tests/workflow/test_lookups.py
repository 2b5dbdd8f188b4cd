"""Tables that are looked up by int32 indices on the BPU: embeddings, and parameters that forward indexes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import hqc
from hqc.march import set_march
from hqc.nn import DeQuantStub, QuantStub
from hqc.quantization import convert_fx, get_default_qat_qconfig, prepare_qat_fx
from hqc.utils.onnx_helper import export_to_onnx

_T = torch.Tensor


class Lookup(nn.Module):
    def __init__(self, take: Callable[[nn.Embedding, _T], _T]) -> None:
        super().__init__()
        self.table, self.linear, self.take = nn.Embedding(5, 8), nn.Linear(8, 8), take
        self.quant, self.dequant = QuantStub(), DeQuantStub()

    def forward(self, x: _T, ids: _T) -> _T:
        y = self.linear(self.quant(x)) + self.take(self.table, ids)
        return self.dequant(torch.relu(y))  # type: ignore[no-any-return]


TAKEN: dict[str, Callable[[nn.Embedding, _T], _T]] = {
    "embedding": lambda table, ids: table(ids),
    "converted": lambda table, ids: table(ids.long().int()),
    "index": lambda table, ids: table.weight[ids],
    "index_select": lambda table, ids: torch.index_select(table.weight, 0, ids[0])[None],
    "of both": lambda table, ids: table(ids) + table.weight[ids],
}
IDS = torch.tensor([[0, 3, 1, 4]], dtype=torch.int32)


def _model(take: Callable[[nn.Embedding, _T], _T]) -> tuple[nn.Module, _T]:
    torch.manual_seed(0)
    return Lookup(take).eval(), torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("march", ["bayes", "bernoulli2"])
@pytest.mark.parametrize("take", TAKEN.values(), ids=list(TAKEN))
def test_a_table_has_the_scale_of_what_is_taken(take: Callable[[nn.Embedding, _T], _T], march: str, tmp_path: Path) -> None:
    model, x = _model(take)
    compiled = hqc.compile(model, (x, IDS), march=march, calibration_data=[(x, IDS)], effort="fast")
    with torch.no_grad():
        expected = model(x, IDS).numpy()
    found = compiled.simulate(x, IDS)
    assert np.abs(found - expected).max() < 0.04 * np.abs(expected).max()
    assert compiled.export(tmp_path / "net.onnx", flavour="integer").executed


def test_an_embedding_by_int32_runs_on_the_bpu() -> None:
    model, x = _model(TAKEN["embedding"])
    rows = {row.op: row.device for row in hqc.explain(model, (x, IDS), march="bayes").placement.rows}
    assert rows["gather"] == "bpu"


@pytest.mark.parametrize("name", ["embedding", "index"])
def test_tables_train(name: str, tmp_path: Path) -> None:
    model, x = _model(TAKEN[name])
    set_march("bayes")
    prepared = prepare_qat_fx(model, {"": get_default_qat_qconfig()}, hybrid=True, example_inputs=(x, IDS))
    prepared.train()
    prepared(x, IDS).square().sum().backward()
    table = prepared.get_submodule("table").weight
    assert table.grad is not None and table.grad[IDS[0].long()].abs().sum() > 0 and table.grad[2].abs().sum() == 0
    prepared.eval()
    with torch.no_grad():
        expected = prepared(x, IDS)
        found = convert_fx(prepared)(x, IDS)
    step = float(expected.abs().max()) / 127
    assert float((found - expected).abs().max()) <= 2 * step
    export_to_onnx(prepared, (x, IDS), tmp_path / "net.onnx")
