"""Sequences of tensors, which exporters write for `hstack` and `tensor_split`: known while a file is read, so no node is left of them."""

from __future__ import annotations

import numpy as np

from hqc.frontend.onnx.context import OnnxContext, Operand, Unexpressed
from hqc.frontend.onnx.registry import lowers_onnx

MAKERS = frozenset({"SequenceConstruct", "SequenceEmpty", "SequenceInsert", "SequenceErase", "SplitToSequence"})
"""Operators whose result is a sequence."""

Nothing = tuple[()]


def _elements(ctx: OnnxContext) -> list[Operand]:
    found = ctx.sequences.get(ctx.node.input[0])
    if found is None:
        raise Unexpressed(f"its sequence {ctx.node.input[0]} is made at run time")
    return list(found)


def _position(ctx: OnnxContext, index: int, length: int) -> int | None:
    """The position that operand `index` states, counted from the front; None where there is none."""
    given = ctx.constant(index)
    if given is None:
        return None
    position = int(given.reshape(-1)[0])
    if not -length <= position < length:
        raise ctx.error(f"asks for element {position} of a sequence of {length}")
    return position % length


def _define(ctx: OnnxContext, elements: list[Operand]) -> Nothing:
    ctx.sequences[ctx.node.output[0]] = elements
    return ()


@lowers_onnx("SequenceConstruct", "SequenceEmpty")
def construct(ctx: OnnxContext) -> Nothing:
    return _define(ctx, [ctx.required(index) for index in range(len(ctx.node.input))])


@lowers_onnx("SequenceInsert")
def insert(ctx: OnnxContext) -> Nothing:
    elements = _elements(ctx)
    given = ctx.constant(2)
    place = len(elements) if given is None else int(given.reshape(-1)[0])
    elements.insert(place, ctx.required(1))
    return _define(ctx, elements)


@lowers_onnx("SequenceErase")
def erase(ctx: OnnxContext) -> Nothing:
    elements = _elements(ctx)
    position = _position(ctx, 1, len(elements))
    del elements[-1 if position is None else position]
    return _define(ctx, elements)


@lowers_onnx("SequenceAt")
def at(ctx: OnnxContext) -> Operand:
    elements = _elements(ctx)
    position = _position(ctx, 1, len(elements))
    if position is None:
        raise ctx.error("states no position")
    element = elements[position]
    return element if isinstance(element, np.ndarray) else ctx.emit("identity", element)


@lowers_onnx("SequenceLength")
def length(ctx: OnnxContext) -> Operand:
    return np.array(len(_elements(ctx)), np.int64)


@lowers_onnx("ConcatFromSequence")
def concat(ctx: OnnxContext) -> Operand:
    elements = _elements(ctx)
    if not elements:
        raise ctx.error("joins an empty sequence")
    if ctx.attribute("new_axis", 0):
        rank = ctx.rank(elements[0]) + 1
        axis = int(ctx.attribute("axis")) % rank
        shapes = [ctx.shape(element) for element in elements]
        elements = [
            ctx.reshape(element, (*shape[:axis], 1, *shape[axis:]), what=f"row{index}")
            for index, (element, shape) in enumerate(zip(elements, shapes, strict=True))
        ]
    return ctx.emit("cat", *elements, axis=ctx.axis(of=elements[0]))


@lowers_onnx("SplitToSequence")
def split(ctx: OnnxContext) -> Nothing:
    x = ctx.data()
    axis = ctx.axis(default=0, of=x)
    total, given = ctx.shape(x)[axis], ctx.constant(1)
    keeps = bool(ctx.attribute("keepdims", 1)) or given is not None
    if given is not None and given.ndim:
        sizes = [int(size) for size in given]
    else:
        part = 1 if given is None else int(given)
        if part < 1:
            raise ctx.error(f"splits into parts of {part}")
        sizes = [min(part, total - start) for start in range(0, total, part)]
    names = [ctx.graph.unique_name(f"{ctx.node.output[0]}_{index}") for index in range(len(sizes))]
    parts: list[Operand] = list(ctx.emit_results("split", x, names=names, axis=axis, sizes=tuple(sizes)))
    if not keeps:
        shape = tuple(size for index, size in enumerate(ctx.shape(x)) if index != axis)
        parts = [ctx.reshape(each, shape, what=f"part{index}") for index, each in enumerate(parts)]
    return _define(ctx, parts)
