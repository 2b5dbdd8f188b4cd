"""Run passes on IR text and match the printed result: the helper of text tests for passes that deal with quantization."""

from __future__ import annotations

import io
import textwrap

from filecheck.finput import FInput
from filecheck.matcher import Matcher
from filecheck.options import DumpInputKind, Options
from filecheck.parser import Parser, pattern_for_opts

from hqc.ir import Graph
from hqc.ir.parser import parse
from hqc.ir.verifier import check
from hqc.march import get_spec
from hqc.passes import PassContext, Remark
from hqc.passes.pipeline_text import parse_passes


def graph_of(body: str, stage: str = "partitioned") -> Graph:
    """A graph of `stage` from the lines between the braces."""
    graph = parse(f"graph @test stage={stage} {{\n{textwrap.dedent(body).strip()}\n}}\n")
    return graph


def run_passes(graph: Graph, passes: str, march: str = "bayes") -> list[Remark]:
    """Run `passes` in place and return their remarks.

    After each pass the graph must obey the rules of its stage and survive printing and parsing, and the pass must find nothing
    to do when it runs again.
    """
    context = PassContext(get_spec(march))
    remarks: list[Remark] = []
    graph.march = march
    for item in parse_passes(passes):
        remarks.extend(item.run(graph, context).remarks)
        graph.stage = item.establishes or graph.stage
        broken = [str(found) for found in check(graph, march=context.march) if found.rule != "support"]
        assert not broken, "\n".join(broken)
        text = str(graph)
        again = item.run(graph, context)
        assert str(graph) == text, f"{item.name} is not idempotent:\n{text}\n---\n{graph}"
        assert not again.changed, f"{item.name} says that its second run changed something"
    return remarks


def transform(body: str, passes: str, march: str = "bayes", stage: str = "partitioned") -> Graph:
    """The graph that `passes` make of the IR lines `body`."""
    graph = graph_of(body, stage)
    run_passes(graph, passes, march)
    return graph


def assert_text(graph: Graph, checks: str) -> None:
    """Match `// CHECK` style lines (without the comment marks) against the text of `graph`."""
    options = Options("checks", check_prefixes=["CHECK"], dump_input=DumpInputKind.NEVER)
    parser = Parser(options, io.StringIO(textwrap.dedent(checks).strip()), *pattern_for_opts(options))
    matcher = Matcher(options, FInput("graph", str(graph)), parser)
    matcher.stderr = io.StringIO()
    assert matcher.run() == 0, f"{matcher.stderr.getvalue()}\n{graph}"
