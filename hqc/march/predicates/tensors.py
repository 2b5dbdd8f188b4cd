"""Sizes of tensors: rank, batch, axes, elements."""

from __future__ import annotations

import math

from hqc.march.facts import Facts, factorizable
from hqc.march.predicates.base import HOLDS, Numbers, Outcome, condition, measure
from hqc.march.predicates.windows import channels_out, is_transposed


@measure("rank", "rank", "rank_max")
def _rank(facts: Facts) -> Numbers | None:
    found = facts.data_sizes
    return None if found is None or facts.out_sizes is None else (max(map(len, found), default=len(facts.out_sizes)),)


@measure("batch", "N")
def _batch(facts: Facts) -> Numbers | None:
    return None if not facts.sizes else (facts.images(facts.sizes),)


@measure("channels", "C")
def _channels(facts: Facts) -> Numbers | None:
    if is_transposed(facts):
        out, inside = channels_out(facts), facts.sizes
        return None if out is None or inside is None else (inside[1], out)
    return None if facts.out_sizes is None else _axis_one(facts)


def _axis_one(facts: Facts) -> Numbers | None:
    sizes = facts.sizes if facts.node.op.family == "reduction" else facts.out_sizes
    return None if sizes is None else sizes[1:2]


@measure("height", "H")
def _height(facts: Facts) -> Numbers | None:
    return None if facts.sizes is None else facts.sizes[2:3]


@measure("width", "W")
def _width(facts: Facts) -> Numbers | None:
    return None if facts.sizes is None else facts.sizes[3:4]


# See contradictions.py: larger maps are split into pools.
@measure("positions (height x width) that no pooling windows of 2..7 divide", "HW")
def _positions(facts: Facts) -> Numbers | None:
    if facts.shape is None:
        return None
    height, width = facts.shape[2:4]
    return () if factorizable(height) and factorizable(width) else (height * width,)


# Nothing splits the image that is sampled.
@measure("positions (height x width) of the image", "GridSample.HW", "F.grid_sample.HW")
def _sampled_positions(facts: Facts) -> Numbers | None:
    return None if facts.shape is None else (math.prod(facts.shape[2:4]),)


# See contradictions.py: the limits on elements are advice.
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
    return None if facts.sizes is None else ((facts.images(facts.sizes),) if facts.sizes else ())


@measure("size of every axis but the first", "other_dims", "CHW_each")
def _other_dims(facts: Facts) -> Numbers | None:
    if facts.node.op.family == "conv":
        return None if facts.data_sizes is None else tuple(size for sizes in facts.data_sizes for size in sizes[:-2])
    return None if facts.sizes is None else facts.sizes[1:]


@measure("size of every axis", "dim")
def _every_dim(facts: Facts) -> Numbers | None:
    return facts.sizes


@measure("elements of one image", "HWC")
def _image_elements(facts: Facts) -> Numbers | None:
    # See contradictions.py: each of H, W and C.
    return None if facts.out_sizes is None else facts.out_sizes[1:]


@measure("number of operands", "inputs")
def _operand_count(facts: Facts) -> Numbers | None:
    return (len(facts.node.operands),)
