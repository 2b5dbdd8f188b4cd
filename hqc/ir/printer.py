"""IR text of a graph: one node a line, destination first. docs/ir.md describes the form, `hqc.ir.parser` reads it back."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import numpy.typing as npt

from hqc.checked import checked
from hqc.ir.graph import Graph
from hqc.ir.lexer import quote, quote_name, quote_word
from hqc.ir.nodes import Node, Value
from hqc.ir.op import Attr
from hqc.ir.sidecar import SCALE_LIMIT, ScaleTable, content_hash, prints_inline
from hqc.ir.types import DType, Location, Observation, QuantParams, Reason, Request, Support


@checked
def print_graph(graph: Graph, *, locations: bool = True) -> str:
    """The text of `graph`. Equal graphs have equal texts but for `loc(...)`, which `locations=False` leaves out.

    Large parameters appear as content hashes.
    """
    scales = ScaleTable(graph)
    lines = [_header(graph)]
    lines += [f"  input {value_text(value, scales)}" for value in graph.inputs]
    lines += [f"  scales @{quote_name(name)} = {_array(scale)}" for name, scale in scales.scales.items()]
    for value in graph.parameters.values():
        assert value.array is not None
        lines.append(f"  param {value_text(value, scales)} = {_array(value.array)}")
    lines += [f"  {node_text(node, scales, locations=locations)}" for node in graph.nodes]
    for value, name in zip(graph.outputs, graph.output_names, strict=True):
        lines.append(f"  output {reference(value)}" + (f" as {quote(name)}" if name != value.name else ""))
    lines.append("}\n")
    return "\n".join(lines)


def _header(graph: Graph) -> str:
    words = ["graph", f"@{quote_name(graph.name)}"]
    if graph.march is not None:
        words.append(f"march={quote_word(graph.march)}")
    if graph.stage != "lowered":
        words.append(f"stage={quote_word(graph.stage)}")
    if graph.properties:
        words.append(f"properties=[{', '.join(map(quote_word, sorted(graph.properties)))}]")
    return " ".join([*words, "{"])


def node_text(node: Node, scales: ScaleTable | None = None, *, locations: bool = True) -> str:
    """One node as its line reads (without indentation). Without `scales`, long per-channel scales print in full."""
    results = ", ".join(value_text(value, scales) for value in node.results)
    operands = ", ".join("none" if value is None else reference(value) for value in node.inputs)
    words = [f"{results} = {node.op.name}({operands})"]
    attributes = _attributes(node)
    if attributes:
        words.append(f"{{{attributes}}}")
    if node.device is not None or node.subgraph is not None:
        device = "unset" if node.device is None else node.device.value
        words.append(device if node.subgraph is None else f"{device}.{node.subgraph}")
    if node.support is not None:
        words.append(_support(node.support))
    if node.request is not None:
        words.append(_request(node.request))
    if locations and node.loc != Location():
        words.append(_location(node.loc))
    if node.origin:
        words.append(f"from({', '.join(map(quote_word, node.origin))})")
    return " ".join(words)


def reference(value: Value) -> str:
    """`@name` of a parameter, `%name` of any other value."""
    return f"{'%' if value.array is None else '@'}{quote_name(value.name)}"


def value_text(value: Value, scales: ScaleTable | None = None) -> str:
    """Name, type, quantization and observation of a value."""
    text = f"{reference(value)}: {value.type}"
    if value.quant is not None:
        text = f"{text} {quant_text(value.quant, scales)}"
    return text if value.observation is None else f"{text} {observation_text(value.observation)}"


def observation_text(observation: Observation) -> str:
    """`observe(i8)`, `observe(i16, rounding=floor, group=cat, policy=union, source="...", qconfig="...")`."""
    parts = [observation.dtype.value]
    for field in fields(Observation)[1:]:
        text = getattr(observation, field.name)
        if text != field.default:
            parts.append(f"{field.name}={quote_word(text)}")
    return f"observe({', '.join(parts)})"


def quant_text(quant: QuantParams, scales: ScaleTable | None = None) -> str:
    """`q(i8, 0.5)`, `q(i8, axis=0, [0.5, 0.25])` or `q(i8, axis=0, @name)`."""
    parts = [quant.dtype.value]
    if quant.axis is not None:
        parts.append(f"axis={quant.axis}")
    if scales is not None and quant.scale.size > SCALE_LIMIT:
        parts.append(scales.reference(quant))
    else:
        parts.append(_literal(quant.scale))
    if quant.fixed:
        parts.append("fixed")
    if quant.rounding != "half_even":
        parts.append(quant.rounding)
    return f"q({', '.join(parts)})"


# --- literals --------------------------------------------------------------------------------------------------------


def _array(array: npt.NDArray[Any]) -> str:
    return _literal(array) if prints_inline(array) else f"#{content_hash(array)}"


def _literal(array: npt.NDArray[Any]) -> str:
    """A number for rank 0, else the elements in C order as one flat list."""
    texts = _numbers(array.reshape(-1))
    return texts[0] if array.ndim == 0 else f"[{', '.join(texts)}]"


def _numbers(flat: npt.NDArray[Any]) -> list[str]:
    if flat.dtype.kind == "b":
        return ["true" if item else "false" for item in flat.tolist()]
    if flat.dtype != np.float32:
        return [repr(item) for item in flat.tolist()]
    texts = [str(item) for item in flat]
    # The shortest float32 text is read through float64; print the float64 text where that would round twice.
    return [
        text if float(np.float32(float(text))) == exact or exact != exact else repr(exact)
        for text, exact in zip(texts, flat.tolist(), strict=True)
    ]


def _attributes(node: Node) -> str:
    parts = []
    for attr in node.op.attributes:
        value = node.attributes.get(attr.name, attr.default)
        if isinstance(value, list):
            value = tuple(value)
        if attr.required or not _is_default(attr, value):
            parts.append(f"{attr.name}={_attribute(attr, value)}")
    return ", ".join(parts)


def _is_default(attr: Attr, value: Any) -> bool:
    if attr.kind in ("float", "optional_float"):  # tells -0.0 from 0.0
        return repr(value) == repr(attr.default)
    return bool(value == attr.default)


def _attribute(attr: Attr, value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, DType):
        return value.value
    if isinstance(value, str):
        return value if attr.choices else quote(value)
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    if isinstance(value, tuple):
        number = float if attr.kind == "floats" else int
        return f"[{','.join(repr(number(item)) for item in value)}]"
    return repr(float(value)) if attr.kind in ("float", "optional_float") else repr(int(value))


# --- annotations -------------------------------------------------------------------------------------------------------


def _support(support: Support) -> str:
    word = "accepted" if support.accepted else "refused"
    if not support.reasons and support.accepted:
        return word
    return f"{word}({'; '.join(map(_reason, support.reasons))})"


def _reason(reason: Reason) -> str:
    parts = [quote(reason.rule)]
    for key in ("actual", "limit", "hint"):
        text = getattr(reason, key)
        if text:
            parts.append(f"{key}={quote(text)}")
    for key, default in (("step", "capability"), ("id", "")):
        text = getattr(reason, key)
        if text != default:
            parts.append(f"{key}={quote_word(text)}")
    if reason.condition:
        parts.append("condition")
    return ", ".join(parts)


def _request(request: Request) -> str:
    parts = [request.device.value, quote(request.source)]
    if request.dtype is not None:
        parts.append(request.dtype.value)
    return f"request({', '.join(parts)})"


def _location(loc: Location) -> str:
    texts = [loc.path, loc.source, *loc.module_type]
    while len(texts) > 1 and not texts[-1] and not loc.module_type:
        texts.pop()
    label = [f"label={quote(loc.label)}"] if loc.label else []
    return f"loc({' '.join([*map(quote, texts), *label])})"
