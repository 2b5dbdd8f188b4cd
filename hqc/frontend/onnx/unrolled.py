"""`Loop` and `Scan` whose number of turns is known: the body once for each turn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from hqc.frontend.onnx.context import OnnxContext, Operand, Unexpressed

LARGEST = 20_000
"""Nodes that a loop may become."""


@dataclass(frozen=True)
class _Unroller:
    """Runs copies of a body. `run` lowers the nodes of a graph, whose names are those of the file."""

    ctx: OnnxContext
    node: onnx.NodeProto
    body: onnx.GraphProto
    run: Callable[[onnx.GraphProto], None]

    def check(self, turns: int) -> None:
        if turns * len(self.body.node) > LARGEST:
            raise Unexpressed(f"it would become more than {LARGEST} operations")

    def turn(self, number: int, given: list[Operand]) -> list[Operand]:
        """The outputs of the body for these inputs."""
        self.check(number)
        copy = onnx.GraphProto()
        copy.CopyFrom(self.body)
        made = [item.name for item in (*copy.input, *copy.initializer)] + [name for n in copy.node for name in n.output if name]
        names = {name: f"{name}.{number}" for name in made}
        _rename(copy, names)
        for item in copy.initializer:
            self._name(item.name, onnx.numpy_helper.to_array(item))
        for item, operand in zip(copy.input, given, strict=True):
            self.ctx.env[item.name] = operand
        self.run(copy)
        self.ctx.node = self.node
        return [self.ctx.env[item.name] for item in copy.output]

    def element(self, operand: Operand, axis: int, index: int) -> Operand:
        """Element `index` along an axis, which goes."""
        source, place, result = (f"{self.node.output[0]}.{what}{axis}.{index}" for what in ("of", "at", "element"))
        self.ctx.env[source] = operand
        self._name(place, np.array(index, np.int64))
        return self._compute(helper.make_node("Gather", [source, place], [result], name=result, axis=axis))

    def stacked(self, elements: list[Operand], axis: int, what: str) -> Operand:
        """One tensor of them along a new axis."""
        rows = []
        for index, element in enumerate(elements):
            if element.shape is None:
                raise Unexpressed("the shape of what its turns make is not known")
            source, shape, result = (f"{what}.{part}.{index}" for part in ("element", "shape", "row"))
            self.ctx.env[source] = element
            sizes = list(element.shape)
            sizes.insert(axis % (len(sizes) + 1), 1)
            self._name(shape, np.array(sizes, np.int64))
            self._compute(helper.make_node("Reshape", [source, shape], [result], name=result))
            rows.append(result)
        return self._compute(
            helper.make_node("Concat", rows, [f"{what}.rows"], name=what, axis=axis % (len(elements[0].shape or ()) + 1))
        )

    def _name(self, name: str, array: np.ndarray) -> None:
        self.ctx.env[name] = array
        self.ctx.name_array(array, name)

    def _compute(self, node: onnx.NodeProto) -> Operand:
        self.run(helper.make_graph([node], "turn", [], []))
        self.ctx.node = self.node
        return self.ctx.env[node.output[0]]


def loop(ctx: OnnxContext, run: Callable[[onnx.GraphProto], None]) -> tuple[Operand, ...] | None:
    """The results of a `Loop` whose count, or condition in every turn, depends on constants alone; None for another."""
    body = ctx.attribute("body")
    inputs = [ctx.operand(index) for index in range(len(ctx.node.input))]
    limit, going = inputs[0], True if len(inputs) < 2 or inputs[1] is None else inputs[1]
    if (
        not isinstance(body, onnx.GraphProto)
        or not isinstance(limit, np.ndarray | None)
        or not isinstance(going, np.ndarray | bool)
    ):
        return None
    states: list[Operand] = [item for item in inputs[2:] if item is not None]
    if len(states) + 2 != len(body.input) or (limit is None and isinstance(going, bool)):
        return None
    unroller = _Unroller(ctx, ctx.node, body, run)
    scans: list[list[Operand]] = [[] for _ in body.output[1 + len(states) :]]
    turns = None if limit is None else int(limit.reshape(-1)[0])
    unroller.check(turns or 0)
    number = 0
    while (turns is None or number < turns) and bool(np.reshape(going, -1)[0]):
        made = unroller.turn(number, [np.array(number, np.int64), np.array(True), *states])
        going, states = made[0], made[1 : 1 + len(states)]
        if not isinstance(going, np.ndarray):
            raise Unexpressed("a condition that its turns compute decides how many there are")
        for elements, item in zip(scans, made[1 + len(states) :], strict=True):
            elements.append(item)
        number += 1
    if scans and not number:
        return None
    names = list(ctx.node.output)[len(states) :]
    return (
        *states,
        *(unroller.stacked(each, 0, name or f"scan {k}") for k, (each, name) in enumerate(zip(scans, names, strict=True))),
    )


def scan(ctx: OnnxContext, run: Callable[[onnx.GraphProto], None]) -> tuple[Operand, ...] | None:
    """The results of a `Scan` (from opset 9), which has a turn for each element of its operands."""
    body, count = ctx.attribute("body"), int(ctx.attribute("num_scan_inputs", 0))
    inputs = [ctx.required(index) for index in range(len(ctx.node.input))]
    if not isinstance(body, onnx.GraphProto) or ctx.opset < 9 or not count or len(inputs) != len(body.input):
        return None
    states, scanned = inputs[:-count], inputs[-count:]
    results = len(body.output) - len(states)
    axes = ctx.ints("scan_input_axes") or [0] * count
    backward = ctx.ints("scan_input_directions") or [0] * count
    out_axes = ctx.ints("scan_output_axes") or [0] * results
    out_backward = ctx.ints("scan_output_directions") or [0] * results
    axes = [axis % len(ctx.shape(item)) for axis, item in zip(axes, scanned, strict=True)]
    turns = ctx.shape(scanned[0])[axes[0]]
    unroller = _Unroller(ctx, ctx.node, body, run)
    unroller.check(turns)
    scans: list[list[Operand]] = [[] for _ in range(results)]
    for number in range(turns):
        elements = [
            unroller.element(item, axis, turns - 1 - number if back else number)
            for item, axis, back in zip(scanned, axes, backward, strict=True)
        ]
        made = unroller.turn(number, [*states, *elements])
        states = made[: len(states)]
        for rows, item in zip(scans, made[len(states) :], strict=True):
            rows.append(item)
    if not turns:
        return None
    names = list(ctx.node.output)[len(states) :]
    stacked = [
        unroller.stacked(rows[::-1] if back else rows, axis, name or f"scan {k}")
        for k, (rows, axis, back, name) in enumerate(zip(scans, out_axes, out_backward, names, strict=True))
    ]
    return (*states, *stacked)


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    """Other names for what a body makes; bodies inside of it read them too."""
    for item in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        item.name = names.get(item.name, item.name)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _rename(attribute.g, names)
