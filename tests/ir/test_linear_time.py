"""Reading, printing, verifying and copying take work linear in the number of nodes."""

from __future__ import annotations

import cProfile
import functools
import pstats
from collections.abc import Callable

import pytest

from hqc.ir import Graph, check, parse, print_graph

SMALL, FACTOR = 300, 6


def text_of(count: int) -> str:
    """A long chain with skip edges, two devices and boundaries, annotated like a real dump."""
    lines = ["graph @chain stage=partitioned {", "input %n0: f32[1,8,4,4]", "param @w = #random(0, [8,8,1,1])"]
    for i in range(1, count + 1):
        operands = f"%n{i - 1}, @w" if i % 2 else f"%n{i - 1}, %n{max(0, i - 40)}"
        place = 'cpu refused("r")' if i % 100 == 0 else f"bpu.{i // 100} accepted"
        lines.append(f'%n{i} = {"conv2d" if i % 2 else "add"}({operands}) {place} loc("m.{i}:op#0" "net.py:{i}") from(n{i})')
    return "\n".join([*lines, f"output %n{count}", "}"])


@functools.cache
def prepared(count: int) -> tuple[str, Graph]:
    text = text_of(count)
    return text, parse(text)


def calls(function: Callable[[], object]) -> int:
    """How many function calls the work takes: unlike seconds, the same on every machine and every run."""
    profile = cProfile.Profile()
    profile.runcall(function)
    return int(pstats.Stats(profile).total_calls)  # type: ignore[attr-defined]


WORK: dict[str, Callable[[str, Graph], object]] = {
    "parse": lambda text, graph: parse(text),
    "print": lambda text, graph: print_graph(graph),
    "verify": lambda text, graph: check(graph),
    "clone": lambda text, graph: graph.clone(),
    "with_batch": lambda text, graph: graph.with_batch(2),
}


@pytest.mark.parametrize("name", WORK)
def test_work_grows_with_the_number_of_nodes_and_not_faster(name: str) -> None:
    small, large = prepared(SMALL), prepared(SMALL * FACTOR)
    ratio = calls(lambda: WORK[name](*large)) / calls(lambda: WORK[name](*small))
    assert ratio < FACTOR * 1.2, f"{FACTOR} times the nodes took {ratio:.1f} times the calls"
