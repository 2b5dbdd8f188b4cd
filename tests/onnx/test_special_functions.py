"""Special functions in files: over their whole domain what torch computes, infinities included."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnxruntime
import pytest
import torch
from test_opaque_forms import opaque_node
from torch import Tensor

WIDE = np.concatenate([np.linspace(-12.3, 12.3, 247), [0.0, -1.0, -2.0, 1e-7, -1e-7, 1e-30, 30.0, 1e4, 1e20, 3e38, np.inf]])
POSITIVE = np.concatenate([np.linspace(0.01, 30.0, 250), [1e-4, 1e4, 1e10]])
UNIT = np.concatenate([np.linspace(-1.0, 1.0, 201), [1 - 6e-8, -1 + 6e-8, 1e-7, 1e-20, 1.5]])
SIGNED = np.array([-np.inf, -2.0, -0.0, 0.0, 1e-40, 3.0, np.inf])
CASES: dict[str, tuple[Callable[[Tensor], Tensor], np.ndarray]] = {
    "lgamma": (torch.lgamma, WIDE),
    "lgamma of -inf": (torch.lgamma, np.array([-np.inf])),
    "mvlgamma": (lambda x: torch.mvlgamma(x.abs() + 3, 2), POSITIVE),
    "digamma": (torch.digamma, WIDE),
    "trigamma": (lambda x: torch.polygamma(1, x.abs()), POSITIVE),
    "polygamma 2": (lambda x: torch.polygamma(2, x.abs()), POSITIVE),
    "polygamma 3": (lambda x: torch.polygamma(3, x.abs()), POSITIVE),
    "erfc": (torch.erfc, WIDE),
    "erfcx": (torch.special.erfcx, np.concatenate([np.linspace(-5, 40, 200), [1e6]])),
    "erfinv": (torch.erfinv, UNIT),
    "ndtri": (torch.special.ndtri, UNIT),
    "log_ndtr": (torch.special.log_ndtr, np.linspace(-30, 5, 100)),
    "signbit": (torch.signbit, SIGNED),
    "copysign": (lambda x: torch.copysign(torch.full_like(x, 2.0), x), SIGNED),
}


@pytest.mark.parametrize("name", CASES)
def test_a_special_function_is_torch_s_over_its_domain(name: str) -> None:
    function, points = CASES[name]
    x = points.astype(np.float32)
    _, node, call = opaque_node(function, x.shape)
    model = call.form(node)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {model.graph.input[0].name: x})
    want = function(torch.from_numpy(x).double()).float() if name != "signbit" else function(torch.from_numpy(x))
    np.testing.assert_allclose(got, want.numpy(), rtol=2e-6, atol=2e-7)
