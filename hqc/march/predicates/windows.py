"""Convolutions and pools: kernel, stride, padding, dilation, channels."""

from __future__ import annotations

import math
from collections.abc import Callable

from hqc.checked import explained
from hqc.ir import Trait
from hqc.march.facts import Facts
from hqc.march.predicates.base import HOLDS, UNKNOWN, Numbers, Outcome, broken, condition, measure


@explained
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


def channels_out(facts: Facts) -> int | None:
    if facts.weight is None:
        return None
    return facts.weight[1] * facts.node.attributes["groups"] if is_transposed(facts) else facts.weight[0]


def _channels_per_group(facts: Facts) -> int | None:
    if facts.weight is None:
        return None
    return facts.weight[0] // facts.node.attributes["groups"] if is_transposed(facts) else facts.weight[1]


def is_transposed(facts: Facts) -> bool:
    return "output_padding" in facts.node.attributes


def _one(number: int | None) -> Numbers | None:
    return None if number is None else (number,)


def _is_plain(facts: Facts) -> bool:
    return not is_dilated(facts) and facts.node.attributes.get("groups", 1) == 1


# See contradictions.py: plain convolutions, and the last one of the model, have the wider limit instead of this one.
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
    return _one(channels_out(facts))


@measure("output channels", "C_out")
def _c_out(facts: Facts) -> Numbers | None:
    """Of a convolution in the middle of the model; of a cat, its result's."""
    if facts.weight is not None or "groups" in facts.node.attributes:
        return () if facts.is_tail and not is_transposed(facts) else _one(channels_out(facts))
    return None if facts.out_sizes is None else facts.out_sizes[1:2]


@measure("output channels of the last convolution of the model", "C_out_tail")
def _c_out_tail(facts: Facts) -> Numbers | None:
    return _one(channels_out(facts)) if facts.is_tail else ()


@measure("channels per group of the kernel", "kernel_C")
def _kernel_c(facts: Facts) -> Numbers | None:
    return _one(_channels_per_group(facts))


@measure("input channels", "C_in")
def _c_in(facts: Facts) -> Numbers | None:
    found = facts.data_sizes if facts.weight is None else ([facts.sizes] if facts.sizes else None)
    return None if found is None else tuple(sizes[1] for sizes in found if len(sizes) > 1)


@measure("kernel height x width x channels", "kernel_HWC", "kernel_CHW", "weight_size")
def _kernel_size(facts: Facts) -> Numbers | None:
    if facts.weight is None:
        return None
    if is_transposed(facts):
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


# See contradictions.py: about dilated convolutions only.
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
