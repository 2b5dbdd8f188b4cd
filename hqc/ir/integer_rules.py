"""Rules of the integer stage about constants: rows of a requantization, biases, tables, bounds. docs/arithmetic.md says what they are.

What breaks them has no meaning in the arithmetic, and would be computed all the same: a negative pre-shift, rows for five channels where
there are four, a table that ends too early.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from hqc.arithmetic import row_problem
from hqc.ir.graph import Graph
from hqc.ir.nodes import Node, Value
from hqc.ir.op import Trait
from hqc.ir.rules import Finding, MarchFacts, on_bpu, rule
from hqc.ir.types import DType

_RESIDUAL = "residual_requant"
_TABLES = {DType.INT8: 256, DType.INT16: 65_536}
"""Entries of a table, by the dtype of what is looked up: one for each of its numbers, or of their differences."""


@rule("power-of-two", since="scaled")
def power_of_two(graph: Graph, march: MarchFacts | None) -> Iterator[Finding]:
    """Where the march only shifts, every scale on the BPU is a power of two."""
    if march is None or not march.power_of_two:
        return
    seen: set[int] = set()
    for node in graph.nodes:
        if not on_bpu(node):
            continue
        for value in (*node.operands, *node.results):
            if value.quant is None or id(value) in seen:
                continue
            seen.add(id(value))
            odd = value.quant.scale[np.frexp(value.quant.scale)[0] != 0.5]
            if odd.size:
                yield node, f"{value.name} has the scale {odd.reshape(-1)[0]:.9g}"


@rule("requant-rows", since="integer")
def requant_rows(graph: Graph, march: MarchFacts | None) -> Iterator[Finding]:
    """Rows of a requantization are three per channel (or position) of the result, each a number that a ratio of scales gives."""
    for node in graph.nodes:
        if not node.op.has(Trait.INTEGER):
            continue
        for name in filter(_is_requant, _names(node)):
            rows = _constant(node, name)
            mode = "residual" if name == _RESIDUAL else str(node.attributes["mode"])
            problem = _unwanted(node, name, mode) if rows is None else _rows_problem(node, rows, mode)
            if problem:
                yield node, f"{name} {problem}"


@rule("integer-constants", since="integer")
def integer_constants(graph: Graph, march: MarchFacts | None) -> Iterator[Finding]:
    """A bias has one integer per channel, a table one entry per number, and clips leave room for a result."""
    for node in graph.nodes:
        if not node.op.has(Trait.INTEGER):
            continue
        names = _names(node)
        bias = _constant(node, "bias") if "bias" in names else None
        channels = _channels(node)
        if bias is not None and channels is not None and bias.shape != (channels,):
            yield node, f"its bias has the shape {list(bias.shape)}, its result {channels} channels"
        if bias is not None and bias.dtype.kind != "i":
            yield node, f"its bias is {bias.dtype}"
        table = _constant(node, "table") if "table" in names else None
        entries = _TABLES.get(node.operands[0].type.dtype)
        if table is not None and table.ndim == 1 and entries is not None and table.size != entries:
            yield node, f"its table has {table.size} entries, for {node.operands[0].type.dtype.value} it takes {entries}"
        low, high = node.attributes.get("clip_min", 0), node.attributes.get("clip_max", 0)
        if low > high:
            yield node, f"it clips from {low} to {high}"


def _names(node: Node) -> list[str]:
    return [operand.name for operand in node.op.operands]


def _is_requant(name: str) -> bool:
    return name == _RESIDUAL or name.startswith("requant")


def _constant(node: Node, name: str) -> npt.NDArray[Any] | None:
    value = node.operand(name)
    return None if value is None else value.array


def _unwanted(node: Node, name: str, mode: str) -> str:
    """What is wrong with rows that are not there, or no constant."""
    value: Value | None = node.operand(name)
    if value is not None:
        return f"is {value.name}, which is no constant"
    if name == _RESIDUAL:
        return "is missing" if node.operand("residual") is not None else ""
    gain = node.attributes.get("gain", 0)
    return "" if mode in ("none", "clip") or gain else f"is missing, which the mode {mode} takes"


def _rows_problem(node: Node, rows: npt.NDArray[Any], mode: str) -> str:
    if mode in ("none", "clip"):
        return ""  # not read
    if rows.dtype != np.int64 or rows.ndim == 0 or rows.shape[0] != 3:
        return f"is {rows.dtype} of the shape {list(rows.shape)}, it takes the three rows M, p and S in int64"
    shape, per = node.result.shape, rows.shape[1:]
    channels = _channels(node)
    if len(per) == 1 and per != (1,) and channels is not None and per != (channels,):
        return f"has rows for {per[0]} channels, the result has {channels}"
    if len(per) > 1 and shape is not None and per != shape[-len(per) :]:
        return f"has rows for {list(per)} positions, the result is {node.result.type}"
    problem = row_problem(rows, mode)
    return f"holds what no ratio of scales gives: {problem}" if problem else ""


def _channels(node: Node) -> int | None:
    """Channels of the result: the last axis behind a matrix of weights, else the second; None where that is not known."""
    weight = node.operand("weight") if "weight" in _names(node) else None
    axis = -1 if weight is not None and len(weight.type.sizes or ()) == 2 else 1
    shape = node.result.shape
    return None if shape is None or len(shape) < 2 else shape[axis]
