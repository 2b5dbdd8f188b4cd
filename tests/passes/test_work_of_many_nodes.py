"""What thousands of nodes share (a value cut into windows, a stack of steps, a layer called in a loop) costs work linear in their number.

Work is counted in function calls: unlike seconds, the same on every machine and every run.
"""

from __future__ import annotations

import cProfile
import functools
import pstats
from collections.abc import Callable
from typing import Any

import pytest
from torch import fx, nn

from hqc.backends.bpu.engines.jit import native
from hqc.ir import Graph, parse
from hqc.march import get_spec
from hqc.passes import PassContext
from hqc.passes.pipeline_text import parse_passes
from hqc.workflow.emit_tree import ModuleTree

SMALL, FACTOR = 150, 6


def calls(function: Callable[[], object]) -> int:
    profile = cProfile.Profile()
    profile.runcall(function)
    return int(pstats.Stats(profile).total_calls)  # type: ignore[attr-defined]


def run(graph: Graph, passes: str) -> None:
    for item in parse_passes(passes):
        item.run(graph, PassContext(get_spec("bayes")))


def windows(count: int) -> Graph:
    """One value cut into windows, each scaled by a number of its own and joined again."""
    lines = [f"graph @windows {{\ninput %x: f32[1,4,4,{count + 2}]\ninput %y: f32[1,1,1,1]"]
    for i in range(count):
        lines.append(f"param @c{i}: f32[] = {i}.5")
    for i in range(count):
        lines.append(f"%w{i} = slice(%x) {{axes=[3], starts=[{i}], ends=[{i + 2}], steps=[1]}} from(w{i})")
        lines.append(f"%m{i} = mul(%y, @c{i}) from(m{i})\n%s{i} = add(%w{i}, %m{i}) from(s{i})")
    return parse("\n".join([*lines, f"%out = cat({', '.join(f'%s{i}' for i in range(count))}) {{axis=3}}\noutput %out\n}}"]))


def one_operation(count: int) -> Graph:
    """An operation of the model that is as many nodes, the last of which the BPU has not."""
    lines = [f"graph @stack {{\ninput %x: f32[1,{count},4,4]"]
    for i in range(count):
        lines.append(f"%r{i} = relu(%x) from(stack)")
    joined = ", ".join(f"%r{i}" for i in range(count))
    return parse("\n".join([*lines, f"%j = cat({joined}) {{axis=1}} from(stack)\n%out = erf(%j) from(stack)\noutput %out\n}}"]))


def module_calls(count: int) -> None:
    """A layer that is called again and again, each time with a fake quant of its own."""
    root = nn.Module()
    root.layer = nn.Identity()
    traced = fx.GraphModule(root, fx.Graph())
    tree = ModuleTree(root, traced)
    paths = {tree.place("layer", nn.Identity()) for _ in range(count)}
    names = {tree.insert(index, 0, f"fake_quant_{index}", nn.Identity()) for index in range(count)}
    assert len(paths) == len(names) == count


def spans(count: int) -> dict[str, tuple[list[int], int]]:
    """Values that all live until the last step."""
    return {f"v{index}": ([index, count], 64 + index) for index in range(count)}


WORK: dict[str, tuple[Callable[[int], Any], Callable[[Any], object]]] = {
    "canonicalize": (windows, lambda graph: run(graph, "canonicalize")),
    "analyze-support": (one_operation, lambda graph: run(graph, "canonicalize,analyze-support")),
    "emit": (int, module_calls),
    "memory of a native call": (spans, native._pack),
}


@pytest.mark.parametrize("name", WORK)
def test_work_grows_with_the_number_of_nodes_and_not_faster(name: str) -> None:
    make, work = WORK[name]
    small, large = (calls(functools.partial(work, make(count))) for count in (SMALL, SMALL * FACTOR))
    assert large / small < FACTOR * 1.2, f"{FACTOR} times the nodes took {large / small:.1f} times the calls"
