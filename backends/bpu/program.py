"""A compiled program: steps over named arrays, with input checks, liveness and timing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hqc.backends.bpu.profile import ProfileRow, Timer
from hqc.backends.bpu.workers import exclusive_blas
from hqc.checked import explained
from hqc.errors import InputError
from hqc.ir import Graph, Node, Value
from hqc.ir.costs import macs

if TYPE_CHECKING:
    from hqc.backends.bpu.engines.jit.native import NativeStep

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Step:
    """One call: operands in, results out. A CPU segment is one step of several nodes.

    `native`: the same as descriptors of compiled kernels, by which a program joins neighbours to one call.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[Value | None, ...]
    results: tuple[Value, ...]
    run: Callable[[Sequence[Any]], Any]
    device: str
    native: NativeStep | None = None


def kernel_step(node: Node, run: Callable[[Sequence[Any]], Any], native: NativeStep | None = None) -> Step:
    """The step of one node on the BPU (boundaries included)."""
    device = "bpu" if node.device is None else node.device.value
    return Step((node,), tuple(node.inputs), tuple(node.results), run, device, native)


@explained
class Program:
    """An executable model for the shapes it was compiled for. Make one with `hqc.backends.bpu.compile`."""

    def __init__(
        self,
        graph: Graph,
        steps: Sequence[Step],
        engine: str,
        join: Joiner | None = None,
        again: Callable[[Graph], Program] | None = None,
    ) -> None:
        """`join`: makes one step of a run of native steps, given the names of results that others read. `again`: what compiles a
        graph like this one, for copies."""
        self._again = again
        self.graph = graph
        self.engine = engine
        self.steps = tuple(steps)
        self._parameters = {name: value.array for name, value in graph.parameters.items()}
        self._each = _Plan(self.steps, graph)
        self._joined = self._each if join is None else _Plan(_join(self.steps, graph, join), graph)
        # NumPy kernels drive BLAS from our threads; a program without products of theirs leaves its pool alone.
        self._uses_blas = any(
            step.device == "bpu" and step.native is None and any(macs(node) != 0 for node in step.nodes) for step in self.steps
        )

    @property
    def input_names(self) -> list[str]:
        return [value.name for value in self.graph.inputs]

    @property
    def output_names(self) -> list[str]:
        return list(self.graph.output_names)

    def run(
        self,
        inputs: Mapping[str, npt.ArrayLike] | Sequence[npt.ArrayLike],
        *,
        keep: Collection[str] | bool = (),
        see: Callable[[str, Array], None] | None = None,
    ) -> dict[str, Array]:
        """Outputs by name for one set of inputs (by name, or in order).

        `keep`: names of intermediate values to return too, as the simulator holds them (integers on the BPU); True for all.
        `see`: called with the name and the array of each of them as it is computed, for who does not want to hold them all.
        Values inside a CPU segment that leave it nowhere do not exist. `InputError` names an input that is missing, unknown, of the
        wrong shape or dtype, or NaN.
        """
        return self._execute(self._checked(inputs), self._kept_names(keep), None, see)

    def profile(self, inputs: Mapping[str, npt.ArrayLike] | Sequence[npt.ArrayLike]) -> list[ProfileRow]:
        """One run's time per step, in order, with multiply-accumulates and bytes read and written."""
        timer = Timer()
        self._execute(self._checked(inputs), frozenset(), timer)
        return timer.rows

    def __reduce__(self) -> tuple[Any, ...]:
        """Packed weights, threads and onnxruntime sessions belong to one process: a copy is compiled where it arrives."""
        if self._again is None:
            raise InputError("this program was put together by hand; copy its graph and compile that")
        return _compiled_again, (self._again, self.graph)

    # --- execution -----------------------------------------------------------------------------------------------

    def _execute(
        self,
        values: dict[str, Array],
        keep: frozenset[str],
        timer: Timer | None,
        see: Callable[[str, Array], None] | None = None,
    ) -> dict[str, Array]:
        outputs: dict[str, Array] = {}
        plan = self._each if keep or timer or see else self._joined
        with exclusive_blas() if self._uses_blas else nullcontext():
            for step, freed in zip(plan.steps, plan.freed, strict=True):
                operands = [self._read(values, value) for value in step.inputs]
                start = timer.start() if timer else 0.0
                found = step.run(operands)
                arrays = found if isinstance(found, (tuple, list)) else (found,)
                if timer:
                    timer.stop(start, step.nodes, step.device, step.inputs, step.results)
                for value, array in zip(step.results, arrays, strict=True):
                    values[value.name] = array
                    if value.name in keep:
                        outputs[value.name] = np.asarray(array, order="C")
                    if see:
                        see(value.name, np.asarray(array, order="C"))
                del operands, found, arrays
                for name in freed:
                    del values[name]
        for name, value in zip(self.graph.output_names, self.graph.outputs, strict=True):
            outputs[name] = np.asarray(self._read(values, value), order="C")
        return outputs

    def _read(self, values: Mapping[str, Array], value: Value | None) -> Array | None:
        if value is None:
            return None
        return self._parameters[value.name] if value.is_parameter else values[value.name]

    # --- checks --------------------------------------------------------------------------------------------------

    def _kept_names(self, keep: Collection[str] | bool) -> frozenset[str]:
        known = frozenset(value.name for step in self.steps for value in step.results)
        if isinstance(keep, bool):
            return known if keep else frozenset()
        unknown = sorted(set(keep) - known)
        if unknown:
            raise InputError(f"keep names {', '.join(unknown)}, which this program does not compute")
        return frozenset(keep)

    def _checked(self, inputs: Mapping[str, npt.ArrayLike] | Sequence[npt.ArrayLike]) -> dict[str, Array]:
        expected = self.graph.inputs
        if not isinstance(inputs, Mapping):
            if len(inputs) != len(expected):
                raise InputError(
                    f"the program takes {len(expected)} input(s) ({', '.join(self.input_names)}), got {len(inputs)}"
                )
            inputs = dict(zip(self.input_names, inputs, strict=True))
        missing = [name for name in self.input_names if name not in inputs]
        if missing:
            raise InputError(f"input {missing[0]} is missing; the program takes {', '.join(self.input_names)}")
        unknown = [name for name in inputs if name not in self.input_names]
        if unknown:
            raise InputError(f"unknown input {unknown[0]}; the program takes {', '.join(self.input_names)}")
        return {value.name: _checked_array(value, inputs[value.name]) for value in expected}


def _compiled_again(compile: Callable[[Graph], Program], graph: Graph) -> Program:
    return compile(graph)


class _Plan:
    """Steps in order, and after each the names that no later step and no output reads."""

    def __init__(self, steps: Sequence[Step], graph: Graph) -> None:
        self.steps = tuple(steps)
        last: dict[str, int] = {}
        for index, step in enumerate(steps):
            for value in (*step.inputs, *step.results):
                if value is not None and not value.is_parameter:
                    last[value.name] = index
        for value in graph.outputs:
            last.pop(value.name, None)
        self.freed: list[list[str]] = [[] for _ in steps]
        for name, index in last.items():
            self.freed[index].append(name)


Joiner = Callable[[Sequence[Step], frozenset[str]], Step]


def _join(steps: Sequence[Step], graph: Graph, join: Joiner) -> list[Step]:
    """The steps with every run of native ones made one."""
    readers: dict[str, set[int]] = {}
    for index, step in enumerate(steps):
        for value in step.inputs:
            if value is not None:
                readers.setdefault(value.name, set()).add(index)
    returned = {value.name for value in graph.outputs}
    joined: list[Step] = []
    start = 0
    while start < len(steps):
        end = start
        while end < len(steps) and steps[end].native is not None:
            end += 1
        if end - start < 2:
            joined.append(steps[start])
            start += 1
            continue
        inside = set(range(start, end))
        kept = frozenset(
            value.name
            for step in steps[start:end]
            for value in step.results
            if value.name in returned or readers.get(value.name, set()) - inside
        )
        joined.append(join(steps[start:end], kept))
        start = end
    return joined


def _checked_array(value: Value, given: npt.ArrayLike) -> Array:
    array = np.asarray(given)
    wanted = value.type.dtype.numpy
    if array.shape != value.shape:
        shape = list(value.shape or ())
        raise InputError(f"input {value.name} has shape {list(array.shape)}, the program was compiled for {shape}")
    if array.dtype != wanted:
        if not np.can_cast(array.dtype, wanted, "same_kind"):
            raise InputError(f"input {value.name} has dtype {array.dtype}, the program takes {wanted}")
        array = array.astype(wanted)
    if array.dtype.kind == "f" and np.isnan(array).any():
        raise InputError(f"input {value.name} contains NaN")
    return array
