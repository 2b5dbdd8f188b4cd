"""partition: the classic cases as six-line graphs, thresholds, and random graphs against a slow oracle.

In the small graphs `+` is an accepted and `-` a refused node; a line is `name device operands`.
"""

from __future__ import annotations

import random

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_check import assert_text, graph_of, run_passes, transform

from hqc.errors import PassError
from hqc.ir import Device, Graph, Support, TensorType
from hqc.ir.types import DType
from hqc.march import get_spec
from hqc.passes import PassContext, subgraphs
from hqc.passes.partition import Partition, partition_summary
from hqc.passes.subgraphs import convex_subgraphs

X = TensorType(DType.FLOAT32, (1, 4))


def build(lines: str) -> Graph:
    """A graph from lines `name +|- operands`; names that no line defines are graph inputs, unused values are outputs."""
    graph = Graph("test")
    graph.stage = "supported"
    rows = [line.split() for line in lines.strip().splitlines()]
    defined = {name for row in rows for name in row[0].split(",")}
    for row in rows:
        for name in row[2:]:
            if name not in defined and name not in graph.values:
                graph.add_input(name, X)
    for row in rows:
        names, mark, operands = row[0].split(","), row[1], [graph.value(name) for name in row[2:]]
        if len(names) > 1:
            node = graph.add_node(
                "split", operands, {"axis": 1, "sizes": (2,) * len(names)}, name=names, types=[X] * len(names)
            )
        elif len(operands) == 2:
            node = graph.add_node("add", operands, name=names[0], types=[X])
        else:
            node = graph.add_node("cat", operands, {"axis": 1}, name=names[0], types=[X])
        node.support = Support(mark == "+")
    graph.set_outputs([v for node in graph.nodes for v in node.results if not v.has_uses])
    return graph


def split(lines: str, **options: object) -> str:
    """The partition as text: members of each subgraph joined by `+`, subgraphs by blanks, in numbering order."""
    graph = build(lines)
    Partition(**options).run(graph, PassContext(get_spec("bayes")))  # type: ignore[arg-type]
    groups: dict[int, list[str]] = {}
    for node in graph.nodes:
        assert (node.device is Device.BPU) == (node.subgraph is not None)
        if node.subgraph is not None:
            groups.setdefault(node.subgraph, []).append(node.name)
    assert sorted(groups) == list(range(len(groups)))
    return " ".join("+".join(groups[number]) for number in sorted(groups))


# --- the classic cases ------------------------------------------------------------------------------------------------------


def test_vertical_neighbours_are_one_subgraph() -> None:
    assert split("a + x\nb + a\nc + b") == "a+b+c"


def test_a_cpu_op_in_a_chain_separates_two_subgraphs() -> None:
    assert split("a + x\nb - a\nc + b") == "a c"


def test_everything_on_the_cpu_gives_no_subgraph() -> None:
    assert split("a - x\nb - a") == ""


def test_horizontal_siblings_share_a_subgraph_only_on_request() -> None:
    siblings = "a - x\nb + a\nc + a\nd - b c"
    assert split(siblings) == "b c"
    assert split(siblings, horizontal_merge=True) == "b+c"


def test_siblings_with_a_common_bpu_producer_are_one_subgraph() -> None:
    assert split("a + x\nb + a\nc + a\nd - b c") == "a+b+c"


def test_a_diamond_on_the_bpu_is_one_subgraph() -> None:
    assert split("a + x\nb + a\nc + a\nd + b c") == "a+b+c+d"


def test_a_diamond_with_a_cpu_side_is_cut_so_that_no_cycle_arises() -> None:
    assert split("a + x\nb + a\nc - a\nd + b c") == "a+b d"


def test_three_branches_with_one_on_the_cpu() -> None:
    assert split("a + x\nb + a\nc + a\nd - a\ne + b c\nf + e d") == "a+b+c+e f"


def test_three_branches_that_end_apart() -> None:
    assert split("a - x\nb + a\nc - a\nd + a\ne + b\nf + c\ng + d") == "b+e d+g f"


def test_a_cycle_through_a_cpu_op_is_avoided_though_the_nodes_are_adjacent() -> None:
    assert split("a + x\nb - a\nc + a b\nd + c") == "a c+d"


def test_independent_inputs_may_join_a_later_subgraph() -> None:
    assert split("a + x\nb - a\nz + y\nc + b z\n") == "a z+c"


def test_two_bridges_force_two_cuts() -> None:
    assert split("a + x\nb - a\nc + a b\nd - c\ne + a d\nf + e c") == "a c e+f"


def test_an_early_value_joins_the_latest_subgraph_that_does_not_depend_on_it_through_the_cpu() -> None:
    assert split("z + y\na + x\nb - a\nc + b\nd - c\ne + d z") == "a c z+e"


def test_what_lies_between_two_mergeable_neighbours_joins_them() -> None:
    # z -> m -> c, z -> c, and only m waits for the CPU op b: z, m and c depend on each other on the BPU alone.
    assert split("a + x\nb - a\nz + y\nm + z b\nc + z m") == "a z+m+c"


def test_several_results_count_each() -> None:
    assert split("a,b + x\nc + a\nd - b\ne + c d") == "a+c e"


def test_a_long_skip_connection_over_cpu_ops() -> None:
    assert split("a + x\nb + a\nc - b\nd + c\ne - d\nf + e a\ng + f d") == "a+b d f+g"


def test_a_skip_over_bpu_ops_only_is_no_obstacle() -> None:
    assert split("a + x\nb + a\nc + b\nd + c\ne + d a") == "a+b+c+d+e"


def test_two_interleaved_chains_stay_apart_and_legal() -> None:
    # Joining a1 with b2 and b1 with a2 at once would be a cycle.
    assert split("a1 + x\nb1 + y\nca - a1\ncb - b1\na2 + cb a1\nb2 + ca b1") == "b1 a1+a2 b2"


def test_high_resolution_fusion_across_scales() -> None:
    # HRNet: two scales exchange through an op that the chip lacks (pytorch#86159).
    lines = "h0 + x\nl0 + x\nu0 - l0\nd0 + h0\nh1 + h0 u0\nl1 + l0 d0\nu1 - l1\nd1 + h1\nh2 + h1 u1\nl2 + l1 d1"
    assert split(lines) == "h0+l0+d0+l1 h1+d1+h2+l2"


# --- the pass on IR text ----------------------------------------------------------------------------------------------------


def test_boundary_ops_run_on_the_cpu_and_separate() -> None:
    graph = transform(
        """
        input %x: f32[1,4]
        %q: f32[1,4] = quantize(%x) {stub=true}
        %a: f32[1,4] = relu(%q) accepted
        %d: f32[1,4] = dequantize(%a)
        %b: f32[1,4] = relu(%d) accepted
        %c: f32[1,4] = selu(%b) refused("SELU is not a BPU op")
        output %c
        """,
        "partition",
        stage="supported",
    )
    assert_text(
        graph,
        """
        CHECK: graph @test march=bayes stage=partitioned
        CHECK: %q: f32[1,4] = quantize(%x) {stub=true} cpu
        CHECK-NEXT: %a: f32[1,4] = relu(%q) bpu.0 accepted
        CHECK-NEXT: %d: f32[1,4] = dequantize(%a) cpu
        CHECK-NEXT: %b: f32[1,4] = relu(%d) bpu.1 accepted
        CHECK-NEXT: %c: f32[1,4] = selu(%b) cpu refused("SELU is not a BPU op")
        """,
    )


def test_a_node_without_a_verdict_is_an_error_with_its_location() -> None:
    graph = graph_of('input %x: f32[1,4]\n%y = relu(%x) loc("act:relu#0" "net.py:7")\noutput %y', "lowered")
    with pytest.raises(PassError, match=r"y \[act:relu#0 \(net.py:7\)\] has no verdict; run analyze-support"):
        Partition().run(graph, PassContext(get_spec("bayes")))


# --- thresholds --------------------------------------------------------------------------------------------------------------

SMALL_AND_LARGE = """
    input %x: f32[1,3,8,8]
    param @w = #random(1, [8,3,3,3])
    %conv: f32[1,8,8,8] = conv2d(%x, @w) {padding=[1,1,1,1]} accepted from(conv)
    %selu: f32[1,8,8,8] = selu(%conv) refused("SELU is not a BPU op") from(selu)
    %a: f32[1,8,8,8] = relu(%selu) accepted from(a)
    %b: f32[1,8,8,8] = sigmoid(%a) accepted from(b)
    output %b
"""


def test_small_blocks_go_to_the_cpu_with_the_numbers() -> None:
    graph = transform(SMALL_AND_LARGE, "partition{min-macs=1e4}", stage="supported")
    assert_text(
        graph,
        """
        CHECK: %conv: {{.*}} bpu.0 accepted
        CHECK: %selu: {{.*}} cpu refused
        CHECK: %a: {{.*}} cpu refused("block too small", actual="2 ops, 0 MMAC", limit="0.01 MMAC", {{.*}}step=cost, id=min-macs)
        CHECK: %b: {{.*}} cpu refused("block too small", actual="2 ops, 0 MMAC", limit="0.01 MMAC", {{.*}}step=cost, id=min-macs)
        """,
    )


def test_demotion_goes_on_until_no_small_block_is_left() -> None:
    # Demoting b cuts a+d in two, and then a and d are too small as well; the block of four stays.
    lines = "a + x\nb,c + a\nd - b\n" + "e + d c\nf + e\ng + f\nh + g"
    assert split(lines) == "a+b e+f+g+h"
    assert split(lines, min_nodes=3) == "e+f+g+h"
    chain = "a + x\np - a\nb + p a\nq - b\nc + q b\nr - c\nd + r c"
    assert split(chain) == "a b c d"
    assert split(chain, min_nodes=2) == ""


def test_nodes_of_one_operation_of_the_model_are_demoted_together() -> None:
    graph = graph_of(
        """
        input %x: f32[1,4]
        %a = relu(%x) accepted from(op)
        %s = selu(%a) refused("no") from(s)
        %b = relu(%s) accepted from(op)
        %c = relu(%b) accepted from(c)
        output %c
        """,
        "supported",
    )
    run_passes(graph, "partition{min-nodes=2}")
    assert {node.name: node.device for node in graph.nodes} == dict.fromkeys(["a", "s", "b", "c"], Device.CPU)


def test_a_block_that_the_user_asked_for_stays() -> None:
    graph = graph_of(SMALL_AND_LARGE.replace("accepted from(b)", 'accepted request(bpu, "mine") from(b)'), "supported")
    remarks = run_passes(graph, "partition{min-macs=1e6}")
    assert [node.name for node in graph.nodes if node.device is Device.BPU] == ["a", "b"]
    assert str(remarks[0]).startswith("[partition] conv: block too small: 1 op, 0.0138 MMAC, limit 1 MMAC")


def test_a_block_with_unknown_shapes_is_not_judged_by_its_macs() -> None:
    text = SMALL_AND_LARGE.replace("1,3,8,8", "*").replace("1,8,8,8", "*")
    graph = transform(text, "partition{min-macs=1e9}", stage="supported")
    assert [node.name for node in graph.nodes if node.device is Device.BPU] == ["conv"]


def test_thresholds_need_a_cpu_to_fall_back_to() -> None:
    graph = graph_of(SMALL_AND_LARGE, "supported")
    with pytest.raises(PassError, match="min-macs and min-nodes send nodes to the CPU; that needs hybrid=True"):
        Partition(min_nodes=2).run(graph, PassContext(get_spec("bayes"), hybrid=False))


def test_the_dry_run_says_what_thresholds_would_give_and_changes_nothing() -> None:
    graph = graph_of(SMALL_AND_LARGE, "supported")
    before = str(graph)
    rows = partition_summary(graph, [(0, 0), (1e4, 0), (1e9, 0)])
    assert str(graph) == before
    counts = [(row.subgraphs, row.bpu_nodes, row.cpu_nodes, row.crossings) for row in rows]
    assert counts == [(2, 3, 1, 4), (1, 1, 3, 2), (0, 0, 4, 0)]
    assert [(row.bpu_macs, row.cpu_macs) for row in rows] == [(13824, 0), (13824, 0), (0, 13824)]
    assert rows[1].demoted == ("a", "b")


def test_the_pass_itself_reports_on_other_thresholds_when_asked() -> None:
    graph = graph_of(SMALL_AND_LARGE, "supported")
    remarks = [remark.message for remark in run_passes(graph, "partition{compare}")]
    assert remarks[0] == "3 nodes on the BPU in 2 subgraphs, 1 node on the CPU"
    expected = (
        "min-macs=0, min-nodes=2: 2 nodes on the BPU with 0 MMAC in 1 subgraph, 2 nodes on the CPU, 2 crossings, 1 demoted"
    )
    assert expected in remarks
    assert [node.name for node in graph.nodes if node.device is Device.BPU] == ["conv", "a", "b"]


# --- random graphs against an oracle -----------------------------------------------------------------------------------------


@st.composite
def dags(draw: st.DrawFn) -> tuple[list[list[int]], list[bool]]:
    size = draw(st.integers(1, 16))
    density, share = draw(st.sampled_from([0.1, 0.2, 0.35])), draw(st.sampled_from([0.5, 0.75, 0.9]))
    rng = random.Random(draw(st.integers(0, 10**6)))
    before = [[p for p in range(v) if rng.random() < density] for v in range(size)]
    return before, [rng.random() < share for _ in range(size)]


def quotient_is_acyclic(before: list[list[int]], subgraph: list[int | None]) -> bool:
    def point(vertex: int) -> tuple[str, int]:
        number = subgraph[vertex]
        return ("node", vertex) if number is None else ("subgraph", number)

    graph = nx.DiGraph()
    for vertex, sources in enumerate(before):
        graph.add_node(point(vertex))
        graph.add_edges_from((point(p), point(vertex)) for p in sources if point(p) != point(vertex))
    return nx.is_directed_acyclic_graph(graph)


def is_convex(before: list[list[int]], members: set[int]) -> bool:
    """No path leaves the members and comes back."""
    graph = nx.DiGraph([(p, v) for v, sources in enumerate(before) for p in sources])
    graph.add_nodes_from(range(len(before)))
    below = set().union(*(nx.descendants(graph, m) for m in members)) - members
    above = set().union(*(nx.ancestors(graph, m) for m in members)) - members
    return not below & above


@settings(max_examples=200, deadline=None)
@given(dags())
def test_random_partitions_are_complete_convex_acyclic_and_maximal(dag: tuple[list[list[int]], list[bool]]) -> None:
    before, inside = dag
    subgraph = convex_subgraphs(before, inside, [f"n{v}" for v in range(len(before))])
    assert [number is not None for number in subgraph] == inside
    assert quotient_is_acyclic(before, subgraph)
    for number in {number for number in subgraph if number is not None}:
        assert is_convex(before, {v for v, other in enumerate(subgraph) if other == number})
    adjacent = {(subgraph[p], subgraph[v]) for v, sources in enumerate(before) for p in sources}
    for a, b in adjacent:
        if a is not None and b is not None and a != b:
            joined = [a if number == b else number for number in subgraph]
            assert not quotient_is_acyclic(before, joined), f"subgraphs {a} and {b} could have been one"


@settings(max_examples=100, deadline=None)
@given(dags(), st.integers(0, 10**6), st.booleans())
def test_the_order_of_insertion_does_not_matter(dag: tuple[list[list[int]], list[bool]], seed: int, merge: bool) -> None:
    before, inside = dag
    rng = random.Random(seed)
    names = [f"n{v}" for v in range(len(before))]
    rng.shuffle(names)
    expected = convex_subgraphs(before, inside, names, horizontal=merge)
    order: list[int] = []
    while len(order) < len(before):
        ready = [v for v in range(len(before)) if v not in order and all(p in order for p in before[v])]
        order.append(rng.choice(ready))
    place = {vertex: position for position, vertex in enumerate(order)}
    shuffled = [rng.sample([place[p] for p in before[v]], len(before[v])) for v in order]
    found = convex_subgraphs(shuffled, [inside[v] for v in order], [names[v] for v in order], horizontal=merge)
    assert [found[place[v]] for v in range(len(before))] == expected


@settings(max_examples=100, deadline=None)
@given(dags())
def test_horizontally_merged_partitions_are_acyclic_and_never_more_than_without(
    dag: tuple[list[list[int]], list[bool]],
) -> None:
    before, inside = dag
    names = [f"n{v}" for v in range(len(before))]
    merged, plain = convex_subgraphs(before, inside, names, horizontal=True), convex_subgraphs(before, inside, names)
    assert quotient_is_acyclic(before, merged)
    assert len(set(merged) - {None}) <= len(set(plain) - {None})


def test_subgraphs_are_numbered_in_an_order_of_execution() -> None:
    before, inside = [[], [], [1], [2], [0, 3]], [True, True, False, True, True]
    # z (vertex 0) is first in program order but joins the last subgraph.
    assert convex_subgraphs(before, inside, list("zabcd")) == [1, 0, None, 1, 1]


def test_many_short_cuts_stay_cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """One node feeds thousands that also wait for the CPU: each pair must be told apart after a few steps."""
    count, steps = 4000, 0
    before: list[list[int]] = [[]]
    for _ in range(count):
        before.append([0])
        before.append([0, len(before) - 1])
    find = subgraphs._DisjointSets.find

    def counting(self: subgraphs._DisjointSets, vertex: int) -> int:
        nonlocal steps
        steps += 1
        return find(self, vertex)

    monkeypatch.setattr(subgraphs._DisjointSets, "find", counting)
    found = convex_subgraphs(before, [True] + [False, True] * count, [f"n{v}" for v in range(len(before))])
    assert len(set(found) - {None}) == count + 1
    assert steps < 40 * len(before)
