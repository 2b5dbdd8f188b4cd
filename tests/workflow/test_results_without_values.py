"""Tensors that NumPy cannot read: data that requires gradients is read, results without values are refused in a sentence."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import hqc
from hqc.errors import InputError
from hqc.workflow.runner import as_arrays


def test_calibration_data_may_require_gradients():
    x = torch.rand(1, 3, 4, 4, requires_grad=True)
    compiled = hqc.compile(nn.Conv2d(3, 4, 1), x.detach(), march="bayes", calibration_data=[x])
    assert compiled.simulate(x.detach()).shape == (1, 4, 4, 4)


def test_a_result_on_the_meta_device_is_refused():
    with pytest.raises(InputError, match="a result of the model is on the meta device and has no values"):
        as_arrays([torch.zeros(2), torch.zeros(2, device="meta")])
