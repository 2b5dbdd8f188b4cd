"""What hb_mapper demands of a file, checked on the file itself: each rule with its own message."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import onnx

from hqc.backends.onnx.domain import DEQUANTIZE, DOMAIN, base_op
from hqc.checked import checked, explained
from hqc.march import MarchSpec

MAX_IR_VERSION = 7
OPSETS = (10, 11)
MAX_OUTPUTS = 32
_BATCH_1_CHIP = "X3"
Severity = Literal["error", "warning"]
OWN_RULES = ("bpu-conv",)
"""Rules that only a file with fake quantizations can be asked; of a float file the placement tells."""
_CONVOLUTIONS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@explained
@dataclass(frozen=True)
class Finding:
    """A broken rule. An `error` makes the file unreadable for hb_mapper; a `warning` may be meant (a model for another tool)."""

    rule: str
    severity: Severity
    message: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.message} [{self.rule}]"


Check = Callable[[onnx.ModelProto, "MarchSpec | None"], Iterator[str]]


@dataclass(frozen=True)
class AuditRule:
    """A rule of the table. `statement`: what must hold, as docs/onnx.md shows it; `check` yields a message per broken place."""

    name: str
    severity: Severity
    statement: str
    check: Check


RULES: list[AuditRule] = []


def _rule(name: str, severity: Severity) -> Callable[[Check], Check]:
    def register(check: Check) -> Check:
        RULES.append(AuditRule(name, severity, (check.__doc__ or "").strip().rstrip("."), check))
        return check

    return register


@checked
def audit(model: onnx.ModelProto, march: MarchSpec | None = None) -> list[Finding]:
    """Every rule that `model` breaks, in the order of the rules; `march` decides the rules that depend on the chip."""
    return [Finding(rule.name, rule.severity, message) for rule in RULES for message in rule.check(model, march)]


def dimensions(info: onnx.ValueInfoProto) -> list[int]:
    """Sizes of a value; 0 stands for one that is not static."""
    return [dim.dim_value if dim.HasField("dim_value") else 0 for dim in info.type.tensor_type.shape.dim]


@_rule("opset", "error")
def _opset(model: onnx.ModelProto, march: MarchSpec | None) -> Iterator[str]:
    """The opset is 10 or 11."""
    version = next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), None)
    if version not in OPSETS:
        yield f"the file uses opset {version}, hb_mapper reads opset 10 and 11"


@_rule("ir-version", "error")
def _ir_version(model: onnx.ModelProto, march: MarchSpec | None) -> Iterator[str]:
    """The IR version is at most 7."""
    if model.ir_version > MAX_IR_VERSION:
        yield f"the file has IR version {model.ir_version}, hb_mapper reads up to {MAX_IR_VERSION}"


@_rule("domain", "error")
def _domain(model: onnx.ModelProto, march: MarchSpec | None) -> Iterator[str]:
    """Every node is of the default domain or of `horizon`."""
    foreign = sorted({node.domain for node in model.graph.node} - {"", "ai.onnx", DOMAIN})
    if foreign:
        yield f"nodes of the domains {', '.join(foreign)} are in the file, hb_mapper knows the default one and {DOMAIN}"


@_rule("static-shapes", "error")
def _static(model: onnx.ModelProto, march: MarchSpec | None) -> Iterator[str]:
    """Every shape is static."""
    for info in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        if not info.type.tensor_type.HasField("shape") or any(
            not dim.HasField("dim_value") for dim in info.type.tensor_type.shape.dim
        ):
            yield f"the shape of {info.name} is not static"


@_rule("value-info", "error")
def _value_info(model: onnx.ModelProto, march: MarchSpec | None) -> Iterator[str]:
    """Every value has a type."""
    known = {info.name for info in (*model.graph.input, *model.graph.output, *model.graph.value_info)}
    for node in model.graph.node:
        for name in node.output:
            if name and name not in known:
                yield f"the file states no type for {name}"


@_rule("zero-size", "error")
def _zero_size(model: onnx.ModelProto, march: MarchSpec | None) -> Iterator[str]:
    """No input or output is empty."""
    for info in (*model.graph.input, *model.graph.output):
        if 0 in dimensions(info):
            yield f"{info.name} has no elements: shape {dimensions(info)}"


@_rule("input-rank", "warning")
def _input_rank(model: onnx.ModelProto, march: MarchSpec | None) -> Iterator[str]:
    """On X3 inputs have four dimensions."""
    for info in model.graph.input:
        if _is_x3(march) and len(dimensions(info)) != 4:
            yield f"input {info.name} has shape {dimensions(info)}; on {_BATCH_1_CHIP} hb_mapper takes 4-D inputs only"


@_rule("input-batch", "warning")
def _input_batch(model: onnx.ModelProto, march: MarchSpec | None) -> Iterator[str]:
    """On X3 the batch is 1."""
    for info in model.graph.input:
        shape = dimensions(info)
        if _is_x3(march) and shape and shape[0] != 1:
            yield f"input {info.name} has batch {shape[0]}; on {_BATCH_1_CHIP} hb_mapper takes batch 1, export with one example"


def _is_x3(march: MarchSpec | None) -> bool:
    return march is not None and _BATCH_1_CHIP in march.chips


@_rule("output-count", "warning")
def _output_count(model: onnx.ModelProto, march: MarchSpec | None) -> Iterator[str]:
    """There are at most 32 outputs."""
    count = len(model.graph.output)
    if count > MAX_OUTPUTS:
        yield f"the model has {count} outputs, hb_mapper takes at most {MAX_OUTPUTS}; concatenate some"


@_rule("bpu-conv", "warning")
def _bpu_conv(model: onnx.ModelProto, march: MarchSpec | None) -> Iterator[str]:
    """At least one convolution or linear layer runs on the BPU."""
    # Only those have a quantized weight; a linear layer may transpose it first.
    quantized = {name for node in model.graph.node if base_op(node.op_type) == DEQUANTIZE for name in node.output}
    for node in model.graph.node:
        if node.op_type == "Transpose" and node.input[0] in quantized:
            quantized.update(node.output)
    layers = (node for node in model.graph.node if node.op_type in _CONVOLUTIONS and not node.domain)
    if not any(node.input[1] in quantized for node in layers):
        yield "no convolution of the model runs on the BPU, hb_mapper needs at least one"
