"""What the integer graph of one node computes, against the real function on the same integers: within one step of the result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from ir_check import graph_of, run_passes

from hqc.backends.bpu import compile

F64 = npt.NDArray[np.float64]
SHAPE = (2, 4, 3, 5)
RNG = np.random.default_rng(7)
WEIGHT = RNG.normal(size=(6, 4)).astype(np.float32)
GROUPED = RNG.normal(size=(4, 3)).astype(np.float32)
BIAS = RNG.normal(size=6).astype(np.float32) * 4
VECTOR = RNG.normal(size=(1, 4, 1, 1)).astype(np.float32)


def numbers(array: npt.NDArray[Any]) -> str:
    return "[" + ", ".join(repr(float(item)) for item in array.ravel()) + "]"


PARAMETERS = f"""
    param @conv_w: f32[6,4,1,1] = {numbers(WEIGHT)}
    param @lin_w: f32[6,4] = {numbers(WEIGHT)}
    param @group_w: f32[4,3,1,1] = {numbers(GROUPED)}
    param @bias: f32[6] = {numbers(BIAS)}
    param @vector: f32[1,4,1,1] = {numbers(VECTOR)}
    param @c: f32[] = 1.7
    param @n: f32[] = -0.7
    param @slope: f32[4] = [0.25, -0.1, 0.9, 0.0]
    param @mean: f32[4] = [0.5, -1.0, 0.0, 2.0]
    param @var: f32[4] = [1.0, 0.25, 4.0, 0.1]
    param @gamma: f32[4] = [1.0, -0.5, 2.0, 0.1]
    param @beta: f32[4] = [0.0, 1.0, -1.0, 0.5]
"""


def softmax(x: F64, axis: int) -> F64:
    e = np.exp(x - x.max(axis, keepdims=True))
    return np.asarray(e / e.sum(axis, keepdims=True))


def channels(vector: list[float]) -> F64:
    return np.array(vector).reshape(1, 4, 1, 1)


def convolved(a: F64) -> F64:
    return np.asarray(np.einsum("oi,nihw->nohw", WEIGHT, a) + BIAS.reshape(1, -1, 1, 1))


def bent(a: F64) -> F64:
    return np.maximum(a, 0) + channels([0.25, -0.1, 0.9, 0.0]) * np.minimum(a, 0)


CASES: dict[str, tuple[str, str, Callable[[F64, F64], F64]]] = {
    # name: (node, scale of the result, function of a and b)
    "conv2d": ("f32[2,6,3,5] conv2d(%a, @conv_w, @bias)", "0.25", lambda a, b: convolved(a)),
    "conv2d relu6": (
        "f32[2,6,3,5] conv2d(%a, @conv_w, @bias) {activation=relu6}",
        "0.0625",
        lambda a, b: np.clip(convolved(a), 0, 6),
    ),
    "conv_transpose2d": (
        "f32[2,6,3,5] conv_transpose2d(%a, @group_w) {groups=2}",
        "0.125",
        lambda a, b: np.concatenate(
            [np.einsum("io,nihw->nohw", GROUPED[:2], a[:, :2]), np.einsum("io,nihw->nohw", GROUPED[2:], a[:, 2:])], axis=1
        ),
    ),
    "batch_norm": (
        "f32[2,4,3,5] batch_norm(%a, @mean, @var, @gamma, @beta) {eps=0.0}",
        "0.25",
        lambda a, b: (a - channels([0.5, -1.0, 0.0, 2.0])) / np.sqrt(channels([1.0, 0.25, 4.0, 0.1])) * channels([1.0, -0.5, 2.0, 0.1])
        + channels([0.0, 1.0, -1.0, 0.5]),
    ),
    "add": ("f32[2,4,3,5] add(%a, %b)", "0.0625", lambda a, b: a + b),
    "sub": ("f32[2,4,3,5] sub(%a, %b)", "0.0625", lambda a, b: a - b),
    "mul": ("f32[2,4,3,5] mul(%a, %b)", "0.25", lambda a, b: a * b),
    "add scalar": ("f32[2,4,3,5] add(%a, @c)", "0.0625", lambda a, b: a + 1.7),
    "scalar minus": ("f32[2,4,3,5] sub(@c, %a)", "0.0625", lambda a, b: 1.7 - a),
    "minus scalar": ("f32[2,4,3,5] sub(%a, @c)", "0.0625", lambda a, b: a - 1.7),
    "add vector": ("f32[2,4,3,5] add(%a, @vector)", "0.0625", lambda a, b: a + VECTOR),
    "vector minus": ("f32[2,4,3,5] sub(@vector, %a)", "0.0625", lambda a, b: VECTOR - a),
    "mul scalar": ("f32[2,4,3,5] mul(%a, @n)", "0.0625", lambda a, b: a * -0.7),
    "mul vector": ("f32[2,4,3,5] mul(@vector, %a)", "0.125", lambda a, b: a * VECTOR),
    "div scalar": ("f32[2,4,3,5] div(%a, @n)", "0.125", lambda a, b: a / -0.7),
    "scalar div": ("f32[2,4,3,5] div(@c, %a)", "0.25", lambda a, b: 1.7 / a),
    "div": ("f32[2,4,3,5] div(%a, %b)", "0.25", lambda a, b: a / b),
    "maximum": ("f32[2,4,3,5] maximum(%a, @c)", "0.0625", lambda a, b: np.maximum(a, 1.7)),
    "minimum": ("f32[2,4,3,5] minimum(%a, %b)", "0.0625", lambda a, b: np.minimum(a, b)),
    "cat": ("f32[2,8,3,5] cat(%a, %b) {axis=1}", "0.0625", lambda a, b: np.concatenate([a, b], 1)),
    "prelu": ("f32[2,4,3,5] prelu(%a, @slope)", "0.0625", lambda a, b: bent(a)),
    "hardswish": ("f32[2,4,3,5] hardswish(%a)", "0.0625", lambda a, b: a * np.clip(a + 3, 0, 6) / 6),
    "mean": ("f32[2,4] mean(%a) {axes=[2,3]}", "0.0625", lambda a, b: a.mean((2, 3))),
    "sum": ("f32[2,3,5] sum(%a) {axes=[1]}", "0.25", lambda a, b: a.sum(1)),
    "softmax": ("f32[2,4,3,5] softmax(%a) {axis=1}", "0.0078125", lambda a, b: softmax(a, 1)),
    "clamp": ("f32[2,4,3,5] clamp(%a) {min=-1.0, max=2.5}", "0.0625", lambda a, b: np.clip(a, -1, 2.5)),
}  # fmt: skip

# Weights and constants of 8 bits and exponentials of 15 limit these more than an int16 result shows; clamp keeps its operand's grid.
COARSE = {
    "conv2d",
    "conv2d relu6",
    "conv_transpose2d",
    "batch_norm",
    "mul vector",
    "add vector",
    "vector minus",
    "softmax",
    "clamp",
}


def simulate(node: str, scale: str, march: str, dtype: str) -> tuple[F64, F64, F64, float]:
    """a, b and the result as real numbers, and the result's step."""
    type, _, call = node.partition(" ")
    graph = graph_of(
        f"""
        input %x: f32[2,4,3,5]
        input %z: f32[2,4,3,5]
        {PARAMETERS}
        %a: f32[2,4,3,5] q(i8, 0.0625) = quantize(%x) cpu
        %b: f32[2,4,3,5] q(i8, 0.03125) = quantize(%z) cpu
        %y: {type} q({dtype}, {scale}) = {call} bpu.0
        %d: {type} = dequantize(%y) cpu
        output %d
        """,
        "bounded",
    )
    run_passes(graph, "settle-rounding,propagate-scales,lower-to-integer", march)
    a = RNG.integers(-128, 128, SHAPE) * 0.0625
    b = RNG.integers(-128, 128, SHAPE) * 0.03125
    run = compile(graph, engine="reference").run({"x": a.astype(np.float32), "z": b.astype(np.float32)})
    (result,) = run.values()
    quant = graph.value("y").quant
    assert quant is not None
    return a, b, np.asarray(result, np.float64), float(quant.scale)


@pytest.mark.parametrize("march", ["bernoulli", "bernoulli2", "bayes"])
@pytest.mark.parametrize("case", CASES)
def test_integers_are_within_one_step_of_the_real_function(case: str, march: str) -> None:
    node, scale, function = CASES[case]
    a, b, result, step = simulate(node, scale, march, "i8")
    check_close(case, function, a, b, result, step, tolerance(case, march), 127)


@pytest.mark.parametrize("case", [case for case in CASES if case not in COARSE])
def test_int16_results_resolve_what_int8_operands_hold(case: str) -> None:
    node, scale, function = CASES[case]
    fine = repr(float(scale) / 256)
    a, b, result, step = simulate(node, fine, "bayes", "i16")
    check_close(case, function, a, b, result, step, 2.5, 32767)


def tolerance(case: str, march: str) -> float:
    """Steps of the result: rounding (floor on bernoulli) plus what int8 weights and constants add."""
    rounding = 1.01 if march == "bernoulli" else 0.52
    if case in ("conv2d", "conv2d relu6", "conv_transpose2d", "batch_norm"):
        return rounding + 4.0  # the weights' own error: half a weight step at |x| <= 8, four channels
    if "vector" in case or case in ("mul scalar", "div scalar"):
        return rounding + 1.3
    return rounding + (1.0 if case in ("maximum", "minimum", "cat", "prelu", "clamp", "mean") else 0.02)


def check_close(
    case: str, function: Callable[[F64, F64], F64], a: F64, b: F64, result: F64, step: float, limit: float, qmax: int
) -> None:
    with np.errstate(divide="ignore", invalid="ignore"):
        real = np.nan_to_num(function(a, b), nan=0.0, posinf=1e9, neginf=-1e9)
    expected = np.clip(real, -(qmax + 1) * step, qmax * step)
    worst = float(np.abs(result - expected).max() / step)
    assert worst <= limit, f"{case} is off by {worst:.3f} steps"
