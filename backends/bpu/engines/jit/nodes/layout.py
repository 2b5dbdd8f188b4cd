"""Copies: an element of the result is one of the operand's."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from hqc.backends.bpu.engines.jit import fields as f
from hqc.backends.bpu.engines.jit.layouts import NativeContext, runs
from hqc.backends.bpu.engines.jit.native import NativeOp, NativeStep
from hqc.backends.bpu.engines.jit.nodes.registry import BLOCK, item_size, native, single
from hqc.backends.bpu.engines.jit.problems import address_of
from hqc.backends.bpu.kernels import operand, shape_of
from hqc.ir import Node, Trait, Value


def _is_integer(*values: Value) -> bool:
    return all(not value.type.dtype.is_float for value in values)


@native("identity", "dropout")
def same_memory(node: Node, context: NativeContext, products: list[str]) -> NativeStep | None:
    return NativeStep((), alias=True) if _is_integer(operand(node, 0), node.result) else None


@native("slice", "pixel_shuffle", "pixel_unshuffle")
def moved(node: Node, context: NativeContext, products: list[str]) -> NativeStep | None:
    """Any operation whose card says where each element comes from: what it makes of the elements' places is what is copied."""
    source, compute, layouts = operand(node, 0), node.op.compute, context.layouts
    others = [None if value is None else value.array for value in node.inputs[1:]]
    if compute is None or len(node.results) != 1 or node.op.has(Trait.FILLS) or len(node.data_operands) != 1:
        return None
    if source.is_parameter or not _is_integer(source, node.result):
        return None
    places = np.asarray(compute([layouts.places(source), *others], node.attributes))
    found = runs(layouts.to_memory(places, node.result))
    size, item = math.prod(shape_of(node.result)), item_size(source)
    if found.length == size == math.prod(shape_of(source)):
        return NativeStep((), alias=True)
    table, row = found.first * item, found.count * found.length * item
    block = max(1, BLOCK // row)
    words = {
        f.TABLE: address_of(table), f.ROWS: len(table), f.BLOCK: block, f.COLUMNS: found.count, f.COPY_RUN: found.length * item,
        f.COPY_SOURCE_STEP: found.step * item,
    }  # fmt: skip
    cost = size * (0.05 * item + 2 / found.length)
    return single(NativeOp("move", -(-len(table) // block), words, keep=(table,), nanoseconds=cost))


def _copy(value: Value, outer: int, run: int, steps: tuple[int, int], offsets: tuple[int, int], **where: Any) -> NativeOp:
    item = value.type.dtype.numpy.itemsize
    block = max(1, BLOCK // max(1, run * item))
    words = {
        f.COPY_OUTER: outer, f.COPY_RUN: run * item, f.COPY_SOURCE_STEP: steps[0] * item, f.COPY_TARGET_STEP: steps[1] * item,
        f.COPY_SOURCE_OFFSET: offsets[0] * item, f.COPY_TARGET_OFFSET: offsets[1] * item, f.BLOCK: block,
    }  # fmt: skip
    return NativeOp("copy_runs", -(-outer // block), words, nanoseconds=outer * (3 + 0.05 * run * item), **where)


@native("cat")
def cat(node: Node, context: NativeContext, products: list[str]) -> NativeStep | None:
    layouts = context.layouts
    if not _is_integer(node.result):
        return None
    target = layouts.shape(node.result)
    axis = layouts.axis(node.result, node.attributes["axis"])
    outer, whole = math.prod(target[:axis]), math.prod(target[axis:])
    ops, offset = [], 0
    for index in range(len(node.inputs)):  # constants too
        run = math.prod(layouts.shape(operand(node, index))[axis:])
        ops.append(_copy(node.result, outer, run, (run, whole), (0, offset), operands={f.X: index}))
        offset += run
    return NativeStep(tuple(ops))


@native("split")
def split(node: Node, context: NativeContext, products: list[str]) -> NativeStep | None:
    source, layouts = operand(node, 0), context.layouts
    if not _is_integer(source):
        return None
    memory, axis = layouts.shape(source), layouts.axis(source, node.attributes["axis"])
    outer, whole = math.prod(memory[:axis]), math.prod(memory[axis:])
    ops, offset = [], 0
    for index, value in enumerate(node.results):
        run = math.prod(layouts.shape(value)[axis:])
        ops.append(_copy(source, outer, run, (whole, run), (offset, 0), results={f.OUT: index}))
        offset += run
    return NativeStep(tuple(ops))
