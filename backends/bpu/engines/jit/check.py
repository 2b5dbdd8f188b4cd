"""The probe's question: does a dense kernel compute a small layer of extremes right?"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

import numpy as np

from hqc.backends.bpu.engines import ConvSpec
from hqc.backends.bpu.engines.jit import fields as f
from hqc.backends.bpu.engines.jit import library
from hqc.backends.bpu.engines.jit.native import Array, NativeOp, aligned_buffer
from hqc.backends.bpu.engines.jit.problems import activations_op, dense
from hqc.backends.bpu.epilogue import Epilogue
from hqc.ir import DType

logger = logging.getLogger("hqc")


@functools.cache
def trusted(product: str, dtype: DType) -> bool:
    """True when the kernel for operands of `dtype` compiles and is right here; one log line says why not.

    Asked once in each process, before any layer gets it.
    """
    return _right(product, lambda: product_is_exact(product, dtype))


@functools.cache
def trusted_activations(product: str) -> bool:
    """The same for a kernel of products of two activations."""
    return _right(product, lambda: activations_are_exact(product))


def _right(product: str, exact: Callable[[], bool]) -> bool:
    try:
        if exact():
            return True
        reason = "its sums of a small layer are wrong"
    except Exception as error:  # whatever numba, LLVM or the system raise
        reason = f"{type(error).__name__}: {error}"
    logger.warning("engine 'jit' does without %s on this processor: %s", product, reason)
    return False


def activations_are_exact(product: str) -> bool:
    """Two products of the largest int8, one of transposed operands, against NumPy's int64."""
    rng = np.random.default_rng(0)
    first, second = (rng.choice(np.array([-128, 127], np.int8), shape) for shape in ((2, 19, 45), (2, 45, 70)))
    epilogue = Epilogue(None, _PLAIN, channels=1, acc_range=(-(2**30), 2**30))
    for a, b, order in ((first, second, (0, 1, 2)), (second, first, (0, 2, 1))):
        places = [np.arange(array.size).reshape(array.shape).transpose(order) for array in (a, b)]
        wanted = a.transpose(order).astype(np.int64) @ b.transpose(order).astype(np.int64)
        out = np.zeros(wanted.shape, np.int32)
        _run(activations_op(product, places[0], places[1], -128, epilogue, 1), {f.X: a, f.Y: b, f.OUT: out})
        if (out != wanted).any():
            return False
    return True


_PLAIN = {"mode": "none", "dtype": DType.INT32, "clip_min": DType.INT32.qmin, "clip_max": DType.INT32.qmax}


def product_is_exact(product: str, dtype: DType) -> bool:
    """One pixel row of the largest inputs and weights, against NumPy's int64."""
    rng = np.random.default_rng(0)
    x = rng.choice(np.array([dtype.qmin, dtype.qmax], dtype.numpy), (1, 1, 37, 140))
    weight = rng.choice(np.array([-128, 127], np.int8), (70, 140, 1, 1))
    spec = ConvSpec(x.shape, (1, 1, 37, 70), weight, (1, 1), (0, 0, 0, 0), (1, 1), 1, (dtype.qmin, dtype.qmax), dtype)
    op = dense(spec, Epilogue(None, _PLAIN, channels=70, acc_range=(-(2**30), 2**30)), 1, product)
    out = np.zeros((37, 70), np.int32)
    _run(op, {f.X: x, f.OUT: out})
    return bool((out == x.reshape(37, 140).astype(np.int64) @ weight.reshape(70, 140).T.astype(np.int64)).all())


def _run(op: NativeOp, arrays: dict[int, Array]) -> None:
    """The operation alone, on arrays for the words that take addresses."""
    words, counters = np.zeros(f.WORDS, np.int64), np.zeros(64, np.int64)
    for word, value in op.words.items():
        words[word] = value
    words[f.KERNEL], words[f.TILES] = library.address(op.kernel), op.tiles
    for word, array in arrays.items():
        words[word] = array.ctypes.data
    table = np.array([words.ctypes.data], np.int64)
    scratch, start = aligned_buffer(op.scratch)
    library.driver()(table.ctypes.data, 1, counters.ctypes.data, start)
    del scratch
