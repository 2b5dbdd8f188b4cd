"""Engines: who computes the heavy products. All give the same bits; they differ in speed and in what must be installed.

`jit`: compiled loops and integer dot instructions (numba). `onednn`: torch's int8 convolution. `blas`: NumPy on float32 or float64
with a proof of exactness. `reference`: the slow int64 definitions of `hqc.backends.bpu.reference`, for tests and doubt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from hqc.backends.bpu.epilogue import Epilogue
from hqc.backends.bpu.ranges import Range
from hqc.backends.bpu.workers import Workers, shared_workers
from hqc.errors import CompileError
from hqc.ir import DType

Array = npt.NDArray[Any]
ENGINES = ("auto", "jit", "onednn", "blas", "reference")


@dataclass(frozen=True)
class ConvSpec:
    """One convolution with its shapes: `x[N,H,W,C]` (memory order) and `weight[O,C/groups,kh,kw]` give `[N,Ho,Wo,O]`."""

    x_shape: tuple[int, int, int, int]
    out_shape: tuple[int, int, int, int]
    weight: npt.NDArray[np.integer]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]  # top, left, bottom, right
    dilation: tuple[int, int]
    groups: int
    x_range: Range
    x_dtype: DType = DType.INT8

    @property
    def kernel(self) -> tuple[int, int]:
        return self.weight.shape[2], self.weight.shape[3]


@dataclass(frozen=True, eq=False)
class TransposeSpec:
    """`x[N,H,W,C]` and `weight[C,O/groups,kh,kw]` give `[N,Ho,Wo,O]`: pixel `i`, tap `k` adds to `i * stride + k * dilation - padding`."""

    x_shape: tuple[int, int, int, int]
    out_shape: tuple[int, int, int, int]
    weight: npt.NDArray[np.integer]
    stride: tuple[int, int]
    padding: tuple[int, int]  # top, left
    dilation: tuple[int, int]
    groups: int
    x_range: Range
    x_dtype: DType = DType.INT8


ConvFunction = Callable[[Array, Array, "Array | None"], None]
"""`f(x[N,H,W,C], out[N,Ho,Wo,O], residual or None)`: both memory-contiguous in that order; writes `out`."""


class Engine(Protocol):
    """What kernels ask of an engine."""

    name: str
    workers: Workers

    def conv(self, spec: ConvSpec, epilogue: Epilogue) -> ConvFunction:
        """Compile one convolution with its epilogue."""
        ...


def get_engine(name: str, threads: int | None = None) -> Engine:
    """The engine called `name`. `auto`: `jit` where it works, else `onednn` where torch is loaded and it beats `blas`, else `blas`.

    `CompileError` for an unknown name, or when the engine that is asked for cannot run here.
    """
    from hqc.backends.bpu.engines import jit, onednn
    from hqc.backends.bpu.engines.blas import BlasEngine
    from hqc.backends.bpu.engines.jit import JitEngine

    if name not in ENGINES:
        raise CompileError(f"unknown engine {name!r}; known: {', '.join(ENGINES)}")
    blas = BlasEngine(shared_workers(threads))
    if name == "jit":
        return JitEngine(blas)
    if name == "auto" and (found := jit.probe(blas)) is not None:
        return found
    if name == "onednn":
        return onednn.OneDnnEngine(blas)
    if name == "auto" and onednn.probe(blas):
        return onednn.OneDnnEngine(blas)
    return blas
