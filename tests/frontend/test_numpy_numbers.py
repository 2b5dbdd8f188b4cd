"""NumPy's numbers and arrays in a model's forward are what they are in eager mode."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from lowering_harness import Function, run_graph

from hqc.errors import HqcError
from hqc.frontend.fx import lower_graph_module, trace

PROGRAMS: dict[str, Any] = {
    "product": lambda x: x * np.sqrt(2.0),
    "reflected": lambda x: np.float64(3.0) - x,
    "single": lambda x: x + np.float32(0.5),
    "array": lambda x: x * np.array([1.0, 2.0, 3.0], dtype=np.float32),
    "size": lambda x: x.reshape(np.int64(3), np.int64(-1)),
    "product of sizes": lambda x: x.reshape(np.prod(x.shape)) * 2,
    "product of some": lambda x: x.reshape(int(np.prod(x.shape[:2])), -1) * 2,
    "root of a size": lambda x: x / np.sqrt(x.shape[-1]),
    "index": lambda x: x[:, np.int64(1)],
    "array as index": lambda x: x[:, np.array([0, 2])] + 1,
    "in a list": lambda x: torch.nn.functional.pad(x, [np.int64(1), np.int64(0)]),
    "name of a type": lambda x: x.masked_fill(x < 0, float(np.finfo(torch.tensor(0, dtype=x.dtype).numpy().dtype).min)),
    "list of sizes": lambda x: x.reshape(torch.tensor(x.shape).flip(0).tolist()) + 1,
    "array of sizes": lambda x: x.reshape(int(np.array(torch.tensor(x.shape)).prod())) + 1,
    "list that cuts": lambda x: torch.cat(
        x.split(torch.as_tensor([[x.shape[1], 1], [2, 1]]).sub(1)[:, 0].tolist(), 1)[::-1], 1
    ),
    "keyword": lambda x: torch.clamp(x, min=np.float64(0.25)),
}


@pytest.mark.parametrize("function", PROGRAMS.values(), ids=PROGRAMS)
def test_numbers_of_numpy(function: Any) -> None:
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    traced = trace(Function(function), x)
    torch.testing.assert_close(traced(x), function(x))
    lowered = lower_graph_module(traced, x)
    found = run_graph(lowered, {lowered.graph.inputs[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), function(x))


@pytest.mark.parametrize(
    "function",
    [lambda x: x.mean().tolist(), lambda x: x.mean().item(), lambda x: x.sum(0).numpy()],
    ids=["list", "item", "array"],
)
@pytest.mark.parametrize("by_export", [False, True], ids=["traced", "exported"])
def test_numbers_of_data_are_refused(function: Any, by_export: bool) -> None:
    """As results and as factors, whichever way the graph is made; never a number of the example, never an error of torch's."""
    x = torch.randn(2, 3)
    taken: Any = (lambda x: torch.vmap(lambda row: row + 1)(x)) if by_export else (lambda x: x + 1)
    for whole in (lambda x: (taken(x), function(x)), lambda x: taken(x) * float(np.sum(function(x)))):
        with pytest.raises(HqcError, match="needs the value"):
            lower_graph_module(trace(Function(whole), x), x)
