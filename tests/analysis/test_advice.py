"""Advice: the change that brings the most comes first, followers go along, what saves nothing is not mentioned."""

from __future__ import annotations

import textwrap

import pytest

from hqc.errors import InputError
from hqc.ir import Graph
from hqc.ir.parser import parse
from hqc.march import get_spec
from hqc.metrics.advice import advice
from hqc.passes import PassContext
from hqc.passes.overrides import parse_hybrid_dict
from hqc.workflow.pipelines import explain_pipeline

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


def placed(*on_cpu: str) -> Graph:
    graph = parse(f"graph @net stage=lowered {{\n{textwrap.dedent(NET).strip()}\n}}\n")
    overrides = parse_hybrid_dict({"module_name": list(on_cpu)} if on_cpu else None)
    explain_pipeline().run(graph, PassContext(get_spec("bayes"), overrides=overrides))
    return graph


def test_followers_go_along_and_crossings_are_counted_as_if_they_had_moved() -> None:
    (only,) = advice(placed())
    assert only.operations == ("act (selu)", "turn (transpose)")
    assert only.macs == 0 and only.crossings == (4, 2)
    assert str(only).endswith("use another op here (crossings 4 -> 2)")


def test_multiply_accumulates_rank_before_crossings() -> None:
    first, second = advice(placed("third"))
    assert first.operations == ("third (conv2d)",) and first.macs == MACS
    assert f"{MACS:,} MACs to the BPU" in str(first) and second.macs == 0
    assert advice(placed("third"), limit=1) == [first]


def test_the_graph_stays_as_it_is_and_a_limit_below_one_is_refused() -> None:
    graph = placed("third")
    before = str(graph)
    advice(graph)
    assert str(graph) == before
    with pytest.raises(InputError, match="limit must be at least 1, got 0"):
        advice(graph, limit=0)
