"""The tools of utils.quant_profiler on a float, a trained and a converted model."""

import torch
from horizon_plugin_pytorch.march import March, set_march
from horizon_plugin_pytorch.quantization import DeQuantStub, QuantStub, convert_fx, get_default_qat_qconfig, prepare_qat_fx
from horizon_plugin_pytorch.utils.misc import tensor_struct_repr
from horizon_plugin_pytorch.utils.quant_profiler import (
    check_qconfig,
    check_unfused_operations,
    compare_weights,
    featuremap_similarity,
    get_module_called_count,
    get_raw_features,
    model_profiler,
    profile_featuremap,
)
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.quant, self.dequant = QuantStub(), DeQuantStub()
        self.conv0, self.conv1 = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.dequant(self.conv1(self.relu(self.conv0(self.quant(x)))))


torch.manual_seed(0)
set_march(March.BAYES)
data = torch.rand(1, 3, 8, 8)
float_model = Net().eval()
qat_model = prepare_qat_fx(float_model, {"": get_default_qat_qconfig()}).eval()
qat_model(data)
quantized_model = convert_fx(qat_model)
assert all(row[3] > 0.99 for row in featuremap_similarity(float_model, qat_model, data))
assert len(profile_featuremap(get_raw_features(quantized_model, data))) == 3
assert all(row[1] > 0.99 for row in compare_weights(float_model, qat_model)[1])
assert check_unfused_operations(float_model, data) == []
assert get_module_called_count(float_model, data)["conv0"] == 1
assert [row[0] for row in check_qconfig(qat_model, data)[0]] == ["quant", "conv0", "conv1"]
model_profiler(qat_model, quantized_model, data, mode="QvsQ", out_dir="debug")
assert tensor_struct_repr({"image": data}) == "{'image': float32[1, 3, 8, 8]}"
