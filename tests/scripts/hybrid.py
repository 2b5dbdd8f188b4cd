"""Hybrid mode: operations of the CPU, by their kind and by request."""

import torch
from horizon_plugin_pytorch.march import March, set_march
from horizon_plugin_pytorch.quantization import (
    DeQuantStub,
    QuantStub,
    convert_fx,
    get_default_calib_qconfig,
    get_default_qat_out_qconfig,
    get_default_qat_qconfig,
    prepare_calibration_fx,
    prepare_qat_fx,
)
from horizon_plugin_pytorch.utils.onnx_helper import export_to_onnx
from horizon_plugin_pytorch.utils.quant_profiler import check_deploy_device
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.quant, self.dequant = QuantStub(), DeQuantStub()
        self.conv0, self.conv1, self.conv2 = (nn.Conv2d(3, 3, 1) for _ in range(3))
        self.prelu = nn.PReLU()

    def forward(self, x):
        x = self.prelu(self.conv0(self.quant(x)))
        return self.dequant(self.conv2(self.conv1(x)))


torch.manual_seed(0)
set_march(March.BAYES)
data = torch.rand(1, 3, 8, 8)
hybrid = {"hybrid": True, "hybrid_dict": {"module_name": ["conv1"]}}
calibration_model = prepare_calibration_fx(Net(), {"": get_default_calib_qconfig()}, **hybrid)
calibration_model.eval()
calibration_model(data)
qat_model = prepare_qat_fx(
    calibration_model, {"": get_default_qat_qconfig(), "module_name": [("conv2", get_default_qat_out_qconfig())]}, **hybrid
)
qat_model.eval()
devices = check_deploy_device(qat_model)
assert {name: devices[name][0] for name in ("conv0", "conv1", "conv2", "prelu")} == {
    "conv0": "BPU",
    "conv1": "CPU",
    "conv2": "BPU",
    "prelu": "CPU",
}
export_to_onnx(qat_model, data, "qat.onnx", enable_onnx_checker=True, operator_export_type=None)
assert torch.allclose(convert_fx(qat_model)(data), qat_model(data), atol=0.05)
