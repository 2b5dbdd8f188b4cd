"""The probe's question: does a dense kernel compute a small layer of extremes right?"""

from __future__ import annotations

import functools
import logging

import numpy as np

from hqc.backends.bpu.engines import ConvSpec
from hqc.backends.bpu.engines.jit import fields as f
from hqc.backends.bpu.engines.jit import library
from hqc.backends.bpu.engines.jit.native import aligned_buffer
from hqc.backends.bpu.engines.jit.problems import dense
from hqc.backends.bpu.epilogue import Epilogue
from hqc.ir import DType

logger = logging.getLogger("hqc")


@functools.cache
def trusted(product: str, dtype: DType) -> bool:
    """True when the kernel for operands of `dtype` compiles and is right here; one log line says why not.

    Asked once in each process, before any layer gets it.
    """
    try:
        if product_is_exact(product, dtype):
            return True
        reason = "its sums of a small layer are wrong"
    except Exception as error:  # whatever numba, LLVM or the system raise
        reason = f"{type(error).__name__}: {error}"
    logger.warning("engine 'jit' does without %s on this processor: %s", product, reason)
    return False


def product_is_exact(product: str, dtype: DType) -> bool:
    """One pixel row of the largest inputs and weights, against NumPy's int64."""
    rng = np.random.default_rng(0)
    x = rng.choice(np.array([dtype.qmin, dtype.qmax], dtype.numpy), (1, 1, 37, 140))
    weight = rng.choice(np.array([-128, 127], np.int8), (70, 140, 1, 1))
    spec = ConvSpec(x.shape, (1, 1, 37, 70), weight, (1, 1), (0, 0, 0, 0), (1, 1), 1, (dtype.qmin, dtype.qmax), dtype)
    attributes = {"mode": "none", "dtype": DType.INT32, "clip_min": DType.INT32.qmin, "clip_max": DType.INT32.qmax}
    op = dense(spec, Epilogue(None, attributes, channels=70, acc_range=(-(2**30), 2**30)), 1, product)
    out = np.zeros((37, 70), np.int32)
    words, counters = np.zeros(f.WORDS, np.int64), np.zeros(64, np.int64)
    for word, value in op.words.items():
        words[word] = value
    words[f.KERNEL], words[f.TILES] = library.address(op.kernel), op.tiles
    words[f.X], words[f.OUT] = x.ctypes.data, out.ctypes.data
    table = np.array([words.ctypes.data], np.int64)
    scratch, start = aligned_buffer(op.scratch)
    library.driver()(table.ctypes.data, 1, counters.ctypes.data, start)
    del scratch
    return bool((out == x.reshape(37, 140).astype(np.int64) @ weight.reshape(70, 140).T.astype(np.int64)).all())
