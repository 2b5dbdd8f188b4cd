"""The float32 line that replaces the 32-bit requantization formula is proved, not assumed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hqc import arithmetic
from hqc.backends.bpu import epilogue as epilogues
from hqc.backends.bpu.epilogue import Epilogue
from hqc.backends.bpu.line import evaluate, find_line
from hqc.backends.bpu.workers import Scratch
from hqc.ir.types import DType

REACH = 40_000


@pytest.mark.parametrize("results", [(-128, 127), (0, 127), (0, 24)])
@pytest.mark.parametrize("exponent", [-10, -8, -6, -4])
def test_line_gives_the_bits_of_requantize_at_every_accumulator(exponent, results):
    ratio = 2.0**exponent * np.random.default_rng(-exponent).uniform(0.5, 2.0, 12)
    params = arithmetic.requant_params(ratio)
    attributes = {"mode": "multiply", "dtype": DType.INT8, "clip_min": results[0], "clip_max": results[1]}
    epilogue = Epilogue(params.array, attributes, channels=12, acc_range=(-REACH, REACH))
    assert epilogue.line is not None, "the line must apply to usual ratios"
    acc = np.repeat(np.arange(-REACH, REACH + 1)[:, None], 12, axis=1)
    expected = np.clip(arithmetic.requantize(acc, params), *results)
    np.testing.assert_array_equal(evaluate(acc >> params.pre_shift, *epilogue.line, results), expected)
    out = np.zeros(acc.shape, np.int8)
    epilogue.apply(acc.astype(np.float32), out, Scratch())
    np.testing.assert_array_equal(out, expected)


def test_no_line_is_claimed_where_the_formula_is_not_the_result_beyond_its_bounds():
    """Bounds that stop short of the clip: beyond them the line would go on climbing."""
    params = arithmetic.RequantParams(np.array([20000]), np.array([0]), np.array([20]), "multiply")
    within = np.array([-3000]), np.array([3000])
    assert find_line(params, within, (-3000, 3000), (-128, 127)) is not None
    assert find_line(params, within, (-3000, 6000), (-128, 127)) is None
    assert find_line(params, within, (-6000, 3000), (-128, 127)) is None


def test_very_many_channels_have_no_line_and_the_same_bits():
    """The proof is 500 points a channel: a layer that computes weights (CondConv) has a million channels and one row."""
    count = (1 << 14) + 1
    params = arithmetic.requant_params(np.random.default_rng(0).uniform(0.01, 0.02, count))
    epilogue = Epilogue(
        params.array,
        {"mode": "multiply", "dtype": DType.INT8, "clip_min": -128, "clip_max": 127},
        channels=count,
        acc_range=(-REACH, REACH),
    )
    assert epilogue.line is None
    acc = np.random.default_rng(1).integers(-REACH, REACH, (2, count))
    out = np.zeros(acc.shape, np.int8)
    epilogue.apply(acc.astype(np.float32), out, Scratch())
    np.testing.assert_array_equal(out, arithmetic.requantize(acc, params))


def test_multiplier_zero_has_no_line():
    params = arithmetic.RequantParams(np.array([20000, 0]), np.array([0, 0]), np.array([20, 20]), "multiply")
    assert find_line(params, (np.array([-9, -9]), np.array([9, 9])), (-9, 9), (-128, 127)) is None


@pytest.mark.parametrize("rows", [1, 7, 53, 4096, 5003])
def test_rows_that_are_no_multiple_of_a_run_are_requantized_too(rows):
    rng = np.random.default_rng(rows)
    params = arithmetic.requant_params(rng.uniform(0.001, 0.01, 24))
    attributes = {"mode": "multiply", "dtype": DType.INT8, "clip_min": -128, "clip_max": 127}
    acc, bias = rng.integers(-REACH, REACH, (rows, 24)), rng.integers(-999, 999, 24)
    epilogue = Epilogue(params.array, attributes, channels=24, acc_range=(-REACH - 999, REACH + 999), bias=bias)
    expected = arithmetic.requantize(acc + bias, params)
    for dtype in (np.float32, np.int32):
        out = np.zeros(acc.shape, np.int8)
        epilogue.apply(acc.astype(dtype), out, Scratch())
        np.testing.assert_array_equal(out, expected)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["multiply", "shift"]), st.integers(-128, 128))
def test_the_smallest_accumulator_that_reaches_a_result_is_found_in_a_few_tries(seed, mode, target):
    rng = np.random.default_rng(seed)
    if mode == "shift":
        rows = np.ones(9, np.int64), np.zeros(9, np.int64), rng.integers(0, 63, 9)
    else:
        rows = rng.integers(0, 2**15 + 1, 9), rng.integers(0, 25, 9), rng.integers(0, 46, 9)
    params = arithmetic.RequantParams(*rows, mode)
    low, high = np.sort(rng.integers(-REACH, REACH, 2)).tolist()
    results = arithmetic.requantize(np.arange(low, high + 1)[:, None], params)
    expected = low + np.minimum((results < target).sum(axis=0), high - low)
    np.testing.assert_array_equal(epilogues._smallest_reaching(target, params, 8, (low, high)), expected)


def test_an_epilogue_asks_the_definition_a_few_times_only(monkeypatch):
    """Networks of thousands of small layers spent their first simulation in bisections."""
    asked = []
    requantize = arithmetic.requantize
    monkeypatch.setattr(arithmetic, "requantize", lambda *args: asked.append(args) or requantize(*args))
    params = arithmetic.requant_params(np.random.default_rng(0).uniform(0.01, 0.02, 8))
    attributes = {"mode": "multiply", "dtype": DType.INT8, "clip_min": -128, "clip_max": 127}
    Epilogue(params.array, attributes, channels=8, acc_range=(-REACH, REACH))
    assert len(asked) <= 6
