"""Ops that move elements, and axes."""

from __future__ import annotations

from hqc.march.facts import Facts
from hqc.march.predicates.base import HOLDS, UNKNOWN, Numbers, Outcome, broken, condition, measure


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
    # See contradictions.py: torch's sense decides.
    return HOLDS


@condition("axis", "not N")
def _axis_not_first(facts: Facts) -> Outcome:
    """an axis other than the first"""
    return UNKNOWN if facts.axes is None else broken("axis 0") if 0 in facts.axes else HOLDS


@condition("equal_parts", "True")
def _equal_parts(facts: Facts) -> Outcome:
    """parts of equal size; unequal ones run as slices"""
    # See contradictions.py.
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
