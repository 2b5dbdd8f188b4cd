"""What the integer stage accepts, told before anything is calibrated: the answers that `accepts` of a lowering gives.

Each function answers for a node on a march with the `Reason` why the node cannot become integer ops there, or None. What it says
depends on the node's operands, attributes and constants, never on scales, which nobody knows yet.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from hqc import arithmetic, resampling
from hqc.ir import Node, Reason, Trait, Value
from hqc.march.spec import MarchSpec
from hqc.passes.conv_scales import weight_axis
from hqc.passes.gain_pools import gain_stages

SUM_ROOM = 2**31 // 128
"""Number of int8 elements whose sum fits an int32 for certain."""
PRODUCT_ROOM = 2**31 // (128 * 128)
"""Number of int8 products whose sum fits an int32 for certain."""
_DEPTH_ROOM = PRODUCT_ROOM // 2  # leaves as much again for a bias and a residual of 2^29 each
LARGEST_CONSTANT = 127 * 0.5
"""What 8 bits hold at the largest power-of-two scale, 2^-1, without saturating."""
STANDS_FOR_INFINITY = 1e4
"""From here a constant that is added is the mask of an attention (-10000, -1e9, the smallest float), and one that is padded with stands
for no data: at a scale that holds it, what it is added to or put around rounds to zero."""
SATURATES = "largest-"
"""How the ids of reasons begin that are about values beyond `LARGEST_CONSTANT`."""


# --- constants ---------------------------------------------------------------------------------------------------------


def _constants(node: Node) -> Iterable[tuple[Value, npt.NDArray[np.generic]]]:
    for value in node.operands:
        if value.array is not None and value.type.dtype.is_float:
            yield value, value.array


def _finite(array: npt.NDArray[Any]) -> bool:
    return all(bool(np.isfinite(array[rows]).all()) for rows in arithmetic.row_blocks(array))


def _magnitude(array: npt.NDArray[Any]) -> float:
    """The largest magnitude, without a copy of the array."""
    return max(float(array.max(initial=0)), -float(array.min(initial=0)))


def usable_constants(node: Node, march: MarchSpec) -> Reason | None:
    """Constants are finite, at least one operand is not one, and on marches with power-of-two scales 8 bits hold them."""
    if not node.data_operands:
        return Reason("one operand is computed at run time", "all are constants", id="constant-operands")
    for value, array in _constants(node):
        if not _finite(array):
            return Reason("constants are finite", f"{value.name} holds infinite values or NaN", id="finite-constants")
    return within_power_of_two(node, march, _constants(node)) or _adds_a_mask(node)


def _adds_a_mask(node: Node) -> Reason | None:
    for value, array in _constants(node) if node.op.has(Trait.SUM) else ():
        largest = _magnitude(array)
        if largest >= STANDS_FOR_INFINITY:
            return Reason(
                "what is added leaves a scale for what it is added to",
                f"{largest:.6g} in {value.name}",
                f"{STANDS_FOR_INFINITY:g}",
                "mask with a value near the range of the scores, such as -50",
                id="mask-constant",
            )
    return None


def within_power_of_two(node: Node, march: MarchSpec, arrays: Iterable[tuple[Value, npt.NDArray[np.generic]]]) -> Reason | None:
    """On marches with power-of-two scales: weights, biases and constants that 8 bits hold without saturating."""
    if not march.power_of_two:
        return None
    for value, array in arrays:
        index = next((i for i, each in enumerate(node.inputs) if each is value), 0)
        role = node.op.operands[min(index, len(node.op.operands) - 1)].name
        what = role if role in ("weight", "bias") else "constant"
        largest = _magnitude(array)
        if largest > LARGEST_CONSTANT:
            return Reason(
                f"a {what} of at most {LARGEST_CONSTANT:g} on {march.name}, whose largest scale is 2^-1",
                f"{largest:.6g} in {value.name}",
                f"{LARGEST_CONSTANT:g}",
                "scale the model's values down",
                id=f"{SATURATES}{what}",
            )
    return None


# --- products ----------------------------------------------------------------------------------------------------------


def conv_like(node: Node, march: MarchSpec) -> Reason | None:
    """Finite weights and biases within the march's scales, and an accumulator of 32 bits that holds the sum."""
    weight, bias, residual = node.operand("weight"), node.operand("bias"), node.operand("residual")
    if residual is not None and residual.is_parameter:
        return Reason("the residual of a layer is computed at run time", f"{residual.name} is constant", id="constant-operands")
    for value in (weight, bias):
        if value is not None and value.array is not None and not _finite(value.array):
            return Reason("weight and bias are finite", f"{value.name} holds infinite values or NaN", id="finite-constants")
    found = within_power_of_two(node, march, _constants(node))
    if found is not None or weight is None or weight.array is None:
        return found
    axis = weight_axis(node)
    if weight.array.size // weight.array.shape[axis] < _DEPTH_ROOM:
        return None
    channels, largest = np.moveaxis(weight.array, axis, 0), 0.0
    for index in arithmetic.row_blocks(channels):
        rows = np.abs(channels[index].reshape(len(channels[index]), -1).astype(np.float64))
        largest = max(largest, float((rows.sum(axis=1) / np.maximum(rows.max(axis=1), arithmetic.FLOAT32_EPS)).max()))
    worst = int(largest * 127 * 128) + arithmetic.HEADROOM * 2
    if worst < 2**31:
        return None
    return Reason(
        "the accumulator of a layer with int8 activations fits 32 bits",
        f"{rows.shape[1]} products per output may reach {worst}",
        str(2**31 - 1),
        "split the layer",
        id="accumulator",
    )


def batch_norm(node: Node, march: MarchSpec) -> Reason | None:
    """A batch norm that no convolution took in is a depthwise convolution, on `[N,C,H,W]`."""
    x = node.operands[0]
    if x.type.rank not in (None, 4):
        return Reason("a batch norm alone is on [N,C,H,W]", str(x.type), "rank 4", id="batch-norm-rank")
    if not march.power_of_two:
        return None
    mean, var = node.operand("mean"), node.operand("var")
    if mean is None or var is None or mean.array is None or var.array is None:
        return None
    gamma, beta = node.operand("weight"), node.operand("bias")
    factor = 1.0 / np.sqrt(var.array.astype(np.float64) + node.attributes["eps"])
    if gamma is not None and gamma.array is not None:
        factor = factor * gamma.array
    offset = -mean.array * factor
    if beta is not None and beta.array is not None:
        offset = offset + beta.array
    return within_power_of_two(node, march, ((gamma or var, factor), (beta or mean, offset)))


def matmul(node: Node, march: MarchSpec) -> Reason | None:
    """Constants that the march can hold, and a sum of products that fits 32 bits."""
    shape = node.operands[0].shape
    if shape is not None and shape[-1] >= PRODUCT_ROOM:
        return Reason("a sum of int8 products fits 32 bits", f"{shape[-1]} products", str(PRODUCT_ROOM - 1), id="accumulator")
    return usable_constants(node, march)


# --- element-wise ------------------------------------------------------------------------------------------------------


def uniform(value: Value | None) -> float | None:
    """The number that every element of a constant equals, or None."""
    if value is None or value.array is None or value.array.size == 0:
        return None
    flat = value.array.reshape(-1)
    return float(flat[0]) if (flat == flat[0]).all() else None


def broadcasts_only(constant: Value, other: Value) -> bool:
    """True when the constant does not enlarge the other operand."""
    if constant.shape is None or other.shape is None:
        return constant.array is not None and constant.array.size == 1
    return np.broadcast_shapes(constant.shape, other.shape) == other.shape


def power(node: Node, march: MarchSpec) -> Reason | None:
    """A power whose base or exponent is one number is a function of the other: a table."""
    a, b = node.operands
    constant, other = (a, b) if a.is_parameter else (b, a)
    number = uniform(constant)
    if number is None or other.is_parameter or not broadcasts_only(constant, other):
        return Reason("the exponent or the base of a power is one constant", "two tensors", id="power-of-two-tensors")
    return None


def truth_values(node: Node, march: MarchSpec) -> Reason | None:
    """Logical ops take truth values."""
    others = [value.type.dtype.value for value in node.operands if value.type.dtype.value != "b1"]
    return Reason("logical ops take truth values", others[0], "b1", id="truth-values") if others else None


def resize(node: Node, march: MarchSpec) -> Reason | None:
    """The BPU resizes nearest or bilinear."""
    mode = node.attributes["mode"]
    if mode in ("nearest", "bilinear"):
        return None
    return Reason("resizing is nearest or bilinear", str(mode), "nearest or bilinear", id="resize-mode")


def sampling(node: Node, march: MarchSpec) -> Reason | None:
    """The BPU samples images that are computed, nearest or bilinear, with zeros or the border beside them."""
    image, grid = node.operands
    if image.is_parameter:
        return Reason("the image that is sampled is computed at run time", f"{image.name} is constant", id="constant-operands")
    if grid.array is not None and not _finite(grid.array):
        return Reason("constants are finite", f"{grid.name} holds infinite values or NaN", id="finite-constants")
    mode, beside = node.attributes["mode"], node.attributes["padding_mode"]
    if mode == "bicubic":
        return Reason("sampling is nearest or bilinear", str(mode), "nearest or bilinear", id="resize-mode")
    if beside == "reflection":
        return Reason("beside the image are zeros or its border", str(beside), "zeros or border", id="padding-mode")
    shape = image.shape
    if shape is None or len(shape) != 4 or resampling.grid_fraction_bits(*shape[2:]) > 0:
        return None
    return Reason("coordinates fit int16", f"{shape[2]}x{shape[3]}", "16383x16383", id="sampling-size")


def padding(node: Node, march: MarchSpec) -> Reason | None:
    """A constant pad has a value that a scale can hold, and that leaves a scale for what it is put around."""
    value = float(node.attributes["value"])
    largest = LARGEST_CONSTANT if march.power_of_two else STANDS_FOR_INFINITY
    if node.attributes["mode"] != "constant" or abs(value) <= largest:
        return None
    return Reason(
        "the value of a pad fits a scale",
        f"{value:g}",
        f"{largest:g}",
        "pad with a value near the range of the data",
        id="pad-value",
    )


# --- averages and sums -------------------------------------------------------------------------------------------------


def average(node: Node, march: MarchSpec) -> Reason | None:
    """A sum that fits 32 bits, and where the march cannot divide, windows that a gain can average."""
    if march.averages_by_gain(node):
        found = gain_stages(node, march)
        return found if isinstance(found, Reason) else None
    count = _elements(node)
    if count is None:
        return None
    if march.power_of_two and "axes" in node.attributes and count & (count - 1):
        return Reason(
            f"{march.name} divides only by shifting and by average pools over height and width",
            f"a mean over {count} elements",
            "a power of two",
            id="divides-by-shifting",
        )
    return _sum_fits(count)


def total(node: Node, march: MarchSpec) -> Reason | None:
    """A sum of int8 elements that fits 32 bits."""
    count = _elements(node)
    return None if count is None else _sum_fits(count)


def _sum_fits(count: int) -> Reason | None:
    if count < SUM_ROOM:
        return None
    return Reason("a sum of int8 elements fits 32 bits", f"{count} elements", str(SUM_ROOM - 1), id="accumulator")


def _elements(node: Node) -> int | None:
    """Elements that one result of an average or a sum takes in; None while shapes are unknown."""
    shape, attributes = node.operands[0].shape, node.attributes
    if "kernel" in attributes:
        return int(math.prod(attributes["kernel"]))
    if shape is None:
        return None
    if "output_size" in attributes:
        return int(math.prod(-(-size // out) + 1 for size, out in zip(shape[2:], attributes["output_size"], strict=True)))
    axes = {axis % len(shape) for axis in attributes["axes"]} or set(range(len(shape)))
    return int(math.prod(shape[axis] for axis in axes))
