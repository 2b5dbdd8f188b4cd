"""What the passes that deal with quantization ask about nodes and values."""

from __future__ import annotations

from hqc.ir import Device, Node, Trait, Value


def on_bpu(node: Node) -> bool:
    """True for nodes that compute on the BPU; boundary ops belong to neither side."""
    return node.device is Device.BPU and not node.op.has(Trait.BOUNDARY)


def on_cpu(node: Node) -> bool:
    """True for nodes that compute on the CPU."""
    return node.device is not Device.BPU and not node.op.has(Trait.BOUNDARY)


def is_quantize(node: Node | None) -> bool:
    return node is not None and node.op.name == "quantize"


def is_dequantize(node: Node | None) -> bool:
    return node is not None and node.op.name == "dequantize"


def is_conv_like(node: Node) -> bool:
    """True for multiply-accumulate nodes on the BPU, before the integer stage."""
    return on_bpu(node) and node.op.has(Trait.CONV_LIKE)


def is_real(value: Value | None) -> bool:
    """True for values that a scale can describe: indices and truth values have none, and integers are on a grid already."""
    return value is not None and value.type.dtype.is_float


def on_grid_side(value: Value) -> bool:
    """True for values that exist as integers in the deployed model: results of BPU nodes and of quantize."""
    return value.producer is not None and (on_bpu(value.producer) or is_quantize(value.producer))
