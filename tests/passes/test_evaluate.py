"""Constant folding computes what torch computes: what every card declares against torch on the same operands."""

from __future__ import annotations

import numpy as np
import pytest
import torch_oracle
from ir_check import graph_of, run_passes

from hqc.ir import DType

EXACT = [
    "add(@a, @b)",
    "sub(@a, @b)",
    "mul(@a, @b)",
    "div(@a, @b)",
    "maximum(@a, @b)",
    "minimum(@a, @b)",
    "where(@mask, @a, @b)",
    "equal(@i, @j)",
    "greater(@a, @b)",
    "less(@a, @b)",
    "greater_equal(@a, @b)",
    "less_equal(@a, @b)",
    "logical_and(@mask, @mask2)",
    "logical_or(@mask, @mask2)",
    "logical_not(@mask)",
    "identity(@a)",
    "dropout(@a)",
    "cast(@a) {dtype=i64}",
    "cast(@i) {dtype=f32}",
    "relu(@a)",
    "clamp(@a) {min=-0.5, max=0.25}",
    "neg(@a)",
    "abs(@a)",
    "round(@a)",
    "reshape(@a) {shape=[0,-1]}",
    "transpose(@a) {perm=[1,3,0,2]}",
    "slice(@a) {axes=[1,-1], starts=[1,-5], ends=[9223372036854775807,-1], steps=[2,1]}",
    "split(@a) {axis=1, sizes=[1,3]}",
    "cat(@a, @b) {axis=2}",
    "pad(@a) {pads=[0,1,0,2,0,0,-1,1], value=0.5}",
    "expand(@c) {shape=[3,-1,2,6]}",
    "tile(@a) {repeats=[2,1,1,3]}",
    "gather(@a, @index) {axis=1}",
    "pixel_shuffle(@a) {factor=2}",
    "pixel_unshuffle(@a) {factor=2}",
    "reduce_max(@a) {axes=[1,-1], keepdims=true}",
    "reduce_min(@a)",
    "argmax(@a) {axis=1}",
    "argmin(@a) {axis=-1, keepdims=true}",
]
SUMS = ["sum(@a) {axes=[2,3]}", "mean(@a)"]
ROUNDED = ["pow(@p, @b)", "exp(@a)", "sqrt(@p)", "sigmoid(@a)", "hardswish(@a)"]
TEXT = """
    param @a = #random(1, [1,4,2,6])
    param @b = #random(2, [1,4,2,6])
    param @c: f32[4,1,6] = #random(3, [4,1,6])
    param @i: i64[4] = [1, 2, 3, 4]
    param @j: i64[4] = [1, 0, 3, 0]
    param @index: i64[2,2] = [3, 0, -1, 2]
    param @mask: b1[2,6] = [true,false,true,true,false,true,false,false,true,true,true,false]
    param @mask2: b1[6] = [true,true,false,true,false,true]
    %p = abs(@a)
"""


def graph_with(line: str) -> str:
    names = "%y, %z" if line.startswith("split") else "%y"
    outputs = "output %y\noutput %z" if line.startswith("split") else "output %y"
    return f"{TEXT.replace('@p', '%p')}\n{names} = {line.replace('@p', '%p')}\n{outputs}"


def fold(line: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """torch's results and the folded constants."""
    expected = torch_oracle.run(graph_of(graph_with(line), "lowered"), {})
    graph = graph_of(graph_with(line), "lowered")
    run_passes(graph, "constant-folding")
    assert all(value.array is not None for value in graph.outputs), f"not folded: {graph}"
    for value in graph.outputs:
        assert value.array is not None
        assert value.type.shape == value.array.shape
        assert DType.from_numpy(value.array.dtype) is value.type.dtype
    return expected, [value.array for value in graph.outputs if value.array is not None]


@pytest.mark.parametrize("line", EXACT)
def test_folding_gives_torchs_bits(line: str) -> None:
    for expected, found in zip(*fold(line), strict=True):
        np.testing.assert_array_equal(found, expected, strict=True)


@pytest.mark.parametrize("line", ROUNDED)
def test_functions_differ_from_torch_in_the_last_place_at_most(line: str) -> None:
    for expected, found in zip(*fold(line), strict=True):
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        np.testing.assert_array_max_ulp(found, expected, 4)


@pytest.mark.parametrize("line", SUMS)
def test_sums_are_those_of_float64(line: str) -> None:
    for expected, found in zip(*fold(line), strict=True):
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_huge_and_expensive_results_are_left_to_be_computed() -> None:
    for line in ("expand(@a) {shape=[64,4096,2,64]}", "conv2d(@x, @w) {padding=[1,1,1,1]}"):
        graph = graph_of(
            "param @a = #random(1, [1,2,1])\nparam @x = #random(1, [1,64,100,100])\nparam @w = #random(2, [64,64,3,3])\n"
            f"%y = {line}\noutput %y".replace("[1,2,1]", "[1,1,2,1]"),
            "lowered",
        )
        run_passes(graph, "constant-folding")
        assert graph.outputs[0].array is None
