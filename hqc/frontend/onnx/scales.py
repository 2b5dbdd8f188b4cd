"""The scales of a quantized file apart from its graph: what is left is a float model, the scales say how it was quantized."""

from __future__ import annotations

from dataclasses import dataclass, field

from hqc.checked import checked, explained
from hqc.frontend.onnx.patterns import read_patterns
from hqc.ir import Graph, QuantParams, Value


@checked
def is_quantized(graph: Graph) -> bool:
    """True for the graph of a file with quantized activations."""
    return any(node.op.name == "quantize" for node in graph.nodes)


@explained
@dataclass(frozen=True)
class FileScales:
    """The grids of a quantized file by name: of `values`, and of `weights` (parameters)."""

    values: dict[str, QuantParams] = field(default_factory=dict)
    weights: dict[str, QuantParams] = field(default_factory=dict)


@checked
def take_scales(graph: Graph) -> FileScales:
    """Take the file's quantize nodes, and the grids of its parameters, out of `graph`, in place.

    A value that the file quantizes several times has the first grid.
    """
    scales: dict[str, QuantParams] = {}
    for node in list(graph.nodes):
        source = node.inputs[0] if node.inputs else None
        if source is None:
            continue
        if node.op.name == "quantize":
            quant = node.result.quant
            if quant is not None and not source.is_parameter:
                scales.setdefault(source.name, quant)
            _stand_in(graph, node.result, source)
        elif node.op.name == "identity" and source.name in scales:
            _stand_in(graph, node.result, source)
    _carry(graph, scales)
    weights = {}
    for name, parameter in graph.parameters.items():
        if parameter.quant is not None:
            weights[name], parameter.quant = parameter.quant, None
    read_patterns(graph)  # the file's pairs stood between their nodes
    return FileScales(scales, weights)


def _carry(graph: Graph, scales: dict[str, QuantParams]) -> None:
    """What only moves or picks elements of a value is on its grid, and the other way round."""
    keeping = [node for node in graph.nodes if node.keeps_scale and node.inputs[0] is not None]
    for nodes, forward in ((keeping, True), (keeping[::-1], False)):
        for node in nodes:
            source = node.operands[0]
            for result in node.results:
                here, there = (source, result) if forward else (result, source)
                if here.name in scales and not there.is_parameter:
                    scales.setdefault(there.name, scales[here.name])


def _stand_in(graph: Graph, value: Value, source: Value) -> None:
    """`source` in the place of `value`, whose producer goes; an output keeps its name."""
    graph.replace_uses(value, source)
    assert value.producer is not None
    graph.erase(value.producer)
