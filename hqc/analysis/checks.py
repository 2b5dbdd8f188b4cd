"""`check`: what is known to cost accuracy or speed in a compiled model, found without training or measuring."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.table import Table
from rich.text import Text

from hqc.analysis.compare.operations import Operation, operations_of
from hqc.analysis.compare.outputs import STYLE
from hqc.checked import checked
from hqc.ir import Device, Graph, Node, Trait, Value
from hqc.passes.fuse_conv import activation_kind
from hqc.passes.node_facts import on_bpu
from hqc.quantization.fake_quantize import FakeQuantizeBase, fake_quants
from hqc.quantization.switches import quantizing
from hqc.workflow.calibration import batches_of
from hqc.workflow.compile import Compiled
from hqc.workflow.runs import Run

RATIO = 2.0
"""Scales of operands that differ more lose a bit and more."""


@dataclass(frozen=True)
class Finding:
    """`kind`: which check. `where`: the operation, by its module path or name. `message`: what is so; `advice`: what to do."""

    kind: str
    where: str
    message: str
    advice: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}; {self.advice}"


@dataclass(frozen=True)
class Setting:
    """How one operation's result is quantized. `observer`: class name; empty on the CPU and at high precision."""

    where: str
    op: str
    device: str
    dtype: str
    scale: float | None
    rounding: str
    observer: str
    weight_observer: str


@dataclass(frozen=True)
class CheckReport:
    """`findings` in the order of the checks; `settings` in program order."""

    findings: tuple[Finding, ...]
    settings: tuple[Setting, ...]

    def of(self, kind: str) -> list[Finding]:
        return [each for each in self.findings if each.kind == kind]

    def table(self) -> Table:
        """The findings."""
        table = Table(title="What may cost accuracy or speed" if self.findings else "Nothing found", **STYLE)
        for title in ("check", "operation", "what is so, and what to do"):
            table.add_column(title, overflow="fold", no_wrap=title == "check")
        for each in self.findings:
            table.add_row(each.kind, Text(each.where), Text(each.message).append(f"\n> {each.advice}", style="green"))
        return table

    def settings_table(self) -> Table:
        """What is in force, operation by operation."""
        table = Table(title="Quantization in force", padding=0, **STYLE)
        for title in ("operation", "op", "device", "dtype", "scale", "rounding", "observer", "weights"):
            table.add_column(title, overflow="fold")
        for row in self.settings:
            scale = "" if row.scale is None else f"{row.scale:.4g}"
            table.add_row(
                Text(row.where), row.op, row.device, row.dtype, scale, row.rounding, row.observer, row.weight_observer
            )
        return table

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"findings": [asdict(each) for each in self.findings], "settings": [asdict(each) for each in self.settings]}


@checked
def check(compiled: Compiled, data: Iterable[Any] | None = None) -> CheckReport:
    """Look a compiled model over. `data`: batches, as for calibration, for the check of constant activations; default: the samples that
    `compiled` kept."""
    graph = compiled.graph
    operations = operations_of(compiled.prepared, graph)
    findings = [
        *unfused(graph),
        *shared_modules(graph),
        *unequal_operands(graph),
        *beyond_scales(compiled),
        *constant_values(compiled, operations, data),
        *unusual_outputs(graph),
        *channels_last_inputs(graph),
    ]
    return CheckReport(tuple(findings), tuple(_setting(each) for each in operations))


def _setting(operation: Operation) -> Setting:
    quant, fake_quant = operation.quant, operation.activation
    return Setting(
        operation.name.where,
        operation.name.op,
        operation.name.device,
        "" if quant is None else quant.dtype.numpy.name,
        None if quant is None or quant.per_channel else float(quant.scale),
        "" if quant is None else quant.rounding,
        "" if fake_quant is None else type(fake_quant.activation_post_process).__name__,
        ", ".join(dict.fromkeys(type(each.activation_post_process).__name__ for each in operation.weights)),
    )


def _where(node: Node) -> str:
    return node.loc.module or node.name


def unfused(graph: Graph) -> Iterator[Finding]:
    """An activation, an addition or a batch norm that no convolution took in, with the reason."""
    for node in graph.nodes:
        joins = node.op.has(Trait.SUM) or (node.op.has(Trait.ACTIVATION) and activation_kind(node) is not None)
        if not (joins or node.op.name == "batch_norm"):
            continue
        makers = [value.producer for value in node.data_operands if value.producer is not None]
        convs = [maker for maker in makers if maker.op.has(Trait.CONV_LIKE)]
        reasons = [reason for conv in convs if (reason := _why_apart(graph, conv, node))]
        if convs and len(reasons) == len(convs):
            advice = "write it so that the convolution's result has this one reader, or leave it: it costs one rounding more"
            yield Finding("unfused", _where(node), f"{node.op.name} is not fused into {_where(convs[0])}: {reasons[0]}", advice)


def _why_apart(graph: Graph, conv: Node, node: Node) -> str:
    value = conv.result
    readers = len(value.uses)
    if readers > 1:
        return f"its result has {readers} readers"
    if graph.is_output(value):
        return "its result is an output of the model"
    if conv.device is not node.device:
        names = [("CPU" if each.device is Device.CPU else "BPU") for each in (conv, node)]
        return f"one runs on the {names[0]}, the other on the {names[1]}"
    if conv.attributes["activation"] != "none":
        return f"it ends with {conv.attributes['activation']} already"
    if node.op.has(Trait.SUM) and len({operand.shape for operand in node.data_operands}) > 1:
        return "the operands of the addition have different shapes"
    return "a scale of its own was observed between them, or overrides differ"


def shared_modules(graph: Graph) -> Iterator[Finding]:
    """Weights that several operations read: one scale per channel must serve all calls."""
    readers: dict[str, list[Node]] = {}
    for node in graph.nodes:
        weight = node.operand("weight") if node.op.has(Trait.CONV_LIKE) else None
        if weight is not None and weight.is_parameter:
            readers.setdefault(weight.name, []).append(node)
    for name, nodes in readers.items():
        if len(nodes) > 1:
            message = f"{name} is used by {len(nodes)} operations ({', '.join(node.name for node in nodes)})"
            yield Finding(
                "shared module",
                _where(nodes[0]),
                message,
                "give each call a copy where their inputs differ: hqc.split_shared(model), or --split-shared",
            )


def unequal_operands(graph: Graph) -> Iterator[Finding]:
    """Operands of cats and additions whose scales differ, with the bits that the finer one loses."""
    for node in graph.nodes:
        if not on_bpu(node) or not (node.op.has(Trait.SAME_SCALE) or node.op.has(Trait.SUM)):
            continue
        scaled = [(scale, value) for value in node.data_operands if (scale := _scale(value)) is not None]
        if len(scaled) < 2:
            continue
        low, high = min(scaled, key=lambda item: item[0]), max(scaled, key=lambda item: item[0])
        if high[0] > RATIO * low[0]:
            bits = math.log2(high[0] / low[0])
            message = (
                f"operands of {node.op.name} have scales that differ {high[0] / low[0]:.3g}x ({low[1].name} {low[0]:.4g}, "
                f"{high[1].name} {high[0]:.4g}): {low[1].name} loses up to {bits:.1f} bits"
            )
            advice = "let the operands have like ranges, give the result int16 (bayes and later), or try hqc tune"
            yield Finding("unequal scales", _where(node), message, advice)


def _scale(value: Value) -> float | None:
    """The one scale of an activation."""
    quant = value.quant
    return None if quant is None or quant.per_channel or value.is_parameter else float(quant.scale)


def beyond_scales(compiled: Compiled) -> Iterator[Finding]:
    """Ranges that no scale of the march covers."""
    if not compiled.options.spec.power_of_two:
        return
    for name, fake_quant in fake_quants(compiled.prepared):
        observer = fake_quant.activation_post_process
        if not observer.calibrated or fake_quant.ch_axis >= 0:
            continue
        largest = _largest(fake_quant)
        reach = 0.5 * ((1 << (fake_quant.bits - 1)) - 0.5)
        if largest > reach:
            message = f"values reach {largest:.4g}, and the largest scale of {compiled.march} (2^-1) holds {reach:.4g}: they are clipped"
            yield Finding(
                "range too wide", fake_quant.name or name, message, "normalize the value in the model, or place it on the CPU"
            )


def _largest(fake_quant: FakeQuantizeBase) -> float:
    """The largest magnitude that was seen, or what the scale covers where that is not kept."""
    buffers = dict(fake_quant.activation_post_process.named_buffers())
    seen = [float(buffers[name].abs().max()) for name in ("min_val", "max_val") if name in buffers and buffers[name].numel()]
    return max(seen, default=0.0)


def constant_values(compiled: Compiled, operations: list[Operation], data: Iterable[Any] | None) -> Iterator[Finding]:
    """Results that are zero, or one number, in all data: dead layers, or data that says nothing."""
    batches = list(batches_of(compiled.prepared, compiled.samples if data is None else data))
    ranges: dict[str, tuple[float, float]] = {}
    for batch in batches:
        with quantizing(compiled.prepared, ()):
            run = Run(compiled.prepared, batch)
        for operation in operations:
            value = run.values[operation.value]
            if isinstance(value, torch.Tensor) and value.is_floating_point() and value.numel() > 1:
                low, high = ranges.get(operation.name.name, (math.inf, -math.inf))
                ranges[operation.name.name] = min(low, float(value.min())), max(high, float(value.max()))
    for operation in operations:
        low, high = ranges.get(operation.name.name, (0.0, 1.0))
        if low == high:
            what = "all zero" if low == 0 else f"always {low:.6g}"
            advice = "look at the calibration data, and at what comes before: a dead layer needs no operation"
            yield Finding(
                "constant activation", operation.name.where, f"its result is {what} on {len(batches)} batches", advice
            )


def unusual_outputs(graph: Graph) -> Iterator[Finding]:
    """Outputs of rank 5 and more, and decoding behind the last layer."""
    for name, value in zip(graph.output_names, graph.outputs, strict=True):
        if (value.type.rank or 0) > 4:
            message = f"the output {name} has rank {value.type.rank}"
            yield Finding("output rank", name, message, "hb_mapper takes at most 4 axes: return it before the last reshape")
    nodes = list(graph.nodes)
    layers = [index for index, node in enumerate(nodes) if node.op.has(Trait.CONV_LIKE) and on_bpu(node)]
    behind = nodes[layers[-1] + 1 :] if layers else []
    tail = [node for node in behind if node.device is Device.CPU and not node.op.has(Trait.BOUNDARY)]
    if len(tail) >= 5:
        message = (
            f"{len(tail)} operations on the CPU behind the last layer ({', '.join(dict.fromkeys(n.op.name for n in tail))})"
        )
        advice = "decoding and NMS belong behind the model: return the layers' results and decode them in your program"
        yield Finding("decoding inside", _where(tail[0]), message, advice)


def channels_last_inputs(graph: Graph) -> Iterator[Finding]:
    """Inputs that look like NHWC."""
    for value in graph.inputs:
        shape = value.shape or ()
        if len(shape) == 4 and shape[3] in (1, 3, 4) and shape[1] not in (1, 3, 4) and shape[1] > 4:
            message = (
                f"the input {value.name} has shape {list(shape)}, which looks like NHWC; the model takes axis 1 for channels"
            )
            yield Finding("layout", value.name, message, "give example inputs as [N,C,H,W]")
