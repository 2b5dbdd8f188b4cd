"""`compile`: an integer-stage graph becomes a `Program`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from hqc.backends.bpu.engines import get_engine
from hqc.backends.bpu.engines.jit import JitEngine
from hqc.backends.bpu.fallback import has_form, opaque_step, segment_step
from hqc.backends.bpu.kernels import KernelContext, make_kernel
from hqc.backends.bpu.program import Joiner, Program, Step, kernel_step
from hqc.backends.bpu.ranges import ValueRanges
from hqc.backends.bpu.reference import make_reference
from hqc.backends.bpu.schedule import KERNEL, OPAQUE, Group, schedule
from hqc.checked import checked
from hqc.errors import CompileError
from hqc.ir import Graph, Node, Trait
from hqc.ir.verifier import verify_constants


@checked
def compile(
    graph: Graph,
    *,
    opaque: Mapping[str, Callable[..., Any]] | None = None,
    engine: str = "auto",
    threads: int | None = None,
) -> Program:
    """Compile an integer-stage graph with static shapes for the simulator.

    `opaque`: callables on NumPy arrays for `opaque` nodes, by their `id`; those that offer an ONNX form run in onnxruntime. `engine`:
    `auto`, `jit`, `onednn`, `blas` or `reference` (`hqc.backends.bpu.engines`); all give the same bits. `threads`: default all cores of the
    process.

    `CompileError` names the node when the graph is not in the integer stage, a shape is unknown, an op has no kernel, a callable
    is missing, or an accumulator could overflow; `VerificationError` for constants that the arithmetic has no
    meaning for.
    """
    if graph.stage != "integer":
        raise CompileError(
            f"the simulator runs graphs of stage 'integer', {graph.name} is '{graph.stage}'; run lower-to-integer"
        )
    verify_constants(graph)
    for value in graph.inputs:
        if value.shape is None:
            raise CompileError(f"the shape of input {value.name} is unknown; lower the model with example inputs")
    join: Joiner | None = None
    if engine == "reference":
        name = engine
        make: Callable[[Node], Step] = lambda node: kernel_step(node, make_reference(node))  # noqa: E731
    else:
        chosen = get_engine(engine, threads)
        name = chosen.name
        if isinstance(chosen, JitEngine):
            native = chosen.context(graph)
            make = lambda node: chosen.step(node, native)  # noqa: E731
            join = partial(chosen.join, native.layouts)
        else:
            context = KernelContext(chosen, ValueRanges(graph))
            make = lambda node: kernel_step(node, make_kernel(node, context))  # noqa: E731
    calls = dict(opaque or {})
    written = frozenset(node for node in graph.nodes if node.op.has(Trait.OPAQUE) and has_form(node, calls))
    steps = [_step(group, graph, make, calls, threads) for group in schedule(graph, written)]
    return Program(graph, steps, name, join, partial(compile, opaque=opaque, engine=engine, threads=threads))


def _step(
    group: Group, graph: Graph, make: Callable[[Node], Step], opaque: dict[str, Callable[..., Any]], threads: int | None
) -> Step:
    if group.kind == KERNEL:
        (node,) = group.nodes
        try:
            return make(node)
        except (TypeError, ValueError, IndexError) as error:
            raise CompileError(f"{node.label}: {node.op.name} is malformed ({error})") from error
    if group.kind == OPAQUE:
        return opaque_step(group.nodes[0], opaque)
    return segment_step(group.nodes, graph, opaque, threads)
