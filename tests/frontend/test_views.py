"""Writes through views: programs of views and in-place operations, generated, lowered and compared with eager."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from lowering_harness import Function, compare, run_graph
from torch import fx

import hqc
from hqc.errors import HqcError, LoweringError
from hqc.frontend.fx import in_place, lower_graph_module, trace


def run_both(function: Any, x: torch.Tensor, *, shapes: bool = True) -> tuple[fx.GraphModule, Any, Any]:
    """The trace, what the lowered model computes, and what torch computes."""
    traced = trace(Function(function), x if shapes else None)
    lowered = lower_graph_module(traced, x)
    expected = function(x.clone())
    torch.testing.assert_close(traced(x.clone()), expected)
    return traced, run_graph(lowered, {lowered.graph.inputs[0].name: x.numpy()}), expected


X = torch.arange(48.0).reshape(2, 4, 2, 3) - 20


def assign_channel(x: Any) -> Any:
    x = x * 1
    x[:, 0] = 5.0
    return x + 1


def strided_addition(x: Any) -> Any:
    x = x * 1
    x[..., ::2] += 1
    return x * 2


def write_through_view(x: Any) -> Any:
    x = x * 1
    y = x.view(2, -1)
    y.add_(10)
    return x, y


def write_through_two_views(x: Any) -> Any:
    x = x * 1
    y = x.permute(0, 2, 3, 1)
    z = y[:, 0]
    z.mul_(3)
    return x - 1, y, z


def write_base_read_view(x: Any) -> Any:
    x = x * 1
    y = x.transpose(1, 2)
    x.mul_(2)
    return y + 1


def write_part_of_chunk(x: Any) -> Any:
    x = x * 1
    a, b = x.chunk(2, 1)
    a.relu_()
    return x, a * b


def write_plane_of_unbind(x: Any) -> Any:
    x = x * 1
    planes = x.unbind(1)
    planes[2].sub_(7)
    return x * 1, planes[1] + planes[2]


def augmented_with_other_name(x: Any) -> Any:
    x = x * 1
    kept = x
    x += 3
    return kept * x


def augmented_view(x: Any) -> Any:
    x = x * 1
    y = x.flatten(1)
    y *= 2
    return x + 0, y


def twice_through_the_same_view(x: Any) -> Any:
    x = x * 1
    y = x.select(1, 1)
    y.add_(1)
    first = x * 2
    y.mul_(5)
    x[:, 2] = y
    return first, x, y


def in_place_function(x: Any) -> Any:
    x = x * 1
    y = x.narrow(1, 1, 2)
    F.relu(y, inplace=True)
    return x


def copy_is_no_view(x: Any) -> Any:
    x = x * 1
    y = x.permute(0, 2, 3, 1).reshape(2, -1)
    y.add_(1)
    return x, y


def write_to_the_input(x: Any) -> Any:
    y = x[:, 1:3]
    y.clamp_(0, 4)
    return x * 2


def write_values_of_topk(x: Any) -> Any:
    values, _ = x.topk(2, -1)
    values /= values.abs().sum(-1, keepdim=True)
    return values * 2


def write_results_taken_twice(x: Any) -> Any:
    best = x.max(-1)
    best.values.mul_(3)
    best[0][:, 0] = 7.0
    return best.values + best[0], best[1].float()


def write_hidden_state(x: Any) -> Any:
    state = (x * 2, (x.relu(), x + 1))
    hidden, cell = state[1]
    hidden += 1
    cell[0] = hidden[1]
    return state[1][0] + state[0], cell


def write_columns_and_rows(x: Any) -> Any:
    x = x * 1
    left, right = torch.hsplit(x, 2)
    left += 1
    right[:, 0] = 3.0
    top, _ = torch.vsplit(x, 2)
    top *= 0.5
    first, _ = x[0, :, 0, 0].hsplit(2)
    first += 2
    return x + 1, left


PROGRAMS = [
    write_values_of_topk,
    write_results_taken_twice,
    write_hidden_state,
    write_columns_and_rows,
    assign_channel,
    strided_addition,
    write_through_view,
    write_through_two_views,
    write_base_read_view,
    write_part_of_chunk,
    write_plane_of_unbind,
    augmented_with_other_name,
    augmented_view,
    twice_through_the_same_view,
    in_place_function,
    copy_is_no_view,
    write_to_the_input,
]


@pytest.mark.parametrize("function", PROGRAMS, ids=lambda function: function.__name__)
def test_write_is_seen_by_all_that_share_the_memory(function: Any) -> None:
    _, got, expected = run_both(function, X)
    compare(got, expected, 1e-6)


def test_disjoint_parts_are_not_taken_again() -> None:
    def parts(x: Any) -> Any:
        a, b = (x * 1).chunk(2, 1)
        a.relu_()
        return b * 2, a

    traced, got, expected = run_both(parts, X)
    compare(got, expected, 1e-6)
    assert [node.name for node in traced.graph.nodes] == [
        "x",
        "mul",
        "chunk",
        "getitem",
        "getitem_1",
        "relu_",
        "mul_1",
        "output",
    ]


def test_write_without_inverse_is_refused_with_its_line() -> None:
    def expanded(x: Any) -> Any:
        x = x * 1
        y = x[:, :1].unfold(2, 2, 1)
        y.add_(1)
        return x

    line = expanded.__code__.co_firstlineno + 3
    with pytest.raises(LoweringError, match=rf"add_ .*test_views\.py:{line}.*writes in place into unfold"):
        lower_graph_module(trace(Function(expanded), X), X)


# --- random programs -----------------------------------------------------------------------------------------------------

VIEWS: list[Any] = [
    lambda t, rank: t.view(t.shape[0], -1),
    lambda t, rank: t.transpose(0, -1),
    lambda t, rank: t[..., 0],
    lambda t, rank: t[1:],
    lambda t, rank: t[..., ::2],
    lambda t, rank: t.unsqueeze(1),
    lambda t, rank: t.flatten(1),
    lambda t, rank: t.reshape(-1),
    lambda t, rank: t.chunk(2, 0)[0],
    lambda t, rank: t.split(1, 0)[-1],
    lambda t, rank: t.unbind(0)[0],
    lambda t, rank: t.permute(*range(rank - 1, -1, -1)),
    lambda t, rank: t.contiguous(),
    lambda t, rank: t.squeeze(),
    lambda t, rank: t * 1,
    lambda t, rank: t.clone(),
    lambda t, rank: t.select(-1, 0),
    lambda t, rank: t.narrow(0, 0, 1),
    lambda t, rank: t.movedim(0, -1),
    lambda t, rank: t.swapdims(0, -1),
    lambda t, rank: t.diagonal(0, 0, -1),
    lambda t, rank: t[:, None],
]
WRITES: list[Any] = [
    lambda t: t.add_(1),
    lambda t: t.mul_(2),
    lambda t: t.clamp_(-3, 9),
    lambda t: torch.relu_(t),
    lambda t: F.leaky_relu(t, 0.5, inplace=True),
    lambda t: t.__setitem__(0, 4.0),
    lambda t: t.__setitem__((..., slice(0, 1)), t[..., :1] * 3),
    lambda t: t.__setitem__(t > 3, 0.5),
    lambda t: torch.fill_(t, 3.0),
    lambda t: t.__iadd__(2),
    lambda t: t.__imul__(-1),
]
FIRST_AUGMENTED = len(WRITES) - 2
STEPS = st.lists(st.tuples(st.booleans(), st.integers(0, 30), st.integers(0, 30)), min_size=2, max_size=9)


class Program:
    """Views and writes; a step that eager refuses is left out."""

    def __init__(self, steps: list[tuple[bool, int, int]], x: torch.Tensor) -> None:
        self.steps: list[tuple[bool, int, int, int]] = []
        tensors = [x * 1]
        for is_write, which, where in steps:
            step = (is_write, which, where % len(tensors), tensors[where % len(tensors)].dim())
            try:
                tensors = self.step(tensors, *step)
            except (IndexError, RuntimeError):
                continue
            if tensors[-1].numel() == 0:
                tensors.pop()
                continue
            self.steps.append(step)

    def step(self, tensors: list[Any], is_write: bool, which: int, where: int, rank: int) -> list[Any]:
        if not is_write:
            return [*tensors, VIEWS[which % len(VIEWS)](tensors[where], rank)]
        result = WRITES[which % len(WRITES)](tensors[where])
        if which % len(WRITES) >= FIRST_AUGMENTED:  # `x += 2` gives the name x to the result
            tensors = [*tensors[:where], result, *tensors[where + 1 :]]
        return tensors

    def __call__(self, x: Any) -> Any:
        tensors = [x * 1]
        for step in self.steps:
            tensors = self.step(tensors, *step)
        return tuple(item + 0.0 for item in tensors)


@settings(max_examples=100, deadline=None)
@given(STEPS, st.booleans())
def test_random_programs_compute_what_torch_computes_or_are_refused(steps: list[tuple[bool, int, int]], shapes: bool) -> None:
    x = torch.arange(24.0).reshape(2, 3, 4) - 9
    program = Program(steps, x)
    expected = program(x.clone())
    try:
        traced = trace(Function(program), x if shapes else None)
        lowered = lower_graph_module(traced, x)
    except HqcError:
        assert not shapes  # every view above has an inverse
        return
    got = run_graph(lowered, {lowered.graph.inputs[0].name: x.numpy()})
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, other.numpy(), rtol=1e-6)
    torch.testing.assert_close(traced(x.clone()), expected)


def test_the_signature_of_a_function_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's are parsed from text: asked at every call of a network, they took more than half of the time of explain."""
    asked: list[Any] = []
    signature = inspect.signature

    def counting(function: Any) -> Any:
        asked.append(function)
        return signature(function)

    def long(x: Any) -> Any:
        for _ in range(20):
            x = torch.clamp(x + 1, 0, 6).relu_()
        return x

    in_place.inplace_position.cache_clear()
    monkeypatch.setattr(in_place.inspect, "signature", counting)
    trace(Function(long), torch.ones(2, 3))
    assert len([function for function in asked if function is torch.clamp]) <= 1


@fx.wrap
def add_to_all_but_the_first(x: Any, y: Any) -> Any:
    x[:, 1:] += y[:, 1:]
    return x


@fx.wrap
def the_same(x: Any, y: Any) -> Any:
    return x


def written_and_result_left(x: Any) -> Any:
    y = x * 2
    add_to_all_but_the_first(y, x)
    return y + 1


def written_through_a_view(x: Any) -> Any:
    y = x * 2
    add_to_all_but_the_first(y.flatten(2), x.flatten(2))
    return y.sum(1), y


def not_written(x: Any) -> Any:
    y = x * 2
    the_same(y, x)
    return the_same(y, x) + 1


@pytest.mark.parametrize("function", [written_and_result_left, written_through_a_view, not_written])
def test_a_wrapped_function_may_write_into_its_first_operand(function: Any) -> None:
    """`torchvision.models.video.mvit` adds a shortcut so, and leaves the result: it was taken for an identity, and went."""
    _, found, expected = run_both(function, X)
    for result, wanted in zip(*(each if isinstance(each, tuple) else (each,) for each in (found, expected)), strict=True):
        np.testing.assert_allclose(result, wanted)


def test_a_wrapped_function_that_writes_is_written_to_a_file(tmp_path: Path) -> None:
    compiled = hqc.compile(Function(written_and_result_left).eval(), X, march="bayes", calibration_data=[X])
    assert compiled.export(tmp_path / "m.onnx", flavour="runnable").executed


def narrow_by_sizes(x: Any) -> Any:
    """As speech networks mask the frames behind each sequence."""
    mask = torch.BoolTensor(x.size()).fill_(0)
    for i, length in enumerate((1, 3)):
        if (mask[i].size(2) - length) > 0:
            mask[i].narrow(2, length, mask[i].size(2) - length).fill_(1)
    return x.masked_fill(mask, 0)


@pytest.mark.parametrize("shapes", [True, False])
def test_a_narrow_whose_bounds_are_sizes_is_written(shapes):
    if not shapes:  # the branch asks for the size
        with pytest.raises(HqcError, match=r"needs the value|a branch tests the value of"):
            run_both(narrow_by_sizes, X, shapes=False)
        return
    _, found, expected = run_both(narrow_by_sizes, X)
    compare(found, expected, 0)


def release_of_parts(x: Any) -> Any:
    """Reversible blocks let go of what they can compute again; a batch of one makes `contiguous` the chunk itself."""
    left, right = x.chunk(2, dim=1)
    left, right = left.contiguous(), right.contiguous()
    result = torch.cat((left + right, right * 2), dim=1)
    left.set_()
    right.set_()
    x.data.set_()
    return result + x.sum()


@pytest.mark.parametrize("batch", [1, 2])
def test_memory_that_is_let_go_is_no_write(batch: int) -> None:
    traced, got, expected = run_both(release_of_parts, X[:batch])
    assert not [node for node in traced.graph.nodes if node.target == "set_"]
    compare(got, expected, 0)


def test_what_is_read_after_it_was_let_go_is_empty() -> None:
    def function(x: Any) -> Any:
        y = x.mul(2)
        y.set_()
        return y.sum() + x

    _, got, expected = run_both(function, X)
    compare(got, expected, 0)
