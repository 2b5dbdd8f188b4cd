"""Each check finds what was planted for it, and says nothing of a network without faults."""

from __future__ import annotations

import io

import pytest
import torch
from rich.console import Console
from torch import nn
from torch.nn import functional as F

import hqc
from hqc.analysis.checks import check
from hqc.analysis.compare import compare, compare_outputs, output_quality
from hqc.errors import InputError


class Net(nn.Module):
    def __init__(self, fault: str = "") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fault = fault
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        with torch.no_grad():
            if fault == "unequal scales":
                self.b.weight /= 50
                self.b.bias /= 50
            if fault == "constant activation":
                self.b.bias.fill_(-100.0)
            if fault == "range too wide":
                self.b.weight *= 150
                self.b.bias += 100

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.a(x.permute(0, 3, 1, 2) if self.fault == "layout" else x))
        if self.fault == "unfused":
            z = self.b(y)
            return F.relu(z) * z
        z = F.relu(self.b(y))
        if self.fault == "shared module":
            z = F.relu(self.b(z))
        if self.fault == "unequal scales":
            z = torch.cat([y, z], 1)
        if self.fault == "output rank":
            return z.reshape(1, 2, 2, 8, 8)
        if self.fault == "decoding inside":
            return torch.stack([torch.exp(F.selu(torch.cumsum(z, 1) + 0.5)).sin(), z.cos()]).mean(0)
        return z


FAULTS = ["unfused", "shared module", "unequal scales", "range too wide", "constant activation", "output rank", "layout"]


@pytest.mark.parametrize("fault", ["", *FAULTS])
def test_the_planted_fault_is_found_and_no_other(fault: str) -> None:
    shape = (1, 8, 8, 3) if fault == "layout" else (1, 3, 8, 8)
    march = "bernoulli" if fault == "range too wide" else "bayes"
    data = [torch.rand(shape, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
    found = check(hqc.compile(Net(fault).eval(), data[0], march=march, calibration_data=data))
    assert {each.kind for each in found.findings} == ({fault} if fault else set()), [str(each) for each in found.findings]
    assert found.table().row_count == len(found.findings) and len(found.settings) >= 2
    conv = next(row for row in found.settings if (row.op == "conv2d" and row.dtype == "int8") or march == "bernoulli")
    assert march == "bernoulli" or (conv.dtype, conv.observer, conv.weight_observer) == (
        "int8",
        "MSEObserver",
        "PerChannelMSEObserver",
    )
    assert found.as_dict()["settings"][0]["where"] == found.settings[0].where


class Shared(nn.Module):
    """A layer and a block that are called several times, a ReLU that is too, and two modules with one weight."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.conv_1 = nn.Conv2d(3, 3, 1)
        self.block = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
        self.tied = nn.Conv2d(3, 3, 1)
        self.tied.weight = self.conv_1.weight
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.conv(x))
        for _ in range(2):
            y = self.relu(self.conv(self.block(y)))
        return self.tied(self.conv_1(y))


def test_modules_that_are_called_several_times_can_be_split() -> None:
    model, x = Shared().eval(), torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    split = hqc.split_shared(model, x)
    assert split.meta["hqc_split"] == {
        "conv": ("conv_2", "conv_3"), "block.0": ("block.0_1",), "block.1": ("block.1_1",),
    }  # fmt: skip
    assert torch.equal(split(x), model(x)) and not split.training
    assert split.conv.weight is not split.conv_2.weight and split.tied.weight is split.conv_1.weight
    assert model.state_dict().keys() == before.keys() and all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    found = {
        kind: hqc.compile(net, x, march="bayes", calibration_data=[x]) for kind, net in (("as is", model), ("split", split))
    }
    assert [each.where for each in check(found["as is"]).of("shared module")] == ["conv", "block.0", "conv_1"]
    assert [each.where for each in check(found["split"]).of("shared module")] == ["conv_1"]  # two modules, one weight
    plain, apart = (torch.as_tensor(each.simulate(x)) for each in found.values())
    assert torch.equal(plain, apart)  # equal weights, equal data: nothing changes until somebody trains or corrects them
    assert hqc.split_shared(split, x).meta["hqc_split"] == {}
    with pytest.raises(InputError, match=r"takes a torch\.nn\.Module, got str"):
        hqc.split_shared("net")


def test_copies_train_apart() -> None:
    model, x = hqc.split_shared(Shared().train()), torch.rand(2, 3, 8, 8)
    assert model.training
    model(x).sum().backward()
    assert not torch.equal(model.conv.weight.grad, model.conv_2.weight.grad)


@pytest.mark.parametrize("width", [80, 120])
def test_no_table_is_cut(width: int) -> None:
    """Heads wrap, names fold: no cell ends in an ellipsis, and every word of every cell is there."""
    x = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    compiled = hqc.compile(Net("unequal scales").eval(), x, march="bayes", calibration_data=[x])
    found, looked = compare(compiled), check(compiled)
    (quality, _) = output_quality(compiled, [{compiled.graph.inputs[0].name: x.numpy()}], lambda done, total: None)
    tables = [found.table(), found.pair_table("float", "simulator"), looked.table(), looked.settings_table()]
    for table in [*tables, compare_outputs(quality, "Outputs")]:
        out = io.StringIO()
        Console(file=out, width=width).print(table)
        text = out.getvalue()
        assert "\u2026" not in text and max(map(len, text.splitlines())) <= width
        squeezed = "".join(text.split())
        for column in table.columns[1:]:
            for cell in column.cells:
                words = str(cell).split()
                assert all(word in squeezed or len(word) > 9 for word in words), (column.header, words)
