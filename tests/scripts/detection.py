"""A detector: anchors, heads on the BPU, decoding and suppression behind them."""

import torch
from horizon_plugin_pytorch.functional import rgb2centered_yuv
from horizon_plugin_pytorch.march import March, set_march
from horizon_plugin_pytorch.nn import AnchorGenerator, DetectionPostProcess
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
from torch import nn

CLASSES, ANCHORS = 2, 3


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.quant, self.dequant = QuantStub(scale=1 / 128), DeQuantStub()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Conv2d(8, ANCHORS * (CLASSES + 4), 1)
        self.anchors = AnchorGenerator([4], [4.0], [0.5, 1.0, 2.0])
        self.post_process = DetectionPostProcess(CLASSES, 0.0, image_size=(32, 32), nms_threshold=0.5, post_nms_top_k=10)

    def forward(self, image):
        return [self.dequant(self.head(self.backbone(self.quant(image))))]


torch.manual_seed(0)
set_march(March.BERNOULLI2)
image = rgb2centered_yuv(torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)) / 128.0
model = prepare_qat_fx(
    Detector().eval(), {"": get_default_qat_qconfig(), "module_name": [("head", get_default_qat_out_qconfig())]}
)
model.eval()
set_fake_quantize(model, FakeQuantState.CALIBRATION)
model(image)
set_fake_quantize(model, FakeQuantState.VALIDATION)
quantized = convert_fx(model)
for detector in (model, quantized):
    levels = detector(image)
    detections = detector.post_process(levels, detector.anchors(levels))
    assert len(detections) == 2
    for boxes, scores, classes in detections:
        assert boxes.shape[1] == 4 and len(boxes) == len(scores) == len(classes) <= 10
        assert bool((scores[:-1] >= scores[1:]).all()) and bool((boxes >= 0).all()) and bool((boxes <= 32).all())
