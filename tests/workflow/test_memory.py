"""Large weights: how often they lie in memory. Sizes are counted by tracemalloc and by identity, never by the system's figures."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import nn

import hqc
from hqc import arithmetic
from hqc.backends.bpu.engines import jit

MIB = 1 << 20


@contextmanager
def peak() -> Iterator[Callable[[], float]]:
    """MiB that NumPy and Python had at most, above what they had at the start."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        yield lambda: (tracemalloc.get_traced_memory()[1] - before) / MIB
    finally:
        tracemalloc.stop()


@pytest.fixture
def head() -> hqc.Compiled:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 2048), nn.ReLU(), nn.Linear(2048, 10)).eval()
    x = torch.randn(1, 3, 8, 8)
    return hqc.compile(model, (x,), march="bayes", calibration_data=[x])


def test_a_large_weight_is_quantized_and_bounded_without_a_second_float_copy() -> None:
    weight = np.random.default_rng(0).standard_normal((4096, 4096), np.float32)  # 64 MiB
    with peak() as used:
        q = arithmetic.quantize_weight(weight, np.full(4096, 0.01, np.float32), 0)
        assert used() < 16 + 16
        bound = arithmetic.accumulator_bound(q, 0, 128)
        assert used() < 16 + 16
    part = slice(1000, 1010)
    np.testing.assert_array_equal(q[part], arithmetic.quantize(weight[part], np.float32(0.01)))
    assert bound == int(np.abs(q.astype(np.int64)).sum(axis=1).max()) * 128


@pytest.mark.parametrize("axis", [0, 1, -1, None])
@pytest.mark.parametrize("shape", [(), (5,), (3, 7), (2, 3, 4, 5), (1, 40), (0, 3)])
def test_blocks_of_a_weight_give_what_the_whole_gives(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], axis: int | None
) -> None:
    monkeypatch.setattr(arithmetic, "BLOCK", 8)
    if axis is not None and not -len(shape) <= axis < len(shape):
        axis = None
    rng = np.random.default_rng(1)
    weight = rng.standard_normal(shape).astype(np.float32)
    scale = np.float32(0.02) if axis is None else rng.uniform(0.01, 0.03, shape[axis]).astype(np.float32)
    np.testing.assert_array_equal(
        arithmetic.quantize_weight(weight, scale, axis), arithmetic.quantize(weight, scale, axis=axis)
    )
    whole = np.arange(weight.size).reshape(shape)
    assert [int(item) for rows in arithmetic.row_blocks(whole) for item in np.ravel(whole[rows])] == list(range(weight.size))


def test_compile_keeps_large_weights_once_until_the_prepared_model_is_asked_for(head: hqc.Compiled) -> None:
    def large(module: nn.Module) -> torch.Tensor:
        return next(each for each in module.parameters() if each.numel() == 8 * 36 * 2048)

    inside = head._prepared
    assert large(inside) is large(inside.preparation.float_model)
    with torch.no_grad():
        large(head.prepared).add_(1.0)
    difference = large(inside) - large(inside.preparation.float_model)
    torch.testing.assert_close(difference, torch.ones_like(difference))


@pytest.mark.skipif(not jit.available(), reason="numba is not installed")
def test_programs_of_several_batch_sizes_share_parameters_and_packed_weights(
    head: hqc.Compiled, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hqc.backends.bpu.engines.jit import problems

    packed: list[tuple[object, ...]] = []  # which weight for which product: that depends on the processor and on the batch
    pack = problems._pack
    monkeypatch.setattr(problems, "_pack", lambda weight, *how: packed.append((weight.ctypes.data, *how)) or pack(weight, *how))
    for batch in (1, 3, 5):
        head.simulate(torch.randn(batch, 3, 8, 8))
    assert len(packed) == len(set(packed))
    (first, _), (second, _), _ = list(head.runner._cache.values())
    for graph, other in ((first.integer, second.integer), (first.scaled, second.scaled)):
        assert all(other.parameters[name].array is value.array for name, value in graph.parameters.items())


@pytest.mark.skipif(not jit.available(), reason="numba is not installed")
@pytest.mark.parametrize("product", ["dense_dot512", "dense_amx", "dense_float256", "dense_thin256"])
@pytest.mark.parametrize(
    ("outputs", "groups", "joined"), [(1, 1, 1), (16, 1, 1), (17, 1, 1), (40, 1, 1), (36, 6, 3), (51, 3, 1)]
)
def test_packed_weights_hold_each_weight_at_its_place_and_zeros_beside(
    product: str, outputs: int, groups: int, joined: int
) -> None:
    from hqc.backends.bpu.engines.jit import problems

    weight = np.random.default_rng(outputs).integers(-128, 128, (outputs, 5, 3, 2)).astype(np.int8)
    packed = problems.pack_weights(weight, product, groups, joined)
    assert problems.pack_weights(weight, product, groups, joined) is packed
    count, blocks, steps, lanes, together = packed.array.shape
    rows = packed.array.transpose(0, 1, 3, 2, 4).reshape(count, blocks * lanes, steps * together)
    expected = np.zeros((groups // joined, outputs * joined // groups, 3, 2, joined * 5), np.int8)
    for output in range(outputs):
        group = output // (outputs // groups)
        at = group % joined * 5
        where = expected[group // joined, output % expected.shape[1]]
        where[:, :, at : at + 5] = weight[output].transpose(1, 2, 0)
    reduction = 30 * joined
    np.testing.assert_array_equal(rows[:, : expected.shape[1], :reduction], expected.reshape(count, -1, reduction))
    assert not rows[:, expected.shape[1] :].any() and not rows[:, :, reduction:].any()
    assert (
        packed.block == packed.array[0, 0].nbytes and packed.patch == steps * 4
    )  # of activations, which thin products make real too
    if product == "dense_amx":
        assert blocks % 2 == 0 and packed.patch % 64 == 0
