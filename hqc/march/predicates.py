"""The limits of the op tables as predicates: numbers measured on a node, and conditions that the tables state in words.

A measure returns the numbers that a range, value or set of a table row bounds: `None` while shapes are unknown, an empty tuple
where the limit does not apply to this node. A condition returns `Outcome`. Every key and every wording that occurs in a row
bound to an IR op is listed here; a test holds that.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hqc.ir import Trait
from hqc.march.facts import Facts, Shape, factorizable, is_scalar

Numbers = tuple[Any, ...]
Measure = Callable[[Facts], "Numbers | None"]


class State(enum.Enum):
    HOLDS = "holds"
    BROKEN = "broken"
    UNKNOWN = "shapes are not known yet"


@dataclass(frozen=True)
class Outcome:
    """Whether a rule holds for a node; `actual` and `limit` are the numbers of a broken one."""

    state: State
    actual: str = ""
    limit: str = ""


HOLDS = Outcome(State.HOLDS)
UNKNOWN = Outcome(State.UNKNOWN)


def broken(actual: object, limit: object = "") -> Outcome:
    return Outcome(State.BROKEN, str(actual), str(limit))


Condition = Callable[[Facts], Outcome]
MEASURES: dict[str, tuple[str, Measure]] = {}
CONDITIONS: dict[tuple[str, str], tuple[str, Condition]] = {}


def measure(label: str, *keys: str) -> Callable[[Measure], Measure]:
    """Register a measure for the table's limit keys; `label` names the quantity in rules."""

    def register(function: Measure) -> Measure:
        MEASURES.update(dict.fromkeys(keys, (label, function)))
        return function

    return register


def condition(key: str, *wordings: str) -> Callable[[Condition], Condition]:
    """Register a condition for a limit key in any of the table's wordings; the docstring is the rule's statement."""

    def register(function: Condition) -> Condition:
        statement = " ".join((function.__doc__ or "").split()).rstrip(".")
        CONDITIONS.update({(key, words): (statement, function) for words in wordings})
        return function

    return register


# --- windows: convolutions and pools -------------------------------------------------------------------------------------


def kernel(facts: Facts) -> tuple[int, int] | None:
    """Window of a convolution or pool; an adaptive pool's is the quotient of its sizes."""
    attributes = facts.node.attributes
    if "kernel" in attributes:
        return (attributes["kernel"][0], attributes["kernel"][1])
    if "output_size" in attributes:
        if facts.shape is None:
            return None
        return (facts.shape[2] // attributes["output_size"][0], facts.shape[3] // attributes["output_size"][1])
    return None if facts.weight is None or len(facts.weight) != 4 else (facts.weight[2], facts.weight[3])


def is_dilated(facts: Facts) -> bool:
    return any(size > 1 for size in facts.node.attributes.get("dilation", (1, 1)))


def _has_window(facts: Facts) -> bool:
    return any(name in facts.node.attributes for name in ("kernel", "output_size", "dilation"))


@measure("kernel", "kernel", "kernel_h", "kernel_w")
def _kernel(facts: Facts) -> Numbers | None:
    return kernel(facts) if _has_window(facts) else ()


@measure("stride", "stride")
def _stride(facts: Facts) -> Numbers | None:
    return facts.node.attributes["stride"] if "stride" in facts.node.attributes else _kernel(facts)


@measure("padding", "pad")
def _padding(facts: Facts) -> Numbers | None:
    return facts.node.attributes.get("padding", ())  # type: ignore[no-any-return]


@measure("dilation", "dilation")
def _dilation(facts: Facts) -> Numbers | None:
    return facts.node.attributes.get("dilation", ())  # type: ignore[no-any-return]


@measure("stride of a dilated convolution", "stride_when_dilated")
def _stride_when_dilated(facts: Facts) -> Numbers | None:
    return facts.node.attributes.get("stride", ()) if is_dilated(facts) else ()


@measure("stride of a convolution with a fused add", "stride_when_followed_by_add", "sumin_stride")
def _stride_with_add(facts: Facts) -> Numbers | None:
    fused = facts.node.op.has(Trait.CONV_LIKE) and facts.node.operand("residual") is not None
    return facts.node.attributes.get("stride", ()) if fused else ()


@measure("output padding", "out_pad")
def _output_padding(facts: Facts) -> Numbers | None:
    return facts.node.attributes["output_padding"]  # type: ignore[no-any-return]


def _channels_out(facts: Facts) -> int | None:
    if facts.weight is None:
        return None
    return facts.weight[1] * facts.node.attributes["groups"] if _is_transposed(facts) else facts.weight[0]


def _channels_per_group(facts: Facts) -> int | None:
    if facts.weight is None:
        return None
    return facts.weight[0] // facts.node.attributes["groups"] if _is_transposed(facts) else facts.weight[1]


def _is_transposed(facts: Facts) -> bool:
    return "output_padding" in facts.node.attributes


def _one(number: int | None) -> Numbers | None:
    return None if number is None else (number,)


def _is_plain(facts: Facts) -> bool:
    return not is_dilated(facts) and facts.node.attributes.get("groups", 1) == 1


# Contradiction decided: "channels per group <= 2048" and "<= 4096 for plain" stand beside each other; the first is read as
# the limit of dilated, grouped and depthwise convolutions. Likewise for a convolution at the end of the quantized model
# ("tail"), which has the wider limit instead of the general one.
@measure("channels per group", "C_per_group")
def _channels_in_group(facts: Facts) -> Numbers | None:
    has_wider_limit = _is_plain(facts) if facts.four_d else facts.is_tail
    return () if has_wider_limit else _one(_channels_per_group(facts))


@measure("channels of a plain convolution (not dilated, grouped or depthwise)", "C_per_group_plain")
def _channels_plain(facts: Facts) -> Numbers | None:
    return _one(_channels_per_group(facts)) if _is_plain(facts) else ()


@measure("channels per group of the last convolution of the model", "C_per_group_tail")
def _channels_tail(facts: Facts) -> Numbers | None:
    return _one(_channels_per_group(facts)) if facts.is_tail else ()


@measure("output channels", "kernel_N")
def _kernel_n(facts: Facts) -> Numbers | None:
    return _one(_channels_out(facts))


@measure("output channels", "C_out")
def _c_out(facts: Facts) -> Numbers | None:
    """Of a convolution in the middle of the model; of a cat, its result's."""
    if facts.weight is not None or "groups" in facts.node.attributes:
        return () if facts.is_tail and not _is_transposed(facts) else _one(_channels_out(facts))
    return None if facts.out_shape is None else facts.out_shape[1:2]


@measure("output channels of the last convolution of the model", "C_out_tail")
def _c_out_tail(facts: Facts) -> Numbers | None:
    return _one(_channels_out(facts)) if facts.is_tail else ()


@measure("channels per group of the kernel", "kernel_C")
def _kernel_c(facts: Facts) -> Numbers | None:
    return _one(_channels_per_group(facts))


@measure("input channels", "C_in")
def _c_in(facts: Facts) -> Numbers | None:
    shapes = facts.data_shapes if facts.weight is None else ([facts.shape] if facts.shape else None)
    return None if shapes is None else tuple(shape[1] for shape in shapes if len(shape) > 1)


@measure("kernel height x width x channels", "kernel_HWC", "kernel_CHW", "weight_size")
def _kernel_size(facts: Facts) -> Numbers | None:
    if facts.weight is None:
        return None
    if _is_transposed(facts):
        return (facts.weight[0] // facts.node.attributes["groups"] * math.prod(facts.weight[2:]),)
    return (math.prod(facts.weight[1:]),)


@condition("weight_size", "<65535")
def _weight_size(facts: Facts) -> Outcome:
    """kernel height x width x channels below 65535"""
    sizes = _kernel_size(facts)
    if sizes is None:
        return UNKNOWN
    return HOLDS if sizes[0] < 65535 else broken(sizes[0], "65534")


@condition("stride", "any")
def _any_stride(facts: Facts) -> Outcome:
    """any stride"""
    return HOLDS


# Contradiction decided: read literally, "divisible by stride" refuses every strided convolution without dilation, which
# compile on the chip; the rule is read as one about dilated convolutions.
@condition("dilation", "power of two, divisible by stride, dil_h<=dil_w")
def _power_of_two_dilation(facts: Facts) -> Outcome:
    """dilation 1, or powers of two divisible by the stride with height's at most width's"""
    height, width = facts.node.attributes["dilation"]
    stride = facts.node.attributes["stride"]
    powers = all(size & (size - 1) == 0 for size in (height, width))
    divisible = all(size % step == 0 for size, step in zip((height, width), stride, strict=True))
    if not is_dilated(facts) or (powers and divisible and height <= width):
        return HOLDS
    return broken(f"dilation {height}x{width} with stride {stride[0]}x{stride[1]}")


@condition("dilated", "int8 output only; H,W of input divisible by dilation")
def _dilated_input(facts: Facts) -> Outcome:
    """a dilated convolution has an input whose height and width the dilation divides"""
    if not is_dilated(facts):
        return HOLDS
    if facts.shape is None:
        return UNKNOWN
    height, width = facts.node.attributes["dilation"]
    if facts.shape[2] % height == 0 and facts.shape[3] % width == 0:
        return HOLDS
    return broken(f"{facts.shape[2]}x{facts.shape[3]} with dilation {height}x{width}")


@condition("pad", ">=0")
def _pad_not_negative(facts: Facts) -> Outcome:
    """padding of at least 0"""
    pads = facts.node.attributes.get("padding", ())
    return HOLDS if all(pad >= 0 for pad in pads) else broken(list(pads), 0)


def _transposed_pads(facts: Facts, limit: Callable[[int, int], float], *, inclusive: Callable[[int], bool]) -> Outcome:
    window = kernel(facts)
    if window is None:
        return UNKNOWN
    top, left, bottom, right = facts.node.attributes["padding"]
    for pads, size, stride in zip(((top, bottom), (left, right)), window, facts.node.attributes["stride"], strict=True):
        bound = limit(size, stride)
        for pad in pads:
            if pad > bound or (pad == bound and not inclusive(stride)):
                return broken(f"padding {pad} with kernel {size} and stride {stride}", f"{bound:g}")
    return HOLDS


@condition("pad", "0..(k-1)/2")
def _pad_half_kernel(facts: Facts) -> Outcome:
    """padding at most (kernel - 1) / 2"""
    return _transposed_pads(facts, lambda k, s: (k - 1) / 2, inclusive=lambda stride: True)


@condition("pad", "odd stride: 0<=p<k/s ; even stride: 0<=p<=k/s")
def _pad_kernel_by_stride(facts: Facts) -> Outcome:
    """padding below kernel / stride for an odd stride, at most that for an even one"""
    return _transposed_pads(facts, lambda k, s: k / s, inclusive=lambda stride: stride % 2 == 0)


@condition("pad", "<=k/s")
def _pad_at_most_kernel_by_stride(facts: Facts) -> Outcome:
    """padding at most kernel / stride"""
    return _transposed_pads(facts, lambda k, s: k / s, inclusive=lambda stride: True)


@condition("stride", "in {2,4}, stride_h<=stride_w")
def _stride_2_or_4(facts: Facts) -> Outcome:
    """strides of 2 or 4, height's at most width's"""
    height, width = facts.node.attributes["stride"]
    return HOLDS if height in (2, 4) and width in (2, 4) and height <= width else broken(f"{height}x{width}", "2 or 4")


@condition("kernel_not_1x1", "True")
def _kernel_not_1x1(facts: Facts) -> Outcome:
    """kernel larger than 1x1"""
    window = kernel(facts)
    return UNKNOWN if window is None else HOLDS if window != (1, 1) else broken("1x1")


@condition("stride_not_1x1", "True")
def _stride_not_1x1(facts: Facts) -> Outcome:
    """stride larger than 1x1"""
    return HOLDS if tuple(facts.node.attributes["stride"]) != (1, 1) else broken("1x1")


@condition("kernel_ge_stride", "True")
def _kernel_at_least_stride(facts: Facts) -> Outcome:
    """kernel at least as large as the stride"""
    window, stride = kernel(facts), facts.node.attributes["stride"]
    if window is None:
        return UNKNOWN
    fits = window[0] >= stride[0] and window[1] >= stride[1]
    return HOLDS if fits else broken(f"kernel {window[0]}x{window[1]}, stride {stride[0]}x{stride[1]}")


# --- sizes of tensors ----------------------------------------------------------------------------------------------------


@measure("rank", "rank", "rank_max")
def _rank(facts: Facts) -> Numbers | None:
    shapes = facts.data_shapes
    return None if shapes is None or facts.out_shape is None else (max(map(len, shapes), default=len(facts.out_shape)),)


@measure("batch", "N")
def _batch(facts: Facts) -> Numbers | None:
    return None if facts.shape is None or not facts.shape else (facts.images(facts.shape),)


@measure("channels", "C")
def _channels(facts: Facts) -> Numbers | None:
    if _is_transposed(facts):
        out, inside = _channels_out(facts), facts.shape
        return None if out is None or inside is None else (inside[1], out)
    return None if facts.out_shape is None else _axis_one(facts)


def _axis_one(facts: Facts) -> Numbers | None:
    shape = facts.shape if facts.node.op.family == "reduction" else facts.out_shape
    return None if shape is None else shape[1:2]


@measure("height", "H")
def _height(facts: Facts) -> Numbers | None:
    return None if facts.shape is None else facts.shape[2:3]


@measure("width", "W")
def _width(facts: Facts) -> Numbers | None:
    return None if facts.shape is None else facts.shape[3:4]


# Contradiction decided: the table limits a global average pool to 8192 positions on bernoulli2, yet 224x224 pools compile:
# the tool splits them into pools with windows of up to 7 whose stride is the window. So the limit holds for what is left
# when a map cannot be split.
@measure("positions (height x width) that no pooling windows of 2..7 divide", "HW")
def _positions(facts: Facts) -> Numbers | None:
    if facts.shape is None:
        return None
    height, width = facts.shape[2:4]
    return () if factorizable(height) and factorizable(width) else (height * width,)


@measure("elements (channels x height x width)", "CHW")
def _elements(facts: Facts) -> Numbers | None:
    return None if facts.shape is None else (math.prod(facts.shape[1:]),)


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


@measure("elements after alignment (width to 8 and channels to 4, or channels to 32; the smaller)", "aligned_CHW")
def _aligned_elements(facts: Facts) -> Numbers | None:
    if facts.shape is None:
        return None
    if len(facts.shape) != 4:
        return (math.prod(facts.shape[1:]),)
    _, channels, height, width = facts.shape
    return (min(_up(channels, 4) * height * _up(width, 8), _up(channels, 32) * height * width),)


@condition("aligned", "min(size with W->8x,C->4x ; size with C->32x)")
def _alignment(facts: Facts) -> Outcome:
    """sizes are counted after alignment: the smaller of width to 8 and channels to 4, and channels to 32"""
    return HOLDS  # says how aligned_CHW is measured


@measure("size of the first axis", "dim0")
def _dim0(facts: Facts) -> Numbers | None:
    return None if facts.shape is None else ((facts.images(facts.shape),) if facts.shape else ())


@measure("size of every axis but the first", "other_dims", "CHW_each")
def _other_dims(facts: Facts) -> Numbers | None:
    if facts.node.op.family == "conv":
        return None if facts.data_shapes is None else tuple(size for shape in facts.data_shapes for size in shape[:-2])
    return None if facts.shape is None else facts.shape[1:]


@measure("size of every axis", "dim")
def _every_dim(facts: Facts) -> Numbers | None:
    return facts.shape


@measure("elements of one image", "HWC")
def _image_elements(facts: Facts) -> Numbers | None:
    # The table prints HWC <= 65536 for cat; read as each of H, W and C, as in the neighbouring rows of the same table.
    return None if facts.out_shape is None else facts.out_shape[1:]


@measure("number of operands", "inputs")
def _operand_count(facts: Facts) -> Numbers | None:
    return (len(facts.node.operands),)


# --- element-wise --------------------------------------------------------------------------------------------------------


def _pair_form(facts: Facts, shape: Shape, result: Shape) -> str:
    """How the tables write an operand of an element-wise op: `CHW` like the result, `C11`, or `111`."""
    padded = (1,) * (len(result) - len(shape)) + shape
    if padded == result:
        return "CHW"
    if padded[1:] == (result[1], 1, 1):
        return "C11"
    return "111" if math.prod(padded) == 1 else "other"


def _pairs(facts: Facts, allowed: tuple[str, ...], *, constant_channels: bool) -> Outcome:
    result = facts.out_shape
    if result is None or facts.data_shapes is None:
        return UNKNOWN
    if len(result) != 4:
        return broken(f"rank {len(result)}", "rank 4")
    forms = [_pair_form(facts, view or (), result) for view in map(facts.view, facts.node.operands)]
    small = [form for form in forms if form != "CHW"]
    shapes = " and ".join(str(list(value.shape or ())) for value in facts.node.operands)
    if len(small) > 1 or any(form not in allowed for form in small):
        return broken(shapes)
    if "C11" in small and not constant_channels and facts.constants:
        return broken(f"{shapes}, one of them constant")
    return HOLDS


@condition("shape_pairs", "NCHW+NCHW,NCHW+NC11")
def _add_pairs(facts: Facts) -> Outcome:
    """operands NCHW and NCHW, or NCHW and NC11 where neither is a constant"""
    return _pairs(facts, ("C11",), constant_channels=False)


@condition("shape_pairs", "1CHW*1CHW,1CHW*1C11,1CHW*1111", "1CHW/1CHW,1CHW/1C11,1CHW/1111")
def _mul_pairs(facts: Facts) -> Outcome:
    """operands 1CHW with 1CHW, 1C11 or 1111"""
    if facts.out_shape is not None and len(facts.out_shape) != 4:
        return HOLDS  # these rows have a limit on the rank beside this one
    return _pairs(facts, ("C11", "111"), constant_channels=True)


@condition("both_inputs", "featuremap")
def _no_constant(facts: Facts) -> Outcome:
    """no constant operand"""
    return broken("a constant operand", "none; multiply by the reciprocal instead") if facts.constants else HOLDS


@condition("const_operand", "False")
def _no_constant_operand(facts: Facts) -> Outcome:
    """no constant operand"""
    return broken("a constant operand", "none") if facts.constants else HOLDS


@measure("constant operands", "const_inputs_max")
def _constant_count(facts: Facts) -> Numbers | None:
    return (len(facts.constants),)


def _operand_shapes(facts: Facts) -> tuple[list[Shape], Shape] | None:
    result = facts.out_shape
    shapes = [facts.view(value) for value in facts.node.operands]
    if result is None or any(shape is None for shape in shapes):
        return None
    rank = len(result)
    return [(1,) * (rank - len(shape)) + shape for shape in shapes if shape is not None], result


def _broadcast_axes(shape: Shape, result: Shape) -> set[int]:
    return {axis for axis, (size, full) in enumerate(zip(shape, result, strict=True)) if size != full}


def _broadcast(facts: Facts, *, first_axis: bool, mutual: bool) -> Outcome:
    found = _operand_shapes(facts)
    if found is None:
        return UNKNOWN
    shapes, result = found
    text = " and ".join(map(str, map(list, shapes)))
    stretched = [
        _broadcast_axes(shape, result) for shape, value in zip(shapes, facts.node.operands, strict=True) if not is_scalar(value)
    ]
    if not first_axis and any(0 in axes and facts.images(result) > 1 for axes in stretched):
        return broken(text, "no broadcast along the first axis")
    if not mutual and sum(map(bool, stretched)) > 1:
        return broken(text, "one broadcast operand")
    return HOLDS


@condition("broadcast", "any dim but the first; mutual allowed (NH1C with N1WC)")
def _broadcast_mutual(facts: Facts) -> Outcome:
    """operands broadcast along any axis but the first, each along its own"""
    return _broadcast(facts, first_axis=False, mutual=True)


@condition("broadcast", "one operand only, any dim; not mutual")
def _broadcast_one(facts: Facts) -> Outcome:
    """only one operand is broadcast"""
    return _broadcast(facts, first_axis=True, mutual=False)


@condition("broadcast", "not N; one operand only")
def _broadcast_one_not_first(facts: Facts) -> Outcome:
    """only one operand is broadcast, not along the first axis"""
    return _broadcast(facts, first_axis=False, mutual=False)


def _mergeable(facts: Facts, *, broadcast_merges: bool) -> Outcome:
    found = _operand_shapes(facts)
    if found is None:
        return UNKNOWN
    shapes, result = found
    if len(result) < 5:
        return HOLDS
    patterns = [tuple(shape[axis] != result[axis] for shape in shapes) for axis in range(5)]
    for axis in range(4):
        alike = patterns[axis] == patterns[axis + 1]
        if alike and (broadcast_merges or not any(patterns[axis])):
            return HOLDS
    return broken(" and ".join(map(str, map(list, shapes))), "two neighbouring axes that merge")


@condition("rank5", "must merge neighbouring dims to rank 4; broadcast dims cannot merge")
def _rank5_strict(facts: Facts) -> Outcome:
    """5-D operands have two neighbouring axes without broadcast, which merge into one"""
    return _mergeable(facts, broadcast_merges=False)


@condition("rank5", "must merge neighbouring dims to rank 4")
def _rank5(facts: Facts) -> Outcome:
    """5-D operands have two neighbouring axes that merge into one"""
    return _mergeable(facts, broadcast_merges=True)


@condition("exponent", "single value", "scalar")
def _scalar_exponent(facts: Facts) -> Outcome:
    """the exponent is a single constant"""
    if "exponent" in facts.node.attributes or is_scalar(facts.node.operands[-1]):
        return HOLDS
    return broken(f"an exponent of shape {list(facts.node.operands[-1].shape or ())}", "one value")


# --- layout --------------------------------------------------------------------------------------------------------------


@measure("block size", "blocksize")
def _block(facts: Facts) -> Numbers | None:
    return (facts.node.attributes["factor"],)


@condition("mode", "DCR,CRD")
def _depth_order(facts: Facts) -> Outcome:
    """depth order DCR or CRD"""
    return HOLDS  # the IR's pixel shuffles are CRD


@condition("C_out", "multiple of 4")
def _channels_multiple_of_4(facts: Facts) -> Outcome:
    """a multiple of 4 result channels"""
    if facts.out_shape is None:
        return UNKNOWN
    return HOLDS if facts.out_shape[1] % 4 == 0 else broken(facts.out_shape[1], "a multiple of 4")


@measure("axis", "axis", "axis_torch_semantics")
def _axis(facts: Facts) -> Numbers | None:
    return facts.axes


@condition("axis_onnx_semantics", "3")
def _onnx_softmax_axis(facts: Facts) -> Outcome:
    """axis 3 in ONNX's sense of opset 11, where every axis from the given one on is flattened"""
    # Contradiction decided: the row has limits for both senses of `axis`; the IR's softmax has torch's, which decides.
    return HOLDS


@condition("axis", "not N")
def _axis_not_first(facts: Facts) -> Outcome:
    """an axis other than the first"""
    return UNKNOWN if facts.axes is None else broken("axis 0") if 0 in facts.axes else HOLDS


@condition("equal_parts", "True")
def _equal_parts(facts: Facts) -> Outcome:
    """parts of equal size; unequal ones run as slices"""
    # Contradiction decided: the tables want equal parts, yet the compiler puts [32, 32, 64] on the BPU. Slices have no limit.
    return HOLDS


@condition("dims", "not N")
def _dims_not_first(facts: Facts) -> Outcome:
    """the first axis stays first"""
    return HOLDS if facts.node.attributes["perm"][:1] == (0,) else broken(list(facts.node.attributes["perm"]))


@condition("axes", "H,W")
def _axes_hw(facts: Facts) -> Outcome:
    """only height and width change"""
    if "pads" not in facts.node.attributes:
        return HOLDS
    pads = facts.node.attributes["pads"]
    rank = len(pads) // 2
    outer = [pads[axis] or pads[rank + axis] for axis in range(rank - 2)]
    return broken(f"pads {list(pads)}") if rank != 4 or any(outer) else HOLDS


@condition("axes", "all")
def _axes_all(facts: Facts) -> Outcome:
    """any axes"""
    return HOLDS


@condition("mode", "constant")
def _constant_pad(facts: Facts) -> Outcome:
    """constant padding"""
    mode = facts.node.attributes["mode"]
    return HOLDS if mode == "constant" else broken(mode, "constant")


@condition("mode", "not reflect")
def _no_reflection(facts: Facts) -> Outcome:
    """padding that does not reflect"""
    mode = facts.node.attributes["mode"]
    return HOLDS if mode != "reflect" else broken(mode, "constant or edge")


@measure("axes that change size", "changed_dims_max")
def _changed_dims(facts: Facts) -> Numbers | None:
    if facts.shape is None or facts.out_shape is None:
        return None
    before = (1,) * (len(facts.out_shape) - len(facts.shape)) + facts.shape
    return (sum(a != b for a, b in zip(before, facts.out_shape, strict=True)),)


@condition("indices", "feature: int32; constant: int32/int64")
def _indices(facts: Facts) -> Outcome:
    """indices that are a constant, or int32"""
    indices = facts.node.operands[1]
    return HOLDS if indices.is_parameter or indices.type.dtype.value == "i32" else broken(indices.type.dtype.value, "i32")


# --- products ------------------------------------------------------------------------------------------------------------


def _matches(pattern: str, shape: Shape, batch: int) -> bool:
    """`1` in a pattern stands for an axis of one element (or the batch, in first place), a letter for any."""
    return len(pattern) == len(shape) and all(
        letter != "1" or size == 1 or (position == 0 and size == batch)
        for position, (letter, size) in enumerate(zip(pattern, shape, strict=True))
    )


def product_forms(words: str, kind: str) -> Condition:
    """The condition that operands have one of the forms `A*B` in `words`; `kind`: which operands are constant."""

    def check(facts: Facts) -> Outcome:
        left, right = facts.node.operands[:2]
        kinds = {(False, True): "fm_x_weight", (True, False): "weight_x_fm", (False, False): "fm_x_fm"}
        if kinds.get((left.is_parameter, right.is_parameter)) != kind:
            return HOLDS
        a, b = left.shape, right.shape
        if a is None or b is None:
            return UNKNOWN
        # `linear` stores its weight transposed; its form is that of the product it stands for.
        pairs = [word.split("*") for word in words.split(",")]
        if any(_matches(x, a, facts.batch) and _matches(y, b, facts.batch) for x, y in pairs):
            return HOLDS
        return broken(f"{list(a)} by {list(b)}", words.replace(",", ", "))

    return check


@condition("rule", "lowered to Conv; H,W<=7: Conv limits; H=W=1: C<=16384 else C<=2048")
def _gemm_channels(facts: Facts) -> Outcome:
    """at most 16384 input features"""
    # A linear layer of the IR reads features, that is H = W = 1.
    if facts.weight is None:
        return UNKNOWN
    return HOLDS if facts.weight[1] <= 16384 else broken(facts.weight[1], 16384)


def _gemm_result(facts: Facts, fits: Callable[[float], bool], limit: str) -> Outcome:
    if facts.weight is None:
        return UNKNOWN
    size = facts.weight[0] / 4 / 8  # H * (W / 8) * (C / 4) with H = W = 1
    return HOLDS if fits(size) else broken(f"{size:g}", limit)


@condition("int8_out", "H*(W/8)*(C/4)<=1024")
def _gemm_int8(facts: Facts) -> Outcome:
    """an int8 result of height x width / 8 x channels / 4 at most 1024"""
    return HOLDS if facts.is_tail else _gemm_result(facts, lambda size: size <= 1024, "1024")


@condition("int32_out", "H*(W/8)*(C/4)<2048")
def _gemm_int32(facts: Facts) -> Outcome:
    """an int32 result (at the end of the model) of height x width / 8 x channels / 4 below 2048"""
    return _gemm_result(facts, lambda size: size < 2048, "below 2048") if facts.is_tail else HOLDS


@measure("input features", "in_features")
def _in_features(facts: Facts) -> Numbers | None:
    return None if facts.weight is None else (facts.weight[1],)


@measure("output features", "out_features")
def _out_features(facts: Facts) -> Numbers | None:
    return None if facts.weight is None else (facts.weight[0],)


@condition("equal_rank", "True")
def _equal_rank(facts: Facts) -> Outcome:
    """operands of equal rank, or a constant matrix"""
    # Products with a constant matrix of any rank compile as convolutions; the limit concerns two runtime operands.
    shapes = facts.data_shapes
    if facts.constants:
        return HOLDS
    if shapes is None:
        return UNKNOWN
    ranks = sorted({len(shape) for shape in shapes})
    return HOLDS if len(ranks) == 1 else broken(" and ".join(map(str, ranks)))


@measure("size of the last two axes", "last_two_dims")
def _last_two(facts: Facts) -> Numbers | None:
    shapes = [value.shape for value in facts.node.operands]
    return None if any(shape is None for shape in shapes) else tuple(n for shape in shapes if shape for n in shape[-2:])


@condition("broadcast", "leading dims of one operand all 1, or B non-broadcast dims contiguous from the top")
def _product_broadcast(facts: Facts) -> Outcome:
    """leading axes of one operand all 1, or the second operand's axes equal from the first on, then 1"""
    if facts.constants:
        return HOLDS
    if facts.data_shapes is None:
        return UNKNOWN
    a, b = facts.node.operands[0].shape, facts.node.operands[1].shape
    if a is None or b is None or len(a) != len(b):
        return HOLDS  # a difference of rank is the rule before this one
    lead_a, lead_b = a[:-2], b[:-2]
    same = [x == y for x, y in zip(lead_a, lead_b, strict=True)]
    contiguous = same == sorted(same, reverse=True) and all(y == 1 for y, equal in zip(lead_b, same, strict=True) if not equal)
    if contiguous or all(size == 1 for size in lead_a) or all(size == 1 for size in lead_b):
        return HOLDS
    return broken(f"{list(a)} by {list(b)}")


@condition("bytes", "<1G")
def _product_bytes(facts: Facts) -> Outcome:
    """operands of less than 1 GB"""
    if facts.data_shapes is None:
        return UNKNOWN
    largest = max((math.prod(shape) for shape in facts.data_shapes), default=0)
    return HOLDS if largest < 1 << 30 else broken(largest, "1 GB")


# --- reductions ----------------------------------------------------------------------------------------------------------


@condition("axes", "2,3")
def _axes_2_3(facts: Facts) -> Outcome:
    """over height and width together"""
    return UNKNOWN if facts.axes is None else HOLDS if facts.axes == (2, 3) else broken(f"axes {list(facts.axes)}", "[2, 3]")


@measure("number of axes", "axes_count")
def _axes_count(facts: Facts) -> Numbers | None:
    return None if facts.axes is None else (len(facts.axes),)


@condition("axes_count", "1, or H+W together")
def _one_axis_or_hw(facts: Facts) -> Outcome:
    """over one axis, or height and width together"""
    if facts.axes is None or facts.shape is None:
        return UNKNOWN
    height_and_width = len(facts.shape) == 4 and facts.axes == (2, 3)
    return HOLDS if len(facts.axes) == 1 or height_and_width else broken(f"axes {list(facts.axes)}")


@measure("size of the reduced axis", "axis_size")
def _axis_size(facts: Facts) -> Numbers | None:
    return None if facts.axes is None or facts.shape is None else tuple(facts.shape[axis] for axis in facts.axes)


@condition("keepdims", "1")
def _keepdims(facts: Facts) -> Outcome:
    """keepdims=True"""
    return HOLDS if facts.node.attributes["keepdims"] else broken("keepdims=False", "keepdims=True, then flatten")


def named_axes(words: str) -> Condition:
    """The condition that a 4-D reduction runs over axes named in `words` (N, C, H, W) only."""
    allowed = {"NCHW".index(letter) for letter in words.split(",")}

    def check(facts: Facts) -> Outcome:
        if facts.axes is None:
            return UNKNOWN
        return HOLDS if set(facts.axes) <= allowed else broken(f"axes {list(facts.axes)}", words)

    return check


def _no_zeros(facts: Facts) -> Outcome:
    return broken("a constant with zeros") if facts.has_zero_constant else HOLDS


@condition("position", "model output")
def _at_output(facts: Facts) -> Outcome:
    """at the end of the model"""
    return HOLDS if facts.is_tail else broken("in the middle of the model")


# --- resize --------------------------------------------------------------------------------------------------------------


@condition("mode", "nearest,linear", "nearest,bilinear")
def _resize_mode(facts: Facts) -> Outcome:
    """nearest or linear interpolation"""
    mode = facts.node.attributes["mode"]
    return HOLDS if mode in ("nearest", "bilinear") else broken(mode, "nearest or bilinear")


def _factors(facts: Facts) -> tuple[float, float] | None:
    if facts.shape is None or facts.out_shape is None:
        given = facts.node.attributes["scale_factor"]
        return (given[0], given[1]) if len(given) == 2 else None
    return (facts.out_shape[2] / facts.shape[2], facts.out_shape[3] / facts.shape[3])


@condition("nearest_factor", "power of two; H_factor<=W_factor")
def _nearest_factor(facts: Facts) -> Outcome:
    """nearest: factors are powers of two, height's at most width's"""
    if facts.node.attributes["mode"] != "nearest":
        return HOLDS
    factors = _factors(facts)
    if factors is None:
        return UNKNOWN
    powers = all(math.frexp(factor)[0] == 0.5 for factor in factors)
    return HOLDS if powers and factors[0] <= factors[1] else broken(f"{factors[0]:g}x{factors[1]:g}", "powers of two")


@condition("scale", "(1/256,256]")
def _resize_scale(facts: Facts) -> Outcome:
    """factors above 1/256, at most 256"""
    factors = _factors(facts)
    if factors is None:
        return UNKNOWN
    return HOLDS if all(1 / 256 < factor <= 256 for factor in factors) else broken(f"{factors[0]:g}x{factors[1]:g}", "256")


@condition("ctm", "half_pixel,pytorch_half_pixel,asymmetric,align_corners,tf_crop_and_resize")
def _coordinates(facts: Facts) -> Outcome:
    """coordinates half-pixel, asymmetric or aligned at the corners"""
    return HOLDS  # what torch's interpolate can ask for


@condition("roi", "constant, only with tf_crop_and_resize, integer borders")
def _roi(facts: Facts) -> Outcome:
    """no region of interest"""
    return HOLDS  # the IR's resize has none


@condition("align_corners", "False,None")
def _not_aligned(facts: Facts) -> Outcome:
    """align_corners=False"""
    return broken("align_corners=True") if facts.node.attributes["align_corners"] else HOLDS


@condition("normalized_HW", "<16384")
def _normalized(facts: Facts) -> Outcome:
    """less than 16384 normalized elements"""
    if facts.shape is None:
        return UNKNOWN
    size = math.prod(facts.shape[-facts.node.attributes["normalized_ndim"] :])
    return HOLDS if size < 16384 else broken(size, 16383)


def _index_at_output(facts: Facts) -> Outcome:
    return _at_output(facts) if facts.node.op.has(Trait.INTEGER_RESULT) else HOLDS


NOTES: dict[str, tuple[str, Condition]] = {
    "operand values must not be zero": ("a constant operand has no zeros", _no_zeros),
    "model output only; value and index packed as two channels": ("at the end of the model", _at_output),
    "index only as model output": ("an index is computed at the end of the model", _index_at_output),
}
"""Limits that the tables state in the note of a row."""
