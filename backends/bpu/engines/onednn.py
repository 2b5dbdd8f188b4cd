"""The `onednn` engine: torch's int8 convolution for dense layers, `blas` for the rest. The only file here that knows torch.

oneDNN takes uint8 activations and int8 weights. `x + 128` with zero point 128 gives the same sums; with scales of 1 its float32
result is the integer accumulator, exact below 2^24. Without VNNI instructions the uint8 x int8 products are added in pairs in
saturating int16, which is wrong for full-range weights: that is what the probe looks for, besides speed.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from hqc.backends.bpu.engines import ConvFunction, ConvSpec
from hqc.backends.bpu.engines.blas import BlasEngine
from hqc.backends.bpu.epilogue import Epilogue
from hqc.backends.bpu.proof import FLOAT32_EXACT
from hqc.backends.bpu.workers import exclusive_blas
from hqc.errors import CompileError
from hqc.ir import DType

Array = npt.NDArray[Any]
logger = logging.getLogger("hqc")
_ROWS = 512  # accumulator rows of one epilogue tile


def available() -> bool:
    """True when torch is installed and has oneDNN's quantized convolution."""
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return hasattr(torch.ops.onednn, "qconv2d_pointwise")


class OneDnnEngine:
    """oneDNN for int8 layers whose accumulators float32 holds; identical bits to `blas`."""

    name = "onednn"

    def __init__(self, blas: BlasEngine) -> None:
        if not available():
            raise CompileError(
                "engine 'onednn' needs torch with oneDNN's quantized convolution, which is not installed here; use engine='blas'"
            )
        if not exact():
            raise CompileError(
                "engine 'onednn' is not exact on this processor (it has no VNNI instructions, so int16 sums saturate); "
                "use engine='blas'"
            )
        self.workers = blas.workers
        self._blas = blas

    def conv(self, spec: ConvSpec, epilogue: Epilogue) -> ConvFunction:
        if (
            spec.groups != 1
            or max(map(abs, epilogue.acc_range)) > FLOAT32_EXACT
            or not (spec.x_range[0] >= -128 and spec.x_range[1] <= 127)
        ):
            return self._blas.conv(spec, epilogue)
        product = _product(spec, self.workers.threads)
        if not self._agrees(product, spec, epilogue):
            logger.info("oneDNN computes a convolution of %s by %s wrong; 'blas' does it", spec.x_shape, spec.weight.shape)
            return self._blas.conv(spec, epilogue)
        outputs = spec.out_shape[3]

        def conv(x: Array, out: Array, residual: Array | None) -> None:
            acc = product(x).reshape(-1, outputs)
            flat = out.reshape(-1, outputs)
            addend = None if residual is None else residual.reshape(-1, outputs)

            def finish(start: int) -> None:
                rows = slice(start, start + _ROWS)
                part = None if addend is None else addend[rows]
                epilogue.apply(acc[rows], flat[rows], self.workers.scratch, residual=part)

            self.workers.map(finish, range(0, len(acc), _ROWS))

        return conv

    def _agrees(self, product: Any, spec: ConvSpec, epilogue: Epilogue) -> bool:
        """The layer's sums on extreme inputs are those of `blas`.

        oneDNN has a kernel for every kind of layer, and some are wrong (found with torch 2.13: dilated, stride 3, one output column),
        so each layer is asked once.
        """
        x = np.random.default_rng(0).choice(np.array(spec.x_range, np.int8), spec.x_shape)
        attributes = {"mode": "none", "dtype": DType.INT32, "clip_min": DType.INT32.qmin, "clip_max": DType.INT32.qmax}
        plain = Epilogue(None, attributes, channels=spec.out_shape[3], acc_range=epilogue.acc_range)
        expected = np.empty(spec.out_shape, np.int32)
        with exclusive_blas():
            self._blas.conv(spec, plain)(x, expected, None)
        return bool((product(x) == expected).all())


def _product(spec: ConvSpec, threads: int) -> Any:
    """`f(x[N,H,W,C] int8) -> float32 accumulators [N,Ho,Wo,O]`, contiguous."""
    import torch

    top, left, bottom, right = spec.padding
    # Where a window may see nothing but padding, torch 2.13 ends the process (found with 1x1 by stride 3 and padding 2).
    reach = [apart * (size - 1) + 1 for apart, size in zip(spec.dilation, spec.kernel, strict=True)]
    symmetric = (top, left) == (bottom, right) and top < reach[0] and left < reach[1]
    weight = torch.from_numpy(np.ascontiguousarray(spec.weight, np.int8))
    outputs = weight.shape[0]
    ones, zeros = torch.ones(outputs), torch.zeros(outputs, dtype=torch.int64)
    n, h, w, c = spec.x_shape
    shape = (n, c, h, w) if symmetric else (n, c, h + top + bottom, w + left + right)
    stride, dilation = list(spec.stride), list(spec.dilation)
    padding = [top, left] if symmetric else [0, 0]
    packed = torch.ops.onednn.qconv_prepack(weight, ones, 1.0, 128, stride, padding, dilation, 1, list(shape))

    def product(x: Array) -> Array:
        shifted = np.full((n, shape[2], shape[3], c), 128, np.uint8)
        inside = shifted if symmetric else shifted[:, top : top + h, left : left + w]
        np.bitwise_xor(x.view(np.uint8) if x.flags.c_contiguous else np.ascontiguousarray(x).view(np.uint8), 128, out=inside)
        image = torch.from_numpy(shifted).permute(0, 3, 1, 2)
        result = torch.ops.onednn.qconv2d_pointwise(
            image, 1.0, 128, packed, ones, zeros, None, stride, padding, dilation, 1, 1.0, 0, torch.float32, "none", [], ""
        )
        found: Array = result.permute(0, 2, 3, 1).contiguous().numpy()
        return found

    return product


def _probe_spec() -> ConvSpec:
    rng = np.random.default_rng(0)
    weight = rng.choice(np.array([-128, 127], np.int8), (64, 64, 3, 3))
    return ConvSpec((1, 28, 28, 64), (1, 28, 28, 64), weight, (1, 1), (1, 1, 1, 1), (1, 1), 1, (-128, 127))


@functools.cache
def exact() -> bool:
    """True when oneDNN is right on the largest weights and inputs, where a saturating int16 sum is wrong."""
    spec = _probe_spec()
    x = np.random.default_rng(1).choice(np.array([-128, 127], np.int8), spec.x_shape)
    try:
        found = _product(spec, 1)(x)
    except (RuntimeError, TypeError):  # an operator of another torch version, or none for this processor
        return False
    centre = x[0, :3, :3].astype(np.int64).transpose(2, 0, 1)
    expected = (spec.weight.astype(np.int64) * centre).sum(axis=(1, 2, 3))
    return bool((found[0, 1, 1] == expected).all())


def probe(blas: BlasEngine) -> bool:
    """True when oneDNN is here, exact on this processor, and faster than `blas` on a typical layer.

    torch is not imported for this: seconds of import would cost more than most programs gain, and a process that has the float
    model has torch already. Hardware decides speed, never success: a probe that fails in any way is one log line and False.
    """
    if "torch" not in sys.modules or not available():
        return False
    try:
        return exact() and _faster(blas.workers.threads)
    except Exception as error:  # whatever an unknown processor, torch or BLAS raises: `blas` gives the same bits
        logger.warning("engine 'onednn' is not used: its probe failed with %s: %s", type(error).__name__, error)
        return False


@functools.cache
def _faster(threads: int) -> bool:
    """Time oneDNN's product of a typical layer beside the same matrix product in BLAS, split over the same threads."""
    from hqc.backends.bpu.workers import shared_workers

    spec = _probe_spec()
    x = np.random.default_rng(2).integers(-128, 128, spec.x_shape).astype(np.int8)
    product = _product(spec, threads)
    patches = np.ones((784, 576), np.float32)
    matrix = np.ones((576, 64), np.float32)
    result = np.empty((784, 64), np.float32)
    workers = shared_workers(threads)
    step = -(-784 // max(1, threads))
    parts = [slice(start, start + step) for start in range(0, 784, step)]

    def multiply(rows: slice) -> None:
        np.matmul(patches[rows], matrix, out=result[rows])

    onednn = _best_time(lambda: product(x))
    with exclusive_blas():
        return onednn < _best_time(lambda: workers.map(multiply, parts))


def _best_time(function: Callable[[], Any]) -> float:
    """The shortest of five runs, in seconds: noise only adds."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)
