"""`hqc audit`: what hb_mapper would object to in an ONNX file, whoever wrote it. No torch here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import shape_inference

from hqc.backends.onnx import Finding, audit
from hqc.backends.onnx.audit import OWN_RULES
from hqc.backends.onnx.domain import DOMAIN
from hqc.errors import HqcError
from hqc.frontend.onnx import load_model, lower_onnx, take_scales
from hqc.ir import Device, Graph, Trait
from hqc.march import get_spec
from hqc.workflow.explanation import explain_graph
from hqc.workflow.onnx_call import note_kept
from hqc.workflow.onnx_files import input_shapes
from hqc.workflow.options import CompileOptions

SHOWN = 5
"""Places that are listed of one broken rule."""


@dataclass(frozen=True)
class FileAudit:
    """`findings`: the broken rules, in the order of the rules' table. `file`: as the user named it."""

    file: str
    march: str
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == "error"]

    def __str__(self) -> str:
        lines: list[str] = []
        for rule in dict.fromkeys(finding.rule for finding in self.findings):
            broken = [finding for finding in self.findings if finding.rule == rule]
            lines += map(str, broken[:SHOWN])
            if len(broken) > SHOWN:
                lines.append(f"  and {len(broken) - SHOWN} more of {rule}")
        count = len(self.errors)
        verdict = (
            f"{count} error{'s'[: count != 1]}, {len(self.findings) - count} warning{'s'[: len(self.findings) - count != 1]}"
        )
        return "\n".join([*lines, f"{self.file} on {self.march}: {verdict if self.findings else 'nothing to object to'}"])


def audit_file(path: str, march: str, example_inputs: Any = None) -> FileAudit:
    """Every rule of the exporter's audit on a file.

    Shapes that follow from the file count as stated; `example_inputs` fixes those of inputs. In a float file the rule about
    convolutions on the BPU asks the placement. `InputError` for what is no ONNX file.
    """
    spec = get_spec(march)
    where, model = load_model(path)
    written = any(item.domain == DOMAIN for item in model.opset_import)
    shapes = input_shapes(example_inputs)
    inferred, more = _inferred(model, shapes), list[Finding]()
    if not written:
        try:
            lowered = lower_onnx(model, shapes)
            take_scales(lowered.graph)
            note_kept(lowered.graph, lowered.opaque)
            _state_shapes(inferred, lowered.shapes)
            more += _placement(lowered.graph, march)
        except HqcError as error:
            more.append(Finding("readable", "error", str(error)))
    found = [finding for finding in audit(inferred, spec) if written or finding.rule not in OWN_RULES]
    return FileAudit(where, march, (*found, *more))


def _inferred(model: onnx.ModelProto, shapes: Any) -> onnx.ModelProto:
    """The model with given input shapes and inferred types; as it is where inference fails."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    constants = {item.name for item in fixed.graph.initializer}
    inputs = [item for item in fixed.graph.input if item.name not in constants]
    given = shapes if isinstance(shapes, dict) else dict(zip((item.name for item in inputs), shapes or (), strict=False))
    for item in inputs:
        if item.name in given:
            item.type.tensor_type.shape.ClearField("dim")
            for size in given[item.name]:
                item.type.tensor_type.shape.dim.add().dim_value = size
    if given:  # what the file says of other values may be about other shapes
        fixed.graph.ClearField("value_info")
        for output in fixed.graph.output:
            output.type.tensor_type.ClearField("shape")
    del fixed.graph.input[:]
    fixed.graph.input.extend(inputs)
    try:
        return shape_inference.infer_shapes(fixed, data_prop=True)
    except (shape_inference.InferenceError, ValueError):
        return fixed


def _state_shapes(model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Write the shapes that the front end found into the types of `model`, where those are open."""
    stated = {info.name: info for info in (*model.graph.value_info, *model.graph.output)}
    names = [name for node in model.graph.node for name in node.output if name in shapes]
    for name in names:
        info = stated.get(name)
        if info is None:
            info = model.graph.value_info.add()
            info.name = name
        sizes = info.type.tensor_type.shape.dim
        if not info.type.tensor_type.HasField("shape") or not all(size.HasField("dim_value") for size in sizes):
            info.type.tensor_type.ClearField("shape")
            info.type.tensor_type.shape.SetInParent()
            for size in shapes[name]:
                info.type.tensor_type.shape.dim.add().dim_value = size


def _placement(graph: Graph, march: str) -> Iterator[Finding]:
    """What only the plan of the file tells: operators that no file of opset 11 has, and whether anything runs on the chip."""
    explained = explain_graph(graph, CompileOptions(march)).graph
    for node in explained.nodes:
        if node.op.has(Trait.OPAQUE) and node.attributes["unwritable"]:
            yield Finding("operator", "error", str(node.attributes["unwritable"]))
    if not any(node.op.has(Trait.CONV_LIKE) and node.device is Device.BPU for node in explained.nodes):
        yield Finding("bpu-conv", "warning", "no convolution of the model runs on the BPU, hb_mapper needs at least one")
