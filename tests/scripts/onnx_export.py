"""The stock exporter with the reference's operations registered."""

import horizon_plugin_pytorch.utils._register_onnx_ops  # noqa: F401
import onnx
import torch
from horizon_plugin_pytorch.march import March, set_march
from horizon_plugin_pytorch.quantization import QuantWrapper, get_default_qat_qconfig, prepare_qat_fx
from torch import nn

torch.manual_seed(0)
set_march(March.BAYES)
data = torch.rand(1, 3, 8, 8)
model = prepare_qat_fx(
    QuantWrapper(nn.Sequential(nn.Conv2d(3, 4, 3), nn.PReLU(), nn.Conv2d(4, 2, 1))),
    {"": get_default_qat_qconfig()},
    hybrid=True,
)
model.eval()
model(data)
torch.onnx.export(
    model,
    data,
    "qat.onnx",
    opset_version=11,
    input_names=["image"],
    output_names=["mask"],
    operator_export_type=None,
    enable_onnx_checker=False,
)
graph = onnx.load("qat.onnx").graph
assert [each.name for each in graph.input] == ["image"] and [each.name for each in graph.output] == ["mask"]
assert {node.domain for node in graph.node} == {"", "horizon"}
assert {node.op_type for node in graph.node} == {"Conv", "PRelu", "HzQuantize", "HzDequantize"}
