"""What `finish` is told of a layer's epilogue."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from hqc.backends.bpu.engines.jit import fields as f
from hqc.backends.bpu.epilogue import Epilogue, result_bounds
from hqc.ir import DType

Array = npt.NDArray[Any]
_WIDTH = 64  # constants are padded to this many channels and one vector more


class Finish:
    """The words of a finish and the constants they point to; `address` is what a descriptor holds.

    `offset`: `[C]` integers added to the kernel's sums before the bias (what unsigned inputs bring along). `width`: channels of
    the rows where the epilogue has a single channel for all of them. `planes`: the sums are `x * first + y * second`, with y as many
    bytes behind x; bytes and factors. `residual`: the dtype of the residual.
    """

    def __init__(
        self,
        epilogue: Epilogue,
        *,
        offset: Array | None = None,
        width: int | None = None,
        planes: tuple[int, int, int] | None = None,
        residual: DType = DType.INT8,
    ) -> None:
        self.channels = width or epilogue.channels
        attributes, mode = epilogue.attributes, epilogue.params.mode
        dtype = attributes["dtype"]
        low, high = result_bounds(attributes)
        self.words = np.zeros(f.WORDS, np.int64)
        self.keep: list[Array] = [self.words]
        bias = np.zeros(self.channels, np.int64)
        if epilogue.bias is not None:
            bias += epilogue.bias
        if offset is not None:
            bias += offset
        line = None if planes or residual is not DType.INT8 else self._line_constants(epilogue)
        self.item = dtype.numpy.itemsize
        self.words[f.F_ITEM], self.words[f.F_RESIDUAL_ITEM] = self.item, residual.numpy.itemsize
        if line is not None:
            pre, slope, shift = line
            self.words[f.F_KIND] = f.LINE
            self._put(f.F_BIAS, _wrapped(bias), np.int32)
            self._put(f.F_PRE, pre, np.int32)
            self._put(f.F_SLOPE, slope, np.float32)
            self._put(f.F_OFFSET, shift, np.float32)
            self.words[f.F_LOW : f.F_HIGH + 1].view(np.float32)[::2] = low, high
            if epilogue.residual is not None:
                post = epilogue.residual.post_shift
                self._put(f.F_RESIDUAL_FACTOR, epilogue.residual.multiplier, np.int32)
                self._put(f.F_RESIDUAL_HALF, (np.int64(1) << post) >> 1, np.int32)
                self._put(f.F_RESIDUAL_SHIFT, post, np.int32)
            else:
                zeros = np.zeros(1, np.int64)
                for word in (f.F_RESIDUAL_FACTOR, f.F_RESIDUAL_HALF, f.F_RESIDUAL_SHIFT):
                    self._put(word, zeros, np.int32)
        elif (
            mode == "none"
            and self.item == 4
            and planes is None
            and epilogue.residual is None
            and (low, high) == (dtype.qmin, dtype.qmax)
        ):
            self.words[f.F_KIND] = f.PLAIN
            self._put(f.F_BIAS, _wrapped(bias), np.int32)
        else:
            self.words[f.F_KIND] = f.WIDE
            self.words[f.F_LOW], self.words[f.F_HIGH] = low, high
            self.words[f.F_PLANE : f.F_FACTOR_Y + 1] = planes or (0, 1, 0)
            self._put_definition(epilogue, bias)
        self.address: int = self.words.__array_interface__["data"][0]

    def _line_constants(self, epilogue: Epilogue) -> tuple[Array, Array, Array] | None:
        """Pre-shift, slope and offset of `floor(clip(float(acc >> p) * slope + offset))`, or None where no such line is proved.

        For `shift` and `clip` the line is the identity: what float32 rounds lies beyond the clip.
        """
        if self._item_bits(epilogue) != 8 or max(map(abs, epilogue.acc_range)) >= 2**31:
            return None
        if epilogue.residual is not None and not epilogue.residual_small:
            return None
        mode, params = epilogue.params.mode, epilogue.params
        if mode == "shift" and (params.post_shift <= 31).all():
            return params.post_shift, np.ones(1), np.zeros(1)
        if mode == "clip":
            return np.zeros(1, np.int64), np.ones(1), np.zeros(1)
        if mode == "multiply" and epilogue.line is not None and (params.pre_shift <= 31).all():
            return params.pre_shift, epilogue.line[0], epilogue.line[1]
        return None

    def _put_definition(self, epilogue: Epilogue, bias: Array) -> None:
        """Rows of 64-bit constants as `vector.requantize` reads them. A shift to the left is one of the two shifts."""
        params, residual = epilogue.params, epilogue.residual
        zero, one = np.zeros(1, np.int64), np.ones(1, np.int64)
        pre, multiplier, post = zero, one, zero
        if params.mode == "shift":
            pre = params.post_shift
        elif params.mode in ("multiply", "multiply64"):
            pre, multiplier, post = params.pre_shift, params.multiplier, params.post_shift - params.pre_shift
        factor, shift = (zero, zero) if residual is None else (residual.multiplier, residual.post_shift)
        rows = [bias, factor, *_shifts(shift), pre, multiplier, *_shifts(post)]
        full = np.zeros((len(rows), self._padded), np.int64)
        for target, values in zip(full, rows, strict=True):
            target[: self.channels] = np.broadcast_to(values, (self.channels,))
        self.keep.append(full)
        self.words[f.F_CONSTANTS], self.words[f.F_CONSTANT_STEP] = full.ctypes.data, full.strides[0]
        self.words[f.F_MIDDLE] = 2**15 - 1 if params.mode == "multiply" else 2**31 - 1

    @staticmethod
    def _item_bits(epilogue: Epilogue) -> int:
        bits: int = epilogue.attributes["dtype"].bits
        return bits

    @property
    def _padded(self) -> int:
        return -(-self.channels // _WIDTH) * _WIDTH + _WIDTH

    def _put(self, word: int, values: Array, dtype: Any) -> None:
        """A constant per channel, padded to whole panels."""
        full = np.zeros(self._padded, dtype)
        full[: self.channels] = np.broadcast_to(values, (self.channels,))
        self.keep.append(full)
        self.words[word] = full.__array_interface__["data"][0]


def _shifts(shift: Array) -> tuple[Array, Array, Array]:
    """To the left, what is added, to the right: `rounding_shift_right` for either sign."""
    right = np.maximum(shift, 0)
    return np.maximum(-shift, 0), (np.int64(1) << right) >> 1, right


def _wrapped(values: Array) -> Array:
    """The same sums modulo 2^32: what a wrapping accumulator needs."""
    return values.astype(np.int64).astype(np.uint64).astype(np.uint32).view(np.int32)
