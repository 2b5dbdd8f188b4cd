"""`as_strided` and `stride()`: what the model reads of its memory, whoever runs the graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lowering_harness import Function, lower_model, run_graph

from hqc.errors import HqcError
from hqc.frontend.fx import lower_graph_module, trace
from hqc.frontend.fx.assumptions import ASSUMPTIONS_META


def check(function: Any, x: torch.Tensor) -> Any:
    """The lowered model of `function`; trace, lowering and eager agree."""
    traced = trace(Function(function), x)
    lowered = lower_graph_module(traced, x)
    expected = function(x.clone(memory_format=torch.preserve_format))
    torch.testing.assert_close(traced(x.clone(memory_format=torch.preserve_format)), expected)
    found = run_graph(lowered, {lowered.graph.inputs[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(np.asarray(found)), expected)
    return lowered


def overlapping_windows(x: Any) -> Any:
    y = x.permute(0, 2, 1).reshape(x.size(0), 4, 4, 3)  # a view still, so strides are not those of a contiguous tensor
    size, stride = list(y.size()), list(y.stride())
    size[1] = size[1] * 2 - 1
    stride[1] = stride[1] // 2
    return y.as_strided(size=size, stride=stride)


def windows_of_rows(x: Any) -> Any:
    y = x.contiguous()
    return y.as_strided((y.size(0), 2, 8, 2), (y.stride(0), 4, 2, 1)) * 2


def part_of_a_slice(x: Any) -> Any:
    return x[:, 1:].as_strided((2, 5), (1, 3)) + 1


def diagonal(x: Any) -> Any:
    return torch.as_strided(x, (2, 3), (48, 17), storage_offset=2)


def base_written_after(x: Any) -> Any:
    y = x * 1
    view = y.as_strided((2, 4), (1, 3))
    y.add_(1)
    return view * 2


@pytest.mark.parametrize("function", [overlapping_windows, windows_of_rows, part_of_a_slice, diagonal, base_written_after])
def test_reads_what_the_model_reads(function: Any) -> None:
    check(function, torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(0)))


def test_windows_are_one_gather_of_rows_and_keep_the_batch() -> None:
    graph = check(windows_of_rows, torch.randn(2, 3, 16)).graph
    gathers = [node for node in graph.nodes if node.op.name == "gather"]
    assert len(gathers) == 1 and gathers[0].attributes["axis"] == 1
    assert gathers[0].operands[1].shape == (8,)  # two windows of four rows


def test_strides_are_assumed_of_sizes_and_not_of_the_batch() -> None:
    traced = trace(Function(windows_of_rows), torch.randn(2, 3, 16))
    assert ["contiguous.shape[1:]" in str(each) for each in traced.meta[ASSUMPTIONS_META]] == [True]
    x = torch.randn(5, 3, 16)
    torch.testing.assert_close(traced(x), windows_of_rows(x))


def test_memory_that_the_model_holds_in_another_order_is_read_in_the_models() -> None:
    def function(x: Any) -> Any:
        y = x.transpose(1, 2)
        return y.as_strided(y.shape, (y.stride(0), y.stride(1), y.stride(2)))

    traced = trace(Function(function), torch.randn(1, 3, 4))
    split = list(traced.graph.nodes)
    transpose = next(node for node in split if node.name == "transpose")
    with traced.graph.inserting_after(transpose):
        again = traced.graph.call_method("contiguous", (transpose,))
    transpose.replace_all_uses_with(again, delete_user_cb=lambda user: user is not again)
    traced.recompile()
    x = torch.randn(1, 3, 4)
    torch.testing.assert_close(traced(x), function(x))


def test_a_write_through_strides_is_refused_with_its_line() -> None:
    def function(x: Any) -> Any:
        y = x * 1
        y.as_strided((2,), (17,)).fill_(0.0)
        return y

    with pytest.raises(HqcError, match=r"test_strides.py:\d+.*writes in place"):
        lower_model(Function(function), torch.randn(2, 3, 16))


@given(st.data())
@settings(max_examples=40)
def test_random_strides(data: Any) -> None:
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    order = data.draw(st.permutations(range(len(sizes))))
    x = torch.arange(torch.Size(sizes).numel(), dtype=torch.float32).reshape(sizes)
    total = x.numel()
    offset = data.draw(st.integers(0, total - 1))
    size: list[int] = []
    stride: list[int] = []
    reach = offset
    for _ in range(data.draw(st.integers(0, 4))):
        step = data.draw(st.one_of(st.sampled_from(x.stride()), st.integers(0, total)))
        count = data.draw(st.integers(1, 1 + ((total - 1 - reach) // step if step else 3)))
        reach += step * (count - 1)
        size.append(count)
        stride.append(step)
    check(lambda x: x.permute(*order).as_strided(size, stride, offset) * 1, x)


def _by_tensors_of_one_number(x: torch.Tensor) -> torch.Tensor:
    """An order computed as entropy models do; torch takes a tensor of one whole number for an int."""
    order = torch.cat((torch.tensor([1, 0]), torch.arange(2, x.ndim)))
    axis = torch.tensor(1)
    moved = torch.permute(x.permute(*order).flip(axis), list(order))
    return moved.sum(axis).reshape(torch.tensor(2), torch.tensor(-1)) + moved.select(axis, torch.tensor(0)).flatten(axis)


def test_tensors_of_one_number_are_ints() -> None:
    from lowering_harness import Function, compare, run_graph

    x = torch.randn(2, 3, 4, 5)
    lowered = lower_graph_module(trace(Function(_by_tensors_of_one_number), x), x)
    assert not lowered.opaque
    compare(run_graph(lowered, {lowered.graph.inputs[0].name: x.numpy()}), _by_tensors_of_one_number(x), 1e-5)
