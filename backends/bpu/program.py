"""A compiled program: steps over named arrays, with input checks, liveness and timing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hqc.backends.bpu.profile import ProfileRow, Timer
from hqc.backends.bpu.workers import exclusive_blas
from hqc.errors import InputError
from hqc.ir import Graph, Node, Value

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Step:
    """One call: operands in, results out. A CPU segment is one step of several nodes."""

    nodes: tuple[Node, ...]
    inputs: tuple[Value | None, ...]
    results: tuple[Value, ...]
    run: Callable[[Sequence[Any]], Any]
    device: str


class Program:
    """An executable model for the shapes it was compiled for. Make one with `hqc.backends.bpu.compile`."""

    def __init__(self, graph: Graph, steps: Sequence[Step], engine: str) -> None:
        self.graph = graph
        self.engine = engine
        self.steps = tuple(steps)
        self._parameters = {name: value.array for name, value in graph.parameters.items()}
        self._last_use = self._find_last_uses()

    @property
    def input_names(self) -> list[str]:
        return [value.name for value in self.graph.inputs]

    @property
    def output_names(self) -> list[str]:
        return list(self.graph.output_names)

    def run(
        self, inputs: Mapping[str, npt.ArrayLike] | Sequence[npt.ArrayLike], *, keep: Collection[str] | bool = ()
    ) -> dict[str, Array]:
        """Outputs by name for one set of inputs (by name, or in order).

        `keep`: names of intermediate values to return too, as the simulator holds them (integers on the BPU); True for all.
        Values inside a CPU segment that leave it nowhere do not exist. `InputError` names an input that is missing, unknown, of the
        wrong shape or dtype, or NaN.
        """
        return self._execute(self._checked(inputs), self._kept_names(keep), None)

    def profile(self, inputs: Mapping[str, npt.ArrayLike] | Sequence[npt.ArrayLike]) -> list[ProfileRow]:
        """One run's time per step, in order, with multiply-accumulates and bytes read and written."""
        timer = Timer()
        self._execute(self._checked(inputs), frozenset(), timer)
        return timer.rows

    # --- execution -----------------------------------------------------------------------------------------------

    def _execute(self, values: dict[str, Array], keep: frozenset[str], timer: Timer | None) -> dict[str, Array]:
        outputs: dict[str, Array] = {}
        with exclusive_blas():
            for index, step in enumerate(self.steps):
                operands = [self._read(values, value) for value in step.inputs]
                start = timer.start() if timer else 0.0
                found = step.run(operands)
                arrays = found if isinstance(found, tuple) else (found,)
                if timer:
                    timer.stop(start, step.nodes, step.device, step.inputs, step.results)
                for value, array in zip(step.results, arrays, strict=True):
                    values[value.name] = array
                    if value.name in keep:
                        outputs[value.name] = np.asarray(array, order="C")
                del operands, found, arrays
                for name in self._last_use[index]:
                    del values[name]
        for name, value in zip(self.graph.output_names, self.graph.outputs, strict=True):
            outputs[name] = np.asarray(self._read(values, value), order="C")
        return outputs

    def _read(self, values: Mapping[str, Array], value: Value | None) -> Array | None:
        if value is None:
            return None
        return self._parameters[value.name] if value.is_parameter else values[value.name]

    def _find_last_uses(self) -> list[list[str]]:
        """Per step the names that no later step and no output reads."""
        last: dict[str, int] = {}
        for index, step in enumerate(self.steps):
            for value in (*step.inputs, *step.results):
                if value is not None and not value.is_parameter:
                    last[value.name] = index
        for value in self.graph.outputs:
            last.pop(value.name, None)
        freed: list[list[str]] = [[] for _ in self.steps]
        for name, index in last.items():
            freed[index].append(name)
        return freed

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
