"""Checks of data: `if x.isnan().any(): raise ...`. A graph does not repeat them; they are taken as passed, as assertions are."""

from __future__ import annotations

import linecache
import sys
import warnings
import zlib
from typing import Any

import pytest
import torch
from torch import nn

from hqc.errors import TraceError
from hqc.frontend.fx import trace


def _sourced(body: str) -> nn.Module:
    """A model whose forward has this body, with source that Python finds."""
    lines = ["class Model(nn.Module):", "    def forward(self, x):", *(f"        {line}" for line in body.splitlines())]
    source, filename = "\n".join(lines), f"user_net_{zlib.crc32(body.encode())}.py"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    namespace: dict[str, Any] = {"torch": torch, "nn": nn, "warnings": warnings}
    exec(compile(source, filename, "exec"), namespace)
    model: nn.Module = namespace["Model"]()
    return model


CHECKS = {
    "raise": "if x.isnan().any(): raise ValueError('nan')\nreturn x.relu()",
    "not": "if not (x > 0).all():\n    raise ValueError('negative')\nreturn x.relu()",
    "and": "if (x < 0).any() and (x > 1).any():\n    raise ValueError('range')\nreturn x.relu()",
    "not and": "if not (x > 0).all() and (x < 1).all():\n    raise ValueError('range')\nreturn x.relu()",
    "and not": "if (x < 0).any() and not (x < 1).all():\n    raise ValueError('range')\nreturn x.relu()",
    "or not": "if (x < 0).any() or not (\n    (x < 1).all() or x.shape[0] > 7\n):\n    raise ValueError('range')\nreturn x.relu()",
    "not of both": "if not ((x > 0).all() and not x.isnan().any()):\n    raise ValueError('range')\nreturn x.relu()",
    "assert and not": "assert (x > 0).all() and not (x > 1).any(), 'range'\nreturn x.relu()",
    "numbers": "if not bool((x > 0).all()) or x.sum() > 3 and not bool(x.isnan().any()):\n    raise ValueError('range')\nreturn x.relu()",
    "warn": "if x.isnan().any():\n    warnings.warn('nan')\n    print('nan')\nreturn x.relu()",
    "assert not": "assert not x.isnan().any(), 'nan'\nreturn x.relu()",
    "parameters": "torch.distributions.Normal(x, x.exp())\nreturn x.relu()",
}


SEVERAL = {"not and", "and not", "or not", "not of both", "assert and not", "numbers"}
old = pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 does not tell which part of a condition it asks")


@pytest.mark.parametrize(
    "body", [pytest.param(CHECKS[name], id=name, marks=[old] if name in SEVERAL else []) for name in CHECKS]
)
@pytest.mark.parametrize("example", [torch.randn(2, 3), None], ids=["example", "no example"])
def test_checks_of_data_are_taken_as_passed(body: str, example: torch.Tensor | None) -> None:
    names = [node.name for node in trace(_sourced(body), example).graph.nodes]
    assert "relu" in names and not [name for name in names if name.startswith(("isnan", "all", "any", "_is_all_true"))]


DENSITIES = {
    "normal": "d.Normal(x.tanh(), 1 + x.abs()).log_prob(x)",
    "student": "d.StudentT(2 + x.abs(), x, 1 + x.exp()).log_prob(x)",
    "scaled": "d.TransformedDistribution(d.StudentT(3.0, x), [d.AffineTransform(x[:, :1], 1 + x[:, :1].abs())]).log_prob(x)",
    "squashed": "d.TransformedDistribution(d.Normal(x, x.exp()), [d.SigmoidTransform()]).log_prob(x.sigmoid())",
    "counts": "d.Independent(d.NegativeBinomial(1 + x.abs(), logits=x), 1).log_prob(x.abs().round())",
    "mixed": "d.MixtureSameFamily(d.Categorical(logits=x), d.Normal(x, x.exp())).log_prob(x[:, 0])",
    "expanded": "d.Normal(x[:1], x[:1].exp()).expand(x.shape).log_prob(x)",
}


@pytest.mark.parametrize("made", DENSITIES.values(), ids=list(DENSITIES))
def test_the_density_of_a_distribution(made: str) -> None:
    model = _sourced(f"d = torch.distributions\nreturn {made}")
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(trace(model, x)(x), model(x))


@pytest.mark.parametrize(
    "body",
    [
        "try:\n    if x.isnan().any(): raise ValueError('nan')\nexcept ValueError:\n    x = x + 1\nreturn x",
        "if (x > 0).all():\n    x = x + 1\nreturn x",
        "if (x > 0).all():\n    raise ValueError('nan')\nelse:\n    x = x + 1\nreturn x",
    ],
)
def test_a_check_that_decides_is_refused(body: str) -> None:
    with pytest.raises(TraceError, match="a branch tests the value of"):
        trace(_sourced(body), torch.randn(2, 3))
