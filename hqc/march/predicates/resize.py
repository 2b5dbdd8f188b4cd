"""Resize and grid sample: modes, padding, factors, coordinates."""

from __future__ import annotations

import math

from hqc.march.facts import Facts
from hqc.march.predicates.base import HOLDS, UNKNOWN, Outcome, broken, condition


@condition("mode", "nearest,linear", "nearest,bilinear", "bilinear,nearest")
def _resize_mode(facts: Facts) -> Outcome:
    """nearest or linear interpolation"""
    mode = facts.node.attributes["mode"]
    return HOLDS if mode in ("nearest", "bilinear") else broken(mode, "nearest or bilinear")


@condition("padding_mode", "zeros,border")
def _padding_mode(facts: Facts) -> Outcome:
    """positions beside the image read zeros or its border"""
    mode = facts.node.attributes["padding_mode"]
    return HOLDS if mode in ("zeros", "border") else broken(mode, "zeros or border")


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
