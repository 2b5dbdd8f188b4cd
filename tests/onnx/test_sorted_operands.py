"""The check of a form gives sorted numbers to operations that take their operand for sorted: unsorted ones have no right result."""

from __future__ import annotations

import torch

from hqc.ir import DType, TensorType
from hqc.workflow.opaque_onnx import sample_operands

_TYPES = [TensorType(DType.FLOAT32, (2, 9)), TensorType(DType.FLOAT32, (9,))]


def test_boundaries_of_searches_are_sorted_and_nothing_else_is() -> None:
    found = sample_operands(lambda x, edges: [torch.bucketize(x, edges)], _TYPES)
    assert found is not None
    for x, edges in found:
        assert bool((edges.diff() >= 0).all())
        assert not bool((x.diff(dim=-1) >= 0).all())
    plain = sample_operands(lambda x, edges: [x + edges], _TYPES)
    assert plain is not None
    assert all(not bool((edges.diff() >= 0).all()) for _, edges in plain)
