"""Graphs of one integer op, and the comparison that every kernel test makes: kernel == reference, every bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from hqc import arithmetic
from hqc.backends.bpu import compile
from hqc.backends.bpu.engines import jit
from hqc.ir import Device, DType, Graph, QuantParams, TensorType

INT8, INT16, INT32 = DType.INT8, DType.INT16, DType.INT32
KERNEL_ENGINES = ("blas", "jit") if jit.available() else ("blas",)


class Parameter:
    """Marks an operand that is a constant of the graph."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array


def one_node(
    op: str,
    operands: Sequence[np.ndarray | Parameter | None],
    attributes: Mapping[str, Any] | None = None,
    *,
    quants: Mapping[int, QuantParams] | None = None,
    result_quant: QuantParams | None = None,
    types: Sequence[TensorType] | None = None,
) -> tuple[Graph, dict[str, np.ndarray]]:
    """A graph that computes `op` on `operands`, and its inputs by name."""
    graph = Graph("one_node", "bayes")
    values, inputs = [], {}
    for index, operand in enumerate(operands):
        if operand is None:
            values.append(None)
        elif isinstance(operand, Parameter):
            values.append(graph.add_parameter(f"p{index}", operand.array))
        else:
            value = graph.add_input(f"x{index}", TensorType(DType.from_numpy(operand.dtype), operand.shape))
            value.quant = (quants or {}).get(index)
            values.append(value)
            inputs[value.name] = operand
    node = graph.add_node(op, values, attributes or {}, name="y", types=types)
    node.device = Device.BPU
    for value in node.results:
        value.quant = result_quant
    graph.set_outputs(node.results)
    graph.stage = "integer"
    return graph, inputs


def assert_kernel_equals_reference(
    graph: Graph, inputs: Mapping[str, np.ndarray], *, threads: int = 2
) -> dict[str, np.ndarray]:
    """Run every engine that has kernels; shapes, dtypes and every bit must agree, and the declared type must be what comes out."""
    expected = compile(graph, engine="reference", threads=threads).run(inputs)
    for engine in KERNEL_ENGINES:
        found = compile(graph, engine=engine, threads=threads).run(inputs)
        assert list(found) == list(expected)
        for name, value in zip(graph.output_names, graph.outputs, strict=True):
            assert found[name].dtype == expected[name].dtype == value.type.dtype.numpy
            assert found[name].shape == expected[name].shape == value.shape
            np.testing.assert_array_equal(found[name], expected[name])
    return found


def rng_of(draw: st.DrawFn) -> np.random.Generator:
    return np.random.default_rng(draw(st.integers(0, 2**32 - 1)))


def integers(rng: np.random.Generator, shape: Sequence[int], dtype: DType = INT8) -> np.ndarray:
    """Full-range integers, the extremes over-represented; rank 4 in either memory order."""
    x = rng.integers(dtype.qmin, dtype.qmax + 1, tuple(shape)).astype(dtype.numpy)
    extreme = rng.random(x.shape) < 0.1
    x[extreme] = rng.choice(np.array([dtype.qmin, dtype.qmax], dtype.numpy), int(extreme.sum()))
    if x.ndim == 4 and rng.random() < 0.5:
        x = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    return x


def requant(rng: np.random.Generator, shape: Sequence[int], mode: str, *, low: float = -14, high: float = 1) -> np.ndarray:
    """Random rows M, p, S of a mode; log2 of the ratios is uniform in [low, high]."""
    if mode == "shift":
        return arithmetic.shift_params(2.0 ** -rng.integers(0, 15, tuple(shape))).array
    ratio = 2.0 ** rng.uniform(low, high, tuple(shape))
    return arithmetic.requant_params(ratio, 16 if mode == "multiply64" else 8).array


RESULTS = {"multiply": INT8, "multiply64": INT16, "shift": INT8, "none": INT32, "clip": INT8}


def output_attributes(rng: np.random.Generator, mode: str) -> dict[str, Any]:
    """mode, dtype and, half of the time, a fused activation's bounds."""
    attributes: dict[str, Any] = {"mode": mode, "dtype": RESULTS[mode]}
    if rng.random() < 0.5:
        attributes["clip_min"] = 0
        if rng.random() < 0.5:
            attributes["clip_max"] = int(rng.integers(1, 100))
    return attributes
