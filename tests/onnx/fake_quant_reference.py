"""A scaled graph evaluated with torch's float ops and `hqc.arithmetic`: what the `runnable` and `qdq` files must compute.

Written against docs/architecture.md and docs/arithmetic.md, sharing no code with the back end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from hqc import arithmetic
from hqc.ir import Device, DType, Graph, Node
from hqc.march import get_spec

Array = np.ndarray[Any, Any]
Op = Callable[..., torch.Tensor]


def _finish(y: torch.Tensor, node: Node, residual: torch.Tensor | None) -> torch.Tensor:
    y = y if residual is None else y + residual
    return {"none": lambda v: v, "relu": F.relu, "relu6": F.relu6}[node.attributes["activation"]](y)


def _conv(node: Node, x: Any, w: Any, b: Any = None, r: Any = None) -> torch.Tensor:
    a = node.attributes
    top, left, bottom, right = a["padding"]
    return _finish(F.conv2d(F.pad(x, (left, right, top, bottom)), w, b, a["stride"], 0, a["dilation"], a["groups"]), node, r)


def _linear(node: Node, x: Any, w: Any, b: Any = None, r: Any = None) -> torch.Tensor:
    return _finish(F.linear(x, w, b), node, r)


def _resize(node: Node, x: Any) -> torch.Tensor:
    mode = node.attributes["mode"]
    return F.interpolate(x, node.attributes["size"], mode=mode, align_corners=None if mode == "nearest" else False)


OPS: dict[str, Op] = {
    "conv2d": _conv,
    "linear": _linear,
    "resize2d": _resize,
    "add": lambda n, a, b: a + b,
    "sub": lambda n, a, b: a - b,
    "mul": lambda n, a, b: a * b,
    "relu": lambda n, x: F.relu(x),
    "clamp": lambda n, x: x.clamp(n.attributes["min"], n.attributes["max"]),
    "sigmoid": lambda n, x: torch.sigmoid(x),
    "silu": lambda n, x: F.silu(x),
    "selu": lambda n, x: F.selu(x),
    "max_pool2d": lambda n, x: F.max_pool2d(x, n.attributes["kernel"], n.attributes["stride"]),
    "avg_pool2d": lambda n, x: F.avg_pool2d(x, n.attributes["kernel"], n.attributes["stride"]),
    "gain_pool2d": lambda n, x: F.avg_pool2d(x, n.attributes["kernel"], n.attributes["stride"]),
    "reshape": lambda n, x: x.reshape(n.results[0].shape),
    "cat": lambda n, *xs: torch.cat(xs, n.attributes["axis"]),
}
KEEPS_SCALE = {"relu", "clamp", "max_pool2d", "reshape", "resize2d"}


def evaluate(graph: Graph, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs by user-visible name."""
    march = get_spec(graph.march or "bayes")
    values: dict[str, torch.Tensor] = {name: torch.from_numpy(array) for name, array in inputs.items()}

    def fake_quant(x: torch.Tensor, quant: Any, rounding: str) -> torch.Tensor:
        bits = quant.dtype.bits
        if rounding == "off_grid":
            q = arithmetic.quantize_off_grid(x.numpy(), quant.scale, bits)
        else:
            q = arithmetic.quantize(x.numpy(), quant.scale, bits, rounding, quant.axis)
        return torch.from_numpy(arithmetic.dequantize(q, quant.scale, quant.axis))

    def read(node: Node, value: Any) -> torch.Tensor | None:
        if value is None or not value.is_parameter:
            return None if value is None else values[value.name]
        x = torch.from_numpy(value.array)
        if value.quant is not None and node.device is Device.BPU:
            return fake_quant(x, value.quant, "half_even")
        if (
            node.op.name in ("conv2d", "linear")
            and value is node.operand("bias")
            and march.int8_bias
            and node.device is Device.BPU
        ):
            scale = np.float32(arithmetic.bernoulli_bias_scale(value.array))
            return torch.from_numpy(arithmetic.dequantize(arithmetic.quantize(value.array, scale), scale))
        return x

    for node in graph.nodes:
        operands = [read(node, value) for value in node.inputs]
        quant = node.results[0].quant
        if node.op.name == "dequantize":
            values[node.name] = operands[0]  # type: ignore[assignment]
            continue
        if node.op.name in ("quantize", "requantize"):
            values[node.name] = fake_quant(operands[0], quant, march.rounding)  # type: ignore[arg-type]
            continue
        y = OPS[node.op.name](node, *operands)
        on_bpu = node.device is Device.BPU
        gained = node.op.name == "gain_pool2d"
        if gained:
            count = node.attributes["kernel"][0] * node.attributes["kernel"][1]
            y = y * np.float32(count * (512 // count) / 512)
        if on_bpu and quant is not None and quant.dtype is not DType.INT32:
            kept = (node.op.name in KEEPS_SCALE or gained) and quant.same_grid(node.operands[0].quant)
            if not kept:
                y = fake_quant(y, quant, march.rounding)
            elif gained or node.attributes.get("mode") == "bilinear":
                y = fake_quant(y, quant, "off_grid")
        values[node.name] = y
    return {name: values[value.name].numpy() for name, value in zip(graph.output_names, graph.outputs, strict=True)}
