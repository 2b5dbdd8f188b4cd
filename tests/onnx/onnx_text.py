"""A compact printer of models, for structure tests: one node a line, destination first, as IR text reads."""

from __future__ import annotations

from typing import Any

import onnx
from onnx import helper

from hqc.ir import Graph, parse
from hqc.march import get_spec
from hqc.passes import PassContext
from hqc.passes.settle_rounding import SettleRounding


def scaled(text: str, march: str = "bayes") -> Graph:
    """The scaled graph of the lines between the braces, its roundings settled as the pipelines leave them."""
    graph = parse(f"graph @g march={march} stage=scaled {{\n{text}\n}}")
    SettleRounding().run(graph, PassContext(get_spec(march)))
    return graph


def _attribute(attribute: onnx.AttributeProto) -> str:
    value: Any = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        value = value.decode()
    return f"{attribute.name}={value}".replace(" ", "")


def node_line(node: onnx.NodeProto) -> str:
    op = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    attributes = " {" + ", ".join(map(_attribute, node.attribute)) + "}" if node.attribute else ""
    return f"{', '.join(node.output)} = {op}({', '.join(name or 'none' for name in node.input)}){attributes}"


def _value(info: onnx.ValueInfoProto) -> str:
    tensor = info.type.tensor_type
    kind = helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    return f"{info.name}: {kind}[{','.join(str(dim.dim_value) for dim in tensor.shape.dim)}]"


def model_text(model: onnx.ModelProto) -> str:
    """Inputs, nodes, outputs and functions; constants only by their names in the nodes."""
    lines = [f"input {_value(info)}" for info in model.graph.input]
    lines += [node_line(node) for node in model.graph.node]
    lines += [f"output {_value(info)}" for info in model.graph.output]
    for function in model.functions:
        lines.append(f"function {function.domain}.{function.name}({', '.join(function.input)})")
        lines += [f"  {node_line(node)}" for node in function.node if node.op_type != "Constant"]
    return "\n".join(lines)
