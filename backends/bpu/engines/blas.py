"""The `blas` engine: convolutions as tiles of im2col, float32 matrix product and fused epilogue.

Measured on two cores (Zen, AVX2; `benchmarks/bench_conv.py`): a tile whose patches stay in the cache pays 5 to 10 % of its product's
time for im2col, because each patch row is a few long runs of a channels-last image. Products per kernel row or per tap without
im2col (measured too) lose that again in additional passes over the accumulators. So there is one strategy for dense kernels and,
for depthwise ones, where a matrix product has nothing to sum, fused multiply-adds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hqc.backends.bpu.engines import ConvFunction, ConvSpec
from hqc.backends.bpu.epilogue import Epilogue
from hqc.backends.bpu.proof import FLOAT32_EXACT, exact_chunks, sum_bounds
from hqc.backends.bpu.workers import Scratch, Workers

Array = npt.NDArray[Any]
_PATCH_FLOATS = 1 << 18  # 1 MiB of patches a tile: larger ones fall out of the second-level cache, smaller ones repack weights
_ACC_FLOATS = 1 << 17  # accumulators of a tile: two blocks of the epilogue, so that threads seldom meet for the next tile
_MIN_ROWS = 64
_MAX_ROWS = 4096
_ENOUGH_ROWS = 224  # rows of a product that amortize packing the whole weight matrix
_MAX_FLOAT32_CHUNKS = 4
_TAP_ELEMENTS = 1 << 17  # accumulators of a depthwise tile: fewer, larger NumPy calls won over staying in the L2 cache
# Layers below this stay on the calling thread: waking another one and passing the interpreter lock to and fro costs 0.15 ms a
# layer, measured, and between short NumPy calls two threads gain little.
_ALONE_MS = 0.7
_TAP_RUN = 2048  # elements of a depthwise inner loop


@dataclass(frozen=True)
class Tile:
    """Images `n0:n1`, output rows `r0:r1` (all rows when several images), output channels `c0:c1`."""

    n0: int
    n1: int
    r0: int
    r1: int
    c0: int
    c1: int


@dataclass(frozen=True, eq=False)
class _Phase:
    """Depthwise taps that read the columns of one residue: `weights[kh, taps, join * C]`, first column and gap between taps."""

    residue: int
    start: int
    gap: int
    weights: Array


class BlasEngine:
    """float32 BLAS where it is proved exact, float64 elsewhere."""

    name = "blas"

    def __init__(self, workers: Workers) -> None:
        self.workers = workers

    def conv(self, spec: ConvSpec, epilogue: Epilogue) -> ConvFunction:
        channels, outputs = spec.x_shape[3], spec.out_shape[3]
        if spec.groups == 1:
            return DenseConv(spec, epilogue, self.workers)
        if spec.groups == channels == outputs:
            return DepthwiseConv(spec, epilogue, self.workers)
        return GroupedConv(spec, epilogue, self.workers)


def tiles(spec: ConvSpec, reduction: int, threads: int) -> list[Tile]:
    """Cut the output so that a tile's patches fit the cache and every thread has work."""
    count, height, width, outputs = spec.out_shape
    rows = max(_MIN_ROWS, min(_MAX_ROWS, _PATCH_FLOATS // max(1, reduction), _ACC_FLOATS // outputs))
    per_image = height * width
    if per_image * count >= threads * _ENOUGH_ROWS or outputs < 32 * threads:
        if 2 * per_image <= rows and count > 1:
            images = max(1, min(rows // per_image, -(-count // threads)))
            return [Tile(n, min(n + images, count), 0, height, 0, outputs) for n in range(0, count, images)]
        pieces = max(1, -(-per_image // rows))
        if count == 1:  # a multiple of the threads, so that they end together
            pieces = -(-pieces // threads) * threads
        step = max(1, -(-height // pieces))
        return [Tile(n, n + 1, r, min(r + step, height), 0, outputs) for n in range(count) for r in range(0, height, step)]
    # Few rows, many channels (the last stages at batch 1): share the weights out; patches are cheap to make twice.
    step = -(-outputs // (16 * threads)) * 16
    return [Tile(0, count, 0, height, c, min(c + step, outputs)) for c in range(0, outputs, step)]


def estimated_ms(spec: ConvSpec) -> float:
    """A layer's time on one thread: products at 16 multiply-accumulates a nanosecond (4 without a matrix), 3 ns a result."""
    outputs = math.prod(spec.out_shape)
    products = outputs * math.prod(spec.weight.shape[1:])
    depthwise = spec.groups == spec.x_shape[3] > 1
    return (products / (4 if depthwise else 16) + 3 * outputs) * 1e-6


def windows(image: Array, spec: ConvSpec, rows: int, width: int) -> Array:
    """`[n, rows, width, kh, kw, C]` view of a padded image `[n, h, w, C]` (first window at its corner)."""
    n, _, _, channels = image.shape
    sn, sh, sw, sc = image.strides
    (kh, kw), (th, tw), (dh, dw) = spec.kernel, spec.stride, spec.dilation
    return np.ndarray(
        (n, rows, width, kh, kw, channels), image.dtype, image, strides=(sn, sh * th, sw * tw, sh * dh, sw * dw, sc)
    )


def padded_rows(x: Array, spec: ConvSpec, tile: Tile, buffer: Array) -> None:
    """Fill `buffer[n, rows, W + left + right, C]` with the input rows that the tile's output rows see, zeros outside."""
    top, left, _, _ = spec.padding
    height, width = spec.x_shape[1:3]
    first = tile.r0 * spec.stride[0] - top
    low, high = max(first, 0), min(first + buffer.shape[1], height)
    high = max(high, low)
    buffer[:, : low - first] = 0
    buffer[:, high - first :] = 0
    inside = buffer[:, low - first : high - first]
    inside[:, :, :left] = 0
    inside[:, :, left + width :] = 0
    np.copyto(inside[:, :, left : left + width], x[tile.n0 : tile.n1, low:high])


def rows_seen(spec: ConvSpec, tile: Tile) -> int:
    """Input rows (padding included) under the tile's windows."""
    return (tile.r1 - tile.r0 - 1) * spec.stride[0] + spec.dilation[0] * (spec.kernel[0] - 1) + 1


class _TiledConv:
    """What the strategies share: tiles, their patches, where their results go."""

    def __init__(self, spec: ConvSpec, epilogue: Epilogue, workers: Workers) -> None:
        self.spec, self.epilogue, self.workers = spec, epilogue, workers
        self.padded_width = spec.x_shape[2] + spec.padding[1] + spec.padding[3]
        self.threads = 1 if estimated_ms(spec) < _ALONE_MS else workers.threads
        self.tiles: list[Tile] = []
        self.scaled = self.biased = False  # what the accumulators hold already, see Epilogue.apply

    def __call__(self, x: Array, out: Array, residual: Array | None) -> None:
        flat = out.reshape(-1, out.shape[3])
        flat_residual = None if residual is None else residual.reshape(-1, out.shape[3])
        scratch = self.workers.scratch

        def work(tile: Tile) -> None:
            start = (tile.n0 * out.shape[1] + tile.r0) * out.shape[2]
            count = (tile.n1 - tile.n0) * (tile.r1 - tile.r0) * out.shape[2]
            where = slice(start, start + count), slice(tile.c0, tile.c1)
            acc = self.accumulate(x, tile, count, scratch)
            addend = None if flat_residual is None else flat_residual[where]
            self.epilogue.apply(
                acc, flat[where], scratch, channels=where[1], residual=addend, scaled=self.scaled, biased=self.biased
            )

        if self.threads == 1:
            for tile in self.tiles:
                work(tile)
        else:
            self.workers.map(work, self.tiles)

    def accumulate(self, x: Array, tile: Tile, count: int, scratch: Scratch) -> Array:
        """The tile's accumulators `[count, channels]`, without bias."""
        raise NotImplementedError

    def patches(self, x: Array, tile: Tile, dtype: npt.DTypeLike, scratch: Scratch) -> Array:
        """`[n * rows * Wo, kh * kw * C]` patches as floats, with a last column of ones where the bias is in the weights."""
        spec, rows = self.spec, tile.r1 - tile.r0
        kh, kw = spec.kernel
        n, width, channels = tile.n1 - tile.n0, spec.out_shape[2], spec.x_shape[3]
        reduction = kh * kw * channels
        matrix = scratch.take("patches", (n * rows * width, reduction + self.biased), dtype)
        if self.biased:
            matrix[:, reduction] = 1
        pixel, step = matrix.strides
        shape = (n, rows, width, kh, kw, channels)
        strides = (rows * width * pixel, width * pixel, pixel, kw * channels * step, channels * step, step)
        patches: Array = np.ndarray(shape, dtype, matrix, strides=strides)
        if (kh, kw) == (1, 1) and not any(spec.padding):
            th, tw = spec.stride
            seen = x[tile.n0 : tile.n1, tile.r0 * th : (tile.r1 - 1) * th + 1 : th, : (width - 1) * tw + 1 : tw]
            np.copyto(patches[:, :, :, 0, 0], seen)
            return matrix
        image = scratch.take("image", (n, rows_seen(spec, tile), self.padded_width, channels), dtype)
        padded_rows(x, spec, tile, image)
        np.copyto(patches, windows(image, spec, rows, width))
        return matrix


_FEW_ROWS = 64  # of a product to which making its weights real costs no more than reading real ones
_LARGE_WEIGHT = 1 << 20
_BLOCK_FLOATS = 1 << 18  # of weights that are made real at a time


class DenseConv(_TiledConv):
    """groups = 1: one product per tile (several where the exactness proof needs the reduction cut).

    A large weight that meets few rows stays as it is stored, and blocks of it are made real in each run: a product with few rows waits
    for memory, and four bytes a weight take as long to read as one to read and convert.
    """

    def __init__(self, spec: ConvSpec, epilogue: Epilogue, workers: Workers) -> None:
        super().__init__(spec, epilogue, workers)
        # Rows in patch order: kh, kw, C.
        matrix: Array = spec.weight.transpose(2, 3, 1, 0).reshape(-1, spec.out_shape[3])
        chunks = exact_chunks(matrix, spec.x_range)
        narrow = len(chunks) <= _MAX_FLOAT32_CHUNKS and max(map(abs, epilogue.acc_range)) < 2**31
        self.dtype = np.dtype(np.float32 if narrow else np.float64)
        self.chunks = chunks if narrow else [slice(0, len(matrix))]
        # The epilogue adds bias and residual in the accumulator's dtype, so float32 must hold those sums too.
        self.integer = narrow and (len(self.chunks) > 1 or max(map(abs, epilogue.acc_range)) > FLOAT32_EXACT)
        self.matrix: Array | None = None
        count, height, width, _ = spec.out_shape
        if count * height * width <= _FEW_ROWS and spec.weight.size >= _LARGE_WEIGHT:
            self.tiles = tiles(spec, len(matrix), self.threads)
            return
        if narrow and not self.integer and epilogue.weight_scale is not None:
            self.scaled, self.biased = True, epilogue.bias is not None
            matrix = matrix * epilogue.weight_scale
            if epilogue.bias is not None:
                matrix = np.vstack([matrix, epilogue.bias * epilogue.weight_scale])
            self.chunks = [slice(0, len(matrix))]
        self.matrix = np.ascontiguousarray(matrix, self.dtype)
        self.tiles = tiles(spec, len(matrix), self.threads)

    def accumulate(self, x: Array, tile: Tile, count: int, scratch: Scratch) -> Array:
        patches = self.patches(x, tile, self.dtype, scratch)
        if self.matrix is not None:
            return self._sums(patches, self.matrix[:, tile.c0 : tile.c1], scratch, "")
        sums = scratch.take("sums", (count, tile.c1 - tile.c0), np.dtype(np.int32) if self.integer else self.dtype)
        reduction = patches.shape[1]
        step = max(1, _BLOCK_FLOATS // reduction)
        for first in range(tile.c0, tile.c1, step):
            stored = self.spec.weight[first : min(first + step, tile.c1)].transpose(0, 2, 3, 1)
            block = scratch.take("weights", stored.shape, self.dtype)
            np.copyto(block, stored)
            where = slice(first - tile.c0, first - tile.c0 + len(block))
            np.copyto(sums[:, where], self._sums(patches, block.reshape(len(block), reduction).T, scratch, "block "))
        return sums

    def _sums(self, patches: Array, matrix: Array, scratch: Scratch, name: str) -> Array:
        """`patches @ matrix`, as integers where the reduction is cut. `name`: of the scratch memory."""
        acc = scratch.take(f"{name}acc", (len(patches), matrix.shape[1]), self.dtype)
        np.matmul(patches[:, self.chunks[0]], matrix[self.chunks[0]], out=acc)
        if not self.integer:
            return acc
        total = scratch.take(f"{name}total", acc.shape, np.int32)
        np.copyto(total, acc, casting="unsafe")
        part = scratch.take(f"{name}part", acc.shape, np.int32)
        for chunk in self.chunks[1:]:
            np.matmul(patches[:, chunk], matrix[chunk], out=acc)
            np.copyto(part, acc, casting="unsafe")
            np.add(total, part, out=total)
        return total


class GroupedConv(_TiledConv):
    """Several groups of several channels: one batched product over the groups."""

    def __init__(self, spec: ConvSpec, epilogue: Epilogue, workers: Workers) -> None:
        super().__init__(spec, epilogue, workers)
        outputs, per_group = spec.out_shape[3], spec.weight.shape[1]
        kh, kw = spec.kernel
        matrix = spec.weight.transpose(2, 3, 1, 0).reshape(kh * kw * per_group, outputs)
        exact = len(exact_chunks(matrix, spec.x_range)) == 1 and max(map(abs, epilogue.acc_range)) <= FLOAT32_EXACT
        self.dtype = np.dtype(np.float32 if exact else np.float64)
        # [groups, kh * kw * channels of the group, outputs of the group]
        grouped = matrix.reshape(len(matrix), spec.groups, outputs // spec.groups).transpose(1, 0, 2)
        self.matrices = np.ascontiguousarray(grouped, self.dtype)
        whole = tiles(spec, len(matrix) * spec.groups, self.threads)
        self.tiles = list(dict.fromkeys(Tile(t.n0, t.n1, t.r0, t.r1, 0, outputs) for t in whole))

    def accumulate(self, x: Array, tile: Tile, count: int, scratch: Scratch) -> Array:
        patches = self.patches(x, tile, self.dtype, scratch)
        groups, reduction, outputs = self.matrices.shape
        kh, kw = self.spec.kernel
        split = patches.reshape(count, kh * kw, groups, -1).transpose(2, 0, 1, 3)
        ordered = scratch.take("ordered", split.shape, self.dtype)
        np.copyto(ordered, split)
        products = scratch.take("products", (groups, count, outputs), self.dtype)
        np.matmul(ordered.reshape(groups, count, reduction), self.matrices, out=products)
        acc = scratch.take("acc", (count, groups, outputs), self.dtype)
        np.copyto(acc, products.transpose(1, 0, 2))
        return acc.reshape(count, groups * outputs)


class DepthwiseConv(_TiledConv):
    """One filter per channel: multiply-adds over rows that hold all pixels and channels in one run.

    `einsum` over a strided view of the taps is one fused pass per tap (2.2 to 2.7 ns an output for 3x3, measured, against 3.4 to 6
    for separate multiplies and adds), as long as its inner loop is long: pixels are joined to the channels for that, with the
    weights repeated. With a column stride, the pixels that a tap needs are not neighbours; columns are first separated by
    `index mod stride`, and the taps of each residue form one view.
    """

    def __init__(self, spec: ConvSpec, epilogue: Epilogue, workers: Workers) -> None:
        super().__init__(spec, epilogue, workers)
        kh, kw = spec.kernel
        taps: Array = spec.weight.transpose(2, 3, 1, 0).reshape(kh, kw, -1)
        bounds = sum_bounds(taps.reshape(kh * kw, -1), spec.x_range)
        exact = bounds.within(FLOAT32_EXACT) and max(map(abs, epilogue.acc_range)) <= FLOAT32_EXACT
        self.dtype = np.dtype(np.float32 if exact else np.float64)
        if exact and epilogue.weight_scale is not None:
            self.scaled = True
            taps = taps * epilogue.weight_scale
        count, height, width, channels = spec.out_shape
        joins = [j for j in range(1, width + 1) if width % j == 0 and j * channels <= max(_TAP_RUN, channels)]
        self.join = joins[-1]
        self.phases = [self._phase(taps, residue) for residue in range(spec.stride[1])]
        self.phases = [phase for phase in self.phases if phase.weights.size]
        self.columns = -(-self.padded_width // spec.stride[1])
        step = max(1, min(height, _TAP_ELEMENTS // (width * channels)))
        if count == 1:
            pieces = -(-height // step)
            step = -(-height // (-(-pieces // self.threads) * self.threads))
        self.tiles = [
            Tile(n, n + 1, r, min(r + step, height), 0, channels) for n in range(count) for r in range(0, height, step)
        ]

    def _phase(self, taps: Array, residue: int) -> _Phase:
        """The kernel columns whose pixels have this residue; their positions are an arithmetic progression."""
        stride, dilation = self.spec.stride[1], self.spec.dilation[1]
        columns = [column for column in range(taps.shape[1]) if column * dilation % stride == residue]
        positions = [column * dilation // stride for column in columns]
        weights = np.tile(taps[:, columns].astype(self.dtype), (1, 1, self.join))
        gap = positions[1] - positions[0] if len(positions) > 1 else 0
        return _Phase(residue, positions[0] if positions else 0, gap, np.ascontiguousarray(weights))

    def _separated(self, x: Array, tile: Tile, scratch: Scratch) -> Array:
        """Padded input rows as `[stride, rows, columns, C]`: columns separated by residue while they become floats."""
        spec, stride, rows = self.spec, self.spec.stride[1], rows_seen(self.spec, tile)
        (top, left), height, channels = spec.padding[:2], spec.x_shape[1], spec.x_shape[3]
        separated = scratch.take("separated", (stride, rows, self.columns, channels), self.dtype)
        if stride == 1:
            padded_rows(x, spec, tile, separated)
            return separated
        first = tile.r0 * spec.stride[0] - top
        low = max(first, 0)
        high = max(min(first + rows, height), low)
        separated[:, : low - first] = 0
        separated[:, high - first :] = 0
        for residue, columns in enumerate(separated[:, low - first : high - first]):
            begin = max(0, -(-(left - residue) // stride))  # columns before it are padding
            source = x[tile.n0, low:high, begin * stride + residue - left :: stride]
            end = begin + source.shape[1]
            columns[:, :begin] = 0
            columns[:, end:] = 0
            np.copyto(columns[:, begin:end], source)
        return separated

    def accumulate(self, x: Array, tile: Tile, count: int, scratch: Scratch) -> Array:
        spec, rows = self.spec, tile.r1 - tile.r0
        width, channels = spec.out_shape[2:]
        shape = (rows, width // self.join, self.join * channels)
        separated = self._separated(x, tile, scratch)
        sp, sr, sc, s1 = separated.strides
        acc = scratch.take("acc", shape, self.dtype)
        for index, phase in enumerate(self.phases):
            target = acc if index == 0 else scratch.take("partial", shape, self.dtype)
            seen = np.ndarray(
                (*shape[:2], *phase.weights.shape),
                self.dtype,
                separated,
                offset=phase.residue * sp + phase.start * sc,
                strides=(sr * spec.stride[0], sc * self.join, sr * spec.dilation[0], sc * phase.gap, s1),
            )
            np.einsum("rwijl,ijl->rwl", seen, phase.weights, out=target)
            if index:
                np.add(acc, target, out=acc)
        return acc.reshape(count, channels)
