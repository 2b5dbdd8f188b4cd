"""Engines: exactness proofs, tiles, the fast epilogue, oneDNN."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from one_node import Parameter, integers, one_node, rng_of

from hqc import arithmetic
from hqc.backends.bpu import compile
from hqc.backends.bpu.engines import ConvSpec, get_engine, jit, onednn
from hqc.backends.bpu.engines.blas import tiles
from hqc.backends.bpu.epilogue import Epilogue
from hqc.backends.bpu.proof import exact_chunks, sum_bounds
from hqc.backends.bpu.workers import Scratch
from hqc.errors import CompileError
from hqc.ir import DType


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_chunks_cover_the_reduction_and_each_stays_within_the_limit(data):
    rng = rng_of(data.draw)
    weight = integers(rng, (data.draw(st.integers(1, 200)), data.draw(st.integers(1, 5))))
    x = data.draw(st.sampled_from([(-128, 127), (0, 127), (-5, 3), (0, 0)]))
    limit = data.draw(st.integers(128 * 128, 128 * 128 * 60))
    chunks = exact_chunks(weight, x, limit)
    assert [index for chunk in chunks for index in range(chunk.start, chunk.stop)] == list(range(len(weight)))
    for chunk in chunks:
        assert sum_bounds(weight[chunk], x).within(limit)
    for first, second in itertools.pairwise(chunks):  # greedy: no chunk could have taken one more row
        assert not sum_bounds(weight[first.start : second.start + 1], x).within(limit)


def test_bounds_are_reached_and_a_relu_halves_them():
    weight = np.array([[3], [-4], [5]], np.int8)
    assert sum_bounds(weight, (-128, 127)).range == (-3 * 128 - 4 * 127 - 5 * 128, 3 * 127 + 4 * 128 + 5 * 127)
    assert sum_bounds(weight, (0, 127)).range == (-4 * 127, 8 * 127)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 4), st.integers(1, 60), st.integers(1, 60), st.integers(1, 600), st.integers(1, 5000), st.integers(1, 8))
def test_tiles_cover_every_output_once(count, height, width, outputs, reduction, threads):
    spec = ConvSpec(
        (count, height, width, 1), (count, height, width, outputs), np.zeros((outputs, 1, 1, 1), np.int8),
        (1, 1), (0, 0, 0, 0), (1, 1), 1, (-128, 127),
    )  # fmt: skip
    covered = np.zeros((count, height, outputs), np.int8)
    for tile in tiles(spec, reduction, threads):
        covered[tile.n0 : tile.n1, tile.r0 : tile.r1, tile.c0 : tile.c1] += 1
        assert tile.n1 - tile.n0 == 1 or (tile.r0, tile.r1) == (0, height)
    assert (covered == 1).all()


@pytest.mark.parametrize("ratio", [2.0**e * m for e in range(-14, 0) for m in (1.0, 1.37, 1.99)])
@pytest.mark.parametrize("bounds", [(-128, 127), (0, 127), (0, 6)])
def test_usual_ratios_take_the_fast_path_and_it_is_exact_everywhere(ratio, bounds):
    """Every accumulator within the proven range of a mid-sized layer, not a sample."""
    attributes = {"mode": "multiply", "dtype": DType.INT8, "clip_min": bounds[0], "clip_max": bounds[1]}
    params = arithmetic.requant_params(np.float64(ratio))
    reach = int(min(130 / ratio + 10, 2**21))
    epilogue = Epilogue(params.array, attributes, channels=1, acc_range=(-reach, reach))
    assert epilogue._bounds is not None, "the fast path must apply"
    acc = np.arange(-reach, reach + 1)
    expected = np.clip(arithmetic.requantize(acc, params), *bounds)
    for dtype in (np.float32, np.int32):
        out = np.zeros((len(acc), 1), np.int8)
        epilogue.apply(acc.astype(dtype)[:, None], out, Scratch())
        np.testing.assert_array_equal(out[:, 0], expected)
    assert epilogue.weight_scale is not None
    scaled = (acc * epilogue.weight_scale).astype(np.float32)[:, None]
    epilogue.apply(scaled, out, Scratch(), scaled=True)
    np.testing.assert_array_equal(out[:, 0], expected)


def test_onednn_is_refused_in_one_sentence_or_gives_the_bits_of_blas():
    rng = np.random.default_rng(7)
    rows = Parameter(arithmetic.requant_params(rng.uniform(0.0005, 0.002, 40)).array)
    bias = Parameter(rng.integers(-3000, 3000, 40).astype(np.int32))
    operands = [integers(rng, (2, 24, 17, 19)), Parameter(integers(rng, (40, 24, 3, 3))), bias, rows]
    graph, inputs = one_node("int_conv2d", operands, {"padding": (1, 0, 2, 1), "stride": (2, 1), "clip_min": 0})
    if not (onednn.available() and onednn.exact()):
        with pytest.raises(CompileError, match=r"engine 'onednn' .*use engine='blas'"):
            compile(graph, engine="onednn")
        return
    program = compile(graph, engine="onednn")
    np.testing.assert_array_equal(program.run(inputs)["y"], compile(graph, engine="blas").run(inputs)["y"])


@pytest.mark.parametrize("padding", [(1, 1, 1, 1), (1, 0, 2, 1)])
def test_onednn_product_equals_the_integers_where_no_int16_sum_saturates(padding):
    """Small inputs: exact with and without VNNI. Says that layouts, zero point and padding are right on any processor."""
    if not onednn.available():
        pytest.skip("torch's oneDNN convolution is not installed")
    rng = np.random.default_rng(8)
    x = rng.integers(-128, -100, (2, 10, 11, 12)).astype(np.int8)  # x + 128 is small
    weight = rng.integers(-60, 61, (9, 12, 3, 3)).astype(np.int8)
    top, left, bottom, right = padding
    out = (2, 10 + top + bottom - 2, 11 + left + right - 2, 9)
    spec = ConvSpec(x.shape, out, weight, (1, 1), padding, (1, 1), 1, (-128, 127))
    found = onednn._product(spec, 1)(x)
    rows = np.pad(x.astype(np.int64), ((0, 0), (top, bottom), (left, right), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(rows, (3, 3), axis=(1, 2))
    np.testing.assert_array_equal(found, np.einsum("nhwcij,ocij->nhwo", windows, weight.astype(np.int64)))


def exact_product(spec: ConvSpec, threads: int):
    """A stand-in for oneDNN's product that any machine can run: the same integers by NumPy."""
    top, left, bottom, right = spec.padding
    windows_of = np.lib.stride_tricks.sliding_window_view

    def product(x):
        padded = np.pad(x.astype(np.float64), ((0, 0), (top, bottom), (left, right), (0, 0)))
        windows = windows_of(padded, spec.kernel, axis=(1, 2))[:, :: spec.stride[0], :: spec.stride[1]]
        acc = np.einsum("nhwcij,ocij->nhwo", windows, spec.weight.astype(np.float64), optimize=True)
        return np.ascontiguousarray(acc, np.float32)

    return product


@pytest.fixture
def onednn_stand_in(monkeypatch):
    """The probe as on a machine whose oneDNN is there and exact, whatever this one has; nothing is cached across tests."""
    caches = (onednn.exact, onednn._faster)
    for cached in caches:
        cached.cache_clear()
    monkeypatch.setattr(jit, "available", lambda: False)
    monkeypatch.setattr(onednn, "available", lambda: True)
    monkeypatch.setattr(onednn, "_product", exact_product)
    monkeypatch.setitem(onednn.sys.modules, "torch", onednn.sys.modules.get("torch", onednn))
    yield monkeypatch
    for cached in caches:
        cached.cache_clear()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_probe_runs_to_its_last_line_on_a_processor_where_onednn_is_exact(onednn_stand_in, threads):
    """The first release tested an array's truth there: it failed on every processor with VNNI, and no test reached the line."""
    assert onednn.exact()
    assert onednn._faster(threads) in (True, False)
    assert get_engine("auto", threads).name in ("onednn", "blas")


@pytest.mark.parametrize(
    ("onednn_seconds", "blas_seconds", "chosen"), [(1.0, 2.0, "onednn"), (2.0, 1.0, "blas"), (1.0, 1.0, "blas")]
)
def test_auto_takes_the_faster_engine(onednn_stand_in, onednn_seconds, blas_seconds, chosen):
    times = iter([onednn_seconds, blas_seconds])

    def timed(function):
        function()
        return next(times)

    onednn_stand_in.setattr(onednn, "_best_time", timed)
    assert get_engine("auto").name == chosen


def _raise(*arguments):
    raise RuntimeError("could not create a primitive")


def _off_by_one(spec, threads):
    return lambda x: exact_product(spec, threads)(x) + 1


@pytest.mark.parametrize(
    ("name", "answer", "logged"),
    [
        ("available", lambda: False, False),
        ("_product", _off_by_one, False),
        ("_product", _raise, False),
        ("_product", lambda spec, threads: _raise, False),
        ("exact", _raise, True),
        ("_faster", _raise, True),
        ("_best_time", _raise, True),
    ],
    ids=["absent", "inexact", "pack-raises", "product-raises", "exact-raises", "faster-raises", "clock-raises"],
)
def test_a_probe_that_fails_means_blas_and_at_most_a_log_line(onednn_stand_in, caplog, name, answer, logged):
    onednn_stand_in.setattr(onednn, name, answer)
    assert get_engine("auto").name == "blas"
    assert ("onednn" in caplog.text) == logged


def test_auto_compiles_and_runs_with_the_stand_in(onednn_stand_in):
    onednn_stand_in.setattr(onednn, "_faster", lambda threads: True)
    rng = np.random.default_rng(9)
    rows = Parameter(arithmetic.requant_params(rng.uniform(0.0005, 0.002, 12)).array)
    bias = Parameter(rng.integers(-3000, 3000, 12).astype(np.int32))
    operands = [integers(rng, (1, 8, 9, 11)), Parameter(integers(rng, (12, 8, 3, 3))), bias, rows]
    graph, inputs = one_node("int_conv2d", operands, {"padding": (1, 1, 1, 1)})
    program = compile(graph, engine="auto")
    np.testing.assert_array_equal(program.run(inputs)["y"], compile(graph, engine="reference").run(inputs)["y"])


def test_a_layer_that_onednn_computes_wrong_goes_to_blas(onednn_stand_in):
    """Found by 10,000 random layers: oneDNN of torch 2.13 is wrong on a dilated layer with stride 3 and one output column."""
    onednn_stand_in.setattr(onednn, "_faster", lambda threads: True)
    assert onednn.exact()
    onednn_stand_in.setattr(onednn, "_product", _off_by_one)
    rng = np.random.default_rng(10)
    rows = Parameter(arithmetic.requant_params(np.float64(0.01)).array)
    operands = [integers(rng, (1, 2, 5, 7)), Parameter(integers(rng, (4, 2, 3, 4))), None, rows]
    graph, inputs = one_node("int_conv2d", operands, {"stride": (1, 3), "padding": (2, 0, 2, 2)})
    found = compile(graph, engine="onednn").run(inputs)["y"]
    np.testing.assert_array_equal(found, compile(graph, engine="reference").run(inputs)["y"])


@pytest.mark.skipif(not (onednn.available() and onednn.exact()), reason="no exact oneDNN here")
def test_onednn_survives_windows_of_nothing_but_padding():
    """torch 2.13 ends the process in its own convolution; such padding is made before it."""
    rng = np.random.default_rng(0)
    operands = [integers(rng, (1, 4, 1, 1)), Parameter(integers(rng, (7, 4, 1, 1)))]
    attributes = {"stride": (1, 3), "padding": (0, 2, 0, 2), "dilation": (1, 2), "mode": "none", "dtype": DType.INT32}
    graph, inputs = one_node("int_conv2d", operands, attributes)
    expected = compile(graph, engine="reference").run(inputs)["y"]
    np.testing.assert_array_equal(compile(graph, engine="onednn").run(inputs)["y"], expected)
