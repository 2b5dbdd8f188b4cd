"""A bird's-eye view: camera features sampled on a grid of int16 positions, on the BPU, and pillars scattered on a canvas."""

import torch
from horizon_plugin_pytorch.dtype import qint16
from horizon_plugin_pytorch.march import March, set_march
from horizon_plugin_pytorch.nn import GridSample
from horizon_plugin_pytorch.nn.functional import point_pillars_preprocess, point_pillars_scatter
from horizon_plugin_pytorch.nn.quantized import FloatFunctional
from horizon_plugin_pytorch.quantization import (
    DeQuantStub,
    FakeQuantState,
    QuantStub,
    convert_fx,
    get_default_qat_out_qconfig,
    get_default_qat_qconfig,
    prepare_qat_fx,
    set_fake_quantize,
)
from horizon_plugin_pytorch.utils.onnx_helper import export_to_onnx
from horizon_plugin_pytorch.utils.quant_profiler import check_deploy_device
from torch import nn


class View(nn.Module):
    def __init__(self):
        super().__init__()
        self.quant, self.grid_quant, self.lidar_quant, self.dequant = QuantStub(), QuantStub(), QuantStub(), DeQuantStub()
        self.camera = nn.Conv2d(3, 4, 3, padding=1)
        self.sample = GridSample(mode="bilinear", padding_mode="zeros", align_corners=False)
        self.lidar = nn.Conv2d(4, 4, 1)
        self.add = FloatFunctional()
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, image, grid, canvas):
        seen = self.sample(self.camera(self.quant(image)), self.grid_quant(grid))
        return self.dequant(self.head(self.add.add(seen, self.lidar(self.lidar_quant(canvas)))))


torch.manual_seed(0)
set_march(March.BAYES)
points = [torch.rand(40, 4) * 8 for _ in range(1)]
features, coordinates = point_pillars_preprocess(points, [0, 0, 0, 8, 8, 8], [1, 1, 8], max_voxels=64, max_points_per_voxel=4)
canvas = point_pillars_scatter(features.amax(2)[0].t(), coordinates, (1, 4, 8, 8))
inputs = (torch.rand(1, 3, 12, 12), torch.rand(1, 8, 8, 2) * 2 - 1, canvas)

model = View().eval()
wide = get_default_qat_qconfig(dtype=qint16)
qat_model = prepare_qat_fx(
    model,
    {
        "": get_default_qat_qconfig(),
        "module_name": {"grid_quant": wide, "lidar": wide, "add": wide, "head": get_default_qat_out_qconfig()},
    },
    hybrid=True,
)
qat_model.eval()
set_fake_quantize(qat_model, FakeQuantState.CALIBRATION)
qat_model(*inputs)
set_fake_quantize(qat_model, FakeQuantState.VALIDATION)
result = qat_model(*inputs)
assert torch.allclose(result, model(*inputs), atol=0.1)
assert torch.allclose(convert_fx(qat_model)(*inputs), result, atol=0.05)
assert qat_model.grid_quant.activation_post_process.dtype == qat_model.add.activation_post_process.dtype == "qint16"
assert qat_model.camera.activation_post_process.dtype == "qint8"
assert check_deploy_device(qat_model, print_tabulate=False)["grid_sample"][0] == "BPU"
export_to_onnx(qat_model, inputs, "bev.onnx", operator_export_type=None)
