"""Random graphs with random annotations: reading what was printed gives an equal graph, printing it again the same text."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hqc.arithmetic import ROUNDINGS
from hqc.ir import (
    STAGES,
    Device,
    DType,
    Graph,
    Location,
    Observation,
    QuantParams,
    Reason,
    Request,
    Support,
    TensorType,
    Value,
    parse,
)
from hqc.ir.sidecar import sidecar_arrays
from hqc.ir.types import GROUP_POLICIES

texts = st.text(max_size=6)
names = st.one_of(st.sampled_from(["x", "conv_1", "a.b", "0", "none", "bpu.0", "q"]), texts.filter(bool))
floats = st.floats(width=32, allow_nan=False)
positive = st.floats(2.0**-120, 2.0**100, width=32)
reasons = st.builds(
    Reason, texts, texts, texts, texts, st.sampled_from(["capability", "context", "override", "cost", ""]), texts, st.booleans()
)
locations = st.builds(Location, texts, texts, st.lists(texts, max_size=3).map(tuple))
requests = st.builds(Request, st.sampled_from(Device), texts, st.one_of(st.none(), st.sampled_from(DType)))
supports = st.builds(Support, st.booleans(), st.lists(reasons, max_size=2).map(tuple))
integer_types = st.sampled_from([DType.INT8, DType.INT16, DType.INT32])
roundings = st.sampled_from(ROUNDINGS)
observations = st.none() | st.builds(
    Observation, integer_types, roundings, texts, st.sampled_from(GROUP_POLICIES), texts, texts
)


@st.composite
def quants(draw: st.DrawFn, shape: tuple[int, ...]) -> QuantParams | None:
    if draw(st.booleans()):
        return None
    fixed, rounding = draw(st.booleans()), draw(roundings)
    if not shape or draw(st.booleans()):
        return QuantParams(draw(positive), draw(integer_types), fixed=fixed, rounding=rounding)
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    scale = draw(st.lists(positive, min_size=shape[axis], max_size=shape[axis]))
    return QuantParams(np.array(scale, np.float32), draw(integer_types), axis, fixed=fixed, rounding=rounding)


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray[Any, Any]:
    shape = tuple(draw(st.lists(st.integers(0, 9), max_size=3)))
    dtype = draw(st.sampled_from(DType)).numpy
    bits = np.random.default_rng(draw(st.integers(0, 2**32))).bytes(math.prod(shape) * dtype.itemsize)
    array = np.frombuffer(bits, np.uint8 if dtype.kind == "b" else dtype).reshape(shape)
    return array % 2 == 1 if dtype.kind == "b" else array


OPS: list[tuple[str, dict[str, st.SearchStrategy[Any]]]] = [
    ("relu", {}),
    ("leaky_relu", {"slope": floats}),
    ("clamp", {"min": st.one_of(st.none(), floats), "max": st.one_of(st.none(), floats)}),
    ("gelu", {"approximate": st.sampled_from(["none", "tanh"])}),
    ("split", {"axis": st.just(1), "sizes": st.sampled_from([(4,), (1, 3), (2, 1, 1)])}),
    ("pad", {"pads": st.just((0, 0, 0, 0)), "value": floats}),
    ("cast", {"dtype": st.sampled_from(DType)}),
    ("softmax", {"axis": st.integers(-2, 1)}),
    ("quantize", {"dtype": integer_types, "stub": st.booleans(), "rounding": st.sampled_from(["half_even", "floor"])}),
    ("opaque", {"id": texts}),
]


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    graph = Graph(draw(texts), draw(st.one_of(st.none(), st.sampled_from(["bayes-e", "b 1", ""]))))
    graph.stage = draw(st.sampled_from(STAGES))
    graph.properties = draw(st.sets(texts, max_size=2))
    shape = (1, 4)
    values: list[Value] = [graph.add_input(draw(names), TensorType(DType.FLOAT32, shape))]
    values[0].quant = draw(quants(shape))
    for _ in range(draw(st.integers(0, 3))):
        array = draw(arrays())
        graph.add_parameter(draw(names), array, draw(quants(array.shape))).observation = draw(observations)
    for _ in range(draw(st.integers(0, 6))):
        op, attributes = draw(st.sampled_from(OPS))
        sources = [value for value in values if value.shape == shape]
        source = draw(st.sampled_from(sources))
        given_attributes = {key: draw(strategy) for key, strategy in attributes.items()}
        if op == "pad" and not source.type.dtype.is_float:
            given_attributes["value"] = draw(st.integers(0, 1))
        types = [TensorType(draw(st.sampled_from(DType)), shape)] if op == "opaque" else None
        node = graph.add_node(
            op, [source], given_attributes, name=draw(names), types=types,
            loc=draw(locations), origin=draw(st.lists(texts, max_size=3)),
        )  # fmt: skip
        node.device = draw(st.one_of(st.none(), st.sampled_from(Device)))
        node.subgraph = draw(st.one_of(st.none(), st.integers(0, 99)))
        node.support = draw(st.one_of(st.none(), supports))
        node.request = draw(st.one_of(st.none(), requests))
        for value in node.results:
            value.quant, value.observation = draw(quants(value.shape or ())), draw(observations)
        values += node.results
    everything = list(graph.values.values())
    chosen = draw(st.lists(st.sampled_from(everything), max_size=3))
    graph.set_outputs(chosen, [draw(st.one_of(st.just(value.name), texts)) for value in chosen])
    return graph


@settings(max_examples=50, deadline=None)
@given(graph=graphs())
def test_random_graphs_round_trip(graph: Graph) -> None:
    text = str(graph)
    assert text.count("\n") == 2 + len(graph.inputs) + len(graph.parameters) + len(graph) + len(graph.outputs) + text.count(
        "\n  scales @"
    )
    again = parse(text, parameters=sidecar_arrays(graph))
    assert str(again) == text
    assert again == graph
    twin = graph.clone()
    assert twin == graph
    for name, value in graph.values.items():
        assert again.value(name).quant == value.quant
        assert again.value(name).observation == twin.value(name).observation == value.observation
        assert again.value(name).type == value.type
    for left, right in zip(again.nodes, graph.nodes, strict=True):
        assert left.loc == right.loc
        assert left.origin == right.origin
        assert left.support == right.support
        assert left.request == right.request
        assert (left.device, left.subgraph) == (right.device, right.subgraph)
        assert repr(left.attributes) == repr(right.attributes)
