"""Integer kernels, found by op name in a registry. A kernel is made once per node, at compile time::

    @kernel("int_lut")
    def int_lut(node: Node, context: KernelContext) -> Run:
        ...prepare constants...
        def run(operands): ...
        return run

`run` takes the arrays of all operands in declared order (None where absent, parameters included) and returns the array of the
result, or a tuple for several results. Arrays have the logical (NCHW) shape of the IR; four-dimensional results have channels-last
memory where a kernel makes new memory. Operands are never written.

Ops that move, select or compare elements need no kernel: their cards compute on integers what they compute on reals. Those that have
one here are faster than their card.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hqc.errors import CompileError, QuantizationError
from hqc.ir import Node, OpDef, Trait, Value
from hqc.registry import Registry

if TYPE_CHECKING:
    from hqc.backends.bpu.engines import Engine
    from hqc.backends.bpu.ranges import ValueRanges
    from hqc.backends.bpu.workers import Workers

Array = npt.NDArray[Any]
Run = Callable[[Sequence[Any]], "Array | tuple[Array, ...]"]


@dataclass(frozen=True)
class KernelContext:
    """What a kernel may use: the engine of heavy products and the value ranges of the graph."""

    engine: Engine
    ranges: ValueRanges

    @property
    def workers(self) -> Workers:
        return self.engine.workers


KernelFactory = Callable[[Node, KernelContext], Run]
KERNELS: Registry[str, KernelFactory] = Registry("kernel", families="hqc.backends.bpu.kernels")


def kernel(*names: str) -> Callable[[KernelFactory], KernelFactory]:
    """Register the kernel of one or several ops."""
    return KERNELS.register(*names)


def runs_on_integers(op: OpDef) -> bool:
    """True for ops that the simulator can run: those with a kernel, and those whose card computes on integers."""
    return op.name in KERNELS or (op.has(Trait.SELECTS) and op.compute is not None)


def make_kernel(node: Node, context: KernelContext) -> Run:
    """The compiled kernel of a node; `CompileError` for an op that has none."""
    factory = KERNELS.get(node.op.name)
    if factory is not None:
        return factory(node, context)
    if not runs_on_integers(node.op):
        raise CompileError(f"{node.label}: the simulator has no kernel for {node.op.name}; place it on the CPU")
    return by_card(node)


def by_card(node: Node) -> Run:
    """What the op's card computes, in the results' dtypes."""
    compute, attributes = node.op.compute, node.attributes
    dtypes = [value.type.dtype.numpy for value in node.results]
    assert compute is not None, node

    def run(operands: Sequence[Any]) -> Array | tuple[Array, ...]:
        found = compute(operands, attributes)
        if isinstance(found, list):
            return tuple(array.astype(dtype, copy=False) for array, dtype in zip(found, dtypes, strict=True))
        return np.asarray(found).astype(dtypes[0], copy=False)

    return run


# --- what kernels share ---------------------------------------------------------------------------------------------------


def shape_of(value: Value) -> tuple[int, ...]:
    """The static shape; `CompileError` when it is unknown."""
    if value.shape is None:
        raise CompileError(f"the shape of {value.name} is unknown; lower the model with example inputs")
    return value.shape


def constant(node: Node, name: str) -> Array:
    """The array of an operand that must be a parameter."""
    value = node.operand(name)
    if value is None or value.array is None:
        raise CompileError(f"{node.label}: operand {name} of {node.op.name} must be a constant")
    return value.array


def optional_constant(node: Node, name: str) -> Array | None:
    return None if node.operand(name) is None else constant(node, name)


def operand(node: Node, index: int) -> Value:
    """An operand that must be present."""
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        raise CompileError(f"{node.label}: operand {node.op.operands[index].name} of {node.op.name} is missing")
    return value


def cannot_quantize(node: Node) -> QuantizationError:
    """The refusal of NaN by a quantize node, whichever engine meets it."""
    return QuantizationError(
        f"{node.label}: cannot quantize NaN in {operand(node, 0).name}; find the operation that produced it (0 / 0 comes of a "
        "divisor that a grid rounds to 0: add an eps to it, and let the operations around it run on the CPU, with hybrid_dict)"
    )


def channels_last(x: Array) -> Array:
    """`[N,C,H,W]` -> contiguous `[N,H,W,C]`; a view when the memory already has that order."""
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1))


def flatten(x: Array) -> Array:
    """All elements in memory order of the simulator: channels last for rank 4, else C order; a view when possible."""
    return (x.transpose(0, 2, 3, 1) if x.ndim == 4 else x).reshape(-1)


def empty_result(shape: tuple[int, ...], dtype: npt.DTypeLike) -> tuple[Array, Array]:
    """A new array and its flat view, in the element order of `flatten`."""
    if len(shape) == 4:
        n, c, h, w = shape
        memory = np.empty((n, h, w, c), dtype)
        return memory.transpose(0, 3, 1, 2), memory.reshape(-1)
    memory = np.empty(shape, dtype)
    return memory, memory.reshape(-1)


_BLOCKS_TO_SHARE = 8
_BLOCK = 1 << 15  # elements: the float32 and int32 copies of a block fit the second-level cache


def in_blocks(workers: Workers, size: int, function: Callable[[slice], None]) -> None:
    """Call `function` on consecutive slices of `range(size)`, on all workers where that pays for waking them."""
    blocks = [slice(start, min(start + _BLOCK, size)) for start in range(0, size, _BLOCK)]
    if len(blocks) < _BLOCKS_TO_SHARE:
        for block in blocks:
            function(block)
    else:
        workers.map(function, blocks)
