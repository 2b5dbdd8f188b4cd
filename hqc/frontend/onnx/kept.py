"""ONNX nodes that the IR has no operation for: the node as it stands in the file, with the constants it reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from hqc.checked import explained
from hqc.ir import TensorType

Array = npt.NDArray[Any]


@explained
@dataclass(frozen=True)
class KeptNode:
    """`node`: as in the file. `opsets`: domain to version. `inputs`: the names it reads that are computed, those that its subgraphs
    read from outside included; `constants`: the others, by name. `where`: the file. `parts`: what several nodes do that are one operation
    (the layers of a recurrent network), on names of their own, with `results` the names of what they make."""

    node: onnx.NodeProto
    opsets: Mapping[str, int]
    inputs: tuple[str, ...]
    constants: Mapping[str, Array] = field(default_factory=dict)
    where: str = ""
    parts: tuple[onnx.NodeProto, ...] = ()
    results: tuple[str, ...] = ()

    @property
    def nodes(self) -> tuple[onnx.NodeProto, ...]:
        """What it computes, node by node."""
        return self.parts or (self.node,)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the results that the node has."""
        return self.results or tuple(name for name in self.node.output if name)

    def model(self, arrays: Mapping[str, Array], opset: int | None = None) -> onnx.ModelProto:
        """The one node as a model for inputs of these shapes and types, constants inside; `opset`: the version it claims to be of."""
        return self._model({name: (array.dtype, array.shape) for name, array in arrays.items()}, opset)

    def typed_model(self, types: Mapping[str, TensorType]) -> onnx.ModelProto:
        """The same for inputs of types that are known whole."""
        return self._model({name: (type.dtype.numpy, type.shape or ()) for name, type in types.items()})

    def _model(self, given: Mapping[str, tuple[Any, Sequence[int | None]]], opset: int | None = None) -> onnx.ModelProto:
        inputs = [
            onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)
            for name, (dtype, shape) in given.items()
        ]
        outputs = [onnx.helper.make_empty_tensor_value_info(name) for name in self.outputs]
        graph = onnx.helper.make_graph(self.nodes, "kept", inputs, outputs)
        for name, array in self.constants.items():
            graph.initializer.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        opsets = {**self.opsets, **({} if opset is None else {"": opset})}
        imports = [onnx.helper.make_opsetid(domain, version) for domain, version in opsets.items()]
        return onnx.helper.make_model(
            graph, opset_imports=imports, ir_version=onnx.helper.find_min_ir_version_for(imports, True)
        )


def names_read(node: onnx.NodeProto) -> list[str]:
    """The names that a node reads, with those that its subgraphs read from outside themselves; each once, in order."""
    found = dict.fromkeys(name for name in node.input if name)
    for graph in _subgraphs(node):
        found.update(dict.fromkeys(_captured(graph)))
    return list(found)


def _subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            yield from attribute.graphs


def _captured(graph: onnx.GraphProto) -> Iterator[str]:
    made = {item.name for item in (*graph.input, *graph.initializer)}
    for node in graph.node:
        yield from (name for name in names_read(node) if name not in made)
        made.update(node.output)
    yield from (item.name for item in graph.output if item.name not in made)
