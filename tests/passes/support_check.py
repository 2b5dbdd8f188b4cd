"""Run the support analysis (and what comes before it) on IR text, with any context."""

from __future__ import annotations

import textwrap
from typing import Any

from hqc.ir import Graph, Node, Reason
from hqc.ir.parser import parse
from hqc.march import get_spec
from hqc.passes import PassContext, Remark
from hqc.passes.overrides import parse_hybrid_dict
from hqc.passes.pipeline_text import parse_passes

WEIGHTS = """
param @w: f32[8,8,3,3] = #random(0, [8,8,3,3])
param @w1: f32[8,8,1,1] = #random(1, [8,8,1,1])
param @big: f32[8,8,9,9] = #random(2, [8,8,9,9])
"""


def analyzed(
    body: str,
    march: str = "bayes",
    *,
    high_precision: frozenset[str] | None = None,
    hybrid: bool = True,
    hybrid_dict: dict[str, Any] | None = None,
    passes: str = "apply-overrides,analyze-support",
) -> tuple[Graph, list[Remark]]:
    """The graph after `passes`, and their remarks. The last pass is run twice: the second run must change nothing."""
    graph = parse(f"graph @test stage=lowered {{\n{WEIGHTS}{textwrap.dedent(body).strip()}\n}}\n")
    context = PassContext(
        get_spec(march), hybrid=hybrid, overrides=parse_hybrid_dict(hybrid_dict), high_precision=high_precision
    )
    remarks: list[Remark] = []
    items = parse_passes(passes)
    for item in items:
        remarks.extend(item.run(graph, context).remarks)
    before = str(graph)
    assert not items[-1].run(graph, context).changed, f"a second {items[-1].name} changes\n{before}\nto\n{graph}"
    assert str(graph) == before
    return graph, remarks


def node(graph: Graph, name: str) -> Node:
    producer = graph.value(name).producer
    assert producer is not None
    return producer


def devices(graph: Graph) -> str:
    """`a=bpu b=cpu ...` in program order, by verdict."""
    words = [f"{n.name}={'bpu' if n.support.accepted else 'cpu'}" for n in graph.nodes if n.support is not None]
    return " ".join(words)


def why(graph: Graph, name: str) -> Reason:
    """The first reason of a node."""
    support = node(graph, name).support
    assert support is not None and support.reasons, name
    return support.reasons[0]
