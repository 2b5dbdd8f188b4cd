"""An ONNX file as a torch module: calibrated, trained, compiled as if it were torch's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from hqc.frontend.fx.from_ir import graph_module_of
from hqc.frontend.onnx import take_scales
from hqc.ir import Node
from hqc.workflow.arguments import as_tuple
from hqc.workflow.emit_observers import SCALES_META
from hqc.workflow.onnx_call import OnnxCall
from hqc.workflow.onnx_files import lower_file, zeros_of


class OnnxNode(nn.Module):
    """An ONNX node that the IR has no operation for: onnxruntime runs it, on the CPU, and no gradient passes it."""

    def __init__(self, call: OnnxCall) -> None:
        super().__init__()
        self.call = call

    def forward(self, *tensors: Tensor) -> Tensor | tuple[Tensor, ...]:
        device = next((tensor.device for tensor in tensors), torch.device("cpu"))
        arrays = self.call.run([tensor.detach().cpu().numpy() for tensor in tensors])
        results = tuple(torch.from_numpy(array).to(device) for array in arrays)
        return results[0] if len(results) == 1 else results

    def extra_repr(self) -> str:
        return self.call.name


def module_of(model: Any, example_inputs: Any = None) -> tuple[fx.GraphModule, tuple[Any, ...]]:
    """The torch module of an ONNX file or `ModelProto`, in eval mode, and inputs for it: the given ones, else zeros of its shapes."""
    lowered = lower_file(model, example_inputs)
    scales = take_scales(lowered.graph)

    def kept(node: Node) -> nn.Module:
        return OnnxNode(OnnxCall(lowered.opaque[str(node.attributes["id"])]))

    module = graph_module_of(lowered.graph, kept)
    module.meta[SCALES_META] = scales.values
    values = lowered.graph.inputs
    zeros = [torch.from_numpy(array) for array in zeros_of(value.type for value in values)]
    if example_inputs is None:
        return module, tuple(zeros)
    if isinstance(example_inputs, Mapping):
        given = [example_inputs.get(value.name, zero) for value, zero in zip(values, zeros, strict=True)]
    else:
        given = list(as_tuple(example_inputs) or ())
    return module, tuple(torch.as_tensor(item).to(zero.dtype) for item, zero in zip(given, zeros, strict=True))
