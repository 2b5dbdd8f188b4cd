"""YOLOv8 and YOLO11 detectors for 640x640 images, 80 classes. Module paths are the node names of the vendor logs.

| name | log it mirrors |
|---|---|
| `yolov8n_nhwc` | `x5_yolov8n` (SiLU, NHWC heads) |
| `yolov8s_sigmoid` | `j5_yolov8s` (SiLU, six heads, class scores by sigmoid) |
| `yolov8n_relu_dfl` | `x3_yolov8n_official` (ReLU, joined head with DFL; its nodes are numbered in program order) |
| `yolo11n` | `x5_yolo11_arm_chk` (C3k2, C2PSA attention, NHWC heads) |
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from .registry import model
from .yolo_blocks import C2PSA, SPPF, Bottleneck, C2f, C3k, Concat, Conv
from .yolo_heads import Detect

STRIDES = (8, 16, 32)


@dataclass(frozen=True)
class Scaling:
    """Depth and width multipliers of a model size."""

    depth: float
    width: float

    def channels(self, base: int) -> int:
        return math.ceil(min(base, 1024) * self.width / 8) * 8

    def repeats(self, base: int) -> int:
        return max(round(base * self.depth), 1)


class Detector(nn.Module):
    """Layers of a detector in order; `sources[i]` are the layers that layer i reads (-1: the one before)."""

    def __init__(self, layers: list[tuple[nn.Module, tuple[int, ...]]]) -> None:
        super().__init__()
        self.model = nn.ModuleList(layer for layer, _ in layers)
        self.sources = [sources for _, sources in layers]

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...] | torch.Tensor:
        results: list[torch.Tensor] = []
        for layer, sources in zip(self.model, self.sources, strict=True):
            inputs = [results[source] if results else x for source in sources]
            results.append(layer(inputs[0] if len(inputs) == 1 else inputs))
        return results[-1]


PREVIOUS = (-1,)


def yolov8(scaling: Scaling, end: str, act: type[nn.Module] = nn.SiLU, classes: int = 80) -> nn.Module:
    """A YOLOv8 detector; `end` is one of `yolo_heads.ENDS`."""
    c = scaling.channels

    def conv(channels_in: int, channels_out: int) -> tuple[nn.Module, tuple[int, ...]]:
        return Conv(channels_in, channels_out, 3, 2, act=act), PREVIOUS

    def c2f(channels_in: int, channels_out: int, depth: int, shortcut: bool) -> tuple[nn.Module, tuple[int, ...]]:
        hidden = channels_out // 2
        blocks: list[nn.Module] = [Bottleneck(hidden, act, shortcut) for _ in range(scaling.repeats(depth))]
        return C2f(channels_in, channels_out, hidden, blocks, act), PREVIOUS

    detect = Detect((c(256), c(512), c(1024)), classes, act, end, depthwise=False)
    detect.set_anchors((640, 640), STRIDES)
    return Detector(
        [
            conv(3, c(64)),
            conv(c(64), c(128)),
            c2f(c(128), c(128), 3, True),
            conv(c(128), c(256)),
            c2f(c(256), c(256), 6, True),
            conv(c(256), c(512)),
            c2f(c(512), c(512), 6, True),
            conv(c(512), c(1024)),
            c2f(c(1024), c(1024), 3, True),
            (SPPF(c(1024), act), PREVIOUS),
            (nn.Upsample(scale_factor=2.0, mode="nearest"), PREVIOUS),
            (Concat(), (-1, 6)),
            c2f(c(1024) + c(512), c(512), 3, False),
            (nn.Upsample(scale_factor=2.0, mode="nearest"), PREVIOUS),
            (Concat(), (-1, 4)),
            c2f(c(512) + c(256), c(256), 3, False),
            conv(c(256), c(256)),
            (Concat(), (-1, 12)),
            c2f(c(256) + c(512), c(512), 3, False),
            conv(c(512), c(512)),
            (Concat(), (-1, 9)),
            c2f(c(512) + c(1024), c(1024), 3, False),
            (detect, (15, 18, 21)),
        ]
    )


def yolo11(scaling: Scaling, end: str, act: type[nn.Module] = nn.SiLU, classes: int = 80) -> nn.Module:
    """A YOLO11 detector; `end` is one of `yolo_heads.ENDS`."""
    c = scaling.channels

    def conv(channels_in: int, channels_out: int) -> tuple[nn.Module, tuple[int, ...]]:
        return Conv(channels_in, channels_out, 3, 2, act=act), PREVIOUS

    def c3k2(channels_in: int, channels_out: int, nested: bool, ratio: float = 0.5) -> tuple[nn.Module, tuple[int, ...]]:
        hidden = int(channels_out * ratio)
        depth = scaling.repeats(2)
        blocks: list[nn.Module] = [C3k(hidden, act) if nested else Bottleneck(hidden, act, ratio=0.5) for _ in range(depth)]
        return C2f(channels_in, channels_out, hidden, blocks, act), PREVIOUS

    detect = Detect((c(256), c(512), c(1024)), classes, act, end, depthwise=True)
    detect.set_anchors((640, 640), STRIDES)
    return Detector(
        [
            conv(3, c(64)),
            conv(c(64), c(128)),
            c3k2(c(128), c(256), False, 0.25),
            conv(c(256), c(256)),
            c3k2(c(256), c(512), False, 0.25),
            conv(c(512), c(512)),
            c3k2(c(512), c(512), True),
            conv(c(512), c(1024)),
            c3k2(c(1024), c(1024), True),
            (SPPF(c(1024), act), PREVIOUS),
            (C2PSA(c(1024), scaling.repeats(2), act), PREVIOUS),
            (nn.Upsample(scale_factor=2.0, mode="nearest"), PREVIOUS),
            (Concat(), (-1, 6)),
            c3k2(c(1024) + c(512), c(512), False),
            (nn.Upsample(scale_factor=2.0, mode="nearest"), PREVIOUS),
            (Concat(), (-1, 4)),
            c3k2(c(512) + c(512), c(256), False),
            conv(c(256), c(256)),
            (Concat(), (-1, 13)),
            c3k2(c(256) + c(512), c(512), False),
            conv(c(512), c(512)),
            (Concat(), (-1, 10)),
            c3k2(c(512) + c(1024), c(1024), True),
            (detect, (16, 19, 22)),
        ]
    )


NANO_8, SMALL_8, NANO_11 = Scaling(1 / 3, 0.25), Scaling(1 / 3, 0.5), Scaling(0.5, 0.25)
IMAGE = (3, 640, 640)


@model("yolov8n", input_shape=IMAGE)
def yolov8n() -> nn.Module:
    return yolov8(NANO_8, "raw")


@model("yolov8n_nhwc", input_shape=IMAGE, log="x5_yolov8n")
def yolov8n_nhwc() -> nn.Module:
    return yolov8(NANO_8, "nhwc")


@model("yolov8n_relu_dfl", input_shape=IMAGE, log="x3_yolov8n_official")
def yolov8n_relu_dfl() -> nn.Module:
    return yolov8(NANO_8, "dfl", nn.ReLU)


@model("yolov8n_decode", input_shape=IMAGE)
def yolov8n_decode() -> nn.Module:
    return yolov8(NANO_8, "decode")


@model("yolov8s", input_shape=IMAGE)
def yolov8s() -> nn.Module:
    return yolov8(SMALL_8, "raw")


@model("yolov8s_relu", input_shape=IMAGE)
def yolov8s_relu() -> nn.Module:
    return yolov8(SMALL_8, "raw", nn.ReLU)


@model("yolov8s_sigmoid", input_shape=IMAGE, log="j5_yolov8s")
def yolov8s_sigmoid() -> nn.Module:
    return yolov8(SMALL_8, "sigmoid")


@model("yolo11n", input_shape=IMAGE, log="x5_yolo11_arm_chk")
def yolo11n() -> nn.Module:
    return yolo11(NANO_11, "nhwc")
