"""Float networks for benchmarks and tests: plain torch, random weights, no download.

    from benchmarks.models import build
    model, example = build("resnet18")

`build` seeds the generator, so that a name always means the same weights. Where a network mirrors a public vendor log, its
module docstring says which one, and its module paths are the node names of that log (`/model.0/conv/Conv` is `model.0.conv`).
"""

from .lanes import ufld
from .mobilenet import mobilenet_v2
from .registry import MODELS, ModelEntry, build, model, seeded, settle_batch_norm
from .repvgg import repvgg_a2
from .resnet import resnet18, resnet50
from .small import cifar_image_classifier, densenet_small, hrnet_small, simplenet
from .unet import readme_net, unet_small
from .yolo import (
    yolo11n,
    yolov8n,
    yolov8n_decode,
    yolov8n_nhwc,
    yolov8n_relu_dfl,
    yolov8s,
    yolov8s_relu,
    yolov8s_sigmoid,
)

__all__ = [
    "MODELS",
    "ModelEntry",
    "build",
    "cifar_image_classifier",
    "densenet_small",
    "hrnet_small",
    "mobilenet_v2",
    "model",
    "readme_net",
    "repvgg_a2",
    "resnet18",
    "resnet50",
    "seeded",
    "settle_batch_norm",
    "simplenet",
    "ufld",
    "unet_small",
    "yolo11n",
    "yolov8n",
    "yolov8n_decode",
    "yolov8n_nhwc",
    "yolov8n_relu_dfl",
    "yolov8s",
    "yolov8s_relu",
    "yolov8s_sigmoid",
]
