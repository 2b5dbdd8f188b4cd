"""Quantized ONNX files (QDQ pairs, QLinear operators) compiled with the scales that they bring. No torch and no calibration here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from hqc import arithmetic
from hqc.errors import QuantizationError
from hqc.frontend.onnx import FileScales, LoweredOnnx, take_scales
from hqc.ir import Device, Graph, Node, QuantParams, Trait, Value
from hqc.march.spec import MarchSpec
from hqc.passes.base import Pass, PassContext, PassResult, Remark
from hqc.passes.conv_scales import weight_axis
from hqc.passes.node_facts import is_quantize, on_bpu
from hqc.passes.overrides import Override
from hqc.passes.plan import Plan
from hqc.passes.propagate_scales import MissingScaleError
from hqc.workflow.loaded import LoadedModel
from hqc.workflow.onnx_call import OnnxCall, note_kept
from hqc.workflow.options import CompileOptions, Edit
from hqc.workflow.pipelines import deploy_pipeline, integer_pipeline, prepare_pipeline
from hqc.workflow.saved import SavedModel, TensorRef, encoded, opaque_nodes, write_model


def compile_quantized(lowered: LoweredOnnx, options: CompileOptions, *, dump_dir: Path | None = None) -> LoadedModel:
    """The compiled model of a lowered file whose activations are quantized; the file's graph becomes a float one.

    Planned like the float model behind it; each value that the plan observes has the file's scale, weights keep theirs. What the BPU
    could run only with a scale that the file does not bring runs on the CPU, in float as in the file; without CPU fallback that is
    an error (`QuantizationError`).
    """
    found = take_scales(lowered.graph)
    calls = note_kept(lowered.graph, lowered.opaque)
    lowered.graph.march = options.march
    weights, said = usable_weights(lowered.graph, found.weights, options.spec)
    remarks = [Remark("onnx", sentence) for sentence in lowered.warnings] + said
    scales = FileScales(usable_scales(found.values, options.spec), weights)
    options, graph, integer, said = _settled(lowered.graph, scales, options, dump_dir)
    remarks += said
    outputs = tuple(TensorRef(index) for index in range(len(graph.outputs)))
    saved = SavedModel(
        graph,
        integer,
        inputs=encoded(tuple(TensorRef(index) for index in range(len(graph.inputs)))),
        input_names=tuple(value.name for value in graph.inputs),
        outputs=encoded(outputs[0] if len(outputs) == 1 else outputs),
        remarks=remarks,
    )
    return FileModel(saved, calls)


def placed_by_scales(graph: Graph, found: FileScales, options: CompileOptions) -> tuple[CompileOptions, list[Remark]]:
    """The options with which a quantized file is compiled (what it brings no scale for is placed on the CPU), and why: what `explain`
    shows. `graph`: its float graph, left as it is; `found`: the scales that were taken out of it.
    """
    model = graph.clone()
    model.march = options.march
    weights, _ = usable_weights(model, found.weights, options.spec)
    settled, _, _, remarks = _settled(model, FileScales(usable_scales(found.values, options.spec), weights), options, None)
    return settled, [remark for remark in remarks if remark.pass_name == "onnx"]


def _settled(
    model: Graph, scales: FileScales, options: CompileOptions, dump_dir: Path | None
) -> tuple[CompileOptions, Graph, Graph, list[Remark]]:
    """The options with which every value on the BPU has a scale, and the scaled and the integer graph by them."""
    remarks: list[Remark] = []
    while True:
        planned = model.clone()
        report = prepare_pipeline(options).run(planned, options.context(), dump_dir=_folder(dump_dir, "prepare"))
        try:
            graph, integer, more = _deployed(model, planned, scales, options, dump_dir)
            return options, graph, integer, [*remarks, *report.remarks, *more]
        except MissingScaleError as error:
            options, said = _left_to_the_cpu(planned, options, error)
            remarks += said


def _deployed(
    model: Graph, planned: Graph, scales: FileScales, options: CompileOptions, dump_dir: Path | None
) -> tuple[Graph, Graph, list[Remark]]:
    """The scaled and the integer graph of `model` with the devices of `planned`."""
    graph = model.clone()
    for name, quant in _given(planned, scales.values, options.spec).items():
        if name in graph.values:
            graph.value(name).quant = quant
    context = options.context(plan=Plan.from_graph(planned))
    with_weights = Edit(_GiveWeightScales(scales.weights), after="fuse-conv", pipeline="deploy")
    options = replace(options, edits=(with_weights, *options.edits))
    remarks = list(deploy_pipeline(options).run(graph, context, dump_dir=_folder(dump_dir, "deploy")).remarks)
    integer = graph.clone()
    remarks += integer_pipeline(options).run(integer, context, dump_dir=_folder(dump_dir, "integer")).remarks
    return graph, integer, remarks


def _left_to_the_cpu(planned: Graph, options: CompileOptions, error: MissingScaleError) -> tuple[CompileOptions, list[Remark]]:
    """The options with what makes (or reads, behind a boundary) the values without a scale placed on the CPU."""
    moved: dict[str, str] = {}
    for name in error.names:
        value = planned.values.get(name)
        makers = [] if value is None or value.producer is None else [value.producer]
        if not makers or is_quantize(makers[0]):  # the deployed graph has its own quantize nodes
            source = planned.values.get(name.removesuffix("_quantize"))
            readers = makers[0].results[0].users if makers else ()
            makers = [*readers, *_readers_on_bpu(source)]
        else:
            makers = _behind_convolution(makers[0]) or makers
        for node in makers:
            moved.setdefault(node.origin[-1] if node.origin else node.name, node.label)
    if not options.hybrid or not moved:
        raise QuantizationError(f"{error}; the file brings no scale for it: quantize it in the file, or give calibration_data")
    entries = tuple(Override(Device.CPU, "node_name", name) for name in moved)
    said = [
        Remark("onnx", f"{label} runs on the CPU, in float as in the file, which brings no scale for it")
        for label in moved.values()
    ]
    return replace(options, overrides=(*options.overrides, *entries)), said


def _behind_convolution(node: Node) -> list[Node]:
    """What reads a convolution on the BPU: with that on the CPU the convolution needs no scale, its sums leave the BPU as they are.

    So it is in files with quantized inputs of layers alone (NNCF's, TensorRT's): what stands between two layers is in float there.
    """
    return _readers_on_bpu(node.result) if node.op.has(Trait.CONV_LIKE) and on_bpu(node) else []


def _readers_on_bpu(value: Value | None) -> list[Node]:
    """The BPU nodes that read a value, perhaps behind a boundary."""
    if value is None:
        return []
    direct = [node for node in value.users if on_bpu(node)]
    return direct + [node for user in value.users if is_quantize(user) for node in user.result.users if on_bpu(node)]


class FileModel(LoadedModel):
    """A compiled model made from a file alone. `calls`: its operations that stay ONNX nodes, by id."""

    def __init__(self, saved: SavedModel, calls: Mapping[str, OnnxCall]) -> None:
        super().__init__(replace(saved, forms={node.name: b"" for node in opaque_nodes(saved.scaled)}))
        self._calls = calls
        self.deployment.opaque = calls

    def __getstate__(self) -> dict[str, Any]:
        return {"saved": self._saved, "calls": self._calls}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["saved"], state["calls"])  # type: ignore[misc]

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the model to one file; `ExportError` names an operation that has no form in standard operations."""
        nodes = opaque_nodes(self.graph)
        forms = {node.name: self._calls[str(node.attributes["id"])].form(node).SerializeToString() for node in nodes}
        return write_model(replace(self._saved, forms=forms), path)


# --- scales -------------------------------------------------------------------------------------------------------------------


def usable_scales(scales: Mapping[str, QuantParams], march: MarchSpec) -> dict[str, QuantParams]:
    """The file's scales as the march takes them: powers of two where it has no others."""
    if not march.power_of_two:
        return dict(scales)
    return {name: quant.replace(scale=arithmetic.power_of_two_scale(quant.scale)) for name, quant in scales.items()}


def _given(planned: Graph, scales: Mapping[str, QuantParams], march: MarchSpec) -> dict[str, QuantParams]:
    """The values that take the scale of the file: those that the plan observes, in its rounding, and what keeps their scale."""
    found: dict[str, QuantParams] = {}
    for node in planned.nodes:
        for value in node.results:
            seen = value.observation
            name = node.operands[0].name if is_quantize(node) else value.name
            if name not in scales:
                continue
            if seen is not None:
                found[name] = scales[name].replace(rounding=seen.rounding)
            elif on_bpu(node) and march.keeps_scale(node):
                found[name] = scales[name]
    return found


def usable_weights(
    graph: Graph, weights: Mapping[str, QuantParams], march: MarchSpec
) -> tuple[dict[str, QuantParams], list[Remark]]:
    """The scales of weights that the march can use, and a remark for each other: those are found again from the weights' ranges."""
    found, remarks = {}, []
    for node in graph.nodes:
        weight = node.operand("weight") if node.op.has(Trait.CONV_LIKE) else None
        quant = None if weight is None else weights.get(weight.name)
        if weight is None or quant is None:
            continue
        if quant.axis not in (None, weight_axis(node)):
            why = f"its scales lie along axis {quant.axis}, the chip's along the output channels (axis {weight_axis(node)})"
        elif march.power_of_two and not arithmetic.is_power_of_two(quant.scale):
            why = f"{march.name} needs powers of two"
        else:
            found[weight.name] = quant
            continue
        remarks.append(Remark("onnx", f"the weight {weight.name} gets new scales: {why}", node.name))
    return found, remarks


@dataclass(frozen=True)
class _GiveWeightScales(Pass):
    """Weights get the scales of the file, once layers are fused: a weight with a scale is one of a layer that is complete."""

    name: ClassVar[str] = "give-weight-scales"
    weights: Mapping[str, QuantParams] = field(default_factory=dict)

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        given = [value for name, value in graph.parameters.items() if name in self.weights and value.quant is None]
        for value in given:
            value.quant = self.weights[value.name]
        return PassResult(bool(given))


def _folder(dump_dir: Path | None, name: str) -> Path | None:
    return None if dump_dir is None else dump_dir / name
