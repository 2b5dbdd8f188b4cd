"""What a model takes, and how arrays of users fit it: which axis is the samples, which layout, which dtype."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hqc.checked import checked, explained
from hqc.errors import InputError
from hqc.ir import Graph

Array = npt.NDArray[Any]
Shape = tuple["int | None", ...]

_TO_NCHW = {4: (0, 3, 1, 2), 3: (2, 0, 1)}


@explained
@dataclass(frozen=True)
class InputSpec:
    """One input of a model. `shape`: with the batch, None for a size that is not known; `dtype`: NumPy's.

    `batched`: the first axis counts samples. An input that does not follow the batch of the others (a grid of anchors beside
    images) is given as it is.
    """

    name: str
    shape: Shape
    dtype: np.dtype[Any]
    batched: bool = True

    @property
    def sample_shape(self) -> Shape:
        """Shape of one sample, without the batch."""
        return self.shape[1:] if self.batched else self.shape

    @property
    def channel_axis(self) -> int | None:
        """Axis of the channels in a sample that is an image (1 or 3 channels, first or last); None for anything else."""
        if len(self.sample_shape) != 3:
            return None
        return next((axis for axis in (0, 2) if self.sample_shape[axis] in (1, 3)), None)

    @property
    def image_size(self) -> tuple[int | None, int | None] | None:
        """Height and width of an image input; None for anything else."""
        if self.channel_axis is None:
            return None
        height, width = (size for axis, size in enumerate(self.sample_shape) if axis != self.channel_axis)
        return height, width


@checked
def input_specs(inputs: Graph | Sequence[InputSpec]) -> tuple[InputSpec, ...]:
    """Those of a graph, in its order; a sequence of specs as it is."""
    if not isinstance(inputs, Graph):
        return tuple(inputs)
    shapes: list[Shape] = [value.type.shape or () for value in inputs.inputs]
    first = next((shape[0] for shape in shapes if shape), None)
    return tuple(
        InputSpec(value.name, shape, value.type.dtype.numpy, bool(shape) and shape[0] == first)
        for value, shape in zip(inputs.inputs, shapes, strict=True)
    )


def batch_size(inputs: Sequence[InputSpec]) -> int:
    """Samples that the model takes at once: the first size of its first batched input; 1 where it is open."""
    return next((spec.shape[0] or 1 for spec in inputs if spec.batched and spec.shape), 1)


def as_samples(array: Array, spec: InputSpec, where: str, *, layout: str | None = None) -> Array:
    """`array` as `[samples, *one sample]` of the input's dtype.

    It may be one sample, samples along the first axis, or batches of samples. `layout`: NCHW or NHWC, that of the array; None: the
    model's. `where` begins the sentence of an `InputError` about kind, shape or dtype.
    """
    if array.dtype.kind not in "fiub":
        raise InputError(f"{where} holds {array.dtype}, not numbers")
    wanted = spec.sample_shape
    for candidate in _candidates(array, spec, layout):
        for extra in (1, 0, 2):
            if candidate.ndim == len(wanted) + extra and _matches(candidate.shape[extra:], wanted):
                if candidate.size == 0:
                    raise InputError(f"{where} holds no samples (its shape is {list(array.shape)})")
                return as_dtype(candidate.reshape(-1, *candidate.shape[extra:]), spec, where)
    if array.ndim == 0:
        raise InputError(f"{where} is a single number; the first axis must be the samples")
    raise InputError(
        f"{where} has shape {list(array.shape)}, which does not fit the model: input {spec.name} takes {_shown(wanted)} per sample"
        f"{_hint(array, spec, layout)}"
    )


def as_dtype(array: Array, spec: InputSpec, where: str) -> Array:
    """`array` in the input's dtype; real numbers are no indices."""
    if spec.dtype.kind in "iub" and array.dtype.kind == "f":
        raise InputError(f"{where} holds {array.dtype}; input {spec.name} takes {spec.dtype}")
    return np.ascontiguousarray(array.astype(spec.dtype, copy=False))


def _candidates(array: Array, spec: InputSpec, layout: str | None) -> list[Array]:
    """The array, and where the user says another layout than the model's, its transposition (which then comes first)."""
    other = _transposed(array, spec, layout)
    return [array] if other is None else [other]


def _transposed(array: Array, spec: InputSpec, layout: str | None) -> Array | None:
    axis = spec.channel_axis
    order = _TO_NCHW.get(array.ndim)
    if layout is None or order is None or len(spec.sample_shape) != 3:
        return None
    model = "NHWC" if axis == 2 else "NCHW"
    if layout == model:
        return None
    return array.transpose(order if layout == "NHWC" else np.argsort(order))


def _hint(array: Array, spec: InputSpec, layout: str | None) -> str:
    for other in ("NHWC", "NCHW"):
        turned = _transposed(array, spec, other)
        if other != layout and turned is not None:
            extra = turned.ndim - len(spec.sample_shape)
            if extra >= 0 and _matches(turned.shape[extra:], spec.sample_shape):
                return f"; the layout {other} would fit (--layout {other})"
    return ""


def _matches(shape: tuple[int, ...], wanted: Shape) -> bool:
    return all(size is None or size == given for given, size in zip(shape, wanted, strict=True))


def _shown(shape: Shape) -> str:
    return f"[{', '.join('?' if size is None else str(size) for size in shape)}]"
