"""The float64 functions that tables sample are torch's functions of the same name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from hqc.ir import Trait, all_ops, get_op

Tensor = torch.Tensor
REFERENCE: dict[str, list[tuple[dict[str, Any], Callable[[Tensor], Tensor]]]] = {
    "abs": [({}, torch.abs)],
    "atan": [({}, torch.atan)],
    "ceil": [({}, torch.ceil)],
    "cos": [({}, torch.cos)],
    "elu": [({}, F.elu), ({"alpha": 0.3}, lambda x: F.elu(x, 0.3))],
    "erf": [({}, torch.erf)],
    "exp": [({}, torch.exp)],
    "floor": [({}, torch.floor)],
    "gelu": [({}, F.gelu), ({"approximate": "tanh"}, lambda x: F.gelu(x, approximate="tanh"))],
    "hardsigmoid": [({}, F.hardsigmoid)],
    "hardswish": [({}, F.hardswish)],
    "leaky_relu": [({}, F.leaky_relu), ({"slope": 0.2}, lambda x: F.leaky_relu(x, 0.2))],
    "log": [({}, torch.log)],
    "mish": [({}, F.mish)],
    "neg": [({}, torch.neg)],
    "pow_scalar": [({"exponent": 2.0}, lambda x: x**2), ({"exponent": -0.5}, lambda x: x**-0.5)],
    "reciprocal": [({}, torch.reciprocal)],
    "round": [({}, torch.round)],
    "rsqrt": [({}, torch.rsqrt)],
    "selu": [({}, F.selu)],
    "sigmoid": [({}, torch.sigmoid)],
    "sign": [({}, torch.sign)],
    "silu": [({}, F.silu)],
    "sin": [({}, torch.sin)],
    "softplus": [({}, F.softplus), ({"beta": 2.0}, lambda x: F.softplus(x, 2.0))],
    "softsign": [({}, F.softsign)],
    "sqrt": [({}, torch.sqrt)],
    "tan": [({}, torch.tan)],
    "tanh": [({}, torch.tanh)],
    "acos": [({}, torch.acos)],
    "acosh": [({}, torch.acosh)],
    "asin": [({}, torch.asin)],
    "asinh": [({}, torch.asinh)],
    "atanh": [({}, torch.atanh)],
    "celu": [({}, F.celu), ({"alpha": 0.4}, lambda x: F.celu(x, 0.4))],
    "cosh": [({}, torch.cosh)],
    "exp2": [({}, torch.exp2)],
    "expm1": [({}, torch.expm1)],
    "hardshrink": [({}, F.hardshrink), ({"bound": 2.0}, lambda x: F.hardshrink(x, 2.0))],
    "log10": [({}, torch.log10)],
    "log1p": [({}, torch.log1p)],
    "log2": [({}, torch.log2)],
    "log_sigmoid": [({}, F.logsigmoid)],
    "sinh": [({}, torch.sinh)],
    "softshrink": [({}, F.softshrink), ({"bound": 1.5}, lambda x: F.softshrink(x, 1.5))],
    "tanhshrink": [({}, F.tanhshrink)],
    "threshold": [({"bound": 1.0, "value": -3.0}, lambda x: F.threshold(x, 1.0, -3.0))],
    "trunc": [({}, torch.trunc)],
}
CASES = [(name, attributes, reference) for name, cases in REFERENCE.items() for attributes, reference in cases]


@pytest.mark.parametrize(
    ("name", "attributes", "reference"), CASES, ids=[f"{name}{attributes or ''}" for name, attributes, _ in CASES]
)
def test_function_is_torchs(name: str, attributes: dict[str, Any], reference: Callable[[Tensor], Tensor]) -> None:
    x = np.concatenate([np.linspace(-40, 40, 4001), np.arange(-8, 8.5, 0.5), [-750.0, 750.0]])
    definition = get_op(name)
    assert definition.function is not None
    with np.errstate(all="ignore"):
        actual = definition.function(x, definition.complete_attributes(attributes))
    expected = reference(torch.from_numpy(x)).numpy()
    assert actual.dtype == np.float64
    # torch's softplus is linear above 20 (2e-9 away); everything else agrees to a few units in the last place.
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=3e-9 if name in ("softplus", "mish") else 1e-14)


def test_every_table_op_is_checked() -> None:
    assert {op.name for op in all_ops() if op.has(Trait.LUT)} == set(REFERENCE)
    assert all(op.function is not None for op in all_ops() if op.has(Trait.LUT))
