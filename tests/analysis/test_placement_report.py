"""The placement report: rows with reasons, what would change them, crossings, totals, and four marches side by side."""

from __future__ import annotations

import textwrap
from typing import Any

import pytest
from rich.console import Console

from hqc.errors import InputError
from hqc.ir import Graph, Reason
from hqc.ir.parser import parse
from hqc.march import get_spec
from hqc.metrics.placement import MarchComparison, PlacementReport, placement_report, what_to_change
from hqc.passes import PassContext
from hqc.passes.overrides import parse_hybrid_dict
from hqc.workflow.explanation import compare_marches
from hqc.workflow.options import CompileOptions
from hqc.workflow.pipelines import explain_pipeline

NET = """
    input %x: f32[1,8,16,16]
    param @w: f32[8,8,3,3] = #random(0, [8,8,3,3])
    param @big: f32[8,8,9,9] = #random(1, [8,8,9,9])
    param @s: f32[1] = [0.25]
    %a = conv2d(%x, @w) {padding=[1,1,1,1]} loc("stem.conv:conv2d#0" "net.py:3") from(a)
    %b = conv2d(%a, @big) {padding=[4,4,4,4]} loc("body.conv:conv2d#0" "net.py:4") from(b)
    %c = prelu(%b, @s) loc("body.act:prelu#0" "net.py:5") from(c)
    %d = softmax(%c) {axis=1} loc("head:softmax#0" "net.py:6") from(d)
    %e = conv2d(%d, @w) {padding=[1,1,1,1]} loc("last:conv2d#0" "net.py:7") from(e)
    output %e
"""
CONV_MACS = 8 * 8 * 9 * 256
BIG_MACS = 8 * 8 * 81 * 256


def lowered(body: str = NET) -> Graph:
    return parse(f"graph @net stage=lowered {{\n{textwrap.dedent(body).strip()}\n}}\n")


def report(march: str, body: str = NET, hybrid_dict: dict[str, Any] | None = None) -> PlacementReport:
    graph = lowered(body)
    explain_pipeline().run(graph, PassContext(get_spec(march), overrides=parse_hybrid_dict(hybrid_dict)))
    return placement_report(graph)


def row(rep: PlacementReport, name: str) -> Any:
    (found,) = [each for each in rep.rows if each.name == name]
    return found


def test_a_row_says_where_why_and_what_would_change_it() -> None:
    found = row(report("bernoulli2"), "b")
    assert (found.device, found.subgraph, found.module, found.source, found.macs) == (
        "cpu",
        None,
        "body.conv",
        "net.py:4",
        BIG_MACS,
    )
    assert str(found.reasons[0]) == "kernel at most 7x7 on bernoulli2: 9x9, limit 7x7 (bayes and bayes-e run it)"
    assert found.change == "keep to: kernel at most 7x7; bayes and bayes-e run it"


def test_a_node_on_the_bpu_has_a_reason_too_and_nothing_to_change() -> None:
    found = row(report("bayes"), "a")
    assert (found.device, found.subgraph, found.change) == ("bpu", 0, "")
    assert found.reasons[0].rule == "within the limits of bayes"


def test_every_row_names_a_step() -> None:
    for march in ("bernoulli", "bernoulli2", "bayes", "bayes-e"):
        for each in report(march).rows:
            assert each.reasons and all(r.step in ("capability", "context", "override", "cost") for r in each.reasons)


def test_totals_count_operations_macs_subgraphs_and_crossings_once() -> None:
    rep = report("bayes")
    totals = rep.totals
    assert (totals.bpu_nodes, totals.cpu_nodes, totals.subgraphs) == (3, 2, 2)
    assert (totals.bpu_macs, totals.cpu_macs) == (2 * CONV_MACS + BIG_MACS, 0)
    # in: x and d; out: b and e
    assert [(each.value, each.to) for each in rep.crossings] == [("x", "bpu"), ("b", "cpu"), ("d", "bpu"), ("e", "cpu")]
    # b and e leave layers that end their BPU segment: int32
    assert totals.crossing_bytes == (1 + 4 + 1 + 4) * 8 * 16 * 16 and totals.complete and totals.bpu_share == 1.0


def test_a_value_with_two_readers_crosses_once() -> None:
    body = """
        input %x: f32[1,8,16,16]
        %a = sigmoid(%x) from(a)
        %b = selu(%a) from(b)
        %c = softsign(%a) from(c)
        output %b, %c, %a
    """
    rep = report("bayes", body)
    assert [(each.value, each.to) for each in rep.crossings] == [("x", "bpu"), ("a", "cpu")]


def test_unknown_shapes_are_said_to_be_lower_bounds() -> None:
    rep = report("bayes", "input %x: f32[*]\n%a = sigmoid(%x) from(a)\noutput %a")
    assert not rep.totals.complete and "lower bounds" in rep.summary()
    assert "accepted if" in str(row(rep, "a").reasons[0])


def test_devices_are_asked_by_module_node_or_value() -> None:
    rep = report("bayes")
    assert rep.device_of("stem.conv") == rep.device_of("stem") == "bpu"
    assert rep.device_of("body") == "mixed" and rep.device_of("c") == "cpu"
    with pytest.raises(InputError, match=r"no operation of the model is called .stem\.cnv.; did you mean stem\.conv"):
        rep.device_of("stem.cnv")


def test_a_graph_without_devices_is_refused() -> None:
    with pytest.raises(InputError, match="a has no device yet"):
        placement_report(lowered())


def test_the_table_lists_the_cpu_and_on_demand_everything() -> None:
    rep = report("bernoulli2")
    console = Console(width=200)
    with console.capture() as capture:
        console.print(rep.table())
    some = capture.get()
    with console.capture() as capture:
        console.print(rep.table(everything=True))
    assert "body.conv" in some and "stem.conv" not in some and "stem.conv" in capture.get()
    assert rep.summary() in str(rep)


@pytest.mark.parametrize(
    ("reason", "change"),
    [
        (Reason("placed on the CPU by request", "op 'conv2d' -> cpu", step="override"), "drop the entry op 'conv2d' -> cpu"),
        (Reason("block too small", "2 ops", step="cost"), "lower the thresholds of the partition pass"),
        (
            Reason("a passive op stays with its producer", "b is on the CPU", step="context"),
            "follows its neighbours (b is on the CPU)",
        ),
        (Reason("only on request", hint="ask for it with X"), "ask for it with X"),
        (Reason("Selu runs on the CPU on bayes", hint=""), "use another op here"),
    ],
)
def test_what_to_change_follows_the_step(reason: Reason, change: str) -> None:
    assert what_to_change([reason], "bayes") == change


# --- four marches ----------------------------------------------------------------------------------------------------------


def compared() -> tuple[MarchComparison, Graph]:
    graph = lowered()
    return compare_marches(graph), graph


def test_one_model_on_four_marches() -> None:
    comparison, graph = compared()
    assert [rep.march for rep in comparison.reports] == ["bernoulli", "bernoulli2", "bayes", "bayes-e"]
    assert graph == lowered(), "the caller's graph was changed"
    assert comparison.differences == [("b", ("cpu", "cpu", "bpu", "bpu")), ("c", ("bpu", "bpu", "cpu", "cpu"))]
    text = str(comparison)
    assert all(march in text for march in ("bernoulli2", "bayes-e")) and f"{BIG_MACS:,}" in text


def test_overrides_hold_on_every_march() -> None:
    comparison = compare_marches(lowered(), CompileOptions.of("bayes", hybrid_dict={"module_name": ["last"]}))
    assert all(rep.device_of("last") == "cpu" for rep in comparison.reports)
