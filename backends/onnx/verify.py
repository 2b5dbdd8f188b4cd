"""Runs an exported model in onnxruntime and compares it with what it should compute. The only user of onnxruntime here."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from hqc import arithmetic
from hqc.backends.onnx.skeleton import Skeleton
from hqc.checked import explained
from hqc.errors import ExportError, InputError
from hqc.ir import DType, Graph, QuantParams, Value

Arrays = Mapping[str, npt.NDArray[Any]]
Reference = Callable[[Arrays], Arrays]

# A file is in doubt when more than this share of an output is more than one step off and some element more than two: float sums in
# another order flip a few roundings, which in a network of 50 layers (random weights) adds up to a step, seldom to more.
FAIL_SHARE = 0.01
FAIL_STEPS = 2.0


@explained
@dataclass(frozen=True)
class OutputComparison:
    """One output of the file beside the reference.

    `step`: the output's quantization step, `max|y| / 127.5` where it is not on an int8 or int16 grid. `unequal`: elements with
    other bits; `differing`: more than half a step apart; `over_one`: more than one step; `max_steps`: the largest distance.
    """

    name: str
    elements: int
    step: float
    unequal: int
    differing: int
    over_one: int
    max_steps: float

    @property
    def fails(self) -> bool:
        return self.over_one > FAIL_SHARE * self.elements and self.max_steps > FAIL_STEPS

    def __str__(self) -> str:
        return f"{self.name}: {self.differing} of {self.elements} outputs differ, at most {self.max_steps:.3g} steps"


def run_model(model: onnx.ModelProto | Skeleton, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
    """Outputs by name of one run: `runner_of`."""
    return runner_of(model)(inputs)


def runner_of(model: onnx.ModelProto | Skeleton) -> Callable[[Arrays], dict[str, npt.NDArray[Any]]]:
    """Runs the model as the file says, node by node: without onnxruntime's rewriting of quantized graphs.

    Inputs by name to outputs by name. `ExportError`, here or in a run, when onnxruntime cannot load or run it.
    """
    skeleton = model if isinstance(model, Skeleton) else Skeleton(model)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_cpu_mem_arena = False  # few runs: what a large weight leaves free would only be kept
    options.log_severity_level = 3
    with _said():
        opened = skeleton.with_inputs().SerializeToString()
        session = onnxruntime.InferenceSession(opened, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        with _said():
            return dict(zip(names, session.run(None, {**inputs, **skeleton.constants}), strict=True))

    return run


@contextmanager
def _said() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # onnxruntime's exceptions share no base of their own
        raise ExportError(f"onnxruntime cannot run the exported model: {error}") from error


_CHOICES = {"TopK": 1, "ArgMax": 0, "ArgMin": 0}  # which of their results are positions


def outputs_of_choices(model: onnx.ModelProto) -> set[str]:
    """Outputs that depend on which of several elements was the largest: positions, and what was read there."""
    tainted: set[str] = set()
    for node in model.graph.node:
        if any(name in tainted for name in node.input):
            tainted.update(node.output)
        elif node.op_type in _CHOICES:
            tainted.add(node.output[_CHOICES[node.op_type]])
    return {info.name for info in model.graph.output if info.name in tainted}


def sample_arrays(graph: Graph, given: Arrays | None) -> dict[str, npt.NDArray[Any]]:
    """Inputs to run the model on: `given`, checked, or random ones that depend on names and shapes only."""
    arrays = {}
    for value in graph.inputs:
        assert value.shape is not None
        if given is None:
            arrays[value.name] = _random(value)
            continue
        if value.name not in given:
            raise InputError(f"sample_inputs has no array for input {value.name}; it has {', '.join(given) or 'none'}")
        array = np.asarray(given[value.name])
        if array.shape != value.shape:
            raise InputError(f"the sample for input {value.name} has shape {list(array.shape)}, expected {list(value.shape)}")
        arrays[value.name] = array.astype(value.type.dtype.numpy, copy=False)
    return arrays


def _random(value: Value) -> npt.NDArray[Any]:
    """Uniform over the calibrated range where a quantize reads the input, so that nothing saturates; else normal."""
    generator = np.random.default_rng(zlib.crc32(value.name.encode()))
    shape, dtype = value.type.shape or (), value.type.dtype
    grid = _grid(value)
    if dtype.is_float and grid is not None:
        reach = float(grid.scale.max()) * grid.dtype.qmax
        return generator.uniform(-reach, reach, shape).astype(dtype.numpy)
    if dtype.is_float:
        return generator.standard_normal(shape).astype(dtype.numpy)
    return generator.integers(0, 2, shape).astype(dtype.numpy)


def _grid(value: Value) -> QuantParams | None:
    """The grid that a graph input is quantized to, None where no quantize reads it."""
    return next((user.results[0].quant for user in value.users if user.op.name == "quantize"), None)


def output_step(value: Value) -> float | None:
    """The grid step of a graph output: of the value itself or of what its `dequantize` reads; None off an int8/int16 grid."""
    node = value.producer
    source = node.operands[0] if node is not None and node.op.name == "dequantize" else value
    quant = source.quant
    if quant is None or quant.per_channel or quant.dtype not in (DType.INT8, DType.INT16):
        return None
    return float(quant.scale)


def compare(graph: Graph, names: list[str], results: Arrays, expected: Arrays) -> list[OutputComparison]:
    """Each output of the file (`names`, in the graph's order) beside the reference's, which has the graph's output names."""
    comparisons = []
    for value, name, key in zip(graph.outputs, names, graph.output_names, strict=True):
        if key not in expected:
            raise ExportError(f"the reference computes no output {key}; it has {', '.join(expected) or 'none'}")
        comparisons.append(compare_output(key, results[name], np.asarray(expected[key]), output_step(value)))
    return comparisons


def worst(comparisons: list[OutputComparison]) -> list[OutputComparison]:
    """Of the comparisons of each output on several samples, the one that is furthest off."""
    found: dict[str, OutputComparison] = {}
    for each in comparisons:
        if each.name not in found or (each.over_one, each.max_steps) > (found[each.name].over_one, found[each.name].max_steps):
            found[each.name] = each
    return list(found.values())


def compare_output(
    name: str, result: npt.NDArray[Any], expected: npt.NDArray[Any], step: float | None = None
) -> OutputComparison:
    """Distance of two arrays in steps; `ExportError` when shapes differ. Equal infinities count as equal.

    Where the reference is NaN there is nothing to compare with: no grid holds it, so a quantized step before the output makes a
    number of it.
    """
    if result.shape != expected.shape:
        raise ExportError(f"output {name} has shape {list(result.shape)}, the reference gives {list(expected.shape)}")
    found, wanted = np.ravel(result), np.ravel(expected)
    blocks = [slice(start, start + arithmetic.BLOCK) for start in range(0, wanted.size, arithmetic.BLOCK)]
    if step is None:
        largest = max((_largest_finite(wanted[block]) for block in blocks), default=0.0)
        step = largest / 127.5 if largest > 0 else 1.0
    unequal, differing, over_one, most = 0, 0, 0, 0.0
    for block in blocks:
        distance = _distances(found[block], wanted[block], step)
        if distance.size:
            unequal += distance.size
            differing += int((distance > 0.501).sum())  # half a step and one step with a margin for the
            over_one += int((distance > 1.001).sum())  # float32 product of integer and scale
            most = max(most, float(distance.max()))
    return OutputComparison(
        name=name,
        elements=int(result.size),
        step=step,
        unequal=unequal,
        differing=differing,
        over_one=over_one,
        max_steps=most,
    )


def _largest_finite(array: npt.NDArray[Any]) -> float:
    largest = float(np.abs(array).max()) if array.dtype.kind == "f" else float(np.abs(array.astype(np.float64)).max())
    return largest if np.isfinite(largest) else float(np.abs(array[np.isfinite(array)]).max(initial=0.0))


def _distances(result: npt.NDArray[Any], expected: npt.NDArray[Any], step: float) -> npt.NDArray[np.float64]:
    """The distances, in steps, of those elements that are not equal."""
    differ = result != expected
    if not differ.any():
        return np.empty(0)
    wide, reference = result[differ].astype(np.float64), expected[differ].astype(np.float64)
    comparable = ~np.isnan(reference)
    wide, reference = wide[comparable], reference[comparable]
    with np.errstate(invalid="ignore"):
        distance: npt.NDArray[np.float64] = np.abs(wide - reference) / step
    distance[np.isnan(distance)] = np.inf
    return distance
