"""Advice: what brings most comes first, followers go along, replacements are named, pairs are found, numbers are those of the plan."""

from __future__ import annotations

import textwrap

import pytest
import torch
from torch import nn

import hqc
from hqc.analysis.advice import Outcome, Replace, advise
from hqc.errors import InputError
from hqc.ir.parser import parse
from hqc.workflow.explanation import Explanation, explain_graph
from hqc.workflow.options import CompileOptions

NET = """
    input %x: f32[1,8,16,16]
    param @w: f32[8,8,3,3] = #random(0, [8,8,3,3])
    %a = conv2d(%x, @w) {padding=[1,1,1,1]} loc("first:conv2d#0") from(a)
    %b = selu(%a) loc("act:selu#0") from(b)
    %d = transpose(%b) {perm=[0,1,3,2]} loc("turn:transpose#0") from(d)
    %e = conv2d(%d, @w) {padding=[1,1,1,1]} loc("second:conv2d#0") from(e)
    %f = conv2d(%e, @w) {padding=[1,1,1,1]} loc("third:conv2d#0") from(f)
    output %f
"""
MACS = 8 * 8 * 9 * 256


def explained(*on_cpu: str) -> Explanation:
    graph = parse(f"graph @net stage=lowered {{\n{textwrap.dedent(NET).strip()}\n}}\n")
    hybrid_dict = {"module_name": list(on_cpu)} if on_cpu else None
    return explain_graph(graph, CompileOptions.of("bayes", hybrid_dict=hybrid_dict))


def outcome(explanation: Explanation) -> Outcome:
    totals = explanation.placement.totals
    return Outcome(totals.bpu_macs, totals.bpu_macs + totals.cpu_macs, totals.crossings, totals.crossing_bytes)


def test_a_replacement_is_named_and_followers_go_along() -> None:
    (only,) = advise(explained()).steps
    assert only.to_bpu == ("act (selu)", "turn (transpose)")
    assert only.before.crossings == 4 and only.after == Outcome(3 * MACS, 3 * MACS, 2, 2048 + 4 * 2048)
    assert str(only) == (
        "act (selu): ELU(2) runs on the BPU of bayes; train with it; turn (transpose) goes along (crossings 4 -> 2, "
        f"{only.before.bytes:,} -> {only.after.bytes:,} bytes)"
    )


def test_multiply_accumulates_rank_before_crossings() -> None:
    first, second = advise(explained("third")).steps
    assert first.to_bpu == ("third (conv2d)",) and first.hybrid_dict == {}
    assert "drop the entry module_name 'third' -> cpu" in str(first) and f"{MACS:,} MACs to the BPU" in str(first)
    assert second.to_bpu[0] == "act (selu)" and second.hybrid_dict == {"cpu": {"module_name": ["third"]}}
    assert advise(explained("third"), limit=1).steps == (first,)


def test_the_graph_stays_as_it_is_and_a_limit_below_one_is_refused() -> None:
    explanation = explained("third")
    before = str(explanation.graph), str(explanation.float_graph)
    advise(explanation)
    assert before == (str(explanation.graph), str(explanation.float_graph))
    with pytest.raises(InputError, match="limit must be at least 1, got 0"):
        advise(explanation, limit=0)


def test_what_was_not_tried_is_said() -> None:
    layers = [layer for _ in range(12) for layer in (nn.Conv2d(4, 4, 1), nn.SELU())]
    explanation = hqc.explain(nn.Sequential(*layers), torch.zeros(1, 4, 8, 8), march="bayes")
    few, all_of_them = advise(explanation, effort=1), advise(explanation, effort=None)
    assert not few.complete and few.singles + few.pairs <= 16 < all_of_them.singles + all_of_them.pairs
    assert all_of_them.complete and few.steps[0] == all_of_them.steps[0]


class Gated(nn.Module):
    """A convolution, the activation under test, a convolution."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.act, self.last = nn.Conv2d(3, 8, 3, padding=1), activation, nn.Conv2d(8, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.act(self.first(x)))


@pytest.mark.parametrize("march", ["bernoulli", "bernoulli2", "bayes", "bayes-e"])
@pytest.mark.parametrize("activation", [nn.SELU(), nn.PReLU(8), nn.Hardswish(), nn.Mish(), nn.CELU(), nn.Softsign()])
def test_the_module_that_is_named_gives_what_is_said(activation: nn.Module, march: str) -> None:
    x = torch.zeros(1, 3, 12, 12)
    explanation = hqc.explain(Gated(activation), x, march=march)
    if explanation.device_of("act") == "bpu":
        assert not any(isinstance(change, Replace) for step in advise(explanation).steps for change in step.changes)
        return
    (step,) = (each for each in advise(explanation).steps if any(isinstance(change, Replace) for change in each.changes))
    (change,) = step.changes
    assert isinstance(change, Replace) and change.nodes == ("act",)
    name, _, number = change.spelled.rstrip(")").partition("(")
    named = {each.lower(): getattr(nn, each) for each in dir(nn)}[name.lower()]
    replaced = hqc.explain(Gated(named(float(number)) if number else named()), x, march=march)
    assert outcome(replaced) == step.after and replaced.device_of("act") == "bpu"


class Scores(nn.Module):
    """Two branches that a softmax and a split bring to the CPU; the addition needs both."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(channels, 8, 1) for channels in (3, 3, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(torch.cat([self.a(x).softmax(1), self.b(x).softmax(1)], 1)[:, :8])


def test_one_change_for_all_that_have_one_reason() -> None:
    explanation = hqc.explain(Scores(), torch.zeros(1, 3, 8, 8), march="bayes")
    best = advise(explanation).steps[0]
    assert best.hybrid_dict == {"bpu": {"op": ["softmax"]}} and len(best.changes) == 1
    assert outcome(hqc.explain(Scores(), torch.zeros(1, 3, 8, 8), march="bayes", hybrid_dict=best.hybrid_dict)) == best.after


class Joined(nn.Module):
    """A cat that two different activations keep on the CPU: it goes to the BPU only if both operands do."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(channels, 8, 1) for channels in (3, 3, 16))
        self.left, self.right = nn.SELU(), nn.PReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(torch.cat([self.left(self.a(x)), self.right(self.b(x))], 1))


def test_a_pair_is_shown_where_neither_change_helps_alone() -> None:
    report = advise(hqc.explain(Joined(), torch.zeros(1, 3, 8, 8), march="bayes"))
    assert [len(step.changes) for step in report.steps] == [2]
    (pair,) = report.steps
    assert "right (prelu): LeakyReLU(0.25) runs on the BPU of bayes" in str(pair)
    assert pair.subjects == ("left (selu)", "right (prelu)")
    assert (pair.before.crossings, pair.after.crossings) == (5, 2)
    assert set(pair.to_bpu) == {"left (selu)", "right (prelu)", "cat (cat)"}


def test_a_setting_that_runs_is_named() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(nn.functional.interpolate(self.a(x), scale_factor=2.0, mode="bicubic"))

    explanation = hqc.explain(Net(), torch.zeros(1, 3, 8, 8), march="bayes")
    assert explanation.device_of("interpolate") == "cpu"
    best = advise(explanation).steps[0]
    assert "resize2d with mode=" in str(best) and best.after.crossings == 2


class Wide(nn.Module):
    """A convolution with a window that no march before bayes runs, or with a wide dilation."""

    def __init__(self, kernel: int, padding: int, dilation: int = 1) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, kernel, padding=padding, dilation=dilation)
        self.c = nn.Conv2d(8, 8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(self.b(self.a(x)))


def test_a_window_within_the_limit_is_named_with_the_macs_that_it_has() -> None:
    x = torch.zeros(1, 3, 20, 20)
    best = advise(hqc.explain(Wide(9, 4), x, march="bernoulli2")).steps[0]
    assert "b (conv2d): conv2d with a 7x7 kernel runs on the BPU of bernoulli2" in str(best)
    assert best.after == outcome(hqc.explain(Wide(7, 3), x, march="bernoulli2"))
    assert best.after.bpu_macs - best.before.bpu_macs == 8 * 8 * 49 * 400
