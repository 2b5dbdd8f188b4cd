"""Costs: multiply-accumulates against torch's own flop counter, bytes as stored."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from hqc.ir import Graph, Trait, all_ops, parse
from hqc.ir.costs import Cost, macs, node_cost, total_cost


def graph_of(body: str) -> Graph:
    return parse(f"graph @test {{\n{body}\n}}")


@pytest.mark.parametrize(
    ("line", "x", "w", "call"),
    [
        (
            "conv2d(%x, @w) {stride=[2,1], padding=[1,0,1,0], groups=2}",
            (2, 4, 9, 7),
            (6, 2, 3, 2),
            lambda x, w: F.conv2d(F.pad(x, (0, 0, 1, 1)), w, stride=(2, 1), groups=2),
        ),
        (
            "conv_transpose2d(%x, @w) {stride=[2,2], groups=2}",
            (2, 4, 5, 3),
            (4, 3, 3, 2),
            lambda x, w: F.conv_transpose2d(x, w, stride=2, groups=2),
        ),
        ("linear(%x, @w)", (2, 5, 8), (3, 8), F.linear),
        ("matmul(%x, @w)", (2, 5, 8), (8, 3), torch.matmul),
    ],
)
def test_macs_are_half_of_torchs_flops(line: str, x: tuple[int, ...], w: tuple[int, ...], call) -> None:  # type: ignore[no-untyped-def]
    graph = graph_of(f"input %x: f32{list(x)}\nparam @w = #random(0, {list(w)})\n%y = {line}\noutput %y")
    with FlopCounterMode(display=False) as counter:
        result = call(torch.zeros(x), torch.zeros(w))
    (node,) = graph.nodes
    assert tuple(result.shape) == node.result.shape
    assert 2 * macs(node) == counter.get_total_flops()


def test_other_ops_have_no_macs_and_unknown_shapes_no_number() -> None:
    graph = graph_of("input %x: f32[*]\nparam @w = #random(0, [4,3,1,1])\n%c = conv2d(%x, @w)\n%r = relu(%c)\noutput %r")
    assert [macs(node) for node in graph.nodes] == [None, 0]
    assert total_cost(graph.nodes) == Cost(None, None, None, 48)


def test_bytes_count_every_operand_once_and_as_it_is_stored() -> None:
    graph = graph_of(
        """
        input %x: f32[1,2,4,4]
        param @w: f32[2,2,1,1] q(i8, 0.5) = #random(0, [2,2,1,1])
        %c: f32[1,2,4,4] q(i16, 0.5) = conv2d(%x, @w)
        %s = add(%c, %c)
        output %s
        """
    )
    conv, add = graph.nodes
    assert node_cost(conv) == Cost(macs=64, read_bytes=128, written_bytes=64, parameter_bytes=4)
    assert node_cost(add) == Cost(macs=0, read_bytes=64, written_bytes=128, parameter_bytes=0)
    assert total_cost([conv, add]) == Cost(64, 192, 192, 4)


def test_every_op_that_multiplies_and_accumulates_is_counted() -> None:
    names = {op.name for op in all_ops() if op.has(Trait.CONV_LIKE)}
    weighted = {op.name for op in all_ops() if op.has(Trait.WEIGHTED)}
    assert weighted | {f"int_{name}" for name in names} | {"matmul", "int_matmul", "opaque"} == {
        op.name for op in all_ops() if op.macs is not None
    }
