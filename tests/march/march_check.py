"""Ask a march about one node, written as IR text."""

from __future__ import annotations

import textwrap

from hqc.ir import Node, Support
from hqc.ir.parser import parse
from hqc.march import get_spec
from hqc.march.rules import check_node


def last_node(body: str) -> Node:
    """The last node of the IR lines `body`."""
    graph = parse(f"graph @test stage=lowered {{\n{textwrap.dedent(body).strip()}\n}}\n")
    return list(graph.nodes)[-1]


def ask(march: str, body: str, *, hybrid: bool = True) -> Support:
    """The capability of `march` for the last node of `body`."""
    return check_node(get_spec(march), last_node(body), hybrid=hybrid)


def conv(size: int = 32, *, weight: str = "8,8,3,3", attributes: str = "", extra: str = "") -> str:
    """A convolution of an `[1,8,size,size]` input (or of as many channels as `groups` needs)."""
    options = f" {{{attributes}}}" if attributes else ""
    channels = int(weight.split(",")[1])
    return f"""
    input %x: f32[1,{channels},{size},{size}]
    param @w: f32[{weight}] = #random(0, [{weight}])
    {extra}
    %c = conv2d(%x, @w){options}
    output %c
    """
