"""Sorting, selecting, medians and modes with a definite order of equals: values, layout and gradients are those of torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from hqc.frontend.fx import equals
from hqc.frontend.fx.equals import in_definite_order, torchs_function

Row = list[float]


def order(row: Row, falling: bool = False) -> list[int]:
    """Positions in a stable order, NaN as the largest of all."""
    return sorted(range(len(row)), key=lambda i: (math.isnan(row[i]), 0.0 if math.isnan(row[i]) else row[i]), reverse=falling)


def median(row: Row) -> list[int]:
    undefined = [i for i, value in enumerate(row) if math.isnan(value)]
    return undefined[:1] or [order(row)[(len(row) - 1) // 2]]


def nanmedian(row: Row) -> list[int]:
    count = sum(not math.isnan(value) for value in row)
    return [order(row)[max(count - 1, 0) // 2]]


CASES: list[tuple[Any, dict[str, Any], Callable[[Row], list[int]]]] = [
    (torch.sort, {}, order),
    (torch.sort, {"descending": True}, lambda row: order(row, True)),
    (torch.argsort, {}, order),
    (torch.topk, {"k": 3}, lambda row: order(row, True)[:3]),
    (torch.topk, {"k": 2, "largest": False, "sorted": False}, lambda row: order(row)[:2]),
    (torch.kthvalue, {"k": 2, "keepdim": True}, lambda row: order(row)[1:2]),
    (torch.median, {"keepdims": True}, median),
    (torch.nanmedian, {"keepdim": True}, nanmedian),
    (torch.mode, {"keepdim": True}, lambda row: []),
]
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.uint8]
NUMBERS = [0.0, -0.0, 1.0, -1.0, 2.0, float("inf"), float("-inf"), float("nan"), -float("nan")]


@st.composite
def tied(draw: Any) -> tuple[torch.Tensor, int]:
    """A tensor of few different numbers, and one of its axes, three long at least."""
    shape = draw(st.lists(st.integers(3, 6), min_size=1, max_size=4))
    dtype = draw(st.sampled_from(DTYPES))
    known = NUMBERS if dtype.is_floating_point else [0, 1, 2, 3]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = torch.from_numpy(rng.choice(known[: draw(st.integers(1, len(known)))], shape)).to(dtype)
    if len(shape) == 4 and draw(st.booleans()):
        x = x.to(memory_format=torch.channels_last)
    return x, draw(st.integers(-len(shape), len(shape) - 1))


def rows(x: torch.Tensor, dim: int) -> list[Row]:
    return x.double().movedim(dim, -1).flatten(0, -2).tolist() if x.ndim > 1 else [x.double().tolist()]


@given(case=st.sampled_from(CASES), operand=tied())
@settings(max_examples=300, deadline=None)
def test_values_are_torchs_and_positions_those_of_the_first(case: Any, operand: tuple[torch.Tensor, int]) -> None:
    function, options, positions_of = case
    x, dim = operand
    definite = in_definite_order("call_function", function)
    assert definite is not None and torchs_function(definite) is function
    wanted, got = function(x, dim=dim, **options), definite(x, dim=dim, **options)
    assert type(got) is type(wanted)
    pairs = [(wanted, got)] if isinstance(wanted, torch.Tensor) else list(zip(wanted, got, strict=True))
    for one, other in pairs:
        assert (one.shape, one.stride(), one.dtype) == (other.shape, other.stride(), other.dtype)
    if len(pairs) == 2:
        assert torch.equal(*(each.values.double().nan_to_num(7).sort(dim).values for each in (wanted, got)))
        if options.get("sorted", True):
            assert torch.equal(wanted.values.double().nan_to_num(7), got.values.double().nan_to_num(7))
        assert torch.equal(x.gather(dim, got.indices).double().nan_to_num(7), got.values.double().nan_to_num(7))
    for row, found in zip(rows(x, dim), rows(pairs[-1][1], dim), strict=True):
        if function is torch.mode:
            (at,) = map(int, found)
            assert not any(value == row[at] or (math.isnan(value) and math.isnan(row[at])) for value in row[:at])
        else:
            assert found == positions_of(row)


@pytest.mark.parametrize("case", [case for case in CASES if case[0] is not torch.argsort], ids=lambda case: case[0].__name__)
def test_gradients_are_torchs_and_go_to_the_chosen_ones(case: Any) -> None:
    function, options, _ = case
    definite = in_definite_order("call_function", function)
    assert definite is not None
    x = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)  # nothing is equal
    weights = torch.rand(4, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = []
    for each in (function, definite):
        for dtype in (torch.float64, torch.float32):
            leaf = x.to(dtype).requires_grad_()
            values = each(leaf, dim=1, **options).values
            (gradient,) = torch.autograd.grad((values.sort(1).values * weights[:, : values.shape[1]]).sum(), leaf)
            gradients.append(gradient.float())
    assert all(torch.equal(gradients[0], each) for each in gradients)
    tied = torch.zeros(7, requires_grad=True)
    result = definite(tied, **{**options, "dim": 0})
    (gradient,) = torch.autograd.grad(result.values.sum(), tied)
    assert gradient.nonzero().flatten().tolist() == result.indices.sort().values.flatten().tolist()
    assert torch.autograd.gradcheck(lambda leaf: definite(leaf, dim=1, **options).values, x.clone().requires_grad_())
    assert torch.autograd.gradgradcheck(lambda leaf: definite(leaf, dim=1, **options).values ** 2, x.clone().requires_grad_())


def test_numbers_without_axes_and_calls_without_one_are_torchs() -> None:
    x = torch.tensor(3.0)
    for function, options, _ in CASES:
        definite = in_definite_order("call_function", function)
        assert definite is not None
        options = {**options, **({"k": 1} if "k" in options else {}), "dim": 0}
        wanted, got = function(x, **options), definite(x, **options)
        assert torch.equal(wanted, got) if isinstance(wanted, torch.Tensor) else all(map(torch.equal, wanted, got))
    for name in ("median", "nanmedian"):
        y = torch.tensor([3.0, 1.0, float("nan"), 1.0])
        assert torch.equal(getattr(equals, name)(y).nan_to_num(7), getattr(torch, name)(y).nan_to_num(7))


def test_methods_have_a_definite_order_and_what_leaves_nothing_open_stays() -> None:
    assert in_definite_order("call_method", "topk") is equals.topk
    assert in_definite_order("call_module", "topk") is None
    assert in_definite_order("call_method", "relu") is None and in_definite_order("call_function", torch.argmax) is None
    assert torchs_function(torch.relu) is torch.relu
