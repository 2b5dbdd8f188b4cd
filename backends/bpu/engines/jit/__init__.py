"""The `jit` engine: compiled loops on int8, a run of nodes as one native call. Needs numba (`pip install 'hqc-compiler[fast]'`).

Products use the processor's integer dot instructions (AMX, AVX512-VNNI, AVX-VNNI) or float32 multiply-adds where it has none. What
has no native form goes to `blas`.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
from collections.abc import Sequence
from typing import Any

from hqc.backends.bpu.engines import ConvFunction, ConvSpec
from hqc.backends.bpu.engines.blas import BlasEngine
from hqc.backends.bpu.engines.jit import library
from hqc.backends.bpu.engines.jit.layouts import Layouts, NativeContext
from hqc.backends.bpu.engines.jit.native import Member, Segment
from hqc.backends.bpu.epilogue import Epilogue
from hqc.backends.bpu.kernels import make_kernel
from hqc.backends.bpu.program import Step, kernel_step
from hqc.backends.bpu.ranges import ValueRanges
from hqc.distribution import install_command
from hqc.errors import CompileError
from hqc.ir import DType, Graph, Node

logger = logging.getLogger("hqc")


def available() -> bool:
    """True when numba is installed."""
    return importlib.util.find_spec("numba") is not None


class JitEngine:
    """Native steps where a node has one, `blas` elsewhere; identical bits."""

    name = "jit"

    def __init__(self, blas: BlasEngine, products: list[str] | None = None) -> None:
        if not available():
            raise CompileError(
                f"engine 'jit' needs numba, which is not installed here; {install_command('fast')} or use engine='blas'"
            )
        self.workers = blas.workers
        self.products = library.products() if products is None else products
        self._blas = blas

    def conv(self, spec: ConvSpec, epilogue: Epilogue) -> ConvFunction:
        return self._blas.conv(spec, epilogue)

    def context(self, graph: Graph) -> NativeContext:
        """What the lowerings of a graph's nodes may use."""
        from hqc.backends.bpu.engines.jit.nodes import ORDERS

        return NativeContext(self, ValueRanges(graph), Layouts.of(graph, ORDERS))

    def step(self, node: Node, context: NativeContext) -> Step:
        """A native step where the node has one, else its NumPy kernel's."""
        from hqc.backends.bpu.engines.jit.nodes import native_step

        native = native_step(node, context, self.products)
        if native is None:
            return kernel_step(node, make_kernel(node, context))
        alone: list[Segment] = []

        def run(operands: Sequence[Any]) -> Any:
            """The node by itself, for profiles and runs that keep inner values."""
            if not alone:
                alone.append(self._segment([step], frozenset(value.name for value in node.results), context.layouts))
            named = {value.name: array for value, array in zip(node.inputs, operands, strict=True) if value is not None}
            return alone[0].run([named[value.name] for value in alone[0].inputs])

        step = kernel_step(node, run, native)
        return step

    def join(self, layouts: Layouts, steps: Sequence[Step], kept: frozenset[str]) -> Step:
        """Native steps as one."""
        segment = self._segment(steps, kept, layouts)
        nodes = tuple(node for step in steps for node in step.nodes)
        return Step(nodes, tuple(segment.inputs), tuple(segment.results), segment.run, "bpu")

    def _segment(self, steps: Sequence[Step], kept: frozenset[str], layouts: Layouts) -> Segment:
        members = [Member(step.native, step.inputs, step.results) for step in steps if step.native is not None]
        return Segment(members, kept, self.workers, layouts)


def probe(blas: BlasEngine) -> JitEngine | None:
    """The engine where it is installed and its kernels compile and compute a small layer right. One log line says why not.

    Hardware decides speed, never success: an unknown processor or another numba means the next engine.
    """
    if not available():
        return None
    try:
        if works():
            return JitEngine(blas)
        logger.warning("engine 'jit' is not used: none of its products is right on this processor")
    except Exception as error:  # whatever numba, LLVM or the system raise
        logger.warning("engine 'jit' is not used: its probe failed with %s: %s", type(error).__name__, error)
    return None


@functools.cache
def works() -> bool:
    """Some dense kernel of this processor is right on the extremes of a small layer. Raises what its compilation raises."""
    from hqc.backends.bpu.engines.jit.check import trusted

    return any(trusted(product, DType.INT8) for product in library.products())
