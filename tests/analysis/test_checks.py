"""Each check finds what was planted for it, and says nothing of a network without faults."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hqc
from hqc.analysis.checks import check


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
