"""Reads IR text. docs/ir.md describes the form, `hqc.ir.printer` writes it.

One statement a line: `graph ... {`, `input`, `param`, `scales`, a node, `output`, `}`. Everything that can be inferred may be
left out, so that a test is a few lines::

    input %x: f32[1,3,8,8]
    param @w = #random(1, [4,3,3,3])
    %y = conv2d(%x, @w) {padding=[1,1,1,1]}
    output %y
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy.typing as npt

from hqc.arithmetic import ROUNDINGS
from hqc.checked import checked
from hqc.errors import ShapeError
from hqc.ir import sidecar
from hqc.ir.graph import STAGES, Graph
from hqc.ir.lexer import Cursor
from hqc.ir.literals import (
    DTYPES,
    read_bool,
    read_constant,
    read_dtype,
    read_float,
    read_floats,
    read_integer,
    read_number,
    read_numbers,
    read_random,
    whole,
)
from hqc.ir.nodes import Node, Value
from hqc.ir.op import Attr, OpDef, Trait, all_ops
from hqc.ir.types import Device, DType, Location, Observation, QuantParams, Reason, Request, Support, TensorType
from hqc.near_names import suggest

Arrays = Mapping[str, npt.NDArray[Any]]

_DEVICES = {"cpu": Device.CPU, "bpu": Device.BPU, "unset": None}
_OBSERVATION_FIELDS = tuple(field.name for field in fields(Observation)[1:])
_WRITTEN_TYPE_WINS = frozenset({Trait.BOUNDARY, Trait.INTEGER, Trait.OPAQUE})


@checked
def parse(text: str, *, parameters: Arrays | None = None, file: str = "<text>") -> Graph:
    """The graph that `text` describes.

    `parameters` supplies arrays for parameters that the text names by content hash: by parameter name or by `sha256:...`.
    `ParseError` carries line and column of what is wrong.
    """
    return _Parser(parameters or {}, file).read(text)


SIZE = 1 << 40
"""Elements of a tensor whose type a text may name."""


def _size(cursor: Cursor, text: str) -> int | None:
    return None if text.strip() == "?" else whole(cursor, text.strip())


class _Parser:
    """State of one reading: the graph so far and the tables of what the text has named."""

    def __init__(self, parameters: Arrays, file: str) -> None:
        self.parameters, self.file = parameters, file
        self.graph = Graph()
        self.values: dict[str, Value] = {}
        self.scales: dict[str, npt.NDArray[Any]] = {}
        self.outputs: list[tuple[Value, str]] = []
        self.ops = {definition.name: definition for definition in all_ops()}
        self.types: dict[str, TensorType] = {}

    # --- statements ------------------------------------------------------------------------------------------------

    def read(self, text: str) -> Graph:
        braces, closed = False, False
        cursor = Cursor("", 1, self.file)
        for number, line in enumerate(text.split("\n"), start=1):
            cursor = Cursor(line.rstrip("\r"), number, self.file)
            if cursor.done:
                continue
            if closed:
                cursor.fail(f"unexpected {cursor.found()} after the graph's closing brace")
            word = cursor.peek()
            if word == "graph":
                if braces or len(self.graph) or self.values:
                    cursor.fail("only one graph fits into one text, and its header comes first")
                self._header(cursor)
                braces = True
            elif word == "}":
                if not braces:
                    cursor.fail("a closing brace without `graph ... {`")
                cursor.skip()
                closed = True
            else:
                self._statement(word, cursor)
            cursor.expect_end("the statement")
        if braces and not closed:
            cursor.fail("the graph is not closed; its last line must be `}`")
        if not self.outputs and not self.values:
            cursor.fail("there is no graph in this text")
        self.graph.set_outputs([value for value, _ in self.outputs], [name for _, name in self.outputs])
        return self.graph

    def _statement(self, word: str, cursor: Cursor) -> None:
        if word[0] == "%":
            self._node(cursor)
        elif word == "input":
            self._input(cursor)
        elif word == "param":
            self._param(cursor)
        elif word == "scales":
            self._scales(cursor)
        elif word == "output":
            self._output(cursor)
        else:
            cursor.fail(f"expected graph, input, param, scales, output or a node `%name = op(...)`, found {cursor.found()}")

    def _header(self, cursor: Cursor) -> None:
        cursor.skip()
        if cursor.peek()[:1] == "@":
            self.graph.name = cursor.name("the graph's name", "@")
        while not cursor.accept("{"):
            key = cursor.word("march=, stage=, properties= or `{`")
            if key not in ("march", "stage", "properties"):
                cursor.fail(f"a graph has no {key!r}, only march, stage and properties", cursor.index - 1)
            cursor.expect("=", key)
            if key == "march":
                self.graph.march = cursor.word("a march")
            elif key == "stage":
                stage = cursor.word("a stage")
                if stage not in STAGES:
                    cursor.fail(f"unknown stage {stage!r}; stages: {', '.join(STAGES)}", cursor.index - 1)
                self.graph.stage = stage
            elif not cursor.accept("[]"):
                cursor.expect("[", "properties=")
                self.graph.properties = set(self._words(cursor, "]", "a property"))

    @staticmethod
    def _words(cursor: Cursor, end: str, what: str) -> list[str]:
        words = [cursor.word(what)]
        while not cursor.accept(end):
            cursor.expect(",", what)
            words.append(cursor.word(what))
        return words

    def _input(self, cursor: Cursor) -> None:
        cursor.skip()
        name = self._new_name(cursor, "%")
        cursor.expect(":", f"input %{name}")
        value = self.graph.add_input(name, self._type(cursor))
        value.quant = self._optional_quant(cursor)
        value.observation = self._optional_observation(cursor)
        self.values[name] = value

    def _param(self, cursor: Cursor) -> None:
        cursor.skip()
        name = self._new_name(cursor, "@")
        type = self._type(cursor) if cursor.accept(":") else None
        quant = self._optional_quant(cursor)
        observation = self._optional_observation(cursor)
        cursor.expect("=", f"param @{name}")
        value = self.values[name] = self.graph.add_parameter(name, self._array(cursor, name, type), quant)
        value.observation = observation

    def _scales(self, cursor: Cursor) -> None:
        cursor.skip()
        name = cursor.name("a scale's name", "@")
        if name in self.scales:
            cursor.fail(f"scales @{name} are given twice", cursor.index - 1)
        cursor.expect("=", f"scales @{name}")
        self.scales[name] = self._array(cursor, name, None)

    def _output(self, cursor: Cursor) -> None:
        cursor.skip()
        while True:
            value = self._value(cursor)
            name = cursor.string("the output's name") if cursor.accept("as") else value.name
            self.outputs.append((value, name))
            if not cursor.accept(","):
                return

    # --- nodes -------------------------------------------------------------------------------------------------------

    def _node(self, cursor: Cursor) -> None:
        names: list[str] = []
        written: list[TensorType | None] = []
        positions: list[int] = []
        quants: list[tuple[QuantParams | None, Observation | None]] = []
        while True:
            names.append(self._new_name(cursor, "%", names))
            positions.append(cursor.index + 1)
            written.append(self._type(cursor) if cursor.accept(":") else None)
            quants.append((self._optional_quant(cursor), self._optional_observation(cursor)))
            if not cursor.accept(","):
                break
        cursor.expect("=", f"%{names[-1]}")
        op_index = cursor.index
        definition = self._op(cursor)
        inputs = self._operands(cursor, definition)
        attributes = self._attributes(cursor, definition) if cursor.accept("{") else {}
        node = self._build(cursor, op_index, definition, inputs, attributes, names, written)
        for value, quant, type, position in zip(node.results, quants, written, positions, strict=True):
            value.quant, value.observation = quant
            self.values[value.name] = value
            if type is not None and type is not value.type and type != value.type:
                self._settle(cursor, position, value, type, definition)
        self._annotations(cursor, node)

    def _build(
        self,
        cursor: Cursor,
        op_index: int,
        definition: OpDef,
        inputs: list[Value | None],
        attributes: dict[str, Any],
        names: list[str],
        written: list[TensorType | None],
    ) -> Node:
        opaque = definition.has(Trait.OPAQUE)
        types = [type for type in written if type is not None] if opaque else None
        if types is not None and len(types) < len(names):
            cursor.fail(f"only the model's framework knows the result of {definition.name}: write its type", 0)
        try:
            return self.graph.add_node(definition, inputs, attributes, name=names, types=types)
        except ShapeError as error:
            cursor.fail(str(error), op_index)

    @staticmethod
    def _settle(cursor: Cursor, position: int, value: Value, type: TensorType, definition: OpDef) -> None:
        """Take the written type where it may win over the inferred one, else refuse it."""
        if not type.agrees(value.type) and not definition.traits & _WRITTEN_TYPE_WINS:
            cursor.fail(f"%{value.name} is {value.type} by the operands of {definition.name}, not {type}", position)
        value.type = type

    def _op(self, cursor: Cursor) -> OpDef:
        name = cursor.word("an operation")
        definition = self.ops.get(name)
        if definition is None:
            cursor.fail(f"there is no operation {name!r}{suggest(name, self.ops)}", cursor.index - 1)
        return definition

    def _operands(self, cursor: Cursor, definition: OpDef) -> list[Value | None]:
        cursor.expect("(", definition.name)
        operands: list[Value | None] = []
        if cursor.accept(")"):
            return operands
        while True:
            operands.append(None if cursor.accept("none") else self._value(cursor))
            if cursor.accept(")"):
                return operands
            cursor.expect(",", "an operand")

    def _value(self, cursor: Cursor) -> Value:
        token = cursor.peek()
        name = cursor.name("a value")
        value = self.values.get(name)
        if value is None:
            cursor.fail(f"{token} is not defined above this line{suggest(name, self.values)}", cursor.index - 1)
        if value.is_parameter != (token[0] == "@"):
            kind, sigil = ("a parameter", "@") if value.is_parameter else ("not a parameter", "%")
            cursor.fail(f"{name} is {kind}: write {sigil}{name}", cursor.index - 1)
        return value

    def _new_name(self, cursor: Cursor, sigil: str, also: list[str] | None = None) -> str:
        name = cursor.name("a name", sigil)
        if name in self.values or (also and name in also):
            cursor.fail(f"{name} is defined twice", cursor.index - 1)
        return name

    def _attributes(self, cursor: Cursor, definition: OpDef) -> dict[str, Any]:
        declared = {attr.name: attr for attr in definition.attributes}
        attributes: dict[str, Any] = {}
        if cursor.accept("}"):
            return attributes
        while True:
            name = cursor.word("an attribute")
            attr = declared.get(name)
            if attr is None:
                cursor.fail(f"{definition.name} has no attribute {name!r}; it has: {', '.join(declared)}", cursor.index - 1)
            if name in attributes:
                cursor.fail(f"attribute {name} is given twice", cursor.index - 1)
            cursor.expect("=", name)
            attributes[name] = self._attribute(cursor, attr)
            if cursor.accept("}"):
                return attributes
            cursor.expect(",", f"attribute {name}")

    @staticmethod
    def _attribute(cursor: Cursor, attr: Attr) -> Any:
        kind = attr.kind
        if kind == "str":
            return cursor.word(f"the text of {attr.name}")
        if kind == "dtype":
            return read_dtype(cursor)
        if kind == "bool":
            return read_bool(cursor)
        if kind.startswith("optional_") and cursor.accept("none"):
            return None
        if kind.endswith("floats"):
            return tuple(read_floats(cursor))
        if kind.endswith("ints"):
            return tuple(read_numbers(cursor))
        return read_float(cursor) if kind.endswith("float") else read_number(cursor)

    # --- annotations -----------------------------------------------------------------------------------------------------

    def _annotations(self, cursor: Cursor, node: Node) -> None:
        while not cursor.done:
            word = cursor.word("a device, accepted, refused(...), request(...), loc(...) or from(...)")
            if word in ("accepted", "refused"):
                node.support = Support(word == "accepted", self._reasons(cursor))
            elif word == "loc":
                node.loc = self._location(cursor)
            elif word == "from":
                cursor.expect("(", "from")
                node.origin = tuple(self._words(cursor, ")", "the name of an FX node"))
            elif word == "request":
                node.request = self._request(cursor)
            else:
                self._device(cursor, node, word)

    @staticmethod
    def _device(cursor: Cursor, node: Node, word: str) -> None:
        device, dot, subgraph = word.partition(".")
        if device not in _DEVICES or (dot and not (subgraph.isdecimal() and len(subgraph) < 10)):
            cursor.fail(
                f"expected a device (cpu, bpu or bpu.N), accepted, refused, request, loc or from, found {word!r}",
                cursor.index - 1,
            )
        node.device = _DEVICES[device]
        node.subgraph = int(subgraph) if dot else None

    @staticmethod
    def _reasons(cursor: Cursor) -> tuple[Reason, ...]:
        reasons: list[Reason] = []
        if not cursor.accept("(") or cursor.accept(")"):
            return ()
        while True:
            rule, given = cursor.string("the rule of a reason"), dict[str, str]()
            condition = False
            while cursor.accept(","):
                key = cursor.word("actual, limit, hint, step, id or condition")
                if key == "condition":
                    condition = True
                    continue
                if key not in ("actual", "limit", "hint", "step", "id"):
                    cursor.fail(f"a reason has no {key!r}, only actual, limit, hint, step, id and condition", cursor.index - 1)
                cursor.expect("=", key)
                given[key] = cursor.word(f"the text of {key}")
            reasons.append(Reason(rule, **given, condition=condition))
            if cursor.accept(")"):
                return tuple(reasons)
            cursor.expect(";", "a reason")

    @staticmethod
    def _request(cursor: Cursor) -> Request:
        cursor.expect("(", "request")
        word = cursor.word("a device")
        device = _DEVICES.get(word)
        if device is None:
            cursor.fail(f"a request is for cpu or bpu, not {word!r}", cursor.index - 1)
        cursor.expect(",", "the device")
        source = cursor.string("the override that asks")
        dtype = read_dtype(cursor) if cursor.accept(",") else None
        cursor.expect(")", "the request")
        return Request(device, source, dtype)

    @staticmethod
    def _location(cursor: Cursor) -> Location:
        cursor.expect("(", "loc")
        texts, label = [cursor.string("the location's path")], ""
        while not cursor.accept(")"):
            cursor.accept(",")
            if cursor.accept("label"):
                cursor.expect("=", "label")
                label = cursor.string("the operation's name in its file")
            else:
                texts.append(cursor.string("a source line or module type"))
        return Location(texts[0], texts[1] if len(texts) > 1 else "", tuple(texts[2:]), label)

    # --- types and constants -----------------------------------------------------------------------------------------------

    def _type(self, cursor: Cursor) -> TensorType:
        token = cursor.peek()
        known = self.types.get(token)
        if known is None:
            name, bracket, rest = token.partition("[")
            if not bracket:
                word = cursor.found()
                cursor.fail(f"expected a type such as f32[1,3,8,8] or f32[*], found {word}")
            if name not in DTYPES:
                cursor.fail(f"unknown element type {name!r}; known: {', '.join(DTYPES)}")
            text = rest[:-1].strip()
            sizes = None if text == "*" else tuple(_size(cursor, size) for size in text.split(",") if size.strip())
            if math.prod(size or 1 for size in sizes or ()) > SIZE:
                cursor.fail(f"a tensor of more than {SIZE:,} elements")
            known = TensorType(DTYPES[name], sizes)
            self.types[token] = known
        cursor.index += 1
        return known

    def _optional_quant(self, cursor: Cursor) -> QuantParams | None:
        if not cursor.accept("q"):
            return None
        start = cursor.index - 1
        cursor.expect("(", "q")
        dtype = read_dtype(cursor)
        cursor.expect(",", "the integer type")
        axis: int | None = None
        if cursor.accept("axis"):
            cursor.expect("=", "axis")
            axis = read_integer(cursor, "an axis")
            cursor.expect(",", "the axis")
        scale = self._scale(cursor)
        fixed, rounding = False, "half_even"
        while cursor.accept(","):
            if cursor.accept("fixed"):
                fixed = True
            elif cursor.peek() in ROUNDINGS:
                rounding = cursor.word("a rounding")
            else:
                cursor.fail(f"expected `fixed`, a rounding or `)` after the scale, found {cursor.found()}")
        cursor.expect(")", "the scale")
        try:
            return QuantParams(scale, dtype, axis, fixed=fixed, rounding=rounding)
        except ValueError as error:
            cursor.fail(str(error), start)

    def _optional_observation(self, cursor: Cursor) -> Observation | None:
        if not cursor.accept("observe"):
            return None
        start = cursor.index - 1
        cursor.expect("(", "observe")
        dtype, given = read_dtype(cursor), dict[str, str]()
        while cursor.accept(","):
            key = cursor.word(f"one of {', '.join(_OBSERVATION_FIELDS)}")
            if key not in _OBSERVATION_FIELDS:
                cursor.fail(f"an observation has no {key!r}, only {', '.join(_OBSERVATION_FIELDS)}", cursor.index - 1)
            cursor.expect("=", key)
            given[key] = cursor.word(f"the text of {key}")
        cursor.expect(")", "the observation")
        try:
            return Observation(dtype, **given)
        except ValueError as error:
            cursor.fail(str(error), start)

    def _scale(self, cursor: Cursor) -> Any:
        token = cursor.peek()
        if token[:1] == "@":
            name = cursor.name("a scale's name", "@")
            if name not in self.scales:
                cursor.fail(f"scales {token} are not given above this line{suggest(name, self.scales)}", cursor.index - 1)
            return self.scales[name]
        return read_floats(cursor) if token[:1] == "[" else read_float(cursor)

    def _array(self, cursor: Cursor, name: str, type: TensorType | None) -> npt.NDArray[Any]:
        start = cursor.index
        token = cursor.peek()
        if token.startswith("#sha256:"):
            cursor.skip()
            array = self._stored(cursor, start, name, token[1:])
        elif token == "#random":
            cursor.skip()
            array = read_random(cursor, type)
        elif token[:1] == "#":
            cursor.fail(f"expected numbers, #random(seed, shape) or #sha256:..., found {token!r}")
        else:
            array = read_constant(cursor, type)
        if type is not None and (type.dtype.numpy != array.dtype or type.shape != array.shape):
            actual = TensorType(DType.from_numpy(array.dtype), array.shape)
            cursor.fail(f"@{name} is declared {type}, but its elements make {actual}", start)
        return array

    def _stored(self, cursor: Cursor, start: int, name: str, key: str) -> npt.NDArray[Any]:
        array = self.parameters.get(name, self.parameters.get(key))
        if array is None:
            cursor.fail(
                f"the elements of @{name} are not in this text; read the file with hqc.ir.load, which finds the .safetensors "
                "file beside it, or pass parameters=",
                start,
            )
        actual = sidecar.content_hash(array)
        if actual != key:
            cursor.fail(f"the array given for @{name} is not the one this text was written with: its hash is {actual}", start)
        return array
